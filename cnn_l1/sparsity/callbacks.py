"""Callbacks: count zeros, threshold and hold, and move the penalty's strength."""

import math
import warnings

import keras
import numpy as np
from keras import ops

from cnn_l1.errors import CnnL1Error
from cnn_l1.graph.coupling import channel_spaces
from cnn_l1.graph.loss_check import check_loss
from cnn_l1.sparsity import counting
from cnn_l1.sparsity.callback_states import CallbackStates
from cnn_l1.sparsity.misuse import unwrapped
from cnn_l1.sparsity.optimizers import HoldZeros, Proximal
from cnn_l1.sparsity.penalties import ReweightedL1


class EmptyLayerWarning(UserWarning):
    """A layer has no weight left that is not zero."""


class EmptyLayerError(CnnL1Error, ValueError):
    """A layer has no weight left that is not zero, and a setting forbids that."""


def wrapped_optimizer(model, kind, callback):
    """The model's optimizer as a `kind`, or a `ValueError` that names it."""
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, kind):
        raise ValueError(
            f"{callback} expects an optimizer wrapped in cnn_l1.{kind.__name__}. "
            f"Received: optimizer={type(optimizer).__name__}. "
            f"Compile with cnn_l1.{kind.__name__}(your_optimizer)."
        )
    return optimizer


def built_optimizer(model, kind, callback):
    """`wrapped_optimizer`, with its variables made: `fit` makes them only in its first step."""
    optimizer = wrapped_optimizer(model, kind, callback)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return optimizer


