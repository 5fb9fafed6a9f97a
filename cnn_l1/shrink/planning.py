"""The plan: which channels can go without a change to the output, and what that saves."""

import dataclasses
import math
from typing import Any

import numpy as np

from cnn_l1.errors import CnnL1Error
from cnn_l1.graph import coupling, macs
from cnn_l1.graph.channel_labels import Analysis, Array
from cnn_l1.graph.fingerprints import Fingerprint, fingerprint
from cnn_l1.graph.kernel_rules import WeightedLayer
from cnn_l1.graph.layer_kinds import kernel_names
from cnn_l1.graph.layer_uses import OpenSizeError, UnknownLayerError
from cnn_l1.graph.liveness import Liveness
from cnn_l1.graph.reading import Call, GraphError, Value
from cnn_l1.process.tables import shrink_table
from cnn_l1.shrink.layer_changes import LayerChanges


class ShrinkError(CnnL1Error, ValueError):
    """A model that cannot be shrunk, or a plan that is not its own."""


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer with weights.

    Attributes:
        name: The layer.
        kind: Its class.
        channels_before, channels_after: Output channels; 0 after if it vanishes.
        macs_before, macs_after: Multiply-adds of one sample.
        parameters_before, parameters_after: All weights, moving statistics included.
        held_back: Why channels stay whose weights are all zero, or `""`.
        removed_channels: The numbers, from 0, of the output channels that go.
    """

    name: str
    kind: str
    channels_before: int
    channels_after: int
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    held_back: str = ""
    removed_channels: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ShrinkPlan:
    """What `apply_shrink` will do to a model; `print` it to read it.

    Attributes:
        layers: One `LayerPlan` a layer with weights, in the model's order.
        unsupported: Layers of a kind that is not supported, by name and kind.
        macs_unknown: Layers whose multiply-adds are not counted, by name with the reason.
    """

    layers: tuple[LayerPlan, ...]
    unsupported: tuple[str, ...]
    macs_unknown: tuple[str, ...]
    _analysis: Analysis = dataclasses.field(repr=False)
    _live: Array = dataclasses.field(repr=False)
    _vanished: set[Value] = dataclasses.field(repr=False)
    _fingerprint: Fingerprint = dataclasses.field(repr=False)

    @property
    def macs_known(self) -> bool:
        """Whether the multiply-adds of all layers are counted."""
        return not self.macs_unknown

    @property
    def macs_before(self) -> int:
        return sum(layer.macs_before for layer in self.layers)

    @property
    def macs_after(self) -> int:
        return sum(layer.macs_after for layer in self.layers)

    @property
    def parameters_before(self) -> int:
        return sum(layer.parameters_before for layer in self.layers)

    @property
    def parameters_after(self) -> int:
        return sum(layer.parameters_after for layer in self.layers)

    @property
    def removes_anything(self) -> bool:
        return any(layer.channels_after < layer.channels_before for layer in self.layers)

    def __str__(self) -> str:
        return shrink_table(self)


def plan_shrink(model: Any, round_to: int = 1, allow_empty: bool = False) -> ShrinkPlan:
    """Find the channels that can go without a change to the output.

    A channel can go if every layer that reads it either has only zeros for it, or
    can take it into its bias: a constant, before a dense layer or a
    convolution without padding; a zero, before any.

    Args:
        model: A built Functional or Sequential `keras.Model`. It is not changed.
        round_to: Channel counts stay multiples of this, or as they were. Default 1.
        allow_empty: Whether a branch without any channel left may vanish from a
            concatenation. Default `False`: one channel stays. (A branch that adds
            only zeros to a sum is left out in any case.)

    Returns:
        A `ShrinkPlan`.

    Raises:
        ShrinkError: If the model's layers form no graph, or it is not built.
        ValueError: If `round_to` is not a whole number from 1.

    Example:
        >>> first = keras.layers.Dense(3, name="first")
        >>> layers = [keras.Input((4,)), first, keras.layers.Dense(2, name="last")]
        >>> model = keras.Sequential(layers)
        >>> kernel = np.eye(4, 3) * [1.0, 0.0, 1.0]  # the second unit is all zero
        >>> first.set_weights([kernel, np.zeros(3)])
        >>> plan = cnn_l1.plan_shrink(model)
        >>> [(layer.name, layer.channels_before, layer.channels_after) for layer in plan.layers]
        [('first', 3, 2), ('last', 2, 2)]
        >>> cnn_l1.apply_shrink(model, plan).count_params() < model.count_params()
        True
    """
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ValueError(
            f"`round_to` must be a whole number, 1 or more. Received: round_to={round_to!r}"
        )
    try:
        analysis = coupling.analyse(model)
    except GraphError as error:
        raise ShrinkError(str(error)) from None
    found = Liveness(analysis)
    found.settle(round_to, allow_empty)
    layers, macs_unknown = _layer_plans(analysis, found)
    return ShrinkPlan(
        layers=layers,
        unsupported=tuple(analysis.unsupported),
        macs_unknown=macs_unknown,
        _analysis=analysis,
        _live=found.live,
        _vanished=found.vanished,
        _fingerprint=fingerprint(analysis.graph),
    )


def _layer_plans(
    analysis: Analysis, liveness: Liveness
) -> tuple[tuple[LayerPlan, ...], tuple[str, ...]]:
    """The `LayerPlan`s of all layers with weights, and those whose MACs are not known."""
    names = kernel_names()
    changes = LayerChanges(analysis, liveness.live)
    plans: dict[int, LayerPlan] = {}
    unknown: dict[str, str] = {}
    for call in analysis.graph.calls:
        layer = call.operation
        try:
            before, positions = macs.call_macs(call), macs.call_positions(call)
        except (UnknownLayerError, OpenSizeError) as error:
            before, positions = 0, None
            is_open = isinstance(error, OpenSizeError)
            unknown[call.name] = f"{call.name} ({'open size' if is_open else call.kind})"
        if not getattr(layer, "weights", None) and not before:
            continue
        gone = id(layer) not in changes.calls or call.outputs[0] in liveness.vanished
        shapes = changes.shapes(call)
        if id(layer) not in plans:
            plans[id(layer)] = _layer_plan(call, liveness, changes, gone)
        after = 0
        if call in liveness.calls and not gone:
            # Of a kind without positions, all channels stay.
            kernels = sum(math.prod(shape) for name, shape in shapes if name in names)
            after = before if positions is None else positions * kernels
        plan = plans[id(layer)]
        plans[id(layer)] = dataclasses.replace(
            plan, macs_before=plan.macs_before + before, macs_after=plan.macs_after + after
        )
    return tuple(plans.values()), tuple(unknown.values())


def _layer_plan(call: Call, liveness: Liveness, changes: LayerChanges, gone: bool) -> LayerPlan:
    """The `LayerPlan` of a call's layer, its multiply-adds not yet counted."""
    analysis, layer = changes.analysis, call.operation
    labels = analysis.labels[call.outputs[0]]
    if analysis.has_labels(call):
        labels = analysis.layer_labels[id(layer), "own"]
    kept = np.zeros(len(labels), bool) if gone else liveness.live[labels]
    parameters = 0
    if not gone:
        bias = changes.bias(call) if changes.adds_bias(call) else None
        parameters = sum(math.prod(shape) for _, shape in changes.shapes(call))
        parameters += 0 if bias is None else len(bias)
    return LayerPlan(
        name=call.name,
        kind=call.kind,
        channels_before=len(labels),
        channels_after=int(kept.sum()),
        macs_before=0,
        macs_after=0,
        parameters_before=sum(math.prod(v.shape) for v in getattr(layer, "weights", ())),
        parameters_after=parameters,
        held_back="" if gone else _held_back(analysis, call, liveness),
        removed_channels=tuple(int(n) for n in np.flatnonzero(~kept)),
    )


def _held_back(analysis: Analysis, call: Call, liveness: Liveness) -> str:
    """Why channels of a layer stay although its weights for them are all zero."""
    rule = analysis.rules[call]
    if rule is None:
        return "not supported"
    if not analysis.has_labels(call) or not isinstance(rule, WeightedLayer):
        return ""
    own = analysis.layer_labels[id(call.operation), "own"]
    empty = ~(rule.table(call.operation) != 0).any(axis=0)
    reasons: dict[str, int] = {}
    for label in own[empty & liveness.live[own]]:
        reason = liveness.reasons.get(int(label), "") or "goes with channels that are not zero"
        reasons[reason] = reasons.get(reason, 0) + 1
    return "; ".join(f"{count} zero: {reason}" for reason, count in reasons.items())
