"""Which inputs a network still reads: feature selection by exact zeros."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cnn_l1.graph import reading

# Layers that leave each input value at its own place.
TRANSPARENT = (
    "Rescaling",
    "Normalization",
    "Flatten",
    "Dropout",
    "GaussianNoise",
    "Identity",
    "ActivityRegularization",
)


@dataclasses.dataclass(frozen=True)
class Features:
    """The inputs of a network whose first layer is dense.

    Attributes:
        input_shape: Shape of one input.
        layer: Name of the dense layer.
        weights: `(features, units)`, outgoing weights of each input, in C order.
    """

    input_shape: tuple[int, ...]
    layer: str
    weights: np.ndarray

    @property
    def selected(self) -> np.ndarray:
        """For each feature, whether any outgoing weight is not zero (`!= 0`)."""
        return np.any(self.weights != 0, axis=1)

    @property
    def magnitudes(self) -> np.ndarray:
        """The sum of absolute outgoing weights of each feature."""
        return np.abs(self.weights).sum(axis=1, dtype="float64")

    def names(self, given: Sequence[str] | None = None) -> list[str]:
        """Names given, or `row,col` (`row,col,channel`) of pixels, or numbers."""
        if given is not None:
            return list(given)
        index = np.ndindex(self.input_shape)
        if len(self.input_shape) == 3 and self.input_shape[-1] == 1:
            return [f"{row},{col}" for row, col, _ in index]
        return [",".join(map(str, position)) for position in index]


def read_features(model: Any) -> Features | None:
    """The `Features` of a model, or `None` if its first layer is not dense.

    Args:
        model: A built Functional or Sequential `keras.Model` with one input.
    """
    read = reading.read_graph(model)
    if len(read.inputs) != 1:
        return None
    value = read.inputs[0]
    input_shape: tuple[Any, ...] = tuple(value.shape[1:])
    while True:
        readers = [call for call in read.calls if value in call.inputs]
        if len(readers) != 1 or value in read.outputs:
            return None
        call = readers[0]
        if isinstance(call.operation, keras.layers.Dense):
            kernel = keras.ops.convert_to_numpy(call.operation.kernel)
            if kernel.shape[0] != np.prod(input_shape):
                return None  # a dense layer on the last axis of an image
            return Features(input_shape, call.name, kernel)
        if call.kind not in TRANSPARENT:
            return None
        if getattr(call.operation, "data_format", None) == "channels_first":
            return None  # such a Flatten moves the channels
        value = call.outputs[0]


def write_features(
    path: pathlib.Path, features: Features, names: Sequence[str] | None = None
) -> None:
    """Write one row a feature as CSV: name, selected, magnitude, and each weight.

    Weights are written where the layer has few units, as coefficients are read.
    """
    units = features.weights.shape[1]
    columns = ["feature", "selected", "magnitude"]
    with_weights = units <= 10
    if with_weights:
        columns += ["weight"] if units == 1 else [f"weight_{unit}" for unit in range(units)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        rows = zip(
            features.names(names),
            features.selected,
            features.magnitudes,
            features.weights,
            strict=True,
        )
        for name, selected, magnitude, weights in rows:
            row = [name, int(selected), float(magnitude)]
            writer.writerow(row + [float(w) for w in weights] if with_weights else row)


def support_recovery(features: Features, true_coefficients: Any) -> dict[str, int]:
    """Compare the selected features with those that truly count.

    Returns:
        `{"true": …, "found": …, "false": …}`, counts of features: how many truly
        count, how many of those are selected, and how many others are.
    """
    true = np.asarray(true_coefficients) != 0
    selected = features.selected
    return {
        "true": int(true.sum()),
        "found": int((true & selected).sum()),
        "false": int((~true & selected).sum()),
    }
