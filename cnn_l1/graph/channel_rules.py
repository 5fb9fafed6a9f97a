"""What each kind of layer does to channels: one rule a kind, by exact type.

A rule gives a call's outputs their labels (which channels go together), their
constants (which channels have the same known value everywhere), and says which of
the layer's weights belong to which channel. `coupling.Analysis` runs the rules over
a graph; a layer without a rule keeps all channels that it touches.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers

LARGEST_FLATTENED = 4_000_000  # labels are one number a feature


@dataclasses.dataclass(frozen=True)
class Slice:
    """Along `axis` of a weight, position `i` belongs to the channel `labels[i]`.

    `role` is `"own"` where the weights belong to the channel and go with it, and
    `"read"` where they only read it.
    """

    variable: Any
    axis: int
    labels: np.ndarray
    role: str


class Rule:
    """What a kind of layer does to channels; the default passes them through."""

    reads = False  # whether it reads its input channels, and makes new ones

    def couple(self, analysis, call):
        """Give the call's outputs their labels and constants."""
        source, target = call.inputs[0], call.outputs[0]
        axis, labels = analysis.axis[source], analysis.labels[source]
        constants = analysis.constants[source]
        constants = self.constant(call.operation, constants, axis, source)
        analysis.set(target, axis, labels, constants)

    def constant(self, layer, constants, axis, source):
        """The constants behind the layer, from those in front of it."""
        return constants

    def slices(self, analysis, call):
        return []

    def config(self, analysis, call, kept):
        """Changes to the layer's config when `kept(labels)` is what stays."""
        return {}


class Elementwise(Rule):
    """An activation that treats every value alike."""

    def couple(self, analysis, call):
        activation = activation_of(call.operation)
        if activation in MIXING:
            analysis.opaque(call, f"{call.name} mixes channels")
            return
        if not is_elementwise(activation):
            analysis.keep_all(call)
            return
        super().couple(analysis, call)

    def constant(self, layer, constants, axis, source):
        return activate(activation_of(layer), constants)


class Mixing(Rule):
    """A layer whose every output reads every channel."""

    def couple(self, analysis, call):
        analysis.opaque(call, f"{call.name} ({call.kind}) mixes channels")


class PReLU(Rule):
    def couple(self, analysis, call):
        source = call.inputs[0]
        labels = analysis.along(source, len(source.shape) - 1, call)
        analysis.layer_unite(call, "own", labels)
        constants = analysis.constants_along(source, len(source.shape) - 1)
        # A constant below zero meets another slope at every position.
        known = np.where(constants >= 0, constants, np.nan)
        analysis.set(call.outputs[0], len(source.shape) - 1, labels, known)

    def slices(self, analysis, call):
        labels = analysis.layer_labels[id(call.operation), "own"]
        alpha = call.operation.alpha
        axis = len(alpha.shape) - 1
        if alpha.shape[axis] != len(labels):  # one slope for all channels
            return []
        return [Slice(alpha, axis, labels, "own")]


class GlobalPooling(Rule):
    def couple(self, analysis, call):
        source, target = call.inputs[0], call.outputs[0]
        rank = len(source.shape)
        axis = channel_axis(call.operation, rank)
        labels = analysis.along(source, axis, call)
        constants = analysis.constants_along(source, axis)
        new_axis = axis if len(target.shape) == rank else 1
        analysis.set(target, new_axis, labels, constants)


class Spatial(Rule):
    """A layer that works on each channel's image alone: pooling, cropping, upsampling."""

    def couple(self, analysis, call):
        source, target = call.inputs[0], call.outputs[0]
        axis = channel_axis(call.operation, len(source.shape))
        labels = analysis.along(source, axis, call)
        constants = analysis.constants_along(source, axis)
        constants = self.constant(call.operation, constants, axis, source)
        analysis.set(target, axis, labels, constants)


class ZeroPadding(Spatial):
    """Padding with zeros: a constant that is not zero differs at the border."""

    def constant(self, layer, constants, axis, source):
        return np.where(constants == 0, 0.0, np.nan)


