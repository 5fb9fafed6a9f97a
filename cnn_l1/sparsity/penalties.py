"""Penalties: a value for the loss, and a proximal operator for the optimizer.

A penalty is a Keras regularizer that knows two things more: its gradient,
which `Proximal` takes out of the loss gradient again, and its proximal operator

    prox(x, step) = argmin_z  penalty(z) + sum((z - x)² / (2 step))

with `step` a scalar or an array of `x`'s shape (a diagonal metric).
"""

import copy
import math
import weakref
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from cnn_l1.graph.layer_kinds import is_kernel, unknown_weights
from cnn_l1.sparsity import misuse
from cnn_l1.sparsity.shapes import make_shape

PACKAGE = "cnn_l1"


def soft_threshold(x: Any, threshold: Any) -> Any:
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


def check_ratio(value):
    """Return `l1_ratio` as a float, or raise `ValueError` if it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 <= value <= 1.0:
        raise ValueError(f"`l1_ratio` must be a number from 0 to 1. Received: l1_ratio={value!r}")
    return float(value)


def absolute(x):
    """`|x|`, with gradient 0 at 0 on every backend; that of JAX's own is 1 there."""
    x = ops.convert_to_tensor(x)
    return x * ops.stop_gradient(ops.sign(x))


def norm_from_squares(squares):
    """The square root of sums of squares, with gradient 0 at 0 in place of NaN."""
    zero = ops.equal(squares, 0)
    # Both branches of a `where` are differentiated: the root's must not see the 0.
    root = ops.sqrt(ops.where(zero, ops.ones_like(squares), squares))
    return ops.where(zero, ops.zeros_like(squares), root)


