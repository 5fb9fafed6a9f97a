"""Penalties: values, gradients and proximal operators against their definitions."""

import json
import warnings

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from cnn_l1.sparsity.optimizers import Proximal
from cnn_l1.sparsity.penalties import (
    L1,
    L1L2,
    Concave,
    GroupL1,
    Penalty,
    ReweightedL1,
    attach,
    detach,
    is_kernel,
    soft_threshold,
)
from cnn_l1.sparsity.proximal_operators import block_soft_threshold
from cnn_l1.sparsity.shapes import make_shape

X = np.array([-2.5, -0.75, -0.5, -0.25, 0.0, 0.125, 0.5, 0.75, 3.0])


def as_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def closed_form(x, threshold):
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_soft_threshold_is_the_closed_form(dtype):
    x = X.astype(dtype)
    got = as_numpy(soft_threshold(x, 0.5))
    # Equal to the bit: the inputs are dyadic, so the one subtraction is exact.
    np.testing.assert_array_equal(got, closed_form(x, 0.5))
    assert got.dtype == dtype
    assert got.shape == x.shape


def test_soft_threshold_takes_an_array_of_thresholds():
    threshold = np.array([0.0, 0.5, 0.5, 1.0, 1.0, 0.125, 0.25, 1.0, 2.0])
    got = as_numpy(soft_threshold(X, threshold))
    np.testing.assert_array_equal(got, closed_form(X, threshold))


def test_soft_threshold_keeps_float64_precision():
    # A Python threshold once went through float32: 0.1 was then off by 1.5e-9.
    assert as_numpy(soft_threshold(np.array([1.0]), 0.1))[0] == 1.0 - 0.1
    # And a tensor of another dtype takes the dtype of x.
    assert as_numpy(soft_threshold(X.astype("float32"), tf.constant(0.5, "float64"))).dtype == "f4"


def test_soft_threshold_makes_exact_positive_zeros():
    x = np.linspace(-1.0, 1.0, 401, dtype="float32")
    got = as_numpy(soft_threshold(x, np.float32(0.3)))
    inside = np.abs(x) <= np.float32(0.3)
    assert np.all(got[inside] == 0.0)
    assert not np.signbit(got[inside]).any()
    assert np.all(got[~inside] != 0.0)


def test_soft_threshold_at_threshold_zero_changes_nothing():
    np.testing.assert_array_equal(as_numpy(soft_threshold(X, 0.0)), X)


def test_soft_threshold_keeps_nan():
    assert np.isnan(as_numpy(soft_threshold(np.array([np.nan]), 1.0))[0])


@pytest.mark.parametrize("penalty", [L1(0.4), L1L2(0.4, 0.3)], ids=["L1", "L1L2"])
@pytest.mark.parametrize(
    "step", [0.5, np.array([0.1, 0.5, 1.0, 2.0, 0.3, 0.3, 2.0, 0.7, 1.5])], ids=["scalar", "array"]
)
def test_prox_minimises_its_objective(penalty, step):
    """prox(x) = argmin_z penalty(z) + (z - x)² / (2 step), by brute force on a grid."""
    got = as_numpy(penalty.prox(tf.constant(X), tf.constant(step, "float64")))
    spacing = 1e-4
    # Through integers, so that the grid holds 0 exactly.
    grid = np.arange(-35000, 35001) * spacing
    l2 = getattr(penalty, "l2_strength", 0.0)
    for x, s, z in zip(X, np.broadcast_to(step, X.shape), got, strict=True):
        objective = penalty.l1_strength * np.abs(grid) + l2 * grid**2 + (grid - x) ** 2 / (2 * s)
        best = grid[np.argmin(objective)]
        # The grid's best point lies within one spacing of the true minimiser.
        assert abs(z - best) <= spacing
        assert (z == 0.0) == (best == 0.0)