class Reshaping(Rule):
    """Flatten, Reshape and Permute: channels become blocks, or move to another axis."""

    def couple(self, analysis, call):
        source, target = call.inputs[0], call.outputs[0]
        found = self._reshaped(analysis, call.operation, source, target)
        if found is None:
            analysis.opaque(call, f"{call.name} ({call.kind}) does not keep channels apart")
            return
        axis, labels, constants = found
        if isinstance(call.operation, layers.Reshape):
            # One shape is set for all of its calls: they must lose the same channels.
            first = analysis.layer_labels.get((id(call.operation), f"axis {axis}"))
            others = [role for key, role in analysis.layer_labels if key == id(call.operation)]
            if others and first is None:
                for role in others:
                    reason = f"{call.name} is shared, and channels lie on other axes"
                    analysis.pin(analysis.layer_labels[id(call.operation), role], reason)
                analysis.opaque(call, f"{call.name} is shared, and channels lie on other axes")
                return
            analysis.layer_unite(call, f"axis {axis}", labels)
        analysis.set(target, axis, labels, constants)

    def _reshaped(self, analysis, layer, source, target):
        axis, labels = analysis.axis[source], analysis.labels[source]
        constants = analysis.constants[source]
        if isinstance(layer, layers.Permute):
            return (layer.dims.index(axis) + 1, labels, constants) if axis else None
        sizes, new_sizes = source.shape[1:], target.shape[1:]
        if axis == len(source.shape) - 1 and axis > 0 and target.shape[-1] == len(labels):
            return len(target.shape) - 1, labels, constants  # open sizes in front may stay
        if getattr(layer, "data_format", None) == "channels_first" and len(sizes) > 1:
            return None
        if axis == 0 or None in sizes or None in new_sizes:
            return None
        if np.prod(sizes) > LARGEST_FLATTENED or not np.prod(sizes):
            return None
        shape = [1] * len(sizes)
        shape[axis - 1] = len(labels)
        rows = [np.broadcast_to(x.reshape(shape), sizes) for x in (labels, constants)]
        new_labels, new_constants = (x.reshape(new_sizes) for x in rows)
        for new_axis in reversed(range(len(new_sizes))):
            moved = np.moveaxis(new_labels, new_axis, 0).reshape(new_sizes[new_axis], -1)
            if np.all(moved == moved[:, :1]):
                flat = np.moveaxis(new_constants, new_axis, 0).reshape(new_sizes[new_axis], -1)
                # Channels that go together may each be constant, but not the same.
                same = np.all(flat == flat[:, :1], axis=1)
                return new_axis + 1, moved[:, 0].copy(), np.where(same, flat[:, 0], np.nan)
        return None

    def config(self, analysis, call, kept):
        if not isinstance(call.operation, layers.Reshape):
            return {}
        target = call.outputs[0]
        shape = list(target.shape[1:])
        # Sizes that were open stay open: at most one of them can be -1.
        shape = [-1 if size is None else size for size in shape]
        shape[analysis.axis[target] - 1] = int(kept(analysis.labels[target]).sum())
        return {"target_shape": tuple(shape)}


