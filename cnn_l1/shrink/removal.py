"""Physical channel removal: smaller shapes, the same output.

    python -m cnn_l1.shrink MODEL.keras --output SMALL.keras

`plan_shrink` finds every channel that the output does not depend on; `apply_shrink`
builds a plain Keras model without them. A channel goes if nobody reads it, or if it
is a constant that its readers can take into their biases exactly.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from cnn_l1.errors import CnnL1Error
from cnn_l1.process.tables import shrink_table

TOLERANCE = 1e-4  # of the largest output


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
    _analysis: Any = dataclasses.field(repr=False)
    _live: Any = dataclasses.field(repr=False)
    _vanished: Any = dataclasses.field(repr=False)
    _fingerprint: tuple = dataclasses.field(repr=False)

    @property
    def macs_known(self):
        """Whether the multiply-adds of all layers are counted."""
        return not self.macs_unknown

    @property
    def macs_before(self):
        return sum(layer.macs_before for layer in self.layers)

    @property
    def macs_after(self):
        return sum(layer.macs_after for layer in self.layers)

    @property
    def parameters_before(self):
        return sum(layer.parameters_before for layer in self.layers)

    @property
    def parameters_after(self):
        return sum(layer.parameters_after for layer in self.layers)

    @property
    def removes_anything(self):
        return any(layer.channels_after < layer.channels_before for layer in self.layers)

    def __str__(self):
        return shrink_table(self)


def plan_shrink(model: Any, round_to: int = 1, allow_empty: bool = False) -> ShrinkPlan:
    """Find the channels that can go without a change to the output.

    A channel can go if every layer that reads it either has only zeros for it, or
    can take it into its bias: a constant, in front of a dense layer or of a
    convolution without padding; a zero, in front of any.

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
    """
    from cnn_l1.graph import coupling, liveness, reading
    from cnn_l1.graph.fingerprints import fingerprint

    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ValueError(
            f"`round_to` must be a whole number, 1 or more. Received: round_to={round_to!r}"
        )
    try:
        analysis = coupling.analyse(model)
    except reading.GraphError as error:
        raise ShrinkError(str(error)) from None
    found = liveness.Liveness(analysis)
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


def apply_shrink(model: Any, plan: ShrinkPlan) -> Any:
    """Build the smaller model that a plan describes.

    Args:
        model: The model that was planned, its weights unchanged since.
        plan: The `ShrinkPlan`.

    Returns:
        A new Functional `keras.Model`, uncompiled, nested models opened. For every
            input it gives what `model` gives, up to the rounding of sums in float32.

    Raises:
        ShrinkError: If the plan was made for another model or other weights, or a
            layer cannot be made anew from its config.
    """
    import keras

    from cnn_l1.graph import reading
    from cnn_l1.graph.fingerprints import difference, fingerprint

    try:
        changed = difference(plan._fingerprint, fingerprint(reading.read_graph(model)))
    except reading.GraphError as error:
        raise ShrinkError(str(error)) from None
    if changed:
        raise ShrinkError(
            "Expected the model that was planned, with the same layers and weights. Received: "
            f"{model.name!r}, where {changed}. Call plan_shrink on it again."
        )
    analysis = plan._analysis
    tensors = {value: reading.new_input(value) for value in analysis.graph.inputs}
    inputs = list(tensors.values())
    builder = _Builder(analysis, plan._live)
    for call in analysis.needed_calls():
        if any(value in plan._vanished for value in call.outputs):
            continue
        read = analysis.inputs_left(call)
        left = [value for value in read if value not in plan._vanished]
        if len(left) == 1 and len(call.inputs) > 1:
            made = tensors[left[0]]  # of a concatenation, one branch
        elif len(left) < len(call.inputs):
            made = builder.made_by(call, [tensors[value] for value in left])
        else:
            resolved = {value: tensors[analysis.resolve(value)] for value in call.inputs}
            args, kwargs = call.arguments(resolved)
            made = builder.made_by(call, *args, **kwargs)
        for value, tensor in zip(call.outputs, keras.tree.flatten(made), strict=True):
            tensors[value] = tensor
        builder.fill(call)
    outputs = [tensors[analysis.resolve(value)] for value in analysis.graph.outputs]
    pack_inputs, pack_outputs = analysis.graph.pack_inputs, analysis.graph.pack_outputs
    return keras.Model(pack_inputs(inputs), pack_outputs(outputs), name=model.name)


def check_same_output(model, shrunk, samples):
    """Raise `ShrinkError` unless two models give the same outputs.

    Sums of up to thousands of float32 terms are taken in another order, so outputs
    may differ by `TOLERANCE` of the largest one: about 1,000 roundings.

    Args:
        model: A `keras.Model`; with several outputs, each is compared by itself.
        shrunk: The other.
        samples: `(count, …)` inputs, in the structure that the models take.
    """
    import keras

    outputs = [keras.tree.flatten(m(samples, training=False)) for m in (model, shrunk)]
    if len(outputs[0]) != len(outputs[1]):
        raise ShrinkError(
            f"Expected {len(outputs[0])} outputs once channels are gone. "
            f"Received: {len(outputs[1])}"
        )
    for number, pair in enumerate(zip(*outputs, strict=True), start=1):
        expected, received = (keras.ops.convert_to_numpy(x).astype("float64") for x in pair)
        which = f" of output {number}" if len(outputs[0]) > 1 else ""
        if expected.shape != received.shape:
            raise ShrinkError(
                f"Expected the shape{which} to stay {expected.shape} once channels are gone. "
                f"Received: {received.shape}"
            )
        finite = np.isfinite(expected)
        odd = not np.array_equal(expected[~finite], received[~finite], equal_nan=True)
        largest = float(np.max(np.abs(expected[finite]), initial=0.0))
        difference = float(np.max(np.abs(expected - received)[finite], initial=0.0))
        if odd or not difference <= TOLERANCE * largest:
            raise ShrinkError(
                f"Expected the same values{which} once channels are gone. Received: a "
                f"difference of {difference:.3g}, for values up to {largest:.3g}"
                + (", and others that are not finite" if odd else "")
            )


class _Builder:
    """Makes each layer once, at its new size, and fills in its weights."""

    def __init__(self, analysis, live):
        self.analysis, self.live = analysis, live
        self.made = {}
        self.filled = set()
        self.calls: dict[int, list] = {}
        for call in analysis.needed_calls():
            self.calls.setdefault(id(call.operation), []).append(call)

    def kept(self, labels):
        return self.live[labels]

    def operation(self, call):
        from cnn_l1.graph.layer_copies import CopyError, copy_operation, held_arrays

        key = id(call.operation)
        if key not in self.made:
            changes = config_changes(self.analysis, call, self.kept)
            if self.adds_bias(call):
                changes["use_bias"] = True
            if any(not self.kept(part.labels).all() for part in self.analysis.slices(call)):
                # Made for the old shape, and all weights are assigned below.
                changes |= dict.fromkeys(held_arrays(call.operation), "zeros")
            try:
                self.made[key] = copy_operation(call.operation, call.name, **changes)
            except CopyError as error:
                raise ShrinkError(str(error)) from None
        return self.made[key]

    def bias(self, call):
        """What a call's layer takes into its bias, or `None`."""
        added = added_bias(self.analysis, self.calls[id(call.operation)], self.kept)
        return added if added is not None and added.any() else None

    def adds_bias(self, call):
        """Whether a layer without a bias needs one."""
        return self.bias(call) is not None and not call.operation.use_bias

    def made_by(self, call, *args, **kwargs):
        """What the layer at its new size makes of new tensors; builds it."""
        operation = self.operation(call)
        try:
            return operation(*args, **kwargs)
        except Exception as error:  # Keras and layers of others raise many kinds
            raise ShrinkError(
                f"{call.name}: expected a layer that its config can make anew. Received: "
                f"{call.kind}, which cannot ({' '.join(str(error).split())[:200]})"
            ) from None

    def fill(self, call):
        """Give a layer that was just built its weights, by their place in it."""
        from cnn_l1.graph.layer_copies import CopyError, copy_weights, settle

        key, layer = id(call.operation), call.operation
        if key in self.filled or not getattr(layer, "variables", None):
            return
        self.filled.add(key)
        new = self.made[key]
        if weights_become_settings(self.analysis, call, self.kept):
            return
        values: dict[int, np.ndarray] = {}
        for part in self.analysis.slices(call):
            value = values.get(id(part.variable))
            value = np.asarray(part.variable) if value is None else value
            values[id(part.variable)] = np.take(
                value, np.flatnonzero(self.kept(part.labels)), part.axis
            )
        added, bias = {}, self.bias(call)
        if bias is not None and layer.use_bias:
            values[id(layer.bias)] = values[id(layer.bias)] + bias
        elif bias is not None:
            added["bias"] = bias
        try:
            copy_weights(layer, new, values, added)
        except CopyError as error:
            raise ShrinkError(str(error)) from None
        settle(new)