def test_l1l2_prox_closed_form():
    got = as_numpy(L1L2(0.4, 0.3).prox(tf.constant(X), tf.constant(0.5, "float64")))
    # float64 rounding of one division.
    np.testing.assert_allclose(got, closed_form(X, 0.2) / 1.3, rtol=1e-14)


@pytest.mark.parametrize("penalty", [L1(0.4), L1L2(0.4, 0.3)], ids=["L1", "L1L2"])
def test_gradient_is_autodiff_of_the_value(penalty):
    x = tf.Variable(X)
    with tf.GradientTape() as tape:
        value = penalty(x)
    # The same float64 products in another order: rounding only.
    np.testing.assert_allclose(penalty.gradient(x), tape.gradient(value, x), rtol=1e-14)
    assert as_numpy(penalty.gradient(x))[X == 0.0] == 0.0


def test_values_are_keras_own():
    x = X.astype("float32")
    # float32 sums of nine values.
    np.testing.assert_allclose(L1(0.1)(x), keras.regularizers.L1(0.1)(x), rtol=1e-6)
    np.testing.assert_allclose(L1L2(0.1, 0.2)(x), keras.regularizers.L1L2(0.1, 0.2)(x), rtol=1e-6)


@pytest.mark.parametrize(
    "penalty",
    [
        L1(0.25),
        L1L2(0.25, 0.5),
        Concave(0.25, "mcp", 0.5),
        Concave(0.25, "log"),
        Concave(0.25, "l1"),
        ReweightedL1(0.25, 0.5),
        GroupL1(0.25, 0.5, axis=0),
        GroupL1(axis=(-2, -1)),
        GroupL1(0.25, shape="mcp", scale=0.5),
    ],
    ids=lambda penalty: f"{type(penalty).__name__} {list(penalty.get_config().values())}",
)
def test_config_round_trip(penalty):
    config = json.loads(json.dumps(keras.regularizers.serialize(penalty)))
    again = keras.regularizers.deserialize(config)
    assert type(again) is type(penalty)
    assert again.get_config() == penalty.get_config()


@pytest.mark.parametrize("bad", [-1e-9, float("nan"), float("inf"), True, "0.1", None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: L1(v), "l1_strength"),
        (lambda v: L1L2(v, 0.1), "l1_strength"),
        (lambda v: L1L2(0.1, v), "l2_strength"),
        (lambda v: Concave(v), "l1_strength"),
        (lambda v: GroupL1(v), "l1_strength"),
    ],
)
def test_bad_strengths_are_named(make, name, bad):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number, 0 or more") as error:
        make(bad)
    assert f"{name}={bad!r}" in str(error.value)


def test_strength_zero_and_integers_are_allowed():
    assert L1(0).l1_strength == 0.0
    assert isinstance(L1(1).l1_strength, float)


def test_base_class_names_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"Penalty.prox"):
        Penalty().prox(X, 1.0)
    with pytest.raises(NotImplementedError, match=r"Penalty.gradient"):
        Penalty().gradient(X)


# --- Concave shapes: the shapes themselves are in test_shapes.py --------------------

CONCAVE = pytest.mark.parametrize("shape", ["transformed", "mcp", "log"])


@CONCAVE
@pytest.mark.parametrize("step", [0.2, 3.0, "array"])
def test_concave_prox_minimises_its_objective(shape, step):
    """argmin_z penalty(z) + (z - x)² / (2 step), by brute force, for either sign."""
    penalty = Concave(0.4, shape, 0.5)
    step = np.array([0.1, 0.5, 1.0, 4.0, 0.3, 0.3, 2.0, 0.7, 9.0]) if step == "array" else step
    got = as_numpy(penalty.prox(tf.constant(X), tf.constant(step, "float64")))
    grid = np.arange(-35000, 35001) * 1e-4
    values = 0.4 * as_numpy(make_shape(shape, 0.5).value(tf.constant(np.abs(grid))))
    for x, s, z in zip(X, np.broadcast_to(step, X.shape), got, strict=True):
        best = grid[np.argmin(values + (grid - x) ** 2 / (2 * s))]
        assert abs(z - best) <= 1e-4
        assert (z == 0.0) == (best == 0.0)
    assert (got == 0.0).any()
    assert (got < 0.0).any()
    assert not np.signbit(got[got == 0.0]).any()
    assert float(penalty(tf.constant(grid))) == pytest.approx(values.sum(), rel=1e-12)


