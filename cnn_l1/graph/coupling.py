"""Which channels of a model go together, and which are constant.

Every channel of every tensor carries a label. Layers that bind channels together,
such as an addition, unite their labels, so a label names everything that must go
for a channel to go. Channel removal and group penalties take their groups from here.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from cnn_l1.graph.channel_labels import Analysis, Slice
from cnn_l1.graph.layer_weights import own_variables
from cnn_l1.graph.operation_rules import is_augmentation, rule_of
from cnn_l1.graph.reading import Call, as_functional, read_graph
from cnn_l1.process import keras_internals


def analyse(model: Any, with_constants: bool = True) -> Analysis:
    """Labels, constants and pins of a Functional or Sequential model.

    Raises:
        GraphError: If the model is neither, or not built.
    """
    graph = read_graph(model)
    analysis = Analysis(graph, with_constants)
    for value in graph.inputs:
        analysis.set_fresh(value, "input of the model")
    for call in graph.calls:
        rule = rule_of(call.operation)
        if call.training and not is_augmentation(call.operation):
            rule = None  # not what the rules describe: noise, and statistics of the batch
        analysis.rules[call] = rule
        if rule is None:
            analysis.keep_all(call)
        else:
            rule.couple(analysis, call)
    for value in graph.outputs:
        analysis.pin(analysis.labels[value], "output of the model")
    analysis.finish()
    return analysis


@dataclasses.dataclass(frozen=True)
class Member:
    """Weights of a layer that belong to the channels of a channel group.

    Attributes:
        variable: The `keras.Variable`.
        axis: The axis that numbers channels.
        index: `(variable.shape[axis],)` ints: the channel of each position, -1
            for none of this group.
        layer: Name of the layer.
    """

    variable: Any
    axis: int
    index: np.ndarray
    layer: str


@dataclasses.dataclass(frozen=True)
class ChannelSpace:
    """A channel group: channels that can be removed one by one, and the weights of each.

    Attributes:
        size: Number of channels.
        members: Kernels, biases, batch-norm scales and shifts.
        labels: The label of each channel in the `Analysis` that it was found in.
    """

    size: int
    members: tuple[Member, ...]
    labels: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The layers, joined by `+`."""
        return "+".join(dict.fromkeys(member.layer for member in self.members))


def channel_spaces(model: Any) -> list[ChannelSpace]:
    """The removable channels of a model, for penalties that zero whole channels.

    By the same labels that `plan_shrink` removes channels by, whatever the weights. Channels
    that a frozen weight makes or scales are left out: training must leave them as they are.

    Returns:
        A list of `ChannelSpace`s, in the model's order.
    """
    return spaces_of(analyse(model, with_constants=False))


def spaces_of(analysis: Analysis) -> list[ChannelSpace]:
    """`channel_spaces` of a model that is analysed already."""
    pinned = np.zeros(analysis.count, bool)
    for labels, _ in analysis.pins:
        pinned[labels] = True
    parents: dict[int, int] = {}

    def root(label: int) -> int:
        while parents.setdefault(label, label) != label:
            label = parents[label]
        return label

    layers_with_slices = list(layer_slices_of(analysis))
    for s in _frozen(layers_with_slices):
        pinned[s.labels] = True
    slices = []
    for call, layer_slices in layers_with_slices:
        own = [s for s in layer_slices if s.role == "own" and s.variable.trainable]
        slices += [(call.name, s) for s in own]
        rule = analysis.rules[call]
        if rule is not None and rule.reads:
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


def beside_frozen(model: Any) -> frozenset[int]:
    """Ids of a model's trainable weights with a channel that a frozen weight has too.

    None for a model that is no graph, where it is not known which weights go together.
    """
    if as_functional(model) is None:
        return frozenset()
    analysis = analyse(model, with_constants=False)
    layers_with_slices = list(layer_slices_of(analysis))
    frozen = np.zeros(analysis.count, bool)
    for s in _frozen(layers_with_slices):
        frozen[s.labels] = True
    return frozenset(
        id(s.variable)
        for _, slices in layers_with_slices
        for s in slices
        if s.role == "own" and s.variable.trainable and frozen[s.labels].any()
    )


def _frozen(layers_with_slices: list[tuple[Call, list[Slice]]]) -> Iterator[Slice]:
    """What makes channels, or scales them, and was made to be trained but is not."""
    for call, slices in layers_with_slices:
        inner = keras_internals.flatten_layers(call.operation)
        made = {id(v) for layer in inner for v in own_variables(layer)}
        for s in slices:
            if s.role == "own" and not s.variable.trainable and id(s.variable) in made:
                yield s


def layer_slices_of(analysis: Analysis) -> Iterator[tuple[Call, list[Slice]]]:
    """`(call, slices)` of every layer with weights, once for each layer."""
    seen: set[int] = set()
    for call in analysis.graph.calls:
        if id(call.operation) in seen:
            continue
        seen.add(id(call.operation))
        slices = analysis.slices(call)
        if slices:
            yield call, slices