def weights_become_settings(analysis, call, kept):
    """Whether a layer's weights are settings of its copy: a `Normalization`, shrunk."""
    return "mean" in config_changes(analysis, call, kept)


def config_changes(analysis, call, kept):
    """Changes to a layer's config for the channels that stay."""
    from keras import layers

    rule = analysis.rules[call]
    if rule is None:
        return {}
    if not analysis.has_labels(call):
        is_shaped = isinstance(call.operation, layers.Reshape)
        return rule.config(analysis, call, kept) if is_shaped else {}
    whole = all(np.all(kept(part.labels)) for part in analysis.slices(call))
    own = analysis.layer_labels[id(call.operation), "own"]
    return {} if whole and np.all(kept(own)) else rule.config(analysis, call, kept)


def added_bias(analysis, calls, kept):
    """What removed constant inputs add to a layer's output, or `None`."""
    from cnn_l1.graph.liveness import folded_constants

    call = calls[0]
    rule = analysis.rules[call]
    if rule is None or not rule.reads or not analysis.has_labels(call):
        return None
    read, own = (analysis.layer_labels[id(call.operation), role] for role in ("read", "own"))
    gone, stays = ~kept(read), kept(own)
    constants = np.nan_to_num(folded_constants(analysis, calls)[gone], nan=0.0)
    if not constants.any():
        return np.zeros(int(stays.sum()))
    return constants @ rule.table(call.operation)[gone][:, stays]


