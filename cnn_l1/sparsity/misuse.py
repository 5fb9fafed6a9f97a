"""Settings that train without an error and yet do not do what they say: one warning each."""

import sys
import warnings
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

import keras

LIBRARIES = ("cnn_l1", "keras", "tensorflow", "jax", "torch")


class MisuseWarning(UserWarning):
    """A setting that trains, but does not do what it is for. The message says what to do."""


def warn(message: str) -> None:
    """Warn at the user's own line: the nearest one outside of the libraries."""
    level = 2
    for frame in _callers():
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in LIBRARIES:
            break
        level += 1
    else:
        level = 2
    warnings.warn(message, MisuseWarning, stacklevel=level)


def _callers() -> Iterator[FrameType]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def unwrapped(optimizer: Any) -> Any:
    """An optimizer without the loss scaling around it."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def model_in_training() -> Any:
    """The Keras model whose `train_step` is running or traced, or `None`.

    Neither a regularizer nor an optimizer is told which model it works for.
    """
    for frame in _callers():
        if frame.f_code.co_name == "train_step":
            model = frame.f_locals.get("self")
            if isinstance(model, keras.Model):
                return model
    return None


def model_being_saved(optimizer: Any) -> Any:
    """The Keras model compiled with `optimizer` that is being saved, or `None`."""
    for frame in _callers():
        for name in ("self", "model"):
            model = frame.f_locals.get(name)
            if not isinstance(model, keras.Model):
                continue
            if unwrapped(getattr(model, "optimizer", None)) is optimizer:
                return model
    return None


_warned_optimizers: weakref.WeakSet = weakref.WeakSet()


def check_optimizer_of(penalty: Any) -> None:
    """Warn, once an optimizer, where a penalty is trained under one that is not ours."""
    model = model_in_training()
    if model is None or not penalty.has_effect:
        return
    optimizer = unwrapped(model.optimizer)
    is_ours = getattr(optimizer, "is_wrapper", False)
    if optimizer is None or is_ours or optimizer in _warned_optimizers:
        return
    _warned_optimizers.add(optimizer)
    name = type(optimizer).__name__
    effect = "act only through a subgradient, which makes small weights but no exact zeros"
    if penalty.groups:
        effect = "act only through a subgradient, which zeroes no channel exactly"
    if not penalty.in_gradient:
        effect = "have no effect, for `detach` took them out of the gradient"
    warn(
        f"Penalties of cnn_l1 on {model.name!r} {effect}. Expected an optimizer that wraps "
        f"{name}: compile(cnn_l1.Proximal(keras.optimizers.{name}(...))). "
        f"Received: optimizer={name}"
    )
