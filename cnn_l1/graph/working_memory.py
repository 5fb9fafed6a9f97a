"""Values alive at once while a network runs: what decides how much working memory it takes."""

from typing import Any

import keras
import numpy as np

from cnn_l1.graph.activations import activation_of
from cnn_l1.graph.channel_labels import Analysis, Array
from cnn_l1.graph.layer_uses import OpenSizeError, product
from cnn_l1.graph.operation_rules import is_augmentation
from cnn_l1.graph.reading import Call, Value

# What a TFLite file does within the operator before, or without an operator.
WITHIN = (
    "BatchNormalization", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "GaussianDropout", "GaussianNoise", "ActivityRegularization", "Identity", "Flatten",
    "Reshape", "ReLU", "Relu", "Relu6", "Linear",
)  # fmt: skip
ACTIVATIONS_WITHIN = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
)


class WorkingMemory:
    """The sum of the values alive at once, at each operator of a network, without some channels.

    An operator's inputs and outputs are alive together, and what later ones read. What a
    TFLite file computes within the operator before, such as a ReLU, has no value of its own.

    Args:
        analysis: The model's `Analysis`.

    Raises:
        OpenSizeError: If the model leaves a size open.
    """

    def __init__(self, analysis: Analysis) -> None:
        calls = analysis.needed_calls()
        outputs = {analysis.resolve(value) for value in analysis.graph.outputs}
        readers: dict[Value, int] = {}
        for call in calls:
            for value in analysis.inputs_left(call):
                readers[value] = readers.get(value, 0) + 1
        stands_for: dict[Value, Value] = {}
        born: dict[Value, int] = dict.fromkeys(analysis.graph.inputs, 0)
        dies: dict[Value, int] = dict.fromkeys(analysis.graph.inputs, 0)
        step = 0
        for call in calls:
            read = [stands_for.get(value, value) for value in analysis.inputs_left(call)]
            alone = len(read) == 1 and len(call.outputs) == 1
            if alone and readers[analysis.inputs_left(call)[0]] == 1 and is_within(call):
                stands_for[call.outputs[0]] = read[0]
                continue
            for value in read:
                dies[value] = step
            for value in call.outputs:
                born[value] = dies[value] = step
            step += 1
        for value in outputs:
            dies[stands_for.get(value, value)] = step
        values = list(born)
        self.labels = [analysis.labels[value] for value in values]
        self.positions = np.array([self._positions(analysis, value) for value in values])
        steps = np.arange(max(step, 1))[:, None]
        first, last = (np.array([when[value] for value in values]) for when in (born, dies))
        self.alive = ((first <= steps) & (steps <= last)).astype("int64")

    def sums(self, live: Array) -> Array:
        """How many numbers are alive at each operator.

        Args:
            live: For each label, whether it stays.
        """
        channels = np.array([int(live[labels].sum()) for labels in self.labels])
        return self.alive @ (self.positions * channels)

    def _positions(self, analysis: Analysis, value: Value) -> int:
        axis = analysis.axis[value]
        return product(size for at, size in enumerate(value.shape) if at not in (0, axis))


def is_within(call: Call) -> bool:
    """Whether a TFLite file computes a call within the operator before it."""
    operation: Any = call.operation
    if is_augmentation(operation) or call.kind in WITHIN:
        return True
    return call.kind == "Activation" and activation_of(operation) in ACTIVATIONS_WITHIN


__all__ = ["OpenSizeError", "WorkingMemory", "is_within"]