@CONCAVE
def test_concave_gradient_is_autodiff_of_the_value(shape):
    penalty, x = Concave(0.4, shape, 0.5), tf.Variable(X)
    with tf.GradientTape() as tape:
        value = penalty(x)
    np.testing.assert_allclose(penalty.gradient(x), tape.gradient(value, x), rtol=1e-13, atol=1e-16)
    assert as_numpy(penalty.gradient(x))[X == 0.0] == 0.0


@CONCAVE
def test_concave_prox_makes_positive_zeros_when_compiled_and_keeps_nan(shape):
    penalty = Concave(0.4, shape, 0.5)
    x = np.linspace(-1.0, 1.0, 401, dtype="float32")
    for jit_compile in (False, True):
        got = tf.function(penalty.prox, jit_compile=jit_compile)(x, np.float32(0.5)).numpy()
        assert not np.signbit(got[got == 0.0]).any()
        np.testing.assert_array_equal(got == 0.0, np.abs(x) <= np.float32(0.2))
        np.testing.assert_array_equal(got, -got[::-1])
    assert np.isnan(penalty.prox(np.array([np.nan], "float32"), 1.0)[0])


def test_concave_l1_is_l1():
    x, step = tf.constant(X), tf.constant(0.5, "float64")
    plain, shaped = L1(0.4), Concave(0.4, "l1")
    assert float(shaped(x)) == float(plain(x))
    np.testing.assert_array_equal(shaped.gradient(x), plain.gradient(x))
    np.testing.assert_array_equal(shaped.prox(x, step), plain.prox(x, step))


def test_concave_settings_are_checked():
    with pytest.raises(ValueError, match="`shape` must be one of"):
        Concave(0.1, "scad")
    with pytest.raises(ValueError, match=r"`scale` must be a finite number above 0.*scale=0"):
        Concave(0.1, "mcp", 0)
    assert Concave(0.1, "mcp").scale == 0.1


