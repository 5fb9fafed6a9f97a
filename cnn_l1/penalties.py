"""Penalties: a value for the loss, and a proximal operator for the optimizer.

A penalty is a Keras regularizer that knows two things more: its gradient,
which `Proximal` takes out of the loss gradient again, and its proximal operator

    prox(x, step) = argmin_z  penalty(z) + sum((z - x)² / (2 step))

with `step` a scalar or an array of `x`'s shape (a diagonal metric).
"""

import copy

import keras
from keras import ops

PACKAGE = "cnn_l1"


def soft_threshold(x, threshold):
    """Shrink `x` towards zero by `threshold`, and to exactly zero within it.

    `S(x, t) = sign(x) · max(|x| − t, 0)`, the proximal operator of `t·|x|`
    (Parikh and Boyd, Proximal Algorithms, 2014, eq. 6.9).

    Args:
        x: Tensor of any shape.
        threshold: Tensor that broadcasts to `x`, 0 or more.

    Returns:
        Tensor of `x`'s shape and dtype. Values with `|x| <= threshold` are
        exactly `0.0`.
    """
    x = ops.convert_to_tensor(x)
    threshold = ops.convert_to_tensor(threshold, dtype=x.dtype)
    # A difference of two clips: no product with sign(x), so no negative zeros
    # and no rounding beyond the one subtraction.
    return ops.maximum(x - threshold, 0.0) - ops.maximum(-x - threshold, 0.0)


def check_strength(name, value):
    """Return `value` as a float, or raise `ValueError` if it is no strength."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # `not >=` also catches NaN.
    if not is_number or not 0.0 <= value < float("inf"):
        raise ValueError(f"`{name}` must be a finite number, 0 or more. Received: {name}={value!r}")
    return float(value)


class Penalty(keras.regularizers.Regularizer):
    """Base class: a regularizer with a gradient and a proximal operator.

    A subclass writes `value(x)` (a scalar), `gradient(x)` (of `x`'s shape; what
    automatic differentiation of `value` gives), `prox(x, step)` and `get_config()`.

    Attributes:
        in_gradient: Whether the penalty's gradient is part of the loss gradient,
            as in plain Keras. `detach` switches it off for training under
            `Proximal`, which would only take it out again.
    """

    in_gradient = True

    def __call__(self, x):
        return self.value(x if self.in_gradient else ops.stop_gradient(x))

    def value(self, x):
        """The penalty, a scalar."""
        raise NotImplementedError(f"{type(self).__name__}.value")

    def gradient(self, x):
        """The gradient that automatic differentiation gives, 0 at 0."""
        raise NotImplementedError(f"{type(self).__name__}.gradient")

    def prox(self, x, step):
        """`argmin_z penalty(z) + sum((z - x)² / (2 step))`, of `x`'s shape."""
        raise NotImplementedError(f"{type(self).__name__}.prox")


@keras.saving.register_keras_serializable(package=PACKAGE)
class L1(Penalty):
    """The L1 penalty, `l1_strength · sum(|x|)` (Tibshirani, 1996).

    Under a plain Keras optimizer it acts through its subgradient, like
    `keras.regularizers.L1`. Under `cnn_l1.Proximal` it acts through
    `soft_threshold(x, step · l1_strength)`, which makes exact zeros.

    Args:
        l1_strength: Float, 0 or more (the field's λ). Default 1e-4.

    Raises:
        ValueError: If `l1_strength` is negative or not finite.
    """

    def __init__(self, l1_strength=1e-4):
        self.l1_strength = check_strength("l1_strength", l1_strength)

    def value(self, x):
        return self.l1_strength * ops.sum(ops.abs(x))

    def gradient(self, x):
        return self.l1_strength * ops.sign(x)

    def prox(self, x, step):
        return soft_threshold(x, step * self.l1_strength)

    def get_config(self):
        return {"l1_strength": self.l1_strength}


@keras.saving.register_keras_serializable(package=PACKAGE)
class L1L2(Penalty):
    """Elastic net, `l1_strength · sum(|x|) + l2_strength · sum(x²)`.

    Its proximal operator is `S(x, step·l1_strength) / (1 + 2·step·l2_strength)`
    (Parikh and Boyd, 2014, section 6.5.3; the 2 is there because Keras writes
    its L2 penalty without a half).

    Args:
        l1_strength: Float, 0 or more. Default 1e-4.
        l2_strength: Float, 0 or more. Default 1e-4.

    Raises:
        ValueError: If a strength is negative or not finite.
    """

    def __init__(self, l1_strength=1e-4, l2_strength=1e-4):
        self.l1_strength = check_strength("l1_strength", l1_strength)
        self.l2_strength = check_strength("l2_strength", l2_strength)

    def value(self, x):
        absolute = self.l1_strength * ops.sum(ops.abs(x))
        return absolute + self.l2_strength * ops.sum(ops.square(x))

    def gradient(self, x):
        return self.l1_strength * ops.sign(x) + 2.0 * self.l2_strength * x

    def prox(self, x, step):
        shrunk = soft_threshold(x, step * self.l1_strength)
        return shrunk / (1.0 + 2.0 * step * self.l2_strength)

    def get_config(self):
        return {"l1_strength": self.l1_strength, "l2_strength": self.l2_strength}


def attach(model, penalty, kernels_only=True):
    """Put a penalty on the weights of a model that exists already.

    It sets `variable.regularizer`, not the layers' settings: `model.save` still
    writes a plain Keras model that loads anywhere.

    Args:
        model: A built `keras.Model`.
        penalty: A `Penalty`; or `None`, which takes our penalties off again; or
            a function of a `keras.Variable` that returns either.
        kernels_only: Leave biases and batch-norm alone. Default `True`.

    Returns:
        The list of paths of the variables that now carry a penalty.

    Raises:
        ValueError: If the model is not built.
    """
    if not model.built:
        raise ValueError(
            "`attach` expects a built model. Received one without weights: "
            f"{model.name!r}. Call it on a batch first."
        )
    attached = []
    for variable in model.trainable_variables:
        chosen = penalty
        if penalty is not None and not isinstance(penalty, Penalty):
            chosen = penalty(variable)
        if chosen is not None and kernels_only and not is_kernel(variable):
            continue
        if chosen is None and not isinstance(variable.regularizer, Penalty):
            continue  # a regularizer of the user's own stays
        variable.regularizer = chosen
        if chosen is not None:
            attached.append(variable.path)
    return attached


def detach(model):
    """Keep our penalties in a model's reported loss, but out of its gradient.

    It changes nothing under `Proximal`, and saves it two passes over the weights a
    step. Under any other optimizer the penalties then have no effect.

    Args:
        model: A built `keras.Model`.
    """
    for variable in model.trainable_variables:
        if isinstance(variable.regularizer, Penalty):
            detached = copy.copy(variable.regularizer)
            detached.in_gradient = False
            variable.regularizer = detached


def is_kernel(variable):
    """Whether a variable is a kernel: two axes or more, and no bias or scale."""
    return len(variable.shape) >= 2 and variable.name not in ("bias", "gamma", "beta")