def _layer_plans(analysis, liveness):
    """The `LayerPlan`s of all layers with weights, and those whose MACs are not known."""
    from cnn_l1.graph import macs
    from cnn_l1.graph.layer_kinds import OpenSizeError, UnknownLayerError, kernel_names

    names = kernel_names()
    builder = _Builder(analysis, liveness.live)
    entries: dict[int, dict] = {}
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
        gone = id(layer) not in builder.calls or call.outputs[0] in liveness.vanished
        shapes = _new_shapes(analysis, call, builder)
        target = call.outputs[0]
        labels = analysis.labels[target]
        if analysis.has_labels(call):
            labels = analysis.layer_labels[id(layer), "own"]
        if id(layer) not in entries:
            added = 0 if gone or not builder.adds_bias(call) else len(builder.bias(call))
            kept = np.zeros(len(labels), bool) if gone else liveness.live[labels]
            entries[id(layer)] = {
                "name": call.name,
                "kind": call.kind,
                "channels_before": len(labels),
                "channels_after": int(kept.sum()),
                "macs_before": 0,
                "macs_after": 0,
                "parameters_before": sum(math.prod(v.shape) for v in getattr(layer, "weights", ())),
                "parameters_after": 0 if gone else sum(map(math.prod, shapes.values())) + added,
                "held_back": "" if gone else _held_back(analysis, call, liveness),
                "removed_channels": tuple(int(n) for n in np.flatnonzero(~kept)),
            }
        entry = entries[id(layer)]
        entry["macs_before"] += before
        if call in liveness.calls and not gone:
            # Of a kind without positions, all channels stay.
            kernels = (math.prod(s) for n, s in shapes.items() if n.split(" ")[-1] in names)
            entry["macs_after"] += before if positions is None else positions * sum(kernels)
    return tuple(LayerPlan(**entry) for entry in entries.values()), tuple(unknown.values())


def _new_shapes(analysis, call, builder):
    """The shapes of a layer's weights once channels are gone, by position and name."""
    if weights_become_settings(analysis, call, builder.kept):
        return {}
    weights = getattr(call.operation, "weights", ())
    shapes = {id(v): list(v.shape) for v in weights}
    for part in analysis.slices(call):
        shapes[id(part.variable)][part.axis] = int(builder.kept(part.labels).sum())
    named = enumerate(weights)
    return {f"{i} {v.name}": tuple(shapes[id(v)]) for i, v in named}


def _held_back(analysis, call, liveness):
    """Why channels of a layer stay although its weights for them are all zero."""
    rule = analysis.rules[call]
    if rule is None:
        return "not supported"
    if not analysis.has_labels(call) or not hasattr(rule, "table"):
        return ""
    own = analysis.layer_labels[id(call.operation), "own"]
    empty = ~(rule.table(call.operation) != 0).any(axis=0)
    reasons: dict[str, int] = {}
    for label in own[empty & liveness.live[own]]:
        reason = liveness.reasons.get(int(label), "") or "goes with channels that are not zero"
        reasons[reason] = reasons.get(reason, 0) + 1
    return "; ".join(f"{count} zero: {reason}" for reason, count in reasons.items())