def test_reweighted_l1_is_above_the_log_sum_and_touches_it_at_the_weights():
    penalty, log, x = ReweightedL1(0.4, 0.5), Concave(0.4, "log", 0.5), tf.constant(X)
    assert float(penalty(x)) == float(log(x))
    np.testing.assert_array_equal(penalty.gradient(x), log.gradient(x))
    factors = as_numpy(penalty.factors(x))
    np.testing.assert_allclose(factors, 0.5 / (0.5 + np.abs(X)), rtol=1e-15)
    np.testing.assert_allclose(penalty.gradient(x), 0.4 * factors * np.sign(X), rtol=1e-15)

    def majoriser(z):
        return float(log(x)) + 0.4 * np.sum(factors * (np.abs(z) - np.abs(X)))

    for z in (0 * X, 0.5 * X, X, 3.0 * X, X[::-1]):
        assert majoriser(z) >= float(log(tf.constant(z))) - 1e-14
    np.testing.assert_array_equal(penalty.prox(x, 0.5), closed_form(X, 0.5 * 0.4))


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.slow), "adam"])
@pytest.mark.parametrize(
    "shape",
    ["l1", *(pytest.param(s, marks=pytest.mark.slow) for s in ("mcp", "transformed", "log"))],
)
def test_training_ends_in_exact_zeros_and_less_bias(shape, optimizer):
    """Two of six features count: the others' weights are zero, and theirs less shrunk."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(256, 6)).astype("float32")
    true = np.array([1.5, 0.0, 0.0, -0.8, 0.0, 0.0], "float32")
    layer = keras.layers.Dense(
        1,
        use_bias=False,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.1, seed=1),
        kernel_regularizer=Concave(0.3, shape, None if shape == "l1" else 0.3),
    )
    model = keras.Sequential([keras.Input((6,)), layer])
    inner = {"sgd": keras.optimizers.SGD(0.1), "adam": keras.optimizers.Adam(0.02)}[optimizer]
    model.compile(Proximal(inner), "mse")
    many = np.tile(inputs, (200, 1))  # a batch is all of the data: 200 steps in one epoch
    model.fit(many, many @ true[:, None], 256, shuffle=False, verbose=0)
    got = model.get_weights()[0][:, 0]
    np.testing.assert_array_equal(got != 0.0, true != 0.0)
    if shape == "l1":
        # At the minimum 2 (w − w*) E[x²] = ∓0.3; sampled covariances.
        np.testing.assert_allclose(got[[0, 3]], [1.35, -0.65], atol=0.05)
    else:
        # Their slope is at most a half there.
        np.testing.assert_allclose(got[[0, 3]], [1.5, -0.8], atol=0.08)


# --- Groups ---------------------------------------------------------------------

STRENGTH, STEP = 0.3, 0.5


def kernel():
    """(2, 2, 3, 5) float64; filter 0 is zero, filter 4 tiny, and one weight of 1 is zero."""
    x = np.random.default_rng(5).normal(size=(2, 2, 3, 5)) * [0.0, 0.5, 1.0, 2.0, 1e-3]
    x[0, 0, 0, 1] = 0.0
    return x


def rows_of(x, axis):
    """The groups, one a row."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    front = np.moveaxis(x, axes, range(len(axes)))
    return front.reshape(np.prod(front.shape[: len(axes)]), -1)


def group_value(x, ratio, axis, strength=STRENGTH):
    rows = rows_of(x, axis)
    norms = np.sqrt(rows.shape[1]) * np.linalg.norm(rows, axis=1).sum()
    return strength * ((1 - ratio) * norms + ratio * np.abs(x).sum())


AXES = pytest.mark.parametrize("axis", [-1, 2, (-2, -1), (0, 3)])
RATIOS = pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])


@AXES
@RATIOS
def test_group_value_is_the_formula(ratio, axis):
    got = GroupL1(STRENGTH, ratio, axis)(kernel())
    np.testing.assert_allclose(float(got), group_value(kernel(), ratio, axis), rtol=1e-14)


@AXES
@RATIOS
def test_group_gradient_is_autodiff_of_the_value_and_no_nan(ratio, axis):
    penalty, x = GroupL1(STRENGTH, ratio, axis), tf.Variable(kernel())
    with tf.GradientTape() as tape:
        value = penalty(x)
    automatic = tape.gradient(value, x).numpy()
    np.testing.assert_allclose(penalty.gradient(x), automatic, rtol=1e-13)
    if axis == -1:
        np.testing.assert_array_equal(automatic[..., 0], 0.0)  # a group of zeros

    def numeric(position):
        shifted = np.zeros_like(automatic)
        shifted[position] = 1e-6
        ends = [group_value(kernel() + sign * shifted, ratio, axis) for sign in (1, -1)]
        return (ends[0] - ends[1]) / 2e-6

    # Central differences: errors of 1e-10 from rounding, 1e-12 from the third derivative.
    for position in [(0, 1, 2, 1), (1, 1, 0, 2), (1, 0, 2, 3)]:
        assert automatic[position] == pytest.approx(numeric(position), abs=1e-8)


def closed_group_form(x, step, ratio, strength=STRENGTH):
    """The sparse-group prox of one group, by Simon et al., for a scalar step."""
    x = closed_form(x, step * strength * ratio)
    threshold = step * strength * (1 - ratio) * np.sqrt(x.size)
    return max(1 - threshold / np.linalg.norm(x), 0.0) * x if x.any() else x