class SparsityMonitor(keras.callbacks.Callback):
    """Count exact zeros after every epoch, into the epoch's logs.

    It writes `sparsity` (zeros over kernel weights, 0 to 1), `nonzero` (kernel
    weights left), `penalty` (the value of all regularizers) and, for each
    kernel, `sparsity/<layer>`. History, CSVLogger and TensorBoard see them when
    they stand behind this callback in the list.

    Args:
        per_layer: Whether to write a key for each layer. Default `True`.
        empty_layers: What to do when a layer has become all zero: `"warn"`
            (default, once a layer) or `"forbid"` (raise `EmptyLayerError`).

    Attributes:
        counts: The last epoch's `ModelCount`; `None` before.
    """

    def __init__(self, per_layer: bool = True, empty_layers: str = "warn") -> None:
        super().__init__()
        check_empty_layers(empty_layers)
        self.per_layer = per_layer
        self.empty_layers = empty_layers
        self.counts: counting.ModelCount | None = None
        self._reported: set[str] = set()

    def on_train_begin(self, logs=None):
        check_loss(self.model)

    def on_epoch_end(self, epoch, logs=None):
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

    Behind a progress bar that should show totals only.

    Args:
        monitor: The `SparsityMonitor`, earlier in the list of callbacks.
    """

    def __init__(self, monitor):
        super().__init__()
        self.monitor = monitor

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(layer_logs(self.monitor.counts))


def layer_logs(counts):
    """`{"sparsity/<layer>": sparsity}` of a `ModelCount`."""
    return {f"sparsity/{layer.layer}": layer.sparsity for layer in counts.layers}


class Threshold(keras.callbacks.Callback):
    """Zero small kernel weights on a schedule, and hold all zeros from then on.

    A weight is zeroed where `|w| < threshold`, or `|w| < relative_threshold ·
    std(kernel)`. The optimizer must be a `HoldZeros` or a `Proximal`, which
    holds the zeros inside the compiled step. A training that goes on later, with
    `initial_epoch`, holds them from its first epoch.

    Args:
        threshold: Float, absolute, 0 or more. Default `None`.
        relative_threshold: Float, in standard deviations of each layer's kernel,
            0 or more. Default `None`. Give exactly one of the two.
        start_epochs: Whole epochs before the first thresholding. Default 0: at
            the start of training, before the first step.
        every_epochs: Whole epochs between thresholdings; 0 (default) for once.
        empty_layers: What to do when a layer would become all zero: `"warn"`
            (default: do it and warn) or `"forbid"` (raise `EmptyLayerError` and
            leave all weights as they were).
        of: What to threshold: `"weights"` (default), single kernel weights;
            `"channels"`, whole channels, by the root mean square of all that goes
            with them; `"scales"`, batch-norm scales, with their shifts.

    Raises:
        ValueError: If an argument is out of range, or on training start if the
            optimizer is not wrapped.
    """

    def __init__(
        self,
        threshold: float | None = None,
        relative_threshold: float | None = None,
        start_epochs: int = 0,
        every_epochs: int = 0,
        empty_layers: str = "warn",
        of: str = "weights",
    ) -> None:
        super().__init__()
        if (threshold is None) == (relative_threshold is None):
            raise ValueError(
                "Threshold expects exactly one of `threshold` and `relative_threshold`. "
                f"Received: threshold={threshold}, relative_threshold={relative_threshold}"
            )
        for name, value in (
            ("threshold", threshold),
            ("relative_threshold", relative_threshold),
            ("start_epochs", start_epochs),
            ("every_epochs", every_epochs),
        ):
            if value is not None and not value >= 0:
                raise ValueError(f"`{name}` must be 0 or more. Received: {name}={value!r}")
        check_empty_layers(empty_layers)
        if of not in THRESHOLDED:
            raise ValueError(f"`of` must be one of {', '.join(THRESHOLDED)}. Received: of={of!r}")
        self.threshold = threshold
        self.relative_threshold = relative_threshold
        self.start_epochs = start_epochs
        self.every_epochs = every_epochs
        self.empty_layers = empty_layers
        self.of = of

    def on_train_begin(self, logs=None):
        wrapped_optimizer(self.model, HoldZeros, type(self).__name__)
        check_loss(self.model)
        self._is_first = True

    def on_epoch_begin(self, epoch, logs=None):
        is_first, self._is_first = getattr(self, "_is_first", False), False
        is_due = self._is_due(epoch)
        if is_due:
            limits = self.threshold, self.relative_threshold
            apply_threshold(self.model, *limits, self.empty_layers, self.of)
        # A training that begins after the first thresholding: its zeros are there already.
        if is_due or (is_first and epoch > self.start_epochs):
            wrapped_optimizer(self.model, HoldZeros, type(self).__name__).hold_zeros.assign(1.0)

    def _is_due(self, epoch):
        since = epoch - self.start_epochs
        if since == 0:
            return True
        return since > 0 and self.every_epochs > 0 and since % self.every_epochs == 0


THRESHOLDED = ("weights", "channels", "scales")


def apply_threshold(
    model: keras.Model,
    threshold: float | None = None,
    relative_threshold: float | None = None,
    empty_layers: str = "warn",
    of: str = "weights",
) -> int:
    """Zero a model's small weights, channels or batch-norm scales, once: see `Threshold`.

    Returns:
        How many of them became zero that were not.
    """
    if of == "channels":
        planned, changed = _channel_plan(model, threshold, relative_threshold, empty_layers)
    else:
        variables = counting.scales(model)
        if of == "weights":
            variables = counting.kernels(model, frozen=False)
        planned, changed = [], 0
        for name, variable in variables:
            value = ops.convert_to_tensor(variable)
            limit = threshold if threshold is not None else relative_threshold * ops.std(value)
            kept = ops.where(ops.abs(value) < limit, ops.zeros_like(value), value)
            before, after = counting.count_zeros(value), counting.count_zeros(kept)
            if after == math.prod(value.shape) and before != after:
                report_empty(name, empty_layers, "by the threshold")
            planned.append((variable, kept))
            changed += after - before
    # Only when every layer has passed: a refused threshold changes nothing.
    for variable, kept in planned:
        variable.assign(kept)
    if of == "scales":
        zero_shifts_without_scale(model)
    return changed


def _channel_plan(model, threshold, relative_threshold, empty_layers):
    """`(variable, new value)` pairs that zero small channels, and how many those are."""
    values: dict[int, tuple] = {}
    changed = 0
    for space in channel_spaces(model):
        for member in space.members:
            # A batch-norm behind a concatenation is in several spaces.
            if id(member.variable) not in values:
                value = np.array(ops.convert_to_numpy(member.variable))
                values[id(member.variable)] = (member.variable, value)
        squares, sizes = channel_squares(space, lambda variable: values[id(variable)][1])
        limit = threshold
        if limit is None:
            limit = relative_threshold * math.sqrt(squares.sum() / sizes.sum())
        gone = np.sqrt(squares / sizes) < limit
        if gone.all() and squares.any():
            report_empty(space.name, empty_layers, "by the threshold")
        changed += int(np.count_nonzero(gone & (squares > 0)))
        zero_channels(space, gone, lambda variable: values[id(variable)][1])
    return list(values.values()), changed


def channel_squares(space, value_of):
    """The sum of squares of each channel of a space, and how many weights it has.

    Args:
        space: A `coupling.ChannelSpace`.
        value_of: A function from a variable to its value, an array.
    """
    squares, sizes = np.zeros(space.size), np.zeros(space.size)
    for member in space.members:
        moved = np.moveaxis(value_of(member.variable), member.axis, 0)
        moved = moved.reshape(len(member.index), -1)
        inside = member.index >= 0
        sums = np.square(moved, dtype="float64").sum(axis=1)
        np.add.at(squares, member.index[inside], sums[inside])
        np.add.at(sizes, member.index[inside], moved.shape[1])
    return squares, sizes


def zero_channels(space, gone, value_of):
    """Zero all weights of the channels `gone` in the arrays that `value_of` gives."""
    for member in space.members:
        zeroed = (member.index >= 0) & gone[member.index]
        np.moveaxis(value_of(member.variable), member.axis, 0)[zeroed] = 0


def zero_shifts_without_scale(model):
    """Zero the batch-norm shifts of channels whose scale is zero.

    A channel without scale is a constant, its shift. Network Slimming removes it,
    and leaves the difference to fine-tuning; zero, it can be removed exactly.
    """
    for layer in counting.leaf_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale and layer.center:
            shift = ops.convert_to_tensor(layer.beta)
            layer.beta.assign(ops.where(ops.equal(layer.gamma, 0), ops.zeros_like(shift), shift))


def check_empty_layers(empty_layers):
    """Raise unless `empty_layers` is one of its two values."""
    if empty_layers not in ("warn", "forbid"):
        raise ValueError(
            f"`empty_layers` must be 'warn' or 'forbid'. Received: empty_layers={empty_layers!r}"
        )


def report_empty(layer, empty_layers, when):
    """Warn, or raise, that a layer is all zero."""
    message = f"Layer {layer!r} is all zero {when}: its output no longer depends on its input."
    if empty_layers == "forbid":
        raise EmptyLayerError(
            f"{message} `empty_layers` forbids it; expected a weaker l1_strength or a lower "
            "threshold for this layer."
        )
    warnings.warn(message, EmptyLayerWarning, stacklevel=3)


class StrengthRamp(keras.callbacks.Callback):
    """Raise the penalties' strength linearly from 0, then keep it.

    `strength_scale = min(1, (epoch + 1) / (ramp_epochs + 1))`, so the first
    epoch already shrinks a little and the one after the ramp at full strength.
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

    def on_train_begin(self, logs=None):
        check_loss(self.model)

    def scale(self, epoch):
        return min(1.0, (epoch + 1) / (self.ramp_epochs + 1))

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = wrapped_optimizer(self.model, Proximal, type(self).__name__)
        optimizer.strength_scale.assign(self.scale(epoch))

    def on_epoch_end(self, epoch, logs=None):
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

    def on_train_begin(self, logs=None):
        built_optimizer(self.model, Proximal, type(self).__name__)
        carried = (v.regularizer for v in self.model.trainable_variables)
        if not any(isinstance(penalty, ReweightedL1) for penalty in carried):
            raise ValueError(
                "Reweight expects a model with variables under ReweightedL1. "
                f"Received: {self.model.name!r}, without"
            )

    def on_epoch_begin(self, epoch, logs=None):
        if epoch > 0:
            built_optimizer(self.model, Proximal, type(self).__name__).reweight()


