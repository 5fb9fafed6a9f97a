"""Rules for layers without a kernel that work on each channel alone, or mix them all."""

from typing import Any

import numpy as np
from keras import layers

from cnn_l1.graph.activations import MIXING, activate, activation_of, is_elementwise
from cnn_l1.graph.channel_labels import Analysis, Array, Kept, Rule, Slice
from cnn_l1.graph.kernel_rules import channel_axis
from cnn_l1.graph.reading import Call, Value

LARGEST_FLATTENED = 4_000_000  # labels are one number a feature


class Elementwise(Rule):
    """An activation that treats every value alike."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        activation = activation_of(call.operation)
        if activation in MIXING:
            analysis.opaque(call, f"{call.name} mixes channels")
            return
        if not is_elementwise(activation):
            analysis.keep_all(call)
            return
        super().couple(analysis, call)

    def constant(self, layer: Any, constants: Array, axis: int, source: Value) -> Array:
        return activate(activation_of(layer), constants)


class Mixing(Rule):
    """A layer whose every output reads every channel."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        analysis.opaque(call, f"{call.name} ({call.kind}) mixes channels")


class PReLU(Rule):
    """Slopes below zero that are weights, one a channel or one a position."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source = call.inputs[0]
        labels = analysis.along(source, len(source.shape) - 1, call)
        analysis.layer_unite(call, "own", labels)
        constants = analysis.constants_along(source, len(source.shape) - 1)
        # A constant below zero meets another slope at every position.
        known = np.where(constants >= 0, constants, np.nan)
        analysis.set(call.outputs[0], len(source.shape) - 1, labels, known)

    def slices(self, analysis: Analysis, call: Call) -> list[Slice]:
        labels = analysis.layer_labels[id(call.operation), "own"]
        alpha = call.operation.alpha
        axis = len(alpha.shape) - 1
        if alpha.shape[axis] != len(labels):  # one slope for all channels
            return []
        return [Slice(alpha, axis, labels, "own")]


class GlobalPooling(Rule):
    """One number a channel, from its whole image."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source, target = call.inputs[0], call.outputs[0]
        rank = len(source.shape)
        axis = channel_axis(call.operation, rank)
        labels = analysis.along(source, axis, call)
        constants = analysis.constants_along(source, axis)
        new_axis = axis if len(target.shape) == rank else 1
        analysis.set(target, new_axis, labels, constants)


class Spatial(Rule):
    """A layer that works on each channel's image alone: pooling, cropping, upsampling."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        source, target = call.inputs[0], call.outputs[0]
        axis = channel_axis(call.operation, len(source.shape))
        labels = analysis.along(source, axis, call)
        constants = analysis.constants_along(source, axis)
        constants = self.constant(call.operation, constants, axis, source)
        analysis.set(target, axis, labels, constants)


class ZeroPadding(Spatial):
    """Padding with zeros: a constant that is not zero differs at the border."""

    def constant(self, layer: Any, constants: Array, axis: int, source: Value) -> Array:
        return np.where(constants == 0, 0.0, np.nan)


class Reshaping(Rule):
    """Flatten, Reshape and Permute: channels become blocks, or move to another axis."""

    def couple(self, analysis: Analysis, call: Call) -> None:
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

    def _reshaped(
        self, analysis: Analysis, layer: Any, source: Value, target: Value
    ) -> tuple[int, Array, Array] | None:
        axis, labels = analysis.axis[source], analysis.labels[source]
        constants = analysis.constants[source]
        if isinstance(layer, layers.Permute):
            return (layer.dims.index(axis) + 1, labels, constants) if axis else None
        sizes: Any = source.shape[1:]
        new_sizes: Any = target.shape[1:]
        if axis == len(source.shape) - 1 and axis > 0 and target.shape[-1] == len(labels):
            return len(target.shape) - 1, labels, constants  # open sizes before it may stay
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

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        if not isinstance(call.operation, layers.Reshape):
            return {}
        target = call.outputs[0]
        shape = list(target.shape[1:])
        # Sizes that were open stay open: at most one of them can be -1.
        shape = [-1 if size is None else size for size in shape]
        shape[analysis.axis[target] - 1] = int(kept(analysis.labels[target]).sum())
        return {"target_shape": tuple(shape)}
