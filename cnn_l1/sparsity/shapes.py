"""Curves of a penalty: how it grows with the size of a weight, or of a group of them.

A curve (`Shape`) is a function `φ(m)` of a magnitude `m ≥ 0` with `φ(0) = 0` and slope 1 at 0, so
that a strength means the same pressure at 0 whatever the curve. Concave ones let go of
what is large: their slope falls to 0, and with it the bias that L1 leaves on large
weights. Their `scale` is the magnitude, in units of a weight, at which they bend.

Every curve has its proximal operator in closed form, the global minimum also where the
objective is not convex:

    shrink(m, t) = argmin_{z ≥ 0} t · φ(z) + (z − m)² / 2
"""

import math
from typing import Any

from keras import ops

DEFAULT_SCALE = 0.1


class Shape:
    """`φ(m) = m`, the curve of L1, and the base of the others.

    A subclass writes `value(m)`, `slope(m)` and `reduction(m, t)`.

    Args:
        scale: Float above 0, or a tensor of such that broadcasts to `m`; `None` here,
            where nothing bends.
    """

    def __init__(self, scale: Any = None) -> None:
        self.scale = scale

    def value(self, m: Any) -> Any:
        """`φ(m)`, a tensor of `m`'s shape."""
        return m

    def slope(self, m: Any) -> Any:
        """`φ'(m)`, from 1 at 0 downwards, a tensor of `m`'s shape."""
        return ops.ones_like(m)

    def reduction(self, m: Any, t: Any) -> Any:
        """How far `m` goes towards 0, `m − shrink(m, t)`; at least `m` where it gets there.

        Args:
            m: Tensor of magnitudes, 0 or more.
            t: Tensor that broadcasts to `m`, of its dtype: step times strength, 0 or more.
        """
        return t

    def shrink(self, m: Any, t: Any) -> Any:
        """`argmin_{z ≥ 0} t · φ(z) + (z − m)² / 2`; of equals 0, or else the larger.

        Args:
            m: Tensor of magnitudes, 0 or more.
            t: Number or tensor that broadcasts to `m`: step times strength, 0 or more.

        Returns:
            Tensor of `m`'s shape and dtype, from 0 to `m`; a NaN stays, and `t = 0`
            changes nothing.
        """
        m = ops.convert_to_tensor(m)
        reduction = self.reduction(m, ops.convert_to_tensor(t, dtype=m.dtype))
        # Chosen, not clipped: a NaN compares false and stays.
        return ops.where(reduction >= m, ops.zeros_like(m), m - reduction)

    def stretched(self, factor: Any) -> "Shape":
        """This curve in units `factor` times smaller: `factor · φ(m / factor)`.

        Args:
            factor: Float above 0, or a tensor of such that broadcasts to `m`.
        """
        return type(self)(None if self.scale is None else self.scale * factor)


class Transformed(Shape):
    """Transformed L1, `φ(m) = a · m / (a + m)` with `a = scale`; it never exceeds `a`.

    `a / (a + 1)` times the function of Zhang and Xin, Minimization of transformed L1
    penalty: closed form representation and iterative thresholding algorithms, 2017.

    **Proximal operator.** At rest the reduction `d = m − z` solves the cubic
    `d · (a + m − d)² = t · a²`, whose smallest root is

        d = (a + m) · 4/3 · sin²(arcsin(√(27/4 · t · a² / (a + m)³)) / 3)

    (their theorem 3.1, whose cosine of an arc cosine rounds to nothing where `m` and `t`
    are far below `a`). What is not above the threshold is 0: `t` as long as `t ≤ a / 2`,
    where the objective is convex, else `√(2 · a · t) − a / 2`.
    """

    def value(self, m: Any) -> Any:
        return m * (self.scale / (self.scale + m))

    def slope(self, m: Any) -> Any:
        return ops.square(self.scale / (self.scale + m))

    def reduction(self, m: Any, t: Any) -> Any:
        whole = self.scale + m
        share = (27.0 / 4.0) * (t / whole) * ops.square(self.scale / whole)
        # Above 1 there is no root: far below the threshold, or by rounding just above it.
        angle = ops.arcsin(ops.sqrt(ops.minimum(share, 1.0))) / 3.0
        reduction = whole * ((4.0 / 3.0) * ops.square(ops.sin(angle)))
        # Two roots: neither overflows for any finite step.
        jump = ops.sqrt(t) * _root(2.0 * self.scale) - 0.5 * self.scale
        threshold = ops.where(t <= 0.5 * self.scale, t, jump)
        return ops.where(m <= threshold, ops.maximum(m, t), reduction)


