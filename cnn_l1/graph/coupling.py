"""Which channels of a model go together, and which are constant.

Every channel of every tensor carries a label. Layers that bind channels together,
such as an addition, unite their labels, so a label names everything that must go
for a channel to go. Shrinking and group penalties both read their groups here.
"""

import dataclasses
from typing import Any

import numpy as np

from cnn_l1.graph.operation_rules import is_augmentation, rule_of
from cnn_l1.graph.reading import Call, Graph, Value, read_graph


class Analysis:
    """Labels and constants of a graph, from its inputs to its outputs.

    Attributes:
        graph: The `Graph`.
        axis: For each `Value`, the axis that its labels number.
        labels: For each `Value`, one label a channel; canonical after `finish`.
        constants: For each `Value`, the value of each channel where it is the
            same at every position for every input, NaN elsewhere.
        aliases: `Value -> Value`: outputs of calls that are bypassed.
        dropped: `Call -> positions` of the inputs that add nothing.
        pins: `(labels, reason)` of channels that must stay.
        unsupported: Names of layers without a rule, with their kinds.
    """

    def __init__(self, graph: Graph, with_constants=True):
        self.graph = graph
        self.with_constants = with_constants
        self.axis: dict[Value, int] = {}
        self.labels: dict[Value, np.ndarray] = {}
        self.constants: dict[Value, np.ndarray] = {}
        self.aliases: dict[Value, Value] = {}
        self.dropped: dict[Call, tuple[int, ...]] = {}
        self.pins: list[tuple[np.ndarray, str]] = []
        self.unsupported: list[str] = []
        self.layer_labels: dict[tuple[int, str], np.ndarray] = {}
        self.rules = {call: rule_of(call.operation) for call in graph.calls}
        self._parents = np.zeros(0, "int64")
        for value in graph.inputs:
            self.set_fresh(value, "input of the model")
        for call in graph.calls:
            if call.training and not is_augmentation(call.operation):
                # Not what the rules describe: noise, and statistics of the batch.
                self.rules[call] = None
            rule = self.rules[call]
            if rule is None:
                self.keep_all(call)
            else:
                rule.couple(self, call)
        for value in graph.outputs:
            self.pin(self.labels[value], "output of the model")
        self._finish()

    def fresh(self, count):
        start = len(self._parents)
        self._parents = np.concatenate([self._parents, np.arange(start, start + count)])
        return np.arange(start, start + count)

    def set(self, value, axis, labels, constants=None):
        self.axis[value], self.labels[value] = axis, labels
        unknown = np.full(len(labels), np.nan)
        known = constants is not None and self.with_constants
        self.constants[value] = np.asarray(constants, "float64") if known else unknown

    def set_fresh(self, value, reason):
        """Labels of its own for a value whose channels all stay."""
        axis = max(len(value.shape) - 1, 0)
        size = value.shape[axis] if value.shape else 1
        labels = self.fresh(size or 1)
        self.set(value, axis, labels)
        self.pin(labels, reason)

    def pin(self, labels, reason):
        self.pins.append((labels, reason))

    def keep_all(self, call):
        name = f"{call.name} ({call.kind})"
        if name not in self.unsupported:
            self.unsupported.append(name)
        self.opaque(call, f"{name} is of a kind that is not supported")

    def opaque(self, call, reason):
        for value in call.inputs:
            self.pin(self.labels[value], reason)
        for value in call.outputs:
            self.set_fresh(value, reason)

    def along(self, value, axis, call):
        """A value's labels along the axis that a layer needs."""
        if self.axis[value] == axis:
            return self.labels[value]
        reason = f"{call.name} reads another axis than the channels'"
        self.pin(self.labels[value], reason)
        labels = self.fresh(value.shape[axis] or 1)
        self.pin(labels, reason)
        return labels

    def constants_along(self, value, axis):
        if self.axis[value] == axis:
            return self.constants[value]
        return np.full(value.shape[axis] or 1, np.nan)

    def unite(self, first, *others):
        """The same channel, position by position."""
        for other in others:
            for a, b in zip(first, other, strict=True):
                a, b = self._root(a), self._root(b)
                if a != b:
                    self._parents[max(a, b)] = min(a, b)
        return first

    def layer_unite(self, call, role, labels):
        """The labels of a layer's weights: those of all of its calls are the same."""
        key = id(call.operation), role
        if key in self.layer_labels:
            return self.unite(self.layer_labels[key], labels)
        self.layer_labels[key] = labels
        return labels

    def _root(self, label):
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def _finish(self):
        roots = np.array([self._root(i) for i in range(len(self._parents))], "int64")
        # A label that stays below its parents' numbers is not dense; `count` bounds it.
        self.count = len(roots)
        self.labels = {value: roots[labels] for value, labels in self.labels.items()}
        self.layer_labels = {key: roots[labels] for key, labels in self.layer_labels.items()}
        self.pins = [(roots[labels], reason) for labels, reason in self.pins]

    def resolve(self, value):
        """The value that stands for another once dead branches are bypassed."""
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def needed_calls(self):
        """The calls that the outputs depend on, dropped branches left out."""
        needed_values = {self.resolve(value) for value in self.graph.outputs}
        needed = []
        for call in reversed(self.graph.calls):
            if not any(value in needed_values for value in call.outputs):
                continue
            needed.append(call)
            needed_values.update(self.inputs_left(call))
        return needed[::-1]

    def inputs_left(self, call):
        dropped = self.dropped.get(call, ())
        return [self.resolve(v) for i, v in enumerate(call.inputs) if i not in dropped]

    def has_labels(self, call):
        """Whether a layer's weights are labelled: it has a rule, which did apply."""
        return (id(call.operation), "own") in self.layer_labels

    def slices(self, call):
        """The `Slice`s of a layer's weights; none where they are not labelled."""
        rule = self.rules[call]
        return rule.slices(self, call) if rule is not None and self.has_labels(call) else []