class Reader(Rule):
    """A layer that reads channels and makes new ones: `y = activation(x · kernel + bias)`."""

    reads = True

    def couple(self, analysis, call):
        layer, source, target = call.operation, call.inputs[0], call.outputs[0]
        # Quantized, or with adapters, the kernel is not what the layer multiplies by.
        changed = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", None)
        if len(call.inputs) != 1 or changed:
            analysis.keep_all(call)
            return
        axis = self.axis(layer, source)
        new_axis = self.axis(layer, target)
        read = analysis.layer_unite(call, "read", analysis.along(source, axis, call))
        if (id(layer), "own") in analysis.layer_labels:
            own = analysis.layer_labels[id(layer), "own"]
        else:
            own = analysis.layer_unite(call, "own", analysis.fresh(target.shape[new_axis]))
            activation = activation_of(layer)
            if not is_elementwise(activation):
                analysis.pin(own, f"the activation of {call.name} mixes channels, or is unknown")
        self.bind(analysis, call, read, own)
        constants = None
        if analysis.with_constants:
            constants = self.output_constants(layer, analysis.constants_along(source, axis))
        analysis.set(target, new_axis, own, constants)

    def axis(self, layer, value):
        return channel_axis(layer, len(value.shape))

    def bind(self, analysis, call, read, own):
        """Unite what goes together through the layer; nothing, where it reads all."""

    def output_constants(self, layer, constants):
        table = self.table(layer)
        folds = self.foldable(layer, constants)
        live = (table != 0) & ~folds[:, None]
        folded = np.where(folds & np.isfinite(constants), constants, 0.0) @ table
        values = activate(activation_of(layer), folded + bias_of(layer, table.shape[1]))
        return np.where(live.any(axis=0), np.nan, values)

    def foldable(self, layer, constants):
        """Which input constants give every output position the same addend."""
        folds_all = self.is_uniform(layer)
        return np.isfinite(constants) & (folds_all | (constants == 0))

    def is_uniform(self, layer):
        return True

    def table(self, layer):
        """`(in_channels, out_channels)`: sums over the kernel's positions.

        Not zero wherever any position is not, so that it also says what is read.
        """
        kernel = self.kernel(layer)
        flat = kernel.reshape(-1, *kernel.shape[-2:])
        return never_cancelled(flat.sum(axis=0), (flat != 0).any(axis=0))

    def kernel(self, layer):
        return as_array(layer.kernel)

    def slices(self, analysis, call):
        layer = call.operation
        read, own = (analysis.layer_labels[id(layer), role] for role in ("read", "own"))
        slices = self.kernel_slices(layer, read, own)
        if layer.use_bias:
            slices.append(Slice(layer.bias, 0, own, "own"))
        return slices

    def kernel_slices(self, layer, read, own):
        axes = len(layer.kernel.shape)
        return [
            Slice(layer.kernel, axes - 2, read, "read"),
            Slice(layer.kernel, axes - 1, own, "own"),
        ]

    def config(self, analysis, call, kept):
        own = analysis.layer_labels[id(call.operation), "own"]
        return {self.size_setting: int(kept(own).sum())}

    size_setting = "filters"


class Dense(Reader):
    size_setting = "units"

    def axis(self, layer, value):
        return len(value.shape) - 1


class Conv(Reader):
    def is_uniform(self, layer):
        return layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)

    def bind(self, analysis, call, read, own):
        groups = call.operation.groups
        if groups == 1:
            return
        # Only whole groups can go: the others' sizes must stay equal.
        for members in zip(np.split(read, groups), np.split(own, groups), strict=True):
            together = np.concatenate(members)
            analysis.unite(np.repeat(together[:1], len(together)), together)

    def table(self, layer):
        part = super().table(layer)
        if layer.groups == 1:
            return part
        size, filters = part.shape
        table = np.zeros((size * layer.groups, filters))
        width = filters // layer.groups
        for group in range(layer.groups):
            columns = slice(group * width, (group + 1) * width)
            table[group * size : (group + 1) * size, columns] = part[:, columns]
        return table

    def kernel_slices(self, layer, read, own):
        slices = super().kernel_slices(layer, read, own)
        return slices if layer.groups == 1 else slices[1:]

    def config(self, analysis, call, kept):
        changes, layer = super().config(analysis, call, kept), call.operation
        if layer.groups > 1:
            changes["groups"] = changes["filters"] // (layer.filters // layer.groups)
        return changes


class ConvTranspose(Reader):
    """A transposed convolution, kernel `(…, out_channels, in_channels)`."""

    def is_uniform(self, layer):
        return False  # every output position meets other positions of the kernel

    def table(self, layer):
        return super().table(layer).T

    def kernel_slices(self, layer, read, own):
        axes = len(layer.kernel.shape)
        return [
            Slice(layer.kernel, axes - 2, own, "own"),
            Slice(layer.kernel, axes - 1, read, "read"),
        ]


