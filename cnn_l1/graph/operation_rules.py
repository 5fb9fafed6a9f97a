"""Rules for operations, such as `x + y` or `keras.ops.mean(x)`, and for rarer layers.

As in `channel_rules`; what has no rule keeps all channels that it touches.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from cnn_l1.graph import channel_rules
from cnn_l1.graph.channel_labels import Analysis, Array, Kept, Rule, Slice
from cnn_l1.graph.channel_rules import ELEMENT, PASS
from cnn_l1.graph.kernel_rules import as_array
from cnn_l1.graph.merge_rules import (
    ADD,
    MAXIMUM,
    MINIMUM,
    MULTIPLY,
    SUBTRACT,
    Concatenate,
    Merge,
)
from cnn_l1.graph.passing_rules import Spatial
from cnn_l1.graph.reading import Call, Value
from cnn_l1.process import keras_internals


def zeros_of(constants: Array) -> Array:
    """Constants of which only zeros are known to stay what they are."""
    return np.where(constants == 0, 0.0, np.nan)


class NoiseShape(Rule):
    """Dropout, whose `noise_shape` may name the number of channels."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        layer, source = call.operation, call.inputs[0]
        shape, rank = layer.noise_shape, len(source.shape)
        if shape is None:
            super().couple(analysis, call)
            return
        axis = analysis.axis[source]
        position = self._position(analysis, call, source)
        named = 0 <= position < len(shape) and shape[position] not in (None, 1)
        if len(shape) > rank or (len(shape) < rank and None in shape) or axis == 0:
            analysis.opaque(call, f"{call.name} has a noise shape for another rank")
            return
        if named:
            analysis.layer_unite(call, "own", analysis.labels[source])
        super().couple(analysis, call)

    def _position(self, analysis: Analysis, call: Call, value: Value) -> int:
        """Where the noise shape, aligned at its end, has the channels; below 0: nowhere."""
        return analysis.axis[value] - len(value.shape) + len(call.operation.noise_shape)

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        source = call.inputs[0]
        shape = list(call.operation.noise_shape)
        shape[self._position(analysis, call, source)] = int(kept(analysis.labels[source]).sum())
        return {"noise_shape": tuple(shape)}


class ImageSize(Spatial):
    """Resizing and cropping: of constants, only a zero is sure to stay."""

    def constant(self, layer: Any, constants: Array, axis: int, source: Value) -> Array:
        if getattr(layer, "pad_to_aspect_ratio", False) and layer.fill_value != 0:
            return np.full(len(constants), np.nan)
        return zeros_of(constants)


class Repeat(Rule):
    """`RepeatVector`: the channels go to a new last axis."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source = call.inputs[0]
        labels = analysis.along(source, 1, call)
        analysis.set(call.outputs[0], 2, labels, analysis.constants_along(source, 1))


class LayerScale(Rule):
    """ConvNeXt's `x · γ`, one factor a channel."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source = call.inputs[0]
        axis = len(source.shape) - 1
        labels = analysis.layer_unite(call, "own", analysis.along(source, axis, call))
        constants = None
        if analysis.with_constants:
            gamma = as_array(call.operation.gamma)
            constants = np.where(gamma == 0, 0.0, gamma * analysis.constants_along(source, axis))
        analysis.set(call.outputs[0], axis, labels, constants)

    def slices(self, analysis: Analysis, call: Call) -> list[Slice]:
        labels = analysis.layer_labels[id(call.operation), "own"]
        return [Slice(call.operation.gamma, 0, labels, "own")]

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        labels = analysis.layer_labels[id(call.operation), "own"]
        return {"projection_dim": int(kept(labels).sum())}


class ScaledSum(Merge):
    """InceptionResNet's `x + scale · y`."""

    def __init__(self) -> None:
        super().__init__(None, bypasses=lambda position: position == 1)

    def combined(self, call: Call, operands: list[Array]) -> Array:
        return operands[0] + call.operation.scale * operands[1]


class ZerosStay(Rule):
    """Casts: a zero stays zero, other values are rounded."""

    def constant(self, layer: Any, constants: Array, axis: int, source: Value) -> Array:
        return zeros_of(constants)


