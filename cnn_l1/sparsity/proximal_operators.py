"""Proximal operators of norms, and norms whose gradient is 0 at 0 on every backend."""

from typing import Any

from keras import ops


def soft_threshold(x: Any, threshold: Any) -> Any:
    """Move `x` towards zero by `threshold`, and to exactly zero within it.

    `S(x, t) = sign(x) · max(|x| − t, 0)`, the proximal operator of `t·|x|`
    (Parikh and Boyd, Proximal Algorithms, 2014, eq. 6.9).

    Args:
        x: Tensor of any shape.
        threshold: Tensor that broadcasts to `x`, 0 or more.

    Returns:
        Tensor of `x`'s shape and dtype. Values with `|x| <= threshold` are
            exactly `0.0`.

    Example:
        >>> soft_threshold(np.array([-2.0, 0.5, 3.0], "float32"), 1.0).numpy().tolist()
        [-1.0, 0.0, 2.0]
    """
    x = ops.convert_to_tensor(x)
    threshold = ops.convert_to_tensor(threshold, dtype=x.dtype)
    # A difference of two clips: no product with sign(x), so no negative zeros
    # and no rounding beyond the one subtraction.
    return ops.maximum(x - threshold, 0.0) - ops.maximum(-x - threshold, 0.0)


def block_soft_threshold(x: Any, norm: Any, threshold: Any) -> Any:
    """Scale groups of values towards zero by their norms, and to exactly zero within.

    `max(1 − threshold / norm, 0) · x`, the proximal operator of `threshold · ‖x‖₂`
    for each group (Yuan and Lin, Model selection and estimation in regression with
    grouped variables, 2006).

    Args:
        x: Tensor of any shape.
        norm: Tensor that broadcasts to `x`: the norm of each value's group.
        threshold: Tensor that broadcasts to `norm`, 0 or more.

    Returns:
        Tensor of `x`'s shape and dtype. Groups with `norm <= threshold` are exactly
        `0.0`; a threshold of 0 changes nothing.
    """
    # Not a division by 0 for groups of zeros; far below any norm of weights that live.
    share = ops.divide(threshold, ops.maximum(norm, 1e-30))
    # Chosen, not multiplied: no negative zeros. A NaN compares false and stays.
    return ops.where(share >= 1.0, ops.zeros_like(x), x * (1.0 - share))


def absolute(x: Any) -> Any:
    """`|x|`, with gradient 0 at 0 on every backend; that of JAX's own is 1 there."""
    x = ops.convert_to_tensor(x)
    return x * ops.stop_gradient(ops.sign(x))


def norm_from_squares(squares: Any) -> Any:
    """The square root of sums of squares, with gradient 0 at 0 in place of NaN."""
    zero = ops.equal(squares, 0)
    # Both branches of a `where` are differentiated: the root's must not see the 0.
    root = ops.sqrt(ops.where(zero, ops.ones_like(squares), squares))
    return ops.where(zero, ops.zeros_like(squares), root)