class SeparableConv(Reader):
    def is_uniform(self, layer):
        return layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)

    def table(self, layer):
        depthwise = as_array(layer.depthwise_kernel)  # (…, in, multiplier)
        channels, multiplier = depthwise.shape[-2:]
        flat = depthwise.reshape(-1, channels, multiplier)
        pointwise = as_array(layer.pointwise_kernel).reshape(channels, multiplier, -1)
        sums = np.einsum("cm,cmo->co", flat.sum(axis=0), pointwise)
        read = ((flat != 0).any(axis=0)[:, :, None] & (pointwise != 0)).any(axis=1)
        return never_cancelled(sums, read)

    def kernel_slices(self, layer, read, own):
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        axes = len(pointwise.shape)
        repeated = np.repeat(read, layer.depth_multiplier)
        return [
            Slice(depthwise, axes - 2, read, "read"),
            Slice(pointwise, axes - 2, repeated, "read"),
            Slice(pointwise, axes - 1, own, "own"),
        ]


class Depthwise(Conv):
    """A depthwise convolution: each channel becomes `depth_multiplier` channels."""

    reads = False

    def bind(self, analysis, call, read, own):
        analysis.unite(np.repeat(read, call.operation.depth_multiplier), own)

    def table(self, layer):
        kernel = as_array(layer.kernel)  # (…, in, multiplier)
        channels, multiplier = kernel.shape[-2:]
        flat = kernel.reshape(-1, channels, multiplier)
        sums = never_cancelled(flat.sum(axis=0), (flat != 0).any(axis=0))
        table = np.zeros((channels, channels, multiplier))
        table[np.arange(channels), np.arange(channels)] = sums
        return table.reshape(channels, channels * multiplier)

    def kernel_slices(self, layer, read, own):
        return [Slice(layer.kernel, len(layer.kernel.shape) - 2, read, "own")]

    def config(self, analysis, call, kept):
        return {}


class BatchNormalization(Rule):
    def couple(self, analysis, call):
        layer, source = call.operation, call.inputs[0]
        axis = layer.axis % len(source.shape)
        labels = analysis.along(source, axis, call)
        analysis.layer_unite(call, "own", labels)
        constants = None
        if analysis.with_constants:
            constants = self._constants(layer, analysis.constants_along(source, axis))
        analysis.set(call.outputs[0], axis, labels, constants)

    def _constants(self, layer, constants):
        mean, variance = as_array(layer.moving_mean), as_array(layer.moving_variance)
        scale = as_array(layer.gamma) if layer.scale else np.ones_like(mean)
        shift = as_array(layer.beta) if layer.center else np.zeros_like(mean)
        normal = scale * (constants - mean) / np.sqrt(variance + layer.epsilon) + shift
        return np.where(scale == 0, shift, normal)

    def slices(self, analysis, call):
        labels = analysis.layer_labels[id(call.operation), "own"]
        return [Slice(variable, 0, labels, "own") for variable in call.operation.weights]


