"""The penalties on one variable: L1 and its relatives, weight by weight or by groups."""

import math
from typing import Any

import keras
from keras import ops

from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.sparsity.attaching import attach, detach
from cnn_l1.sparsity.penalty import PACKAGE, Penalty, check_ratio, check_strength
from cnn_l1.sparsity.proximal_operators import (
    absolute,
    block_soft_threshold,
    norm_from_squares,
    soft_threshold,
)
from cnn_l1.sparsity.shapes import Shape, make_shape

# Here too, under the names by which users know them.
__all__ = [
    "L1",
    "L1L2",
    "PACKAGE",
    "Concave",
    "GroupL1",
    "Penalty",
    "ReweightedL1",
    "attach",
    "detach",
    "is_kernel",
    "soft_threshold",
]


@keras.saving.register_keras_serializable(package=PACKAGE)
class L1(Penalty):
    """The L1 penalty, `l1_strength · sum(|x|)` (Tibshirani, 1996).

    Under a plain Keras optimizer it acts through its subgradient, like
    `keras.regularizers.L1`. Under `cnn_l1.Proximal` it acts through
    `soft_threshold(x, step · l1_strength)`, which makes exact zeros.

    Args:
        l1_strength: Float, 0 or more (called λ in papers; larger means more zeros).
            Default 1e-4.

    Raises:
        ValueError: If `l1_strength` is negative or not finite.

    Example:
        >>> penalty = L1(0.5)
        >>> weights = np.array([-2.0, 0.25, 3.0], "float32")
        >>> float(penalty(weights))  # 0.5 · (2 + 0.25 + 3)
        2.625
        >>> penalty.prox(weights, step=1.0).numpy().tolist()
        [-1.5, 0.0, 2.5]
    """

    def __init__(self, l1_strength: float = 1e-4) -> None:
        self.l1_strength = check_strength("l1_strength", l1_strength)

    def value(self, x: Any) -> Any:
        return self.l1_strength * ops.sum(absolute(x))

    def gradient(self, x: Any) -> Any:
        return self.l1_strength * ops.sign(x)

    def prox(self, x: Any, step: Any) -> Any:
        return soft_threshold(x, step * self.l1_strength)

    def get_config(self) -> dict[str, Any]:
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

    def __init__(self, l1_strength: float = 1e-4, l2_strength: float = 1e-4) -> None:
        self.l1_strength = check_strength("l1_strength", l1_strength)
        self.l2_strength = check_strength("l2_strength", l2_strength)

    def value(self, x: Any) -> Any:
        l1 = self.l1_strength * ops.sum(absolute(x))
        return l1 + self.l2_strength * ops.sum(ops.square(x))

    def gradient(self, x: Any) -> Any:
        return self.l1_strength * ops.sign(x) + 2.0 * self.l2_strength * x

    def prox(self, x: Any, step: Any) -> Any:
        nearer = soft_threshold(x, step * self.l1_strength)
        return nearer / (1.0 + 2.0 * step * self.l2_strength)

    def get_config(self) -> dict[str, Any]:
        return {"l1_strength": self.l1_strength, "l2_strength": self.l2_strength}