class LogValue(keras.callbacks.Callback):
    """Write a fixed value into every epoch's logs, times `strength_scale` if there.

    Args:
        name: Key in the logs.
        value: Float.
    """

    def __init__(self, name, value):
        super().__init__()
        self.name = name
        self.value = value

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self.name] = self.value * logs.get("strength_scale", 1.0)


class DivergedError(CnnL1Error, RuntimeError):
    """The loss is no number any more."""


class StopOnNaN(keras.callbacks.Callback):
    """Raise `DivergedError` when an epoch's loss is NaN or infinite.

    Once an epoch, not once a batch: reading the loss makes a step wait.
    """

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise DivergedError(
                f"Training diverged: expected a finite loss. Received: {loss} in epoch "
                f"{epoch + 1}. Lower optimizer.learning_rate."
            )


class BestWeights(keras.callbacks.Callback):
    """Put the weights of the best epoch back at the end of training.

    Under an optimizer of ours, a training that goes on with `initial_epoch` or
    `BackupAndRestore` still knows the best epoch before; for that, put this callback
    before the one that saves.

    Args:
        monitor: Key in the logs. Of equal epochs the later one wins, for the
            learning rate has fallen further there.
        larger_is_better: Whether a larger value is the better one. Default `True`.
    """

    def __init__(self, monitor="val_accuracy", larger_is_better=True):
        super().__init__()
        self.monitor = monitor
        self.larger_is_better = larger_is_better
        self.best = None
        self.best_epoch = None
        self._weights = None

    def on_train_begin(self, logs=None):
        self.best = self.best_epoch = self._weights = None
        self._is_first, self._last_epoch = True, -1

    def on_epoch_begin(self, epoch, logs=None):
        states = getattr(unwrapped(self.model.optimizer), "states", None)
        if not self._is_first or not isinstance(states, CallbackStates):
            return
        self._is_first = False
        state = states.get("best")
        if state and epoch > 0 and int(state["last_epoch"]) in (epoch - 1, epoch - 2):
            self._resume(state)
        states.keep("best", self._state)

    def _state(self):
        """What a later training must know; nothing before the first epoch's end."""
        if self.best is None:
            return {}
        state = {"best": self.best, "epoch": self.best_epoch, "last_epoch": self._last_epoch}
        for number, weight in enumerate(self._weights or ()):
            state[f"weight_{number}"] = weight
        return state

    def _resume(self, state):
        self.best, self.best_epoch = float(state["best"]), int(state["epoch"])
        self._last_epoch = int(state["last_epoch"])
        saved = sum(name.startswith("weight_") for name in state)
        weights = [state[f"weight_{number}"] for number in range(saved)]
        # After a training that came to its end, the model has them itself.
        self._weights = weights or self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or self.monitor not in logs:
            raise ValueError(
                f"BestWeights expects {self.monitor!r} in the epoch's logs. "
                f"Received: {', '.join(logs or {})}"
            )
        value = logs[self.monitor]
        best = value if self.best is None else self.best
        # `not <` lets any number take the place of a NaN.
        if not (value < best if self.larger_is_better else value > best):
            self.best, self.best_epoch = logs[self.monitor], epoch
            self._weights = self.model.get_weights()
        self._last_epoch = epoch

    def on_train_end(self, logs=None):
        if self._weights is not None:
            self.model.set_weights(self._weights)
            self._weights = None