@AXES
@RATIOS
def test_group_prox_closed_form(ratio, axis):
    x = kernel()
    got = as_numpy(GroupL1(STRENGTH, ratio, axis).prox(tf.constant(x), STEP))
    expected = [closed_group_form(row, STEP, ratio) for row in rows_of(x, axis)]
    # float64: a root, a division and a product.
    np.testing.assert_allclose(rows_of(got, axis), expected, rtol=1e-13, atol=1e-15)
    assert 0 < np.count_nonzero(got) < got.size


def generic_prox(x, step, ratio, strength=STRENGTH):
    """One group's prox by a general solver: its dual has no kink at 0.

    `z = x − step·(v + q)` with the `‖v‖ <= λ(1−r)√n`, `|q| <= λr` that make z shortest.
    """
    radius, bound, n = strength * (1 - ratio) * np.sqrt(x.size), strength * ratio, x.size

    def squared(u):
        return np.sum((x / step - u[:n] - u[n:]) ** 2)

    def gradient(u):
        return np.tile(-2.0 * (x / step - u[:n] - u[n:]), 2)

    ball = {
        "type": "ineq",
        "fun": lambda u: radius**2 - u[:n] @ u[:n],
        "jac": lambda u: np.concatenate([-2.0 * u[:n], np.zeros(n)]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on values clipped to their bounds
        found = scipy.optimize.minimize(
            squared,
            np.full(2 * n, 1e-3),
            jac=gradient,
            method="SLSQP",
            bounds=[(-radius, radius)] * n + [(-bound, bound)] * n,
            constraints=[ball],
            options={"ftol": 1e-14, "maxiter": 500},
        )
    return x - step * (found.x[:n] + found.x[n:])


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.6])
def test_group_prox_is_the_minimiser_that_a_general_solver_finds(ratio):
    x = np.random.default_rng(8).normal(size=(4, 6)) * [0.1, 0.3, 0.5, 0.7, 1.0, 2.0]
    got = as_numpy(GroupL1(STRENGTH, ratio).prox(tf.constant(x), STEP))
    # SLSQP's own accuracy on the dual.
    expected = np.stack([generic_prox(column, STEP, ratio) for column in x.T], axis=1)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    dead = ~got.any(axis=0)
    assert 0 < dead.sum() < 6
    np.testing.assert_array_equal(np.abs(expected).max(axis=0) < 2e-5, dead)


@RATIOS
@pytest.mark.parametrize("axis", [-1, (-2, -1)])
def test_no_neighbour_of_the_group_prox_is_better(ratio, axis):
    x, rng = kernel(), np.random.default_rng(9)
    best = as_numpy(GroupL1(STRENGTH, ratio, axis).prox(tf.constant(x), STEP))

    def objective(z):
        return group_value(z, ratio, axis) + np.sum((z - x) ** 2) / (2 * STEP)

    lowest = objective(best)
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(50):
            direction = rng.normal(size=x.shape)
            # The objective is strongly convex: it rises by at least size² / (2 step).
            rise = objective(best + size * direction) - lowest
            assert rise >= 0.999 * size**2 * np.sum(direction**2) / (2 * STEP)


def test_group_prox_with_a_step_for_each_weight():
    """Each weight's L1 by its own step, each group's norm by 1 / mean(1 / step)."""
    x, ratio = kernel(), 0.25
    steps = np.random.default_rng(6).uniform(0.1, 1.0, size=x.shape)
    got = as_numpy(GroupL1(STRENGTH, ratio).prox(tf.constant(x), tf.constant(steps)))
    shrunk = rows_of(closed_form(x, steps * STRENGTH * ratio), -1)
    step = 1.0 / np.mean(1.0 / rows_of(steps, -1), axis=1)
    threshold = step * STRENGTH * (1 - ratio) * np.sqrt(12)
    norms = np.maximum(np.linalg.norm(shrunk, axis=1), 1e-30)
    expected = np.maximum(1 - threshold / norms, 0.0)[:, None] * shrunk
    np.testing.assert_allclose(rows_of(got, -1), expected, rtol=1e-13, atol=1e-15)
    # A broadcast scalar is the scalar, and so is a step of 0, which changes nothing.
    for scalar in (0.5, 0.0):
        same = GroupL1(STRENGTH, ratio).prox(tf.constant(x), tf.fill(x.shape, np.float64(scalar)))
        alone = GroupL1(STRENGTH, ratio).prox(tf.constant(x), scalar)
        np.testing.assert_allclose(same, alone, rtol=1e-13, atol=1e-16)
    np.testing.assert_array_equal(alone, x)