@keras.saving.register_keras_serializable(package=PACKAGE)
class Concave(Penalty):
    """A concave penalty, `l1_strength · sum(φ(|x|))`, that lets go of large weights.

    `φ` has slope 1 at 0, so that it presses on small weights as `L1(l1_strength)` does,
    and bends at `scale`: a weight far above it is hardly moved any more. The wider the
    scale, the nearer to L1, its limit.

        shape          φ(m)                                slope at m
        transformed    scale · m / (scale + m)             (scale / (scale + m))²
        mcp            m − m² / (2 · scale), then scale/2  max(1 − m / scale, 0)
        log            scale · log(1 + m / scale)          scale / (scale + m)

    Sources and proximal operators are those of `cnn_l1.sparsity.shapes`.

    **Long steps.** The penalty is not convex. Where `step · l1_strength` exceeds a part of
    the scale (`scale / 2` for `transformed`, `scale` for the others) the proximal operator
    jumps: it zeroes all weights up to some `√(step · l1_strength · scale)` and hardly
    moves the others. Adam's steps are long for weights whose gradients have become small.
    `Proximal` still rests only where the loss's gradient and the penalty's cancel, but
    not at every such place.

    Args:
        l1_strength: Float, 0 or more (called λ in papers; larger means more zeros). Default 1e-4.
        shape: `"log"` (default), `"transformed"` or `"mcp"`; `"l1"` is `L1`.
        scale: Float above 0, in units of a weight. Default 0.1; none for `"l1"`.

    Raises:
        ValueError: If an argument is not one of the above.
    """

    def __init__(
        self, l1_strength: float = 1e-4, shape: str = "log", scale: float | None = None
    ) -> None:
        self.l1_strength = check_strength("l1_strength", l1_strength)
        self.shape = shape
        self._shape = make_shape(shape, scale)
        self.scale = self._shape.scale

    def value(self, x: Any) -> Any:
        return self.l1_strength * ops.sum(self._shape.value(absolute(x)))

    def gradient(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        return self.l1_strength * (self._shape.slope(ops.abs(x)) * ops.sign(x))

    def prox(self, x: Any, step: Any) -> Any:
        x = ops.convert_to_tensor(x)
        step = ops.convert_to_tensor(step, dtype=x.dtype)
        sizes = ops.abs(x)
        reduction = self._shape.reduction(sizes, step * self.l1_strength)
        # Chosen, not multiplied: no negative zeros. A NaN compares false and stays.
        return ops.where(reduction >= sizes, ops.zeros_like(x), x - ops.sign(x) * reduction)

    def get_config(self) -> dict[str, Any]:
        return {"l1_strength": self.l1_strength, "shape": self.shape, "scale": self.scale}


@keras.saving.register_keras_serializable(package=PACKAGE)
class ReweightedL1(Concave):
    """Reweighted L1: L1 with a strength for each weight, that large weights lower.

    `l1_strength · Σ f · |x|` with factors `f = epsilon / (|x| + epsilon)` that are
    those of the weights at the last refresh (Candès, Wakin and Boyd, 2008, eq. 9).
    `Proximal` keeps them, all 1 at the start, and `callbacks.Reweight` refreshes them
    every epoch; under another optimizer, or without the callback, nothing does.

    Each refresh puts a plain L1 in place of `Concave(l1_strength, "log", epsilon)`, which
    it touches at the weights and nowhere is below: where the training rests, it rests
    for that penalty. So the value and the gradient are those of the log-sum. What it is
    for are long steps: its proximal operator is a soft threshold and never jumps.

    Args:
        l1_strength: Float, 0 or more (called λ in papers; larger means more zeros). Default 1e-4.
        epsilon: Float above 0, in units of a weight: where factors are a half. Default 0.1.

    Raises:
        ValueError: If an argument is not one of the above.
    """

    has_factors = True

    def __init__(self, l1_strength: float = 1e-4, epsilon: float = 0.1) -> None:
        super().__init__(l1_strength, "log", epsilon)
        self.epsilon = self.scale

    def factors(self, x: Any) -> Any:
        """What each weight's strength is multiplied by after a refresh, from 0 to 1."""
        return self._shape.slope(ops.abs(ops.convert_to_tensor(x)))

    def prox(self, x: Any, step: Any) -> Any:
        """That of `l1_strength · Σ|x|`: the factors are in the step, see `Proximal`."""
        return soft_threshold(x, step * self.l1_strength)

    def get_config(self) -> dict[str, Any]:
        return {"l1_strength": self.l1_strength, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package=PACKAGE)
class GroupL1(Penalty):
    """Sparse group lasso, whose groups are the slices of one kernel.

    `l1_strength · [(1 − l1_ratio) · Σ_g √n_g · ‖w_g‖₂ + l1_ratio · Σ|w|]`, where
    `w_g` are the `n_g` weights of group `g` (Yuan and Lin, 2006, with the second
    term Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso, 2013). The
    first term makes whole groups exactly zero, the second single weights.

    The proximal operator is `soft_threshold` by the second term, then
    `block_soft_threshold` by the first. For a scalar step it is exact (Simon et al.,
    2013, section 3.2).

    **Concave curves.** With a `shape`, the first term is `Σ_g n_g · φ(‖w_g‖₂ / √n_g)`:
    the curve of the root mean square of the group's weights, so that `scale` is in units
    of one weight, as for `Concave`. It equals `√n_g · ψ(‖w_g‖₂)` with `ψ` the curve
    of scale `√n_g · scale`, whose own proximal operator lowers the norm (group MCP:
    Breheny and Huang, Group descent algorithms for nonconvex penalized linear and
    logistic regression models with grouped predictors, 2015). The operators in sequence
    are exact for it too: of all `z` of one norm, the second term and the distance
    together are least along the soft-thresholded weights. The second term stays plain L1.

    **Array steps.** In a diagonal metric, as Adam's, the norm has no proximal operator
    in closed form. A group then takes one step, `1 / mean_g(1 / step)`, for Adam
    `η / mean_g(√v̂ + ε)`; the second term keeps its step for each weight. At rest
    the loss's gradient in a group that lives is `−l1_strength · (1 − l1_ratio) · √n_g
    · w / ‖w_g‖`, as it should be, but weight by weight times `(1 / step) /
    mean_g(1 / step)`: factors with mean 1, and all 1 for SGD. Under Adam that is near
    the minimum of the loss, but not at it: `√v̂` follows the gradients' size.

    Args:
        l1_strength: Float, 0 or more (called λ in papers; larger means more zeros). Default 1e-4.
        l1_ratio: Float, 0 to 1: how much of it is plain L1. Default 0.0, the group
            lasso; 1.0 is `L1`.
        axis: Integer, or several, that number the groups, as NumPy counts axes.
            Default -1: one group an output filter of a convolution's kernel `(rows,
            cols, in, out)` or a dense one `(in, out)`. (-2, -1) for a depthwise one
            `(rows, cols, in, multiplier)`.
        shape: `"l1"` (default), `"transformed"`, `"mcp"` or `"log"`: see `Concave`.
        scale: Float above 0: the root mean square of a group at which the curve bends.
            Default 0.1; none for `"l1"`.

    Raises:
        ValueError: If an argument is not one of the above; on use, if the variable has
            no such axis.

    Example:
        A kernel of a dense layer, 4 inputs and 2 units. The second unit goes as a whole:

        >>> kernel = np.array([[4.0, 0.5]] * 4, "float32")
        >>> GroupL1(1.0).prox(kernel, step=1.0).numpy().tolist()
        [[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 0.0]]
    """

    def __init__(
        self,
        l1_strength: float = 1e-4,
        l1_ratio: float = 0.0,
        axis: int | list[int] | tuple[int, ...] = -1,
        shape: str = "l1",
        scale: float | None = None,
    ) -> None:
        self.l1_strength = check_strength("l1_strength", l1_strength)
        self.l1_ratio = check_ratio(l1_ratio)
        self.shape = shape
        self._shape = make_shape(shape, scale)
        self.scale = self._shape.scale
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        are_integers = all(isinstance(a, int) and not isinstance(a, bool) for a in axes)
        if not axes or not are_integers or len(set(axes)) < len(axes):
            raise ValueError(
                f"`axis` must be an integer, or several that differ. Received: axis={axis!r}"
            )
        self.axis = axes[0] if len(axes) == 1 else tuple(axes)

    def _within(self, shape: Any) -> tuple[tuple[int, ...], int]:
        """The axes inside a group, and how many weights they hold."""
        rank = len(shape)
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        numbering = {axis % rank for axis in axes if -rank <= axis < rank}
        if len(numbering) < len(axes):
            raise ValueError(
                f"GroupL1 expects variables that have the axes {self.axis}, each once. "
                f"Received: shape={tuple(shape)}"
            )
        within = tuple(axis for axis in range(rank) if axis not in numbering)
        return within, math.prod(shape[axis] for axis in within)

    def _norms(self, x: Any) -> tuple[Any, float, Shape]:
        """The groups' norms, to broadcast to `x`, their strength, a float, and shape."""
        within, size = self._within(x.shape)
        norms = norm_from_squares(ops.sum(ops.square(x), axis=within, keepdims=True))
        strength = self.l1_strength * (1.0 - self.l1_ratio) * math.sqrt(size)
        return norms, strength, self._shape.stretched(math.sqrt(size))

    def value(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        norms, strength, shape = self._norms(x)
        l1 = self.l1_strength * self.l1_ratio * ops.sum(absolute(x))
        return strength * ops.sum(shape.value(norms)) + l1

    def gradient(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        norms, strength, shape = self._norms(x)
        directions = x / ops.where(ops.equal(norms, 0), ops.ones_like(norms), norms)
        l1 = self.l1_strength * self.l1_ratio * ops.sign(x)
        return strength * shape.slope(norms) * directions + l1

    def prox(self, x: Any, step: Any) -> Any:
        x = ops.convert_to_tensor(x)
        step = ops.convert_to_tensor(step, dtype=x.dtype)
        if self.l1_ratio:
            x = soft_threshold(x, step * (self.l1_strength * self.l1_ratio))
        norms, strength, shape = self._norms(x)
        if len(step.shape):
            within, _ = self._within(x.shape)
            inverse = ops.broadcast_to(1.0 / step, x.shape)
            step = 1.0 / ops.mean(inverse, axis=within, keepdims=True)
        return block_soft_threshold(x, norms, shape.reduction(norms, step * strength))

    def get_config(self) -> dict[str, Any]:
        return {
            "l1_strength": self.l1_strength,
            "l1_ratio": self.l1_ratio,
            # Keras restores no tuples within a regularizer's config.
            "axis": list(self.axis) if isinstance(self.axis, tuple) else self.axis,
            "shape": self.shape,
            "scale": self.scale,
        }