def block_soft_threshold(x, norm, threshold):
    """Shrink groups of values towards zero by their norms, and to exactly zero within.

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


class Penalty(keras.regularizers.Regularizer):
    """Base class: a regularizer with a gradient and a proximal operator.

    A subclass writes `value(x)` (a scalar), `gradient(x)` (of `x`'s shape; what
    automatic differentiation of `value` gives), `prox(x, step)` and `get_config()`.

    Attributes:
        in_gradient: Whether the penalty's gradient is part of the loss gradient,
            as in plain Keras. `detach` switches it off for training under
            `Proximal`, which would only take it out again.
        groups: The penalties over several variables in which this one is a part
            (`cnn_l1.sparsity.groups.CoupledGroupL1`); none for a penalty on one variable.
            `Proximal` calls their `prox_all` in place of `prox`.
        beside: A regularizer of the user's own, such as L2, that was on the variable
            before: its value is added, and its gradient stays in the loss gradient.
    """

    in_gradient = True
    groups: tuple = ()
    beside: Any = None

    def __call__(self, x):
        misuse.check_optimizer_of(self)
        value = self.value(x)
        value = value if self.in_gradient else ops.stop_gradient(value)
        return value if self.beside is None else value + self.beside(x)

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

    def __init__(self, l1_strength: float = 1e-4) -> None:
        self.l1_strength = check_strength("l1_strength", l1_strength)

    def value(self, x):
        return self.l1_strength * ops.sum(absolute(x))

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

    def __init__(self, l1_strength: float = 1e-4, l2_strength: float = 1e-4) -> None:
        self.l1_strength = check_strength("l1_strength", l1_strength)
        self.l2_strength = check_strength("l2_strength", l2_strength)

    def value(self, x):
        l1 = self.l1_strength * ops.sum(absolute(x))
        return l1 + self.l2_strength * ops.sum(ops.square(x))

    def gradient(self, x):
        return self.l1_strength * ops.sign(x) + 2.0 * self.l2_strength * x

    def prox(self, x, step):
        shrunk = soft_threshold(x, step * self.l1_strength)
        return shrunk / (1.0 + 2.0 * step * self.l2_strength)

    def get_config(self):
        return {"l1_strength": self.l1_strength, "l2_strength": self.l2_strength}


@keras.saving.register_keras_serializable(package=PACKAGE)
class Concave(Penalty):
    """A concave penalty, `l1_strength · sum(φ(|x|))`, that lets go of large weights.

    `φ` has slope 1 at 0, so that it presses on small weights as `L1(l1_strength)` does,
    and bends at `scale`: a weight far above it is hardly shrunk any more. The wider the
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
        l1_strength: Float, 0 or more (the field's λ). Default 1e-4.
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

    def value(self, x):
        return self.l1_strength * ops.sum(self._shape.value(absolute(x)))

    def gradient(self, x):
        x = ops.convert_to_tensor(x)
        return self.l1_strength * (self._shape.slope(ops.abs(x)) * ops.sign(x))

    def prox(self, x, step):
        x = ops.convert_to_tensor(x)
        step = ops.convert_to_tensor(step, dtype=x.dtype)
        sizes = ops.abs(x)
        reduction = self._shape.reduction(sizes, step * self.l1_strength)
        # Chosen, not multiplied: no negative zeros. A NaN compares false and stays.
        return ops.where(reduction >= sizes, ops.zeros_like(x), x - ops.sign(x) * reduction)

    def get_config(self):
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
        l1_strength: Float, 0 or more (the field's λ). Default 1e-4.
        epsilon: Float above 0, in units of a weight: where factors are a half. Default 0.1.

    Raises:
        ValueError: If an argument is not one of the above.
    """

    def __init__(self, l1_strength: float = 1e-4, epsilon: float = 0.1) -> None:
        super().__init__(l1_strength, "log", epsilon)
        self.epsilon = self.scale

    def factors(self, x):
        """What each weight's strength is multiplied by after a refresh, from 0 to 1."""
        return self._shape.slope(ops.abs(ops.convert_to_tensor(x)))

    def prox(self, x, step):
        """That of `l1_strength · Σ|x|`: the factors are in the step, see `Proximal`."""
        return soft_threshold(x, step * self.l1_strength)

    def get_config(self):
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

    **Concave shapes.** With a `shape`, the first term is `Σ_g n_g · φ(‖w_g‖₂ / √n_g)`:
    the shape of the root mean square of the group's weights, so that `scale` is in units
    of one weight, as for `Concave`. It equals `√n_g · ψ(‖w_g‖₂)` with `ψ` the shape
    of scale `√n_g · scale`, whose own proximal operator shrinks the norm (group MCP:
    Breheny and Huang, Group descent algorithms for nonconvex penalized linear and
    logistic regression models with grouped predictors, 2015). The operators in sequence
    are exact for it too: of all `z` of one norm, the second term and the distance
    together are least along the soft-thresholded weights. The second term stays plain L1.

    **Array steps.** In a diagonal metric, as Adam's, the norm has no proximal operator
    in closed form. A group then takes one step, `1 / mean_g(1 / step)`, for Adam
    `η / mean_g(√v̂ + ε)`; the second term keeps its step for each weight. At rest
    the loss's gradient in a group that lives is `−l1_strength · (1 − l1_ratio) · √n_g
    · w / ‖w_g‖`, as it should be, but weight by weight times `(1 / step) /
    mean_g(1 / step)`: factors with mean 1, and all 1 for SGD. Under Adam that is not
    the minimum of the loss: `√v̂` follows the gradients' size, so that on a small
    group lasso the objective came to rest at 2.10 instead of 1.87. An exact operator
    (a scalar equation for each group, by Newton's method) reached 1.87, at some four
    times the cost of this one. On `configs/digits.yaml` with this penalty (seeds 0, 1,
    2) the mean and the root mean square of `√v̂` gave the same accuracy, 97.0% ± 1.2,
    with 13.5 and 14.0 thousand multiply-adds.

    Args:
        l1_strength: Float, 0 or more (the field's λ). Default 1e-4.
        l1_ratio: Float, 0 to 1: how much of it is plain L1. Default 0.0, the group
            lasso; 1.0 is `L1`.
        axis: Integer, or several, that number the groups, as NumPy counts axes.
            Default -1: one group an output filter of a convolution's kernel `(rows,
            cols, in, out)` or a dense one `(in, out)`. (-2, -1) for a depthwise one
            `(rows, cols, in, multiplier)`.
        shape: `"l1"` (default), `"transformed"`, `"mcp"` or `"log"`: see `Concave`.
        scale: Float above 0: the root mean square of a group at which the shape bends.
            Default 0.1; none for `"l1"`.

    Raises:
        ValueError: If an argument is not one of the above; on use, if the variable has
            no such axis.
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

    def _within(self, shape):
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

    def _norms(self, x):
        """The groups' norms, to broadcast to `x`, their strength, a float, and shape."""
        within, size = self._within(x.shape)
        norms = norm_from_squares(ops.sum(ops.square(x), axis=within, keepdims=True))
        strength = self.l1_strength * (1.0 - self.l1_ratio) * math.sqrt(size)
        return norms, strength, self._shape.stretched(math.sqrt(size))

    def value(self, x):
        x = ops.convert_to_tensor(x)
        norms, strength, shape = self._norms(x)
        l1 = self.l1_strength * self.l1_ratio * ops.sum(absolute(x))
        return strength * ops.sum(shape.value(norms)) + l1

    def gradient(self, x):
        x = ops.convert_to_tensor(x)
        norms, strength, shape = self._norms(x)
        directions = x / ops.where(ops.equal(norms, 0), ops.ones_like(norms), norms)
        l1 = self.l1_strength * self.l1_ratio * ops.sign(x)
        return strength * shape.slope(norms) * directions + l1

    def prox(self, x, step):
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

    def get_config(self):
        return {
            "l1_strength": self.l1_strength,
            "l1_ratio": self.l1_ratio,
            # Keras restores no tuples within a regularizer's config.
            "axis": list(self.axis) if isinstance(self.axis, tuple) else self.axis,
            "shape": self.shape,
            "scale": self.scale,
        }


# What `attach` has decided about in this process, with a penalty or without, and the
# kernels that were frozen then; by id, for a Keras variable has no hash.
_decided: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_frozen: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
# Optimizers of ours that are built: they must learn of penalties that change.
built_optimizers: weakref.WeakSet = weakref.WeakSet()


def attach(
    model: keras.Model,
    penalty: Penalty | Callable[[Any], Penalty | None] | None,
    kernels_only: bool = True,
) -> list[str]:
    """Put a penalty on the weights of a model that exists already.

    It sets `variable.regularizer`, not the layers' settings. A regularizer of your own
    on the same weights, such as L2, stays beside the penalty; an L1 of Keras is
    replaced. It takes effect at once, also on a model that is being trained already.

    **Saving.** A model that is compiled with `Proximal` or `HoldZeros` is saved with its
    penalties, and `keras.models.load_model` puts them back if `cnn_l1` is imported.
    Where `cnn_l1` is not installed, load it with `compile=False`; an uncompiled model
    is a plain Keras model.

    Args:
        model: A built `keras.Model`.
        penalty: A `Penalty`; or `None`, which takes our penalties off again; or
            a function of a `keras.Variable` that returns either.
        kernels_only: Leave biases and batch-norm alone. Default `True`.

    Returns:
        The list of paths of the variables that now carry a penalty.

    Raises:
        ValueError: If the model is not built, or `penalty` or what it returns is not
            one of the above; nothing is changed then.

    Example:
        >>> cnn_l1.attach(model, cnn_l1.L1(1e-3))
        >>> model.compile(cnn_l1.Proximal(keras.optimizers.Adam()), "mse")
    """
    chosen = _choose(model, penalty, kernels_only)
    if penalty is not None and not chosen and not callable_of_users(penalty):
        kinds = sorted({type(layer).__name__ for layer in model._flatten_layers(False)})
        misuse.warn(
            f"`attach` expected a model with trainable kernels. Received: {model.name!r} of "
            f"{', '.join(kinds)}, without: no penalty was put on it"
        )
    unknown = unknown_weights(model) if isinstance(penalty, Penalty) and kernels_only else ()
    if unknown:
        misuse.warn(
            f"`attach` leaves out weights of layers of unknown kind: {', '.join(unknown)}. "
            "`cnn_l1.register_layer_kind` says which of them are kernels; or give a function "
            "of the variable, with kernels_only=False"
        )
    for variable, value in chosen:
        place(variable, value)
    decided(model)
    return [variable.path for variable, value in chosen if value is not None]


def _choose(model, penalty, kernels_only):
    """`(variable, penalty)` pairs, all checked."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            "`attach` expects a built model. Received one without weights: "
            f"{model.name!r}. Call it on a batch first."
        )
    is_function = callable_of_users(penalty)
    if not is_function:
        check_penalty("penalty", penalty)
    pairs = []
    for variable in model.trainable_variables:
        value = penalty
        if is_function:
            value = penalty(variable)
            check_penalty(f"penalty({variable.path!r})", value)
        if value is not None and kernels_only and not is_kernel(variable):
            continue
        if value is None and not isinstance(variable.regularizer, Penalty):
            continue  # a regularizer of the user's own stays
        pairs.append((variable, value))
    return pairs


def callable_of_users(penalty: Any) -> bool:
    """Whether `penalty` is a function that chooses penalties, and none itself."""
    kinds = (keras.regularizers.Regularizer, type)
    return callable(penalty) and not isinstance(penalty, kinds)


def check_penalty(name: str, penalty: Any) -> None:
    """Raise unless a value is a `Penalty` or `None`."""
    if penalty is not None and not isinstance(penalty, Penalty):
        what = f"{penalty!r}"
        if isinstance(penalty, keras.regularizers.Regularizer):
            what = f"{type(penalty).__module__}.{type(penalty).__name__}, which is Keras' own"
        elif isinstance(penalty, type):
            what = f"the class {penalty.__name__}, not an instance of it"
        raise ValueError(
            f"`{name}` must be a cnn_l1 penalty, e.g. cnn_l1.L1(1e-3), or None. Received: {what}"
        )


def place(variable: Any, penalty: Penalty | None) -> None:
    """Put a penalty on a variable, beside a regularizer of the user's own if there is one."""
    own = users_regularizer(variable)
    if penalty is None:
        variable.regularizer = own
        return
    if penalty.beside is not own:
        penalty = copy.copy(penalty)
        penalty.beside = own
    variable.regularizer = penalty


def users_regularizer(variable: Any) -> Any:
    """What of a variable's regularizer stays beside a penalty; Keras' L1 does not."""
    regularizer = variable.regularizer
    if isinstance(regularizer, Penalty):
        return regularizer.beside
    l1, l2 = keras_strengths(regularizer)
    if not l1:
        return regularizer
    misuse.warn(
        f"The penalty takes the place of Keras' own L1 regularizer on {variable.path!r} "
        f"(l1={l1:g}); expected one of the two. Remove kernel_regularizer from the layer"
    )
    return keras.regularizers.L2(l2) if l2 else None


def keras_strengths(regularizer: Any) -> tuple[float, float]:
    """The strengths of L1 and L2 in one of Keras' own regularizers, 0 for others."""
    kinds = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    if not isinstance(regularizer, kinds):
        return 0.0, 0.0
    return tuple(float(getattr(regularizer, name, 0.0)) for name in ("l1", "l2"))  # type: ignore


def decided(model: keras.Model) -> None:
    """Note that the penalties of a model were chosen, and tell the optimizers."""
    for variable in model.trainable_variables:
        _decided[id(variable)] = variable
        _frozen.pop(id(variable), None)
    for variable in model.non_trainable_variables:
        if is_kernel(variable):
            _frozen[id(variable)] = variable
    tell_optimizers(model)


def tell_optimizers(model: keras.Model) -> None:
    """Make the optimizers that train a model's variables read its penalties again."""
    ids = {id(variable) for variable in model.trainable_variables}
    for optimizer in list(built_optimizers):
        if any(id(variable) in ids for variable in optimizer._trainable_variables):
            optimizer.penalties_changed(model)


def is_decided(variable: Any) -> bool:
    """Whether `attach` has seen a variable in this process, trainable."""
    return _decided.get(id(variable)) is variable


def was_frozen(variable: Any) -> bool:
    """Whether a kernel was frozen when `attach` was called last."""
    return _frozen.get(id(variable)) is variable


def detach(model: keras.Model) -> None:
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
    tell_optimizers(model)
