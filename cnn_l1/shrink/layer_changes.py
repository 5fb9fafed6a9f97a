"""What removed channels change in each layer: its settings, its weights, its bias."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from cnn_l1.graph.channel_labels import Analysis, Array
from cnn_l1.graph.kernel_rules import WeightedLayer
from cnn_l1.graph.liveness import folded_constants
from cnn_l1.graph.reading import Call


class LayerChanges:
    """What each layer of a graph becomes once channels are gone.

    Args:
        analysis: The graph's `Analysis`.
        live: For each label, whether it stays.

    Attributes:
        calls: `{id of a layer: its calls}` of the layers that the outputs depend on.
    """

    def __init__(self, analysis: Analysis, live: Array) -> None:
        self.analysis, self.live = analysis, live
        self.calls: dict[int, list[Call]] = {}
        for call in analysis.needed_calls():
            self.calls.setdefault(id(call.operation), []).append(call)

    def kept(self, labels: Array) -> Array:
        """Which of the labels stay."""
        return self.live[labels]

    def settings(self, call: Call) -> dict[str, Any]:
        """Changes to a layer's config for the channels that stay."""
        rule = self.analysis.rules[call]
        if rule is None:
            return {}
        if not self.analysis.has_labels(call):
            is_shaped = isinstance(call.operation, layers.Reshape)
            return rule.config(self.analysis, call, self.kept) if is_shaped else {}
        own = self.analysis.layer_labels[id(call.operation), "own"]
        is_whole = self.keeps_all_weights(call) and bool(np.all(self.kept(own)))
        return {} if is_whole else rule.config(self.analysis, call, self.kept)

    def keeps_all_weights(self, call: Call) -> bool:
        """Whether no weight of a layer goes."""
        return all(np.all(self.kept(part.labels)) for part in self.analysis.slices(call))

    def weights_become_settings(self, call: Call) -> bool:
        """Whether a layer's weights are settings of its copy: a smaller `Normalization`."""
        return "mean" in self.settings(call)

    def bias(self, call: Call) -> Array | None:
        """What a call's layer takes into its bias, or `None`."""
        added = self._constants_removed(self.calls[id(call.operation)])
        return added if added is not None and added.any() else None

    def adds_bias(self, call: Call) -> bool:
        """Whether a layer without a bias needs one."""
        return self.bias(call) is not None and not call.operation.use_bias

    def _constants_removed(self, calls: Sequence[Call]) -> Array | None:
        """What removed constant inputs add to a layer's output, or `None`."""
        call = calls[0]
        rule = self.analysis.rules[call]
        is_weighted = isinstance(rule, WeightedLayer) and rule.reads
        if not is_weighted or not self.analysis.has_labels(call):
            return None
        layer = call.operation
        read, own = (self.analysis.layer_labels[id(layer), role] for role in ("read", "own"))
        gone, stays = ~self.kept(read), self.kept(own)
        constants = np.nan_to_num(folded_constants(self.analysis, calls)[gone], nan=0.0)
        if not constants.any():
            return np.zeros(int(stays.sum()))
        assert isinstance(rule, WeightedLayer)
        return constants @ rule.table(layer)[gone][:, stays]

    def shapes(self, call: Call) -> list[tuple[str, tuple[int, ...]]]:
        """`(name, shape)` of a layer's weights once channels are gone, in its order."""
        if self.weights_become_settings(call):
            return []
        weights = getattr(call.operation, "weights", ())
        shapes = {id(v): list(v.shape) for v in weights}
        for part in self.analysis.slices(call):
            shapes[id(part.variable)][part.axis] = int(self.kept(part.labels).sum())
        return [(v.name, tuple(shapes[id(v)])) for v in weights]

    def values(self, call: Call) -> tuple[dict[int, Array], dict[str, Array]]:
        """A layer's weights once channels are gone.

        Returns:
            `{id of a variable: its value}` of those that change, and `{attribute: value}`
            of those that the layer has not had, which is its bias.
        """
        layer = call.operation
        values: dict[int, Array] = {}
        for part in self.analysis.slices(call):
            value = values.get(id(part.variable))
            value = np.asarray(part.variable) if value is None else value
            values[id(part.variable)] = np.take(
                value, np.flatnonzero(self.kept(part.labels)), part.axis
            )
        bias = self.bias(call)
        if bias is None:
            return values, {}
        if not layer.use_bias:
            return values, {"bias": bias}
        values[id(layer.bias)] = values[id(layer.bias)] + bias
        return values, {}
