"""Labels of channels, and what a rule is that gives them.

A label is a number. Channels with the same label go together: they are removed together
or not at all. `coupling.analyse` runs the rules over a graph.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from cnn_l1.graph.reading import Call, Graph, Value

Array = np.ndarray
Kept = Callable[[Array], Array]  # from labels to whether each stays


class Analysis:
    """Labels and constants of a graph, from its inputs to its outputs; rules fill it in.

    Attributes:
        graph: The `Graph`.
        axis: For each `Value`, the axis that its labels number.
        labels: For each `Value`, one label a channel; canonical after `finish`.
        constants: For each `Value`, the value of each channel where it is the
            same at every position for every input, NaN elsewhere.
        aliases: `Value -> Value`: outputs of calls that are bypassed.
        dropped: `Call -> positions` of the inputs that add nothing.
        rules: For each `Call`, its `Rule`, or `None`: all channels that it touches stay.
        layer_labels: `(id of a layer, role) -> labels` of its weights; the role is `"own"`
            for output channels and `"read"` for input channels.
        count: Labels are below this.
        pins: `(labels, reason)` of channels that must stay.
        unsupported: Names of layers without a rule, with their kinds.
    """

    def __init__(self, graph: Graph, with_constants: bool = True) -> None:
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
        self.rules: dict[Call, Rule | None] = {}
        self.count = 0
        self._parents = np.zeros(0, "int64")

    def fresh(self, count: int) -> Array:
        """`count` labels that no channel has yet."""
        start = len(self._parents)
        self._parents = np.concatenate([self._parents, np.arange(start, start + count)])
        return np.arange(start, start + count)

    def set(self, value: Value, axis: int, labels: Array, constants: Array | None = None) -> None:
        """Give a value its labels along `axis`, and its constants; `None`: none is known."""
        self.axis[value], self.labels[value] = axis, labels
        unknown = np.full(len(labels), np.nan)
        known = constants is not None and self.with_constants
        self.constants[value] = np.asarray(constants, "float64") if known else unknown

    def set_fresh(self, value: Value, reason: str) -> None:
        """Labels of its own for a value whose channels all stay."""
        axis = max(len(value.shape) - 1, 0)
        size = value.shape[axis] if value.shape else 1
        labels = self.fresh(size or 1)
        self.set(value, axis, labels)
        self.pin(labels, reason)

    def pin(self, labels: Array, reason: str) -> None:
        """Say that channels must stay, and why."""
        self.pins.append((labels, reason))

    def keep_all(self, call: Call) -> None:
        """Keep all channels that a call touches: nothing is known of it."""
        name = f"{call.name} ({call.kind})"
        if name not in self.unsupported:
            self.unsupported.append(name)
        self.opaque(call, f"{name} is of a kind that is not supported")

    def opaque(self, call: Call, reason: str) -> None:
        """Keep all channels that a call reads or makes, for a reason."""
        for value in call.inputs:
            self.pin(self.labels[value], reason)
        for value in call.outputs:
            self.set_fresh(value, reason)

    def along(self, value: Value, axis: int, call: Call) -> Array:
        """A value's labels along the axis that a layer needs."""
        if self.axis[value] == axis:
            return self.labels[value]
        reason = f"{call.name} reads another axis than the channels'"
        self.pin(self.labels[value], reason)
        labels = self.fresh(value.shape[axis] or 1)
        self.pin(labels, reason)
        return labels

    def constants_along(self, value: Value, axis: int) -> Array:
        """A value's constants along an axis; NaN where channels lie along another one."""
        if self.axis[value] == axis:
            return self.constants[value]
        return np.full(value.shape[axis] or 1, np.nan)

    def unite(self, first: Array, *others: Array) -> Array:
        """The same channel, position by position."""
        for other in others:
            for a, b in zip(first, other, strict=True):
                a, b = self._root(a), self._root(b)
                if a != b:
                    self._parents[max(a, b)] = min(a, b)
        return first

    def layer_unite(self, call: Call, role: str, labels: Array) -> Array:
        """The labels of a layer's weights: those of all of its calls are the same."""
        key = id(call.operation), role
        if key in self.layer_labels:
            return self.unite(self.layer_labels[key], labels)
        self.layer_labels[key] = labels
        return labels

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def finish(self) -> None:
        """Make labels canonical, once all rules have run: united ones become the same number."""
        roots = np.array([self._root(i) for i in range(len(self._parents))], "int64")
        # A label that stays below its parents' numbers is not dense; `count` bounds it.
        self.count = len(roots)
        self.labels = {value: roots[labels] for value, labels in self.labels.items()}
        self.layer_labels = {key: roots[labels] for key, labels in self.layer_labels.items()}
        self.pins = [(roots[labels], reason) for labels, reason in self.pins]

    def resolve(self, value: Value) -> Value:
        """The value that stands for another once dead branches are bypassed."""
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def needed_calls(self) -> list[Call]:
        """The calls that the outputs depend on, dropped branches left out."""
        needed_values = {self.resolve(value) for value in self.graph.outputs}
        needed = []
        for call in reversed(self.graph.calls):
            if not any(value in needed_values for value in call.outputs):
                continue
            needed.append(call)
            needed_values.update(self.inputs_left(call))
        return needed[::-1]

    def inputs_left(self, call: Call) -> list[Value]:
        """What a call still reads, dropped branches left out."""
        dropped = self.dropped.get(call, ())
        return [self.resolve(v) for i, v in enumerate(call.inputs) if i not in dropped]

    def has_labels(self, call: Call) -> bool:
        """Whether a layer's weights are labelled: it has a rule, which did apply."""
        return (id(call.operation), "own") in self.layer_labels

    def slices(self, call: Call) -> "list[Slice]":
        """The `Slice`s of a layer's weights; none where they are not labelled."""
        rule = self.rules[call]
        return rule.slices(self, call) if rule is not None and self.has_labels(call) else []


@dataclasses.dataclass(frozen=True)
class Slice:
    """Along `axis` of a weight, position `i` belongs to the channel `labels[i]`.

    Attributes:
        variable: The weight.
        axis: The axis that numbers channels.
        labels: `(variable.shape[axis],)` labels.
        role: `"own"` along output channels, which go with their weights; `"read"` along
            input channels, which others make.
    """

    variable: Any
    axis: int
    labels: np.ndarray
    role: str


class Rule:
    """What a kind of layer does to channels; the default passes them through.

    A new rule overrides `couple`, or `constant` alone where channels pass through; with
    weights also `slices`, and `config` where a setting names a number of channels.
    """

    reads = False  # whether every output channel depends on all input channels

    def couple(self, analysis: Analysis, call: Call) -> None:
        """Give the call's outputs their labels and constants."""
        source, target = call.inputs[0], call.outputs[0]
        axis, labels = analysis.axis[source], analysis.labels[source]
        constants = analysis.constants[source]
        constants = self.constant(call.operation, constants, axis, source)
        analysis.set(target, axis, labels, constants)

    def constant(self, layer: Any, constants: Array, axis: int, source: Value) -> Array:
        """The constants after the layer, from those before it."""
        return constants

    def slices(self, analysis: Analysis, call: Call) -> list[Slice]:
        """Which positions of the layer's weights belong to which channels."""
        return []

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        """Changes to the layer's config when `kept(labels)` is what stays."""
        return {}