class MCP(Shape):
    """Minimax concave penalty, `φ(m) = m − m² / (2θ)` up to `θ = scale`, then `θ / 2`.

    Zhang, Nearly unbiased variable selection under minimax concave penalty, 2010, eq. 2.1,
    whose `γλ` is `θ`. Beyond `θ` it has no slope, so that large weights keep their size.

    **Proximal operator.** For `t < θ` the firm threshold: 0 up to `t`, `m` from `θ`, and
    `(m − t) / (1 − t / θ)` between (Gao and Bruce, WaveShrink with firm shrinkage, 1997).
    For `t ≥ θ`, where the objective is concave up to `θ`, the hard threshold: 0 up to
    `√(t · θ)`, else `m`.
    """

    def value(self, m: Any) -> Any:
        m = ops.minimum(m, self.scale)
        return m * (1.0 - m / (2.0 * self.scale))

    def slope(self, m: Any) -> Any:
        return ops.maximum(1.0 - m / self.scale, 0.0)

    def reduction(self, m: Any, t: Any) -> Any:
        is_firm = t < self.scale
        room = ops.where(is_firm, self.scale - t, ops.ones_like(t))
        # At least m, and so all of it, just where m ≤ t.
        firm = t * (ops.maximum(self.scale - m, 0.0) / room)
        goes = m <= ops.sqrt(t) * _root(self.scale)
        hard = ops.where(goes, ops.maximum(m, t), ops.zeros_like(m))
        return ops.where(is_firm, firm, hard)


class Log(Shape):
    """The log-sum penalty, `φ(m) = ε · log(1 + m / ε)` with `ε = scale`.

    Candès, Wakin and Boyd, Enhancing sparsity by reweighted L1 minimization, 2008, eq. 11.

    **Proximal operator.** At rest the reduction `d = m − z` solves `d · (ε + m − d) =
    t · ε`, whose smaller root is `(ε + m) · 2q / (1 + √(1 − 4q))` with `q = t · ε /
    (ε + m)²`. For `t ≤ ε`, where the objective is convex, it holds above the threshold
    `t`. For larger ones it is there from `2 · √(t · ε) − ε`, and is taken where its
    objective is below that of 0.
    """

    def value(self, m: Any) -> Any:
        return self.scale * ops.log1p(m / self.scale)

    def slope(self, m: Any) -> Any:
        return self.scale / (self.scale + m)

    def reduction(self, m: Any, t: Any) -> Any:
        whole = self.scale + m
        share = ops.minimum((t / whole) * (self.scale / whole), 0.25)
        reduction = whole * (2.0 * share / (1.0 + ops.sqrt(1.0 - 4.0 * share)))
        is_convex = t <= self.scale
        exists = 2.0 * ops.sqrt(t) * _root(self.scale) - self.scale
        left = ops.maximum(m - reduction, 0.0) / self.scale
        # Both objectives less m² / 2, with t and m as functions of what is left.
        costs = (t / self.scale) * (ops.log1p(left) - left / (1.0 + left))
        is_worse = ops.logical_and(~is_convex, costs >= 0.5 * ops.square(left))
        goes = ops.logical_or(m <= ops.where(is_convex, t, exists), is_worse)
        return ops.where(goes, ops.maximum(m, t), reduction)


def _root(scale: Any) -> Any:
    return math.sqrt(scale) if isinstance(scale, float) else ops.sqrt(scale)


SHAPES = {"l1": Shape, "transformed": Transformed, "mcp": MCP, "log": Log}


def make_shape(name: str, scale: float | None = None) -> Shape:
    """The curve of a name.

    Args:
        name: `"l1"`, `"transformed"`, `"mcp"` or `"log"`.
        scale: Float above 0, in units of a weight: where it bends. Default `None`: 0.1,
            or nothing for `"l1"`, which has no scale.

    Raises:
        ValueError: If the name is none of these, or the scale does not fit it.
    """
    if not isinstance(name, str) or name not in SHAPES:
        raise ValueError(f"`shape` must be one of {', '.join(SHAPES)}. Received: shape={name!r}")
    if name == "l1":
        if scale is not None:
            raise ValueError(
                f"`scale` must be left out for shape 'l1', which does not bend. Received: "
                f"scale={scale!r}"
            )
        return Shape()
    scale = DEFAULT_SCALE if scale is None else scale
    is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not is_number or not 0.0 < scale < float("inf"):
        raise ValueError(f"`scale` must be a finite number above 0. Received: scale={scale!r}")
    return SHAPES[name](float(scale))