def test_where_a_step_for_each_weight_stands_still():
    """As the docstring says: the norm's pull, weight by weight times factors with mean 1."""
    x = 1.0 + np.abs(kernel())
    steps = np.random.default_rng(6).uniform(0.1, 1.0, size=x.shape)
    pull = STRENGTH * np.sqrt(12) * x / np.linalg.norm(x.reshape(12, 5), axis=0)
    factors = (1 / steps) / np.mean(1 / steps, axis=(0, 1, 2))
    moved = GroupL1(STRENGTH).prox(tf.constant(x + steps * pull * factors), tf.constant(steps))
    np.testing.assert_allclose(moved, x, rtol=1e-13)  # float64


def test_killed_groups_are_exact_positive_zeros():
    x = kernel().astype("float32")
    got = as_numpy(GroupL1(STRENGTH).prox(x, np.float32(STEP)))
    dead = np.linalg.norm(x.reshape(12, 5), axis=0) <= STEP * STRENGTH * np.sqrt(12)
    np.testing.assert_array_equal(dead, [True, False, False, False, True])
    np.testing.assert_array_equal((got == 0.0).all(axis=(0, 1, 2)), dead)
    assert not np.signbit(got[..., dead]).any()
    # The weight that was zero in a group that lives is the only other zero.
    assert np.count_nonzero(got == 0.0) == 12 * 2 + 1


def test_block_soft_threshold_at_its_edges():
    x, norm = np.array([[-3.0, 4.0]]), np.array([[5.0]])
    at_the_edge = as_numpy(block_soft_threshold(x, norm, np.array([[5.0]])))
    np.testing.assert_array_equal(at_the_edge, [[0.0, 0.0]])
    assert not np.signbit(at_the_edge).any()
    np.testing.assert_array_equal(block_soft_threshold(x, norm, np.array([[0.0]])), x)
    np.testing.assert_allclose(block_soft_threshold(x, norm, np.array([[2.5]])), x / 2, rtol=1e-15)
    zeros = np.zeros((1, 2))
    np.testing.assert_array_equal(block_soft_threshold(zeros, norm * 0, norm * 0), zeros)


def test_group_prox_keeps_nan():
    x = np.array([[np.nan, 1.0], [1.0, 1.0]])
    got = as_numpy(GroupL1(0.1).prox(tf.constant(x), 1.0))
    assert np.isnan(got[:, 0]).all()
    assert np.isfinite(got[:, 1]).all()


def test_a_ratio_of_one_and_groups_of_one_are_plain_l1():
    x = tf.constant(kernel())
    np.testing.assert_array_equal(GroupL1(0.4, 1.0).prox(x, 0.5), L1(0.4).prox(x, 0.5))
    vector, plain = GroupL1(0.4, 0.25), L1(0.4)
    np.testing.assert_allclose(float(vector(X)), float(plain(X)), rtol=1e-14)
    np.testing.assert_allclose(vector.gradient(X), plain.gradient(X), rtol=1e-14)
    steps = np.linspace(0.1, 1.0, X.size)
    for step in (0.5, tf.constant(steps)):
        prox = [as_numpy(penalty.prox(tf.constant(X), step)) for penalty in (vector, plain)]
        np.testing.assert_allclose(*prox, rtol=1e-13, atol=1e-16)


