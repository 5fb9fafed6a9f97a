"""Small weights, channels or batch-norm scales set to zero: once, or on a schedule."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from cnn_l1.graph.coupling import beside_frozen, channel_spaces
from cnn_l1.graph.layer_weights import leaf_layers
from cnn_l1.graph.loss_check import check_loss
from cnn_l1.sparsity import counting
from cnn_l1.sparsity.channel_values import ChannelValues
from cnn_l1.sparsity.empty_layers import check_empty_layers, report_empty
from cnn_l1.sparsity.hold_zeros import HoldZeros, wrapped_optimizer


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

    Example:
        Weights below 0.1 become zero before the first step, and stay so:

        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> model.layers[0].set_weights([np.array([[1.0, 0.01], [-0.02, 1.0]]), np.zeros(2)])
        >>> model.compile(cnn_l1.HoldZeros(keras.optimizers.SGD(0.01)), "mse")
        >>> data = np.ones((8, 2)), np.ones((8, 2))
        >>> history = model.fit(*data, verbose=0, callbacks=[cnn_l1.Threshold(threshold=0.1)])
        >>> cnn_l1.count(model).zeros
        2
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

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        wrapped_optimizer(self.model, HoldZeros, type(self).__name__)
        check_loss(self.model)
        self._is_first = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        is_first, self._is_first = getattr(self, "_is_first", False), False
        is_due = self._is_due(epoch)
        if is_due:
            limits = self.threshold, self.relative_threshold
            apply_threshold(self.model, *limits, self.empty_layers, self.of)
        # A training that begins after the first thresholding: its zeros are there already.
        if is_due or (is_first and epoch > self.start_epochs):
            wrapped_optimizer(self.model, HoldZeros, type(self).__name__).hold_zeros.assign(1.0)

    def _is_due(self, epoch: int) -> bool:
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
    planned: list[tuple[Any, Any]]
    if of == "channels":
        planned, changed = _channel_plan(model, threshold, relative_threshold, empty_layers)
    else:
        frozen = beside_frozen(model)
        variables = [(n, v) for n, v in counting.scales(model) if id(v) not in frozen]
        if of == "weights":
            variables = counting.kernels(model, frozen=False)
        planned, changed = [], 0
        for name, variable in variables:
            value = ops.convert_to_tensor(variable)
            limit: Any = threshold
            if limit is None:
                limit = relative_threshold * ops.std(value)
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


def _channel_plan(
    model: keras.Model,
    threshold: float | None,
    relative_threshold: Any,
    empty_layers: str,
) -> tuple[list[tuple[Any, np.ndarray]], int]:
    """`(variable, new value)` pairs that zero small channels, and how many those are."""
    spaces = channel_spaces(model)
    values = ChannelValues(spaces)
    changed = 0
    for space in spaces:
        squares, sizes = values.squares(space)
        limit = threshold
        if limit is None:
            limit = relative_threshold * math.sqrt(squares.sum() / sizes.sum())
        gone = np.sqrt(squares / sizes) < limit
        if gone.all() and squares.any():
            report_empty(space.name, empty_layers, "by the threshold")
        changed += int(np.count_nonzero(gone & (squares > 0)))
        values.zero(space, gone)
    return values.pairs(), changed


def zero_shifts_without_scale(model: keras.Model) -> None:
    """Zero the batch-norm shifts of channels whose scale is zero.

    A channel without scale is a constant, its shift. Network Slimming removes it,
    and leaves the difference to fine-tuning; zero, it can be removed exactly.
    """
    for layer in leaf_layers(model):
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        if layer.scale and layer.center and layer.gamma.trainable and layer.beta.trainable:
            shift = ops.convert_to_tensor(layer.beta)
            layer.beta.assign(ops.where(ops.equal(layer.gamma, 0), ops.zeros_like(shift), shift))