class GroupNormalization(Rule):
    def couple(self, analysis, call):
        layer, source = call.operation, call.inputs[0]
        if not isinstance(layer.axis, int):
            analysis.keep_all(call)
            return
        axis = layer.axis % len(source.shape)
        labels = analysis.along(source, axis, call)
        analysis.layer_unite(call, "own", labels)
        for members in np.split(labels, self._groups(layer, labels)):
            analysis.unite(np.repeat(members[:1], len(members)), members)
        constants = np.full(len(labels), np.nan)
        if layer.scale:
            shift = as_array(layer.beta) if layer.center else np.zeros(len(labels))
            constants = np.where(as_array(layer.gamma) == 0, shift, np.nan)
        analysis.set(call.outputs[0], axis, labels, constants)

    def _groups(self, layer, labels):
        return len(labels) if layer.groups == -1 else layer.groups

    def slices(self, analysis, call):
        labels = analysis.layer_labels[id(call.operation), "own"]
        return [Slice(variable, 0, labels, "own") for variable in call.operation.weights]

    def config(self, analysis, call, kept):
        labels = analysis.layer_labels[id(call.operation), "own"]
        groups = self._groups(call.operation, labels)
        return {"groups": int(kept(labels).sum()) // (len(labels) // groups)}


class Rescaling(Rule):
    def constant(self, layer, constants, axis, source):
        return constants * self._flat(layer.scale) + self._flat(layer.offset)

    def _flat(self, setting):
        return np.asarray(setting, "float64").reshape(-1)

    def couple(self, analysis, call):
        layer, source = call.operation, call.inputs[0]
        per_channel = self._flat(layer.scale).size > 1 or self._flat(layer.offset).size > 1
        if per_channel and (
            analysis.axis[source] != len(source.shape) - 1
            or max(np.ndim(layer.scale), np.ndim(layer.offset)) > 1
        ):
            analysis.opaque(call, f"{call.name} scales along another axis than the channels'")
            return
        analysis.layer_unite(call, "own", analysis.labels[source])
        super().couple(analysis, call)

    def config(self, analysis, call, kept):
        keep = kept(analysis.labels[call.outputs[0]])
        changes = {}
        for name in ("scale", "offset"):
            value = self._flat(getattr(call.operation, name))
            if value.size > 1:
                changes[name] = value[keep].tolist()
        return changes


class Normalization(Rule):
    def couple(self, analysis, call):
        layer, source = call.operation, call.inputs[0]
        last = len(source.shape) - 1
        axes = tuple(axis % len(source.shape) for axis in layer._keep_axis)
        if axes not in ((), (last,)) or (axes and analysis.axis[source] != last):
            analysis.opaque(call, f"{call.name} normalises along another axis than the channels'")
            return
        labels = analysis.layer_unite(call, "own", analysis.labels[source])
        mean, deviation = self._statistics(layer)
        constants = analysis.constants[source]
        inverted = constants * deviation + mean
        normal = inverted if layer.invert else (constants - mean) / deviation
        analysis.set(call.outputs[0], analysis.axis[source], labels, normal)

    def _statistics(self, layer):
        mean, variance = (as_array(x).reshape(-1) for x in (layer.mean, layer.variance))
        return mean, np.maximum(np.sqrt(variance), keras.config.epsilon())

    def config(self, analysis, call, kept):
        mean, variance = (
            as_array(x).reshape(-1) for x in (call.operation.mean, call.operation.variance)
        )
        if mean.size > 1:
            keep = kept(analysis.labels[call.outputs[0]])
            mean, variance = mean[keep], variance[keep]
        # Given rather than adapted: then they are settings, and no weights.
        whole = mean.size > 1 or len(call.operation._keep_axis) > 0
        if not whole:
            return {"mean": float(mean[0]), "variance": float(variance[0])}
        return {"mean": mean.tolist(), "variance": variance.tolist()}


class Merge(Rule):
    """Add, Subtract, Multiply, Average, Maximum, Minimum: channels go together."""

    def __init__(self, combine, bypasses=None, operands=2):
        self.combine = combine
        self.operands = operands  # of an operation; a layer takes any number
        self.bypasses = bypasses  # which inputs add nothing where they are zero

    def couple(self, analysis, call):
        target = call.outputs[0]
        rank = len(target.shape)
        axis = rank - 1
        if call.inputs:
            axis = max(
                (analysis.axis[v] for v in call.inputs if len(v.shape) == rank),
                default=rank - 1,
                key=lambda a: sum(analysis.axis[v] == a for v in call.inputs),
            )
        numbers = self._numbers(call)
        fits = numbers is not None and all(len(v.shape) == rank for v in call.inputs)
        if not fits or axis == 0 or target.shape[axis] is None:
            analysis.keep_all(call)
            return
        size = target.shape[axis]
        together, constants = [], []
        for value in call.inputs:
            labels = analysis.along(value, axis, call)
            known = analysis.constants_along(value, axis)
            if len(labels) == size:
                together.append(labels)
            else:  # one channel for all
                analysis.pin(labels, f"{call.name} uses it for all channels")
                known = np.repeat(known, size)
            constants.append(known)
        if self._bypass(analysis, call, constants, numbers):
            return
        left = [i for i in range(len(call.inputs)) if i not in analysis.dropped.get(call, ())]
        left_labels = [analysis.along(call.inputs[i], axis, call) for i in left]
        whole = [labels for labels in left_labels if len(labels) == size]
        if not whole:
            analysis.keep_all(call)
            return
        analysis.unite(*whole)
        values = None
        if analysis.with_constants:
            values = self.combined(call, _in_order(call, constants, numbers, size))
        analysis.set(target, axis, whole[0], values)

    def combined(self, call, operands):
        """The constants of the result, from those of all operands in order."""
        return self.combine(operands)

    def _numbers(self, call):
        """The plain numbers among an operation's arguments, by position."""
        if isinstance(call.operation, keras.Layer):
            return {}
        args, kwargs = call.arguments({value: value for value in call.inputs})
        if kwargs or len(args) != self.operands:
            return None
        numbers = {}
        for position, argument in enumerate(args):
            if isinstance(argument, (int, float, np.generic)) and not np.iscomplexobj(argument):
                numbers[position] = float(argument)
            elif not any(argument is value for value in call.inputs):
                return None  # such as an array
        return numbers

    def _bypass(self, analysis, call, constants, numbers):
        """Leave out inputs that are zero everywhere; whether only one is left."""
        if self.bypasses is None or numbers or not analysis.with_constants:
            return False
        target = call.outputs[0]
        count = len(call.inputs)
        dead = [i for i in range(count) if self.bypasses(i) and np.all(constants[i] == 0)]
        left = [i for i in range(count) if i not in dead]
        if not left:
            left = [dead.pop(0)]
        # What is left must have the result's shape by itself, and its type.
        if not dead or not any(call.inputs[i].shape == target.shape for i in left):
            return False
        if len(set(map(id, call.inputs))) != count:
            return False
        if len(left) == 1:
            analysis.aliases[target] = call.inputs[left[0]]
            source = analysis.resolve(target)
            analysis.set(
                target, analysis.axis[source], analysis.labels[source], analysis.constants[source]
            )
            return True
        if not isinstance(call.operation, keras.Layer) or call.kind != "Add":
            return False
        analysis.dropped[call] = tuple(dead)
        return False


def _in_order(call, constants, numbers, size):
    """Constants of all operands, plain numbers at their places."""
    operands = list(constants)
    if not isinstance(call.operation, keras.Layer):
        args, _ = call.arguments({value: value for value in call.inputs})
        by_value = dict(zip(call.inputs, constants, strict=True))
        operands = [
            np.full(size, numbers[i]) if i in numbers else by_value[a] for i, a in enumerate(args)
        ]
    return operands


def _product(operands):
    product = operands[0]
    for operand in operands[1:]:
        # Zero times anything is zero, known or not.
        product = np.where((product == 0) | (operand == 0), 0.0, product * operand)
    return product


class Concatenate(Rule):
    def couple(self, analysis, call):
        target = call.outputs[0]
        joined = call.operation.axis % len(target.shape)
        axes = {analysis.axis[value] for value in call.inputs}
        axis = axes.pop() if len(axes) == 1 else joined
        labels = [analysis.along(value, axis, call) for value in call.inputs]
        constants = [analysis.constants_along(value, axis) for value in call.inputs]
        if axis == joined:
            analysis.set(target, axis, np.concatenate(labels), np.concatenate(constants))
            return
        analysis.unite(*labels)
        same = np.all([c == constants[0] for c in constants], axis=0)
        analysis.set(target, axis, labels[0], np.where(same, constants[0], np.nan))


# --- what layers are made of ------------------------------------------------------

# fmt: off
ELEMENTWISE_NAMES = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "sigmoid", "hard_sigmoid",
    "log_sigmoid", "sparse_sigmoid", "silu", "hard_silu", "tanh", "hard_tanh", "tanh_shrink",
    "softplus", "softsign", "soft_shrink", "hard_shrink", "squareplus", "sparse_plus", "mish",
    "exponential", "linear", "threshold",
)
PASSING_NAMES = (
    "GaussianDropout", "GaussianNoise", "ActivityRegularization", "Identity",
)
# As `keras.ops.relu(x)` leaves them in a graph.
OPERATION_NAMES = (
    "Relu", "Relu6", "Sigmoid", "HardSigmoid", "Silu", "HardSilu", "HardSwish", "Tanh",
    "Softplus", "Exp", "Elu", "Gelu", "LeakyRelu",
)
# fmt: on
ELEMENTWISE = {getattr(keras.activations, name) for name in ELEMENTWISE_NAMES}
MIXING = {keras.activations.softmax, keras.activations.log_softmax, keras.activations.sparsemax}
ACTIVATION_LAYERS = (layers.ReLU, layers.LeakyReLU, layers.ELU)