def shaped_value(x, ratio, shape, scale, strength=STRENGTH):
    """The sparse-group penalty of `(n, groups)` weights, by its formula."""
    n = x.shape[0]
    sizes = as_numpy(make_shape(shape, scale).value(tf.constant(np.sqrt(np.mean(x**2, axis=0)))))
    return strength * ((1 - ratio) * n * sizes + ratio * np.abs(x).sum(axis=0))


@CONCAVE
@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_concave_group_value_and_gradient(shape, ratio):
    penalty, x = GroupL1(STRENGTH, ratio, shape=shape, scale=0.4), tf.Variable(kernel())
    with tf.GradientTape() as tape:
        value = penalty(x)
    expected = shaped_value(kernel().reshape(12, 5), ratio, shape, 0.4).sum()
    np.testing.assert_allclose(float(value), expected, rtol=1e-13)
    automatic = tape.gradient(value, x).numpy()
    np.testing.assert_allclose(penalty.gradient(x), automatic, rtol=1e-12, atol=1e-15)
    assert np.isfinite(automatic).all()


@CONCAVE
@pytest.mark.parametrize("ratio", [0.0, 0.25])
@pytest.mark.parametrize("step", [0.3, 0.9, 6.0])
def test_concave_group_prox_is_better_than_every_point_of_a_grid(shape, ratio, step):
    """Groups of two weights, so that a grid holds all there is; also far from convex."""
    scale = 0.3
    x = np.array([[0.0, 0.07, -0.2, 0.5, 0.31, -1.1, 2.0], [0.0, 0.05, 0.1, -0.4, 0.0, 0.9, -1.5]])
    penalty = GroupL1(STRENGTH, ratio, shape=shape, scale=scale)
    got = as_numpy(penalty.prox(tf.constant(x), step))

    def objective(z, x):
        distances = np.sum((z - x[:, None]) ** 2, axis=0) / (2 * step)
        return shaped_value(z, ratio, shape, scale) + distances

    axis = np.arange(-250, 251) * 0.01
    grid = np.stack(np.meshgrid(axis, axis)).reshape(2, -1)
    for column, z in zip(x.T, got.T, strict=True):
        costs = objective(grid, column)
        best = grid[:, np.argmin(costs)]
        assert objective(z[:, None], column)[0] <= costs.min() + 1e-15
        np.testing.assert_allclose(z, best, atol=0.02)  # the grid is flat around its best
        assert z.any() == best.any()
    assert not got[:, 0].any()
    assert got[:, -1].all()
    assert not np.signbit(got[got == 0.0]).any()


@CONCAVE
def test_concave_groups_of_one_are_single_weights(shape):
    x = tf.constant(X)
    group, single = GroupL1(0.4, shape=shape, scale=0.5), Concave(0.4, shape, 0.5)
    np.testing.assert_allclose(float(group(x)), float(single(x)), rtol=1e-14)
    for step in (0.2, 3.0, tf.constant(np.linspace(0.1, 9.0, X.size))):
        np.testing.assert_allclose(group.prox(x, step), single.prox(x, step), rtol=1e-12)
    np.testing.assert_array_equal(group.prox(x, 0.0), X)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_bad_ratios_are_named(bad):
    with pytest.raises(ValueError, match="`l1_ratio` must be a number from 0 to 1") as error:
        GroupL1(0.1, bad)
    assert f"l1_ratio={bad!r}" in str(error.value)


@pytest.mark.parametrize("bad", [1.0, "0", (), (0, 0), (0, None), True, None])
def test_bad_axes_are_named(bad):
    with pytest.raises(ValueError, match="`axis` must be an integer, or several that") as error:
        GroupL1(0.1, axis=bad)
    assert f"axis={bad!r}" in str(error.value)


