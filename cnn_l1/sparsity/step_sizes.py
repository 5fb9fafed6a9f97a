"""By which step each optimizer of Keras moves a weight: the metric of its proximal operator.

Read from the updates in Keras 3.15. Each function takes `(optimizer, variable)` after
the update and returns `(correction, denominator)`: the learning rate was multiplied by
the first, a scalar, and divided by the second, a scalar or an array of the variable's
shape.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from cnn_l1.process.keras_internals import slot

Metric = Callable[[Any, Any], tuple[Any, Any]]


def _sgd(inner: Any, variable: Any) -> tuple[Any, Any]:
    return 1.0, 1.0


def _adam(inner: Any, variable: Any) -> tuple[Any, Any]:
    name = "largest velocity" if getattr(inner, "amsgrad", False) else "velocity"
    velocity = ops.convert_to_tensor(slot(inner, name, variable))
    # Keras adds epsilon before the bias correction: (√v + ε) / √(1 − β₂ᵗ).
    return ops.sqrt(_bias_correction(inner, variable)), ops.sqrt(velocity) + inner.epsilon


def _nadam(inner: Any, variable: Any) -> tuple[Any, Any]:
    velocity = ops.convert_to_tensor(slot(inner, "velocity", variable))
    return 1.0, ops.sqrt(velocity / _bias_correction(inner, variable)) + inner.epsilon


def _bias_correction(inner: Any, variable: Any) -> Any:
    local_step = ops.cast(inner.iterations + 1, variable.dtype)
    return 1.0 - ops.power(ops.cast(inner.beta_2, variable.dtype), local_step)


def _adamax(inner: Any, variable: Any) -> tuple[Any, Any]:
    norm = ops.convert_to_tensor(slot(inner, "infinity norm", variable))
    return 1.0, norm + inner.epsilon


def _rmsprop(inner: Any, variable: Any) -> tuple[Any, Any]:
    velocity = ops.convert_to_tensor(slot(inner, "velocity", variable))
    if inner.centered:
        average = ops.convert_to_tensor(slot(inner, "average gradient", variable))
        velocity = velocity - ops.square(average)
    return 1.0, ops.sqrt(velocity + inner.epsilon)


def _adagrad(inner: Any, variable: Any) -> tuple[Any, Any]:
    accumulator = ops.convert_to_tensor(slot(inner, "sum of squares", variable))
    return 1.0, ops.sqrt(accumulator + inner.epsilon)


METRICS: dict[type, Metric] = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.Adamax: _adamax,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adagrad: _adagrad,
}


def metric_of(inner: Any) -> Metric | None:
    """The function that gives an optimizer's metric, or `None` if unknown.

    By exact class name up the inheritance: PyTorch's and users' subclasses of a
    known optimizer share its update, unrelated optimizers never match.
    """
    for known in type(inner).__mro__:
        if known in METRICS:
            return METRICS[known]
    return None
