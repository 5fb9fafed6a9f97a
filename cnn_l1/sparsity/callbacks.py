"""Callbacks: count zeros, move the penalty's strength, write values, stop on NaN.

`Threshold`, `BestWeights` and the optimizers stand in modules of their own, and here
too, under one name for all that is handed to `fit`.
"""

import math
from typing import Any

import keras

from cnn_l1.errors import CnnL1Error
from cnn_l1.graph.loss_check import check_loss
from cnn_l1.sparsity import counting
from cnn_l1.sparsity.best_weights import BestWeights
from cnn_l1.sparsity.empty_layers import (
    EmptyLayerError,
    EmptyLayerWarning,
    check_empty_layers,
    report_empty,
)
from cnn_l1.sparsity.hold_zeros import HoldZeros, built_optimizer, wrapped_optimizer
from cnn_l1.sparsity.optimizers import Proximal
from cnn_l1.sparsity.penalty import Penalty
from cnn_l1.sparsity.thresholding import Threshold, apply_threshold, zero_shifts_without_scale

__all__ = [
    "BestWeights",
    "DivergedError",
    "EmptyLayerError",
    "EmptyLayerWarning",
    "HoldZeros",
    "LogLayers",
    "LogValue",
    "Proximal",
    "Reweight",
    "SparsityMonitor",
    "StopOnNaN",
    "StrengthRamp",
    "Threshold",
    "apply_threshold",
    "zero_shifts_without_scale",
]


class SparsityMonitor(keras.callbacks.Callback):
    """Count exact zeros after every epoch, into the epoch's logs.

    It writes `sparsity` (zeros over kernel weights, 0 to 1), `nonzero` (kernel
    weights left), `penalty` (the value of all regularizers) and, for each
    kernel, `sparsity/<layer>`. History, CSVLogger and TensorBoard see them when
    they stand after this callback in the list.

    Args:
        per_layer: Whether to write a key for each layer. Default `True`.
        empty_layers: What to do when a layer has become all zero: `"warn"`
            (default, once a layer) or `"forbid"` (raise `EmptyLayerError`).

    Attributes:
        counts: The last epoch's `ModelCount`; `None` before.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="last")])
        >>> model.layers[0].set_weights([np.eye(4, 3), np.zeros(3)])
        >>> model.compile(cnn_l1.HoldZeros(keras.optimizers.Adam()), "mse")
        >>> data = np.ones((8, 4)), np.ones((8, 3))
        >>> history = model.fit(*data, verbose=0, callbacks=[cnn_l1.SparsityMonitor()])
        >>> history.history["sparsity"]
        [0.75]
    """

    def __init__(self, per_layer: bool = True, empty_layers: str = "warn") -> None:
        super().__init__()
        check_empty_layers(empty_layers)
        self.per_layer = per_layer
        self.empty_layers = empty_layers
        self.counts: counting.ModelCount | None = None
        self._reported: set[str] = set()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        check_loss(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.counts = counts = counting.count(self.model)
        for layer in counts.layers:
            if layer.nonzero == 0 and layer.layer not in self._reported:
                self._reported.add(layer.layer)
                report_empty(layer.layer, self.empty_layers, f"after epoch {epoch + 1}")
        if logs is None:
            return
        logs["sparsity"] = counts.sparsity
        logs["nonzero"] = counts.nonzero
        logs["penalty"] = counting.penalty_value(self.model)
        if self.per_layer:
            logs.update(layer_logs(counts))


class LogLayers(keras.callbacks.Callback):
    """Write what a `SparsityMonitor(per_layer=False)` counted, layer by layer.

    After a progress bar that should show totals only.

    Args:
        monitor: The `SparsityMonitor`, earlier in the list of callbacks.
    """

    def __init__(self, monitor: "SparsityMonitor") -> None:
        super().__init__()
        self.monitor = monitor

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        counts = self.monitor.counts
        if logs is not None and counts is not None:
            logs.update(layer_logs(counts))


def layer_logs(counts: counting.ModelCount) -> dict[str, float]:
    """`{"sparsity/<layer>": sparsity}` of a `ModelCount`."""
    return {f"sparsity/{layer.layer}": layer.sparsity for layer in counts.layers}


class StrengthRamp(keras.callbacks.Callback):
    """Raise the penalties' strength linearly from 0, then keep it.

    `strength_scale = min(1, (epoch + 1) / (ramp_epochs + 1))`, so the first
    epoch is already a little under the penalty, and the one after the ramp in full.
    It writes `strength_scale` into the epoch's logs.

    Args:
        ramp_epochs: Whole epochs below full strength, 0 or more.
    """

    def __init__(self, ramp_epochs: int) -> None:
        super().__init__()
        if not ramp_epochs >= 0:
            raise ValueError(
                f"`ramp_epochs` must be 0 or more. Received: ramp_epochs={ramp_epochs!r}"
            )
        self.ramp_epochs = ramp_epochs

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        check_loss(self.model)

    def scale(self, epoch: int) -> float:
        """The strength in an epoch, as a factor from 0 to 1."""
        return min(1.0, (epoch + 1) / (self.ramp_epochs + 1))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        optimizer = wrapped_optimizer(self.model, Proximal, type(self).__name__)
        optimizer.strength_scale.assign(self.scale(epoch))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["strength_scale"] = self.scale(epoch)


class Reweight(keras.callbacks.Callback):
    """Refresh the factors of `ReweightedL1` at the start of every epoch but the first.

    The first epoch is under plain L1 (Candès, Wakin and Boyd, Enhancing sparsity by
    reweighted L1 minimization, 2008, section 2.2, step 1).

    Raises:
        ValueError: On use, if the optimizer is no `Proximal` or has no variable under
            `ReweightedL1`.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        built_optimizer(self.model, Proximal, type(self).__name__)
        carried = (v.regularizer for v in self.model.trainable_variables)
        if not any(isinstance(p, Penalty) and p.has_factors for p in carried):
            raise ValueError(
                "Reweight expects a model with variables under ReweightedL1. "
                f"Received: {self.model.name!r}, without"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch > 0:
            built_optimizer(self.model, Proximal, type(self).__name__).reweight()


class LogValue(keras.callbacks.Callback):
    """Write a fixed value into every epoch's logs, times `strength_scale` if there.

    Args:
        name: Key in the logs.
        value: Float.
    """

    def __init__(self, name: str, value: float) -> None:
        super().__init__()
        self.name = name
        self.value = value

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs[self.name] = self.value * logs.get("strength_scale", 1.0)


class DivergedError(CnnL1Error, RuntimeError):
    """The loss is no number any more."""


class StopOnNaN(keras.callbacks.Callback):
    """Raise `DivergedError` when an epoch's loss is NaN or infinite.

    Once an epoch, not once a batch: reading the loss makes a step wait.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise DivergedError(
                f"Training diverged: expected a finite loss. Received: {loss} in epoch "
                f"{epoch + 1}. Lower optimizer.learning_rate."
            )
