"""What a penalty is: a value for the loss, a proximal operator, and what it can do.

A penalty is a Keras regularizer that knows two things more: its gradient,
which `Proximal` takes out of the loss gradient again, and its proximal operator

    prox(x, step) = argmin_z  penalty(z) + sum((z - x)² / (2 step))

with `step` a scalar or an array of `x`'s shape (a diagonal metric). What else others
must know of it, such as whether it has any effect, are attributes of it.
"""

from typing import Any

import keras
from keras import ops

from cnn_l1.sparsity import misuse

PACKAGE = "cnn_l1"  # before the names under which Keras saves our classes


def check_strength(name: str, value: Any) -> float:
    """Return `value` as a float, or raise `ValueError` if it is no strength."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # `not >=` also catches NaN.
    if not is_number or not 0.0 <= value < float("inf"):
        raise ValueError(f"`{name}` must be a finite number, 0 or more. Received: {name}={value!r}")
    return float(value)


def check_ratio(value: Any) -> float:
    """Return `l1_ratio` as a float, or raise `ValueError` if it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 <= value <= 1.0:
        raise ValueError(f"`l1_ratio` must be a number from 0 to 1. Received: l1_ratio={value!r}")
    return float(value)


class Penalty(keras.regularizers.Regularizer):
    """Base class: a regularizer with a gradient and a proximal operator.

    A subclass writes `value(x)` (a scalar), `gradient(x)` (of `x`'s shape; what
    automatic differentiation of `value` gives), `prox(x, step)` and `get_config()`.
    One with a strength calls it `l1_strength`.

    Attributes:
        in_gradient: Whether the penalty's gradient is part of the loss gradient,
            as in plain Keras. `detach` switches it off for training under
            `Proximal`, which would only take it out again.
        groups: The penalties over several variables in which this one is a part
            (`cnn_l1.sparsity.groups.CoupledGroupL1`); none for a penalty on one variable.
            `Proximal` calls their `prox_all` in place of `prox`.
        beside: A regularizer of the user's own, such as L2, that was on the variable
            before: its value is added, and its gradient stays in the loss gradient.
        has_factors: Whether `Proximal` multiplies its step by a factor for each weight,
            which `factors(x)` gives, as for `ReweightedL1`. Default `False`.
    """

    in_gradient = True
    groups: tuple = ()
    beside: Any = None
    has_factors = False

    def __call__(self, x: Any) -> Any:
        misuse.check_optimizer_of(self)
        value = self.value(x)
        value = value if self.in_gradient else ops.stop_gradient(value)
        return value if self.beside is None else value + self.beside(x)

    def value(self, x: Any) -> Any:
        """The penalty, a scalar."""
        raise NotImplementedError(f"{type(self).__name__}.value")

    def gradient(self, x: Any) -> Any:
        """The gradient that automatic differentiation gives, 0 at 0."""
        raise NotImplementedError(f"{type(self).__name__}.gradient")

    def prox(self, x: Any, step: Any) -> Any:
        """`argmin_z penalty(z) + sum((z - x)² / (2 step))`, of `x`'s shape."""
        raise NotImplementedError(f"{type(self).__name__}.prox")

    def factors(self, x: Any) -> Any:
        """What each weight's strength is multiplied by after a refresh; see `has_factors`."""
        raise NotImplementedError(f"{type(self).__name__}.factors")

    @property
    def largest_strength(self) -> float:
        """The largest strength with which it makes zeros; 0 where it makes none.

        Over several variables, that of the strongest of its groups. 1 for a penalty that
        has no `l1_strength`.
        """
        parts = self.groups or (self,)
        return max(float(getattr(part, "l1_strength", 1.0)) for part in parts)

    @property
    def has_effect(self) -> bool:
        """Whether any strength is above 0: one that makes zeros, or an L2 term's."""
        return self.largest_strength > 0 or getattr(self, "l2_strength", 0.0) > 0