class Clip(Rule):
    """Values cut to an interval of two numbers."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        limits = (call.operation.x_min, call.operation.x_max)
        if not all(isinstance(limit, (int, float)) for limit in limits):
            analysis.keep_all(call)
            return
        super().couple(analysis, call)

    def constant(self, layer: Any, constants: Array, axis: int, source: Value) -> Array:
        return np.clip(constants, layer.x_min, layer.x_max)


class Reduce(Rule):
    """Mean, maximum, minimum or sum over axes other than the channels'."""

    def __init__(self, is_sum: bool = False) -> None:
        self.is_sum = is_sum

    def couple(self, analysis: Analysis, call: Call) -> None:
        operation, source = call.operation, call.inputs[0]
        rank, axis = len(source.shape), analysis.axis[source]
        reduced = operation.axis
        reduced = (reduced,) if isinstance(reduced, int) else reduced
        if reduced is None or len(call.inputs) != 1 or not axis:
            analysis.keep_all(call)
            return
        reduced = {a % rank for a in reduced}
        if axis in reduced or 0 in reduced or getattr(operation, "initial", None) is not None:
            analysis.opaque(call, f"{call.name} ({call.kind}) mixes channels")
            return
        constants = analysis.constants[source]
        constants = zeros_of(constants) if self.is_sum else constants
        new_axis = axis if operation.keepdims else axis - sum(a < axis for a in reduced)
        analysis.set(call.outputs[0], new_axis, analysis.labels[source], constants)


class GetItem(Rule):
    """`x[:, None, 2:, :]` and the like, where all channels are taken."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source, target = call.inputs[0], call.outputs[0]
        new_axis = self._new_axis(call, source, analysis.axis[source])
        if new_axis is None or len(call.inputs) != 1:
            analysis.keep_all(call)
            return
        analysis.set(target, new_axis, analysis.labels[source], analysis.constants[source])

    def _new_axis(self, call: Call, source: Value, axis: int) -> int | None:
        args, kwargs = call.arguments({source: source})
        if kwargs or len(args) != 2 or not axis:
            return None
        keys = list(args[1]) if isinstance(args[1], (tuple, list)) else [args[1]]
        plain = all(key is None or key is ... or isinstance(key, (int, slice)) for key in keys)
        if not plain or any(isinstance(key, bool) for key in keys):
            return None  # such as an array, or a tensor
        used = sum(key is not None and key is not ... for key in keys)
        filler = [slice(None)] * (len(source.shape) - used)
        if ... in keys:
            at = keys.index(...)
            keys[at : at + 1] = filler
        else:
            keys += filler
        old = new = 0
        for key in keys:
            if key is None:
                new += 1
                continue
            if old == axis:
                return new if key == slice(None) else None
            if old == 0 and key != slice(None):
                return None
            old += 1
            new += not isinstance(key, int)
        return None


class Axes(Rule):
    """`ops.transpose`, `ops.expand_dims` and `ops.squeeze`: channels move to another axis."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source, target = call.inputs[0], call.outputs[0]
        axis, rank = analysis.axis[source], len(source.shape)
        new_axis = self._new_axis(call.operation, call.kind, axis, rank, len(target.shape))
        if new_axis is None or len(call.inputs) != 1:
            analysis.keep_all(call)
            return
        analysis.set(target, new_axis, analysis.labels[source], analysis.constants[source])

    def _new_axis(
        self, operation: Any, kind: str, axis: int, rank: int, new_rank: int
    ) -> int | None:
        if not axis:
            return None
        if kind == "Transpose":
            axes = operation.axes
            if axes is None or axes[0] != 0:
                return None
            return [a % rank for a in axes].index(axis)
        changed = operation.axis
        if changed is None:
            return None
        changed = (changed,) if isinstance(changed, int) else tuple(changed)
        if kind == "Squeeze":
            changed = {a % rank for a in changed}
            keeps = axis not in changed and 0 not in changed
            return axis - sum(a < axis for a in changed) if keeps else None
        changed = {a % new_rank for a in changed}
        if 0 in changed:
            return None
        return [a for a in range(new_rank) if a not in changed][axis]


class Pad(Rule):
    """`ops.pad`, of axes other than the channels'."""

    """`ops.pad` along axes other than the channels'."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source, operation = call.inputs[0], call.operation
        width, axis = np.asarray(operation.pad_width), analysis.axis[source]
        plain = width.shape == (len(source.shape), 2) and len(call.inputs) == 1
        if not plain or not axis or width[axis].any() or width[0].any():
            analysis.keep_all(call)
            return
        args, kwargs = call.arguments({source: source})
        values = [*args[1:], *kwargs.values()]
        pads_zeros = operation.mode != "constant" or all(v is None or v == 0 for v in values)
        constants = zeros_of(analysis.constants[source])
        analysis.set(
            call.outputs[0], axis, analysis.labels[source], constants if pads_zeros else None
        )


class ConcatenateOperation(Concatenate):
    """`ops.concatenate` along one known axis."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        if not isinstance(call.operation.axis, int):
            analysis.keep_all(call)
            return
        super().couple(analysis, call)


def _divide(operands: list[Array]) -> Array:
    return _finite(np.divide, operands)


def _power(operands: list[Array]) -> Array:
    return _finite(np.power, operands)