def analyse(model, with_constants=True):
    """Labels, constants and pins of a Functional or Sequential model.

    Raises:
        GraphError: If the model is neither, or not built.
    """
    return Analysis(read_graph(model), with_constants)


@dataclasses.dataclass(frozen=True)
class Member:
    """Weights of a layer that belong to the channels of a space.

    Attributes:
        variable: The `keras.Variable`.
        axis: The axis that numbers channels.
        index: `(variable.shape[axis],)` ints: the channel of each position, -1
            for none of this space.
        layer: Name of the layer.
    """

    variable: Any
    axis: int
    index: np.ndarray
    layer: str


@dataclasses.dataclass(frozen=True)
class ChannelSpace:
    """Channels that can be removed one by one, and all weights that go with each.

    Attributes:
        size: Number of channels.
        members: Kernels, biases, batch-norm scales and shifts.
        labels: The label of each channel in the `Analysis` that it was found in.
    """

    size: int
    members: tuple[Member, ...]
    labels: tuple[int, ...] = ()

    @property
    def name(self):
        """The layers, joined by `+`."""
        return "+".join(dict.fromkeys(member.layer for member in self.members))


def channel_spaces(model):
    """The removable channels of a model, for penalties that zero whole channels.

    By the same labels that `plan_shrink` removes channels by, whatever the weights.

    Returns:
        A list of `ChannelSpace`s, in the model's order.
    """
    return spaces_of(analyse(model, with_constants=False))


def spaces_of(analysis):
    """`channel_spaces` of a model that is analysed already."""
    pinned = np.zeros(analysis.count, bool)
    for labels, _ in analysis.pins:
        pinned[labels] = True
    parents: dict[int, int] = {}

    def root(label):
        while parents.setdefault(label, label) != label:
            label = parents[label]
        return label

    slices = []
    for call, layer_slices in layer_slices_of(analysis):
        own = [s for s in layer_slices if s.role == "own" and s.variable.trainable]
        slices += [(call.name, s) for s in own]
        if analysis.rules[call].reads:
            for s in own:
                free = [label for label in s.labels if not pinned[label]]
                for label in free[1:]:
                    parents[root(label)] = root(free[0])
    spaces: dict[int, list[int]] = {}
    for _, s in slices:
        for label in s.labels:
            if not pinned[label] and label in parents:
                channels = spaces.setdefault(root(label), [])
                channels.append(label)
    found = []
    for channels in spaces.values():
        number = {label: i for i, label in enumerate(dict.fromkeys(channels))}
        members = []
        for name, s in slices:
            index = np.array([number.get(label, -1) for label in s.labels])
            if (index >= 0).any():
                members.append(Member(s.variable, s.axis, index, name))
        found.append(ChannelSpace(len(number), tuple(members), tuple(map(int, number))))
    return found


def layer_slices_of(analysis):
    """`(call, slices)` of every layer with weights, once for each layer."""
    seen = set()
    for call in analysis.graph.calls:
        if id(call.operation) in seen:
            continue
        seen.add(id(call.operation))
        slices = analysis.slices(call)
        if slices:
            yield call, slices
