"""Callback: put the weights of the best epoch back, also after a training was interrupted."""

from typing import Any

import keras

from cnn_l1.sparsity.callback_states import CallbackStates
from cnn_l1.sparsity.misuse import unwrapped


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

    def __init__(self, monitor: str = "val_accuracy", larger_is_better: bool = True) -> None:
        super().__init__()
        self.monitor = monitor
        self.larger_is_better = larger_is_better
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._weights: list[Any] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.best = self.best_epoch = self._weights = None
        self._is_first, self._last_epoch = True, -1

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        states = getattr(unwrapped(self.model.optimizer), "states", None)
        if not self._is_first or not isinstance(states, CallbackStates):
            return
        self._is_first = False
        state = states.get("best")
        if state and epoch > 0 and int(state["last_epoch"]) in (epoch - 1, epoch - 2):
            self._resume(state)
        states.keep("best", self._state)

    def _state(self) -> dict[str, Any]:
        """What a later training must know; nothing before the first epoch's end."""
        if self.best is None:
            return {}
        state = {"best": self.best, "epoch": self.best_epoch, "last_epoch": self._last_epoch}
        for number, weight in enumerate(self._weights or ()):
            state[f"weight_{number}"] = weight
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch = float(state["best"]), int(state["epoch"])
        self._last_epoch = int(state["last_epoch"])
        saved = sum(name.startswith("weight_") for name in state)
        weights = [state[f"weight_{number}"] for number in range(saved)]
        # After a training that came to its end, the model has them itself.
        self._weights = weights or self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
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

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._weights is not None:
            self.model.set_weights(self._weights)
            self._weights = None