@pytest.mark.parametrize(("axis", "shape"), [(2, (3, 4)), (-2, (3,)), ((0, -2), (3, 4))])
@pytest.mark.parametrize("use", ["value", "gradient", "prox"])
def test_axes_that_a_variable_does_not_have(axis, shape, use):
    arguments = (1.0,) if use == "prox" else ()
    with pytest.raises(ValueError, match="expects variables that have the axes") as error:
        getattr(GroupL1(0.1, axis=axis), use)(tf.zeros(shape), *arguments)
    assert f"the axes {axis}, each once. Received: shape={shape}" in str(error.value)


def small_model(**first):
    return keras.Sequential(
        [
            keras.layers.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3, name="conv", **first),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(3, name="dense"),
        ],
        name="small",
    )


def short(path):
    return path.removeprefix("small/")


def carrying(model):
    return [short(v.path) for v in model.trainable_variables if isinstance(v.regularizer, Penalty)]


def test_attach_takes_kernels_and_leaves_the_rest():
    model = small_model()
    penalty = L1(0.1)
    attached = attach(model, penalty)
    assert [short(path) for path in attached] == ["conv/kernel", "dense/kernel"]
    assert carrying(model) == ["conv/kernel", "dense/kernel"]
    # In the loss at once, as any regularizer.
    expected = sum(float(penalty(v)) for v in model.trainable_variables if is_kernel(v))
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-6)  # float32 sum


def test_attach_everywhere():
    model = small_model()
    assert attach(model, L1(0.1), kernels_only=False) == [v.path for v in model.trainable_variables]


def test_attach_none_removes_ours_only():
    model = small_model(kernel_regularizer=keras.regularizers.L2(0.5))
    kernel, dense = model.get_layer("conv").kernel, model.get_layer("dense").kernel
    attach(model, lambda v: L1(0.1) if v is dense else None)
    assert isinstance(dense.regularizer, L1)
    assert isinstance(kernel.regularizer, keras.regularizers.L2)  # None of the function, too
    assert attach(model, None) == []
    assert carrying(model) == []
    assert dense.regularizer is None
    assert isinstance(kernel.regularizer, keras.regularizers.L2)


def test_attach_none_removes_from_biases_too():
    model = small_model()
    attach(model, L1(0.1), kernels_only=False)
    attach(model, None)
    assert carrying(model) == []


def test_attach_function_chooses_the_strength():
    model = small_model()
    attach(model, lambda v: L1(0.5 if "dense" in v.path else 0.25))
    assert model.get_layer("conv").kernel.regularizer.l1_strength == 0.25
    assert model.get_layer("dense").kernel.regularizer.l1_strength == 0.5


def test_attach_leaves_the_layers_settings_plain():
    model = small_model()
    attach(model, L1(0.1))
    assert model.get_layer("conv").get_config()["kernel_regularizer"] is None
    assert "cnn_l1" not in model.to_json()


def test_attach_needs_a_built_model():
    model = keras.Sequential([keras.layers.Dense(2)], name="unbuilt")
    with pytest.raises(ValueError, match=r"expects a built model.*'unbuilt'"):
        attach(model, L1(0.1))


def test_is_kernel():
    names = {short(v.path): is_kernel(v) for v in small_model().trainable_variables}
    assert names == {
        "conv/kernel": True,
        "conv/bias": False,
        "norm/gamma": False,
        "norm/beta": False,
        "dense/kernel": True,
        "dense/bias": False,
    }
    # A bias with two axes is still a bias (EinsumDense has them).
    assert not is_kernel(keras.Variable(np.zeros((2, 2)), name="bias"))


def test_detach_takes_the_gradient_out_and_leaves_the_value():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    shared = L1L2(0.5, 0.25)
    attach(model, shared)
    kernel = model.trainable_variables[0]
    before = float(kernel.regularizer(kernel))
    detach(model)
    with tf.GradientTape() as tape:
        value = sum(model.losses)
    assert float(value) == before
    assert tape.gradient(value, kernel.value) is None
    assert shared.in_gradient