def _finite(function: Callable[..., Array], operands: list[Array]) -> Array:
    with np.errstate(all="ignore"):
        values = function(*operands)
    # NaN ** 0 is 1 for NumPy, but here NaN is an unknown value, which may be one itself.
    known = np.isfinite(values) & np.isfinite(operands[0]) & np.isfinite(operands[1])
    return np.where(known, values, np.nan)


def _comparison(name: str) -> Merge:
    """1 where it holds, 0 where not."""
    function = getattr(np, name)

    def compared(operands: list[Array]) -> Array:
        known = np.isfinite(operands[0]) & np.isfinite(operands[1])
        return np.where(known, function(*operands), np.nan)

    return Merge(compared)


def _chosen(operands: list[Array]) -> Array:
    condition, one, other = operands
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, one, other))


REDUCE, AXES, ZEROS_STAY = Reduce(), Axes(), ZerosStay()

# fmt: off
# As `keras.ops.relu(x)` leaves them in a graph.
OPERATION_NAMES = (
    "Relu", "Relu6", "Sigmoid", "HardSigmoid", "Silu", "HardSilu", "HardSwish", "Tanh",
    "Softplus", "Exp", "Elu", "Gelu", "LeakyRelu",
)
UNARY_NAMES = (
    "Negative", "Absolute", "Square", "Sqrt", "Rsqrt", "Sin", "Cos", "Expm1", "Log1p", "Celu",
    "Selu", "Softsign", "LogSigmoid", "SparseSigmoid", "SoftShrink", "HardShrink", "HardTanh",
    "TanhShrink", "Squareplus", "Sign", "Floor", "Ceil",
)
# In inference the identity, whatever the number of channels.
AUGMENTATION_NAMES = (
    "RandomFlip", "RandomTranslation", "RandomRotation", "RandomZoom", "RandomContrast",
    "RandomBrightness", "RandomShear", "RandomPerspective", "RandomElasticTransform",
    "RandomGaussianBlur", "RandomErasing", "RandomSharpness", "RandomPosterization",
    "RandomInvert",
)
# fmt: on

LAYER_RULES: dict[type, Rule] = {
    layers.Dropout: NoiseShape(),
    layers.AlphaDropout: NoiseShape(),
    layers.Resizing: ImageSize(),
    layers.CenterCrop: ImageSize(),
    layers.RandomCrop: ImageSize(),
    layers.RepeatVector: Repeat(),
    keras_internals.LayerScale: LayerScale(),
    keras_internals.CustomScaleLayer: ScaledSum(),
}
for _name in AUGMENTATION_NAMES:
    if hasattr(layers, _name):
        LAYER_RULES[getattr(layers, _name)] = PASS
for _dimensions in ("1D", "2D", "3D"):
    for _kind in ("Max", "Average"):
        if hasattr(layers, f"Adaptive{_kind}Pooling{_dimensions}"):
            LAYER_RULES[getattr(layers, f"Adaptive{_kind}Pooling{_dimensions}")] = ImageSize()

OPERATIONS: dict[str, Rule] = {
    "Add": ADD,
    "Subtract": SUBTRACT,
    "Multiply": MULTIPLY,
    "TrueDivide": Merge(_divide),
    "Divide": Merge(_divide),
    "Power": Merge(_power),
    "Maximum": MAXIMUM,
    "Minimum": MINIMUM,
    "Greater": _comparison("greater"),
    "GreaterEqual": _comparison("greater_equal"),
    "Less": _comparison("less"),
    "LessEqual": _comparison("less_equal"),
    "Equal": _comparison("equal"),
    "NotEqual": _comparison("not_equal"),
    "Where": Merge(_chosen, operands=3),
    **dict.fromkeys(OPERATION_NAMES, ELEMENT),
    **dict.fromkeys(UNARY_NAMES, ELEMENT),
    "StopGradient": PASS,
    "Cast": ZEROS_STAY,
    "Clip": Clip(),
    "Mean": REDUCE,
    "Max": REDUCE,
    "Min": REDUCE,
    "Sum": Reduce(is_sum=True),
    "GetItem": GetItem(),
    "Transpose": AXES,
    "ExpandDims": AXES,
    "Squeeze": AXES,
    "Pad": Pad(),
    "Concatenate": ConcatenateOperation(),
}


def rule_of(operation: Any) -> Rule | None:
    """The rule for a layer or operation, by its exact type; `None` if there is none."""
    if isinstance(operation, keras.Layer):
        return LAYER_RULES.get(type(operation)) or channel_rules.RULES.get(type(operation))
    if type(operation).__module__.startswith("keras."):
        return OPERATIONS.get(type(operation).__name__)
    return None


def is_augmentation(operation: Any) -> bool:
    """Whether a layer acts in training only, though Keras tells it so by default."""
    return isinstance(operation, keras_internals.BaseImagePreprocessingLayer)
