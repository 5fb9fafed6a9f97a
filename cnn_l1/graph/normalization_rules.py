"""Rules for layers that scale and shift each channel: normalisations and rescaling."""

from typing import Any

import keras
import numpy as np

from cnn_l1.graph.channel_labels import Analysis, Array, Kept, Rule, Slice
from cnn_l1.graph.kernel_rules import as_array
from cnn_l1.graph.reading import Call, Value
from cnn_l1.process import keras_internals


class BatchNormalization(Rule):
    """Each channel by its own mean, variance, scale and shift."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        layer, source = call.operation, call.inputs[0]
        axis = layer.axis % len(source.shape)
        labels = analysis.along(source, axis, call)
        analysis.layer_unite(call, "own", labels)
        constants = None
        if analysis.with_constants:
            constants = self._constants(layer, analysis.constants_along(source, axis))
        analysis.set(call.outputs[0], axis, labels, constants)

    def _constants(self, layer: Any, constants: Array) -> Array:
        mean, variance = as_array(layer.moving_mean), as_array(layer.moving_variance)
        scale = as_array(layer.gamma) if layer.scale else np.ones_like(mean)
        shift = as_array(layer.beta) if layer.center else np.zeros_like(mean)
        normal = scale * (constants - mean) / np.sqrt(variance + layer.epsilon) + shift
        return np.where(scale == 0, shift, normal)

    def slices(self, analysis: Analysis, call: Call) -> list[Slice]:
        labels = analysis.layer_labels[id(call.operation), "own"]
        return [Slice(variable, 0, labels, "own") for variable in call.operation.weights]


class GroupNormalization(Rule):
    """Channels of a group are normalised together, so only whole groups can go."""

    def couple(self, analysis: Analysis, call: Call) -> None:
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

    def _groups(self, layer: Any, labels: Array) -> int:
        return len(labels) if layer.groups == -1 else layer.groups

    def slices(self, analysis: Analysis, call: Call) -> list[Slice]:
        labels = analysis.layer_labels[id(call.operation), "own"]
        return [Slice(variable, 0, labels, "own") for variable in call.operation.weights]

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        labels = analysis.layer_labels[id(call.operation), "own"]
        groups = self._groups(call.operation, labels)
        return {"groups": int(kept(labels).sum()) // (len(labels) // groups)}


class Rescaling(Rule):
    """`x · scale + offset`, with numbers or one a channel."""

    def constant(self, layer: Any, constants: Array, axis: int, source: Value) -> Array:
        return constants * self._flat(layer.scale) + self._flat(layer.offset)

    def _flat(self, setting: Any) -> Array:
        return np.asarray(setting, "float64").reshape(-1)

    def couple(self, analysis: Analysis, call: Call) -> None:
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

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        keep = kept(analysis.labels[call.outputs[0]])
        changes = {}
        for name in ("scale", "offset"):
            value = self._flat(getattr(call.operation, name))
            if value.size > 1:
                changes[name] = value[keep].tolist()
        return changes


class Normalization(Rule):
    """A mean and a variance for each channel, or one for all."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        layer, source = call.operation, call.inputs[0]
        last = len(source.shape) - 1
        axes = tuple(axis % len(source.shape) for axis in keras_internals.kept_axes(layer))
        if axes not in ((), (last,)) or (axes and analysis.axis[source] != last):
            analysis.opaque(call, f"{call.name} normalises along another axis than the channels'")
            return
        labels = analysis.layer_unite(call, "own", analysis.labels[source])
        mean, deviation = self._statistics(layer)
        constants = analysis.constants[source]
        inverted = constants * deviation + mean
        normal = inverted if layer.invert else (constants - mean) / deviation
        analysis.set(call.outputs[0], analysis.axis[source], labels, normal)

    def _statistics(self, layer: Any) -> tuple[Array, Array]:
        mean, variance = (as_array(x).reshape(-1) for x in (layer.mean, layer.variance))
        return mean, np.maximum(np.sqrt(variance), keras.config.epsilon())

    def config(self, analysis: Analysis, call: Call, kept: Kept) -> dict[str, Any]:
        mean, variance = (
            as_array(x).reshape(-1) for x in (call.operation.mean, call.operation.variance)
        )
        if mean.size > 1:
            keep = kept(analysis.labels[call.outputs[0]])
            mean, variance = mean[keep], variance[keep]
        # Given rather than adapted: then they are settings, and no weights.
        whole = mean.size > 1 or len(keras_internals.kept_axes(call.operation)) > 0
        if not whole:
            return {"mean": float(mean[0]), "variance": float(variance[0])}
        return {"mean": mean.tolist(), "variance": variance.tolist()}