def activation_of(layer):
    """The function that a layer applies to its result."""
    if isinstance(layer, ACTIVATION_LAYERS) or not isinstance(layer, keras.Layer):
        return layer
    return layer.activation


def is_elementwise(activation):
    if isinstance(activation, keras.Layer):
        return type(activation) in ACTIVATION_LAYERS
    if isinstance(activation, keras.Operation):
        return True  # only kinds that RULES names come here
    return activation is None or activation in ELEMENTWISE


def activate(activation, constants):
    """An activation's values for constants, NaN where they are not known."""
    if activation is None or not is_elementwise(activation):
        return constants if activation is None else np.full(len(constants), np.nan)
    known = np.isfinite(constants)
    values = np.full(len(constants), np.nan)
    if known.any():
        tensor = keras.ops.convert_to_tensor(constants[known].astype("float32"))
        values[known] = keras.ops.convert_to_numpy(activation(tensor))
    return values


def bias_of(layer, size):
    return as_array(layer.bias) if layer.use_bias else np.zeros(size)


def as_array(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable), "float64")


def never_cancelled(sums, read):
    """Sums that are not zero where weights are read, even if the weights cancel."""
    return np.where(read & (sums == 0), np.finfo("float64").tiny, sums)


def channel_axis(layer, rank):
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _add(operands):
    return np.sum(operands, axis=0)


