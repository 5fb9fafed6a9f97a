"""Rules for layers with a kernel: they read channels, and make new ones."""

from typing import Any

import keras
import numpy as np

from cnn_l1.graph.activations import activate, activation_of, is_elementwise
from cnn_l1.graph.channel_labels import Analysis, Array, Kept, Rule, Slice
from cnn_l1.graph.reading import Call, Value


class WeightedLayer(Rule):
    """A weighted layer: it reads channels and makes others, `activation(x · kernel + bias)`."""

    reads = True

    def couple(self, analysis: Analysis, call: Call) -> None:
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
            made: Any = target.shape[new_axis]
            own = analysis.layer_unite(call, "own", analysis.fresh(made))
            activation = activation_of(layer)
            if not is_elementwise(activation):
                analysis.pin(own, f"the activation of {call.name} mixes channels, or is unknown")
        self.bind(analysis, call, read, own)
        constants = None
        if analysis.with_constants:
            constants = self.output_constants(layer, analysis.constants_along(source, axis))
        analysis.set(target, new_axis, own, constants)

    def axis(self, layer: Any, value: Value) -> int:
        return channel_axis(layer, len(value.shape))

    def bind(self, analysis: Analysis, call: Call, read: Array, own: Array) -> None:
        """Unite input with output channels that go together; none, where all are read."""

    def output_constants(self, layer: Any, constants: Array) -> Array:
        table = self.table(layer)
        folds = self.foldable(layer, constants)
        live = (table != 0) & ~folds[:, None]
        folded = np.where(folds & np.isfinite(constants), constants, 0.0) @ table
        values = activate(activation_of(layer), folded + bias_of(layer, table.shape[1]))
        return np.where(live.any(axis=0), np.nan, values)

    def foldable(self, layer: Any, constants: Array) -> Array:
        """Which input constants give every output position the same addend."""
        folds_all = self.is_uniform(layer)
        return np.isfinite(constants) & (folds_all | (constants == 0))

    def is_uniform(self, layer: Any) -> bool:
        return True

    def table(self, layer: Any) -> Array:
        """`(in_channels, out_channels)`: sums over the kernel's positions.

        Not zero wherever any position is not, so that it also says what is read.
        """
        kernel = self.kernel(layer)
        flat = kernel.reshape(-1, *kernel.shape[-2:])
        return never_cancelled(flat.sum(axis=0), (flat != 0).any(axis=0))

    def kernel(self, layer: Any) -> Array:
        return as_array(layer.kernel)

    def slices(self, analysis: Analysis, call: Call) -> list[Slice]:
        layer = call.operation
        read, own = (analysis.layer_labels[id(layer), role] for role in ("read", "own"))
        slices = self.kernel_slices(layer, read, own)
        if layer.use_bias:
            slices.append(Slice(layer.bias, 0, own, "own"))
        return slices

    def kernel_slices(self, layer: Any, read: Array, own: Array) -> list[Slice]:
        axes = len(layer.kernel.shape)
        return [
            Slice(layer.kernel, axes - 2, read, "read"),
            Slice(layer.kernel, axes - 1, own, "own"),
        ]

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        own = analysis.layer_labels[id(call.operation), "own"]
        return {self.size_setting: int(kept(own).sum())}

    size_setting = "filters"


class Dense(WeightedLayer):
    """A dense layer, kernel `(in_channels, out_channels)`."""

    size_setting = "units"

    def axis(self, layer: Any, value: Value) -> int:
        return len(value.shape) - 1


class Conv(WeightedLayer):
    """A convolution, kernel `(rows, cols, in_channels, out_channels)`, grouped ones too."""

    def is_uniform(self, layer: Any) -> bool:
        return layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)

    def bind(self, analysis: Analysis, call: Call, read: Array, own: Array) -> None:
        groups = call.operation.groups
        if groups == 1:
            return
        # Only whole groups can go: the others' sizes must stay equal.
        for members in zip(np.split(read, groups), np.split(own, groups), strict=True):
            together = np.concatenate(members)
            analysis.unite(np.repeat(together[:1], len(together)), together)

    def table(self, layer: Any) -> Array:
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

    def kernel_slices(self, layer: Any, read: Array, own: Array) -> list[Slice]:
        slices = super().kernel_slices(layer, read, own)
        return slices if layer.groups == 1 else slices[1:]

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        changes, layer = super().config(analysis, call, kept), call.operation
        if layer.groups > 1:
            changes["groups"] = changes["filters"] // (layer.filters // layer.groups)
        return changes


class ConvTranspose(WeightedLayer):
    """A transposed convolution, kernel `(…, out_channels, in_channels)`."""

    def is_uniform(self, layer: Any) -> bool:
        return False  # every output position meets other positions of the kernel

    def table(self, layer: Any) -> Array:
        return super().table(layer).T

    def kernel_slices(self, layer: Any, read: Array, own: Array) -> list[Slice]:
        axes = len(layer.kernel.shape)
        return [
            Slice(layer.kernel, axes - 2, own, "own"),
            Slice(layer.kernel, axes - 1, read, "read"),
        ]


class SeparableConv(WeightedLayer):
    """A depthwise kernel `(rows, cols, in, multiplier)`, then a pointwise one."""

    def is_uniform(self, layer: Any) -> bool:
        return layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)

    def table(self, layer: Any) -> Array:
        depthwise = as_array(layer.depthwise_kernel)  # (…, in, multiplier)
        channels, multiplier = depthwise.shape[-2:]
        flat = depthwise.reshape(-1, channels, multiplier)
        pointwise = as_array(layer.pointwise_kernel).reshape(channels, multiplier, -1)
        sums = np.einsum("cm,cmo->co", flat.sum(axis=0), pointwise)
        read = ((flat != 0).any(axis=0)[:, :, None] & (pointwise != 0)).any(axis=1)
        return never_cancelled(sums, read)

    def kernel_slices(self, layer: Any, read: Array, own: Array) -> list[Slice]:
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

    def bind(self, analysis: Analysis, call: Call, read: Array, own: Array) -> None:
        analysis.unite(np.repeat(read, call.operation.depth_multiplier), own)

    def table(self, layer: Any) -> Array:
        kernel = as_array(layer.kernel)  # (…, in, multiplier)
        channels, multiplier = kernel.shape[-2:]
        flat = kernel.reshape(-1, channels, multiplier)
        sums = never_cancelled(flat.sum(axis=0), (flat != 0).any(axis=0))
        table = np.zeros((channels, channels, multiplier))
        table[np.arange(channels), np.arange(channels)] = sums
        return table.reshape(channels, channels * multiplier)

    def kernel_slices(self, layer: Any, read: Array, own: Array) -> list[Slice]:
        return [Slice(layer.kernel, len(layer.kernel.shape) - 2, read, "own")]

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        return {}


def bias_of(layer: Any, size: int) -> Array:
    """A layer's bias, zeros where it has none."""
    return as_array(layer.bias) if layer.use_bias else np.zeros(size)


def as_array(variable: Any) -> Array:
    """A variable's value, in float64."""
    return np.asarray(keras.ops.convert_to_numpy(variable), "float64")


def never_cancelled(sums: Array, read: Array) -> Array:
    """Sums that are not zero where weights are read, even if the weights cancel."""
    return np.where(read & (sums == 0), np.finfo("float64").tiny, sums)


def channel_axis(layer: Any, rank: int) -> int:
    """The axis of a layer's channels in a tensor of `rank` axes."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1