def _subtract(operands):
    return operands[0] - operands[1]


def _average(operands):
    return np.mean(operands, axis=0)


def _maximum(operands):
    return np.max(operands, axis=0)


def _minimum(operands):
    return np.min(operands, axis=0)


ADD = Merge(_add, bypasses=lambda position: True)
SUBTRACT = Merge(_subtract, bypasses=lambda position: position == 1)
MULTIPLY, AVERAGE = Merge(_product), Merge(_average)
MAXIMUM, MINIMUM = Merge(_maximum), Merge(_minimum)
PASS, SPATIAL, RESHAPING, ELEMENT = Rule(), Spatial(), Reshaping(), Elementwise()

RULES: dict[type, Rule] = {
    layers.Dense: Dense(),
    layers.Conv1D: Conv(),
    layers.Conv2D: Conv(),
    layers.Conv3D: Conv(),
    layers.Conv1DTranspose: ConvTranspose(),
    layers.Conv2DTranspose: ConvTranspose(),
    layers.Conv3DTranspose: ConvTranspose(),
    layers.SeparableConv1D: SeparableConv(),
    layers.SeparableConv2D: SeparableConv(),
    layers.DepthwiseConv1D: Depthwise(),
    layers.DepthwiseConv2D: Depthwise(),
    layers.BatchNormalization: BatchNormalization(),
    layers.GroupNormalization: GroupNormalization(),
    layers.LayerNormalization: Mixing(),
    layers.Softmax: Mixing(),
    layers.Activation: ELEMENT,
    layers.ReLU: ELEMENT,
    layers.LeakyReLU: ELEMENT,
    layers.ELU: ELEMENT,
    layers.PReLU: PReLU(),
    layers.Rescaling: Rescaling(),
    layers.Normalization: Normalization(),
    layers.Flatten: RESHAPING,
    layers.Reshape: RESHAPING,
    layers.Permute: RESHAPING,
    layers.Add: ADD,
    layers.Subtract: SUBTRACT,
    layers.Multiply: MULTIPLY,
    layers.Average: AVERAGE,
    layers.Maximum: MAXIMUM,
    layers.Minimum: MINIMUM,
    layers.Concatenate: Concatenate(),
}
for _dimensions in ("1D", "2D", "3D"):
    for _kind in ("MaxPooling", "AveragePooling", "UpSampling", "Cropping"):
        RULES[getattr(layers, f"{_kind}{_dimensions}")] = SPATIAL
    RULES[getattr(layers, f"ZeroPadding{_dimensions}")] = ZeroPadding()
    RULES[getattr(layers, f"SpatialDropout{_dimensions}")] = PASS
    for _kind in ("Max", "Average"):
        RULES[getattr(layers, f"Global{_kind}Pooling{_dimensions}")] = GlobalPooling()
for _kind in PASSING_NAMES:
    RULES[getattr(layers, _kind)] = PASS
