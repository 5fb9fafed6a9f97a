"""Shapes of penalties: values, slopes and proximal operators against their definitions."""

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from cnn_l1.sparsity.shapes import SHAPES, make_shape

# What each shape is, in NumPy.
PHI = {
    "l1": lambda m, a: m,
    "transformed": lambda m, a: a * m / (a + m),
    "mcp": lambda m, a: np.where(m <= a, m - m**2 / (2 * a), a / 2),
    "log": lambda m, a: a * np.log(1 + m / a),
}
CONCAVE = pytest.mark.parametrize("name", ["transformed", "mcp", "log"])
SCALES = pytest.mark.parametrize("scale", [0.01, 0.3, 2.0])
# Steps times strengths, in scales: convex, at the change to non-convex, and far beyond.
STEPS = (1e-4, 0.03, 0.3, 0.499, 0.5, 0.51, 0.9, 1.0, 1.05, 1.5, 3.0, 40.0)
MAGNITUDES = (0.0, 1e-3, 0.04, 0.31, 0.52, 0.77, 0.97, 1.03, 1.4, 1.9, 2.7, 4.3, 11.0, 300.0)


def as_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def shrink(name, m, t, scale=None, dtype="float64"):
    shape = make_shape(name, scale)
    return as_numpy(shape.shrink(np.asarray(m, dtype), np.asarray(t, dtype)))


def objective(name, z, m, t, scale):
    return t * PHI[name](z, scale) + (z - m) ** 2 / 2


def minimiser(name, m, t, scale):
    """The best point of a grid from 0 to m, and what a general solver makes of it."""
    grid = np.linspace(0.0, m, 4001)
    best = int(np.argmin(objective(name, grid, m, t, scale)))
    if best == 0:
        return 0.0
    found = scipy.optimize.minimize_scalar(
        lambda z: objective(name, z, m, t, scale),
        bounds=(grid[best - 1], grid[min(best + 1, 4000)]),
        method="bounded",
        options={"xatol": 1e-12 * m},
    )
    return found.x


@CONCAVE
@SCALES
def test_shrink_is_the_minimiser_that_a_general_solver_finds(name, scale):
    checked, zeros = 0, 0
    for t in scale * np.array(STEPS):
        m = scale * np.array(MAGNITUDES)
        got = shrink(name, m, t, scale)
        for z, magnitude in zip(got, m, strict=True):
            expected = minimiser(name, magnitude, t, scale)
            costs = objective(name, np.array([0.0, expected]), magnitude, t, scale)
            if expected and abs(costs[0] - costs[1]) < 1e-7 * scale**2:
                continue  # a tie, or next to one
            # A minimum is found to the root of float64's rounding, of the larger of both.
            np.testing.assert_allclose(z, expected, rtol=0, atol=1e-6 * (magnitude + scale))
            assert (z == 0.0) == (expected == 0.0)
            checked += 1
            zeros += z == 0.0
    assert checked > 150
    assert 40 < zeros < checked - 40


@CONCAVE
@SCALES
def test_no_point_is_better_than_what_float32_gives(name, scale):
    """At ties and next to them too: the objective is what counts."""
    rng = np.random.default_rng(1)
    m = (scale * np.exp(rng.uniform(-12, 6, 20_000))).astype("float32")
    t = (scale * np.exp(rng.uniform(-12, 6, 20_000))).astype("float32")
    t[:4000] = scale * rng.uniform(0.4, 1.2, 4000)  # where convexity ends
    m[:4000] = t[:4000] * rng.uniform(0.9, 1.1, 4000)
    got, exact = (shrink(name, m, t, scale, dtype) for dtype in ("float32", "float64"))
    assert got.dtype == "float32"
    assert np.isfinite(got).all()
    m, t = m.astype("float64"), t.astype("float64")
    costs, least = (objective(name, z.astype("float64"), m, t, scale) for z in (got, exact))
    # Rounding of m itself costs 6e-8 · m · |m − z|, and there are some ten roundings.
    np.testing.assert_array_less(costs - least, 1e-6 * m * np.minimum(m, t) + 1e-30)
    # And float64's is no worse than 0, m and its neighbours.
    for other in (np.zeros_like(m), m, exact * 0.999, np.minimum(exact * 1.001, m)):
        rise = objective(name, other, m, t, scale) - least
        assert (rise >= -1e-12 * (m**2 + t * m)).all()  # float64 rounding


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shrink_is_monotone_and_starts_with_zeros(name, dtype):
    scale = None if name == "l1" else 0.5
    for t in (0.01, 0.2, 0.5, 0.7, 5.0):
        m = np.linspace(0.0, 8.0, 20_001, dtype=dtype)
        got = shrink(name, m, t, scale, dtype)
        dead = int((got == 0.0).sum())
        assert not got[:dead].any()
        assert not np.signbit(got).any()
        assert 0 < dead < len(m)
        assert ((got >= 0.0) & (got <= m)).all()
        # Rounding of the steps between.
        assert (np.diff(got) >= -8.0 * np.finfo(dtype).eps).all()


@pytest.mark.parametrize(
    ("name", "t", "threshold"),
    [
        ("l1", 0.3, 0.3),
        ("transformed", 0.3, 0.3),  # t ≤ a / 2
        ("transformed", 2.0, 2.0 - 0.5),  # √(2at) − a / 2
        ("mcp", 0.3, 0.3),  # t < θ
        ("mcp", 4.0, 2.0),  # √(tθ)
        ("log", 0.9, 0.9),  # t ≤ ε
    ],
)
def test_thresholds(name, t, threshold):
    scale = None if name == "l1" else 1.0
    below, above = shrink(name, threshold * np.array([1 - 1e-9, 1 + 1e-9]), t, scale)
    assert below == 0.0
    assert above > 0.0


@pytest.mark.parametrize("name", SHAPES)
def test_a_magnitude_at_the_threshold_is_exactly_zero(name):
    t = np.linspace(0.0, 0.25, 5001, dtype="float32")  # convex up to a scale of 0.5
    scale = None if name == "l1" else 0.5
    np.testing.assert_array_equal(shrink(name, t, t, scale, "float32"), np.zeros_like(t))


@pytest.mark.parametrize(("name", "limit"), [("transformed", 0.5), ("mcp", 1.0), ("log", 1.0)])
def test_nothing_but_numbers_where_convexity_ends(name, limit):
    """Two roots meet there, and by rounding there may be none."""
    for scale in np.random.default_rng(2).uniform(0.1, 1.0, 300):
        t = np.float32(limit * scale) * np.linspace(1 - 1e-6, 1 + 1e-6, 9, dtype="float32")
        m = np.nextafter(t, np.float32(np.inf))
        got = shrink(name, m, t, float(scale), "float32")
        assert ((got >= 0.0) & (got <= m)).all()


def test_nothing_but_numbers_where_the_log_sums_place_of_rest_begins():
    rng, scale = np.random.default_rng(3), 0.3
    t = (scale * np.exp(rng.uniform(0.5, 8.0, 3000))).astype("float32")
    m = (2.0 * np.sqrt(t.astype("float64") * scale) - scale) * (1 + 1e-6 * rng.normal(size=3000))
    assert (shrink("log", m, t, scale, "float32") == 0.0).all()  # 0 is better by far


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_of_zero_changes_nothing_and_a_tiny_one_little(name, dtype):
    scale = None if name == "l1" else 0.1
    m = np.array([0.0, 1e-30, 1e-7, 0.03, 0.1, 2.0, 1e6], dtype)
    np.testing.assert_array_equal(shrink(name, m, 0.0, scale, dtype), m)
    got = shrink(name, m, 1e-12, scale, dtype)
    assert ((got <= m) & (got >= m - 1.001e-12)).all()


@pytest.mark.parametrize("name", SHAPES)
def test_huge_steps_give_zeros_and_no_nan(name):
    scale = None if name == "l1" else 0.1
    m = np.array([0.0, 1e-38, 1e-7, 0.1, 3.0, 100.0], "float32")
    for t in (1e6, 1e20, 3e38, np.inf):
        np.testing.assert_array_equal(shrink(name, m, t, scale, "float32"), np.zeros_like(m))


@pytest.mark.parametrize("name", SHAPES)
def test_nan_stays(name):
    scale = None if name == "l1" else 0.1
    for t in (0.0, 0.01, 7.0):
        got = shrink(name, [np.nan, 0.0], t, scale)
        np.testing.assert_array_equal(np.isnan(got), [True, False])


@CONCAVE
def test_float32_keeps_weights_far_below_the_scale(name):
    """Where the closed forms, taken as they are printed, round to multiples of the scale."""
    m = np.array([1e-5, 3e-4, 7e-3], "float32")
    got = shrink(name, m, np.float32(2e-6), 100.0, "float32")
    # The reduction is t to 1e-4 of it; rounding of the last subtraction.
    np.testing.assert_allclose(got, m - np.float32(2e-6), rtol=1e-6)


@CONCAVE
def test_a_wide_scale_is_the_soft_threshold(name):
    m, t = np.linspace(0.0, 3.0, 301), 0.4
    for scale in (1e3, 1e6):
        got = shrink(name, m, t, scale)
        # The slope differs from 1 by up to 2m / scale.
        np.testing.assert_allclose(got, np.maximum(m - t, 0.0), atol=3 * t * 3.0 / scale)


@pytest.mark.parametrize("name", SHAPES)
@SCALES
def test_value_and_slope_are_the_definition(name, scale):
    shape = make_shape(name, None if name == "l1" else scale)
    m = tf.Variable(scale * np.array([0.0, 1e-4, 0.2, 0.9, 1.1, 3.0, 50.0]))
    with tf.GradientTape() as tape:
        value = shape.value(tf.convert_to_tensor(m))
        total = tf.reduce_sum(value)
    np.testing.assert_allclose(value, PHI[name](m.numpy(), scale), rtol=1e-11, atol=1e-15)
    slope = as_numpy(shape.slope(tf.convert_to_tensor(m)))
    np.testing.assert_allclose(slope, tape.gradient(total, m), rtol=1e-12, atol=1e-15)
    assert slope[0] == 1.0
    assert float(value[0]) == 0.0


@CONCAVE
def test_a_stretched_shape_is_that_of_other_units(name):
    shape, wide = make_shape(name, 0.2), make_shape(name, 0.2).stretched(3.0)
    m = np.array([0.01, 0.3, 1.5, 4.0])
    value = as_numpy(wide.value(tf.constant(m)))
    np.testing.assert_allclose(value, 3.0 * as_numpy(shape.value(tf.constant(m / 3))), rtol=1e-14)
    for t in (0.1, 1.0, 9.0):
        many = make_shape(name, 0.2).stretched(tf.constant([1.0, 2.0, 3.0, 4.0], "float64"))
        got = as_numpy(many.shrink(m, t))
        scales = 0.2 * np.arange(1, 5)
        expected = [float(shrink(name, x, t, a)) for x, a in zip(m, scales, strict=True)]
        np.testing.assert_allclose(got, expected, rtol=1e-14)


@CONCAVE
def test_compiled_is_eager(name):
    rng = np.random.default_rng(3)
    m, t = (np.exp(rng.uniform(-6, 3, 2000)).astype("float32") for _ in range(2))
    shape = make_shape(name, 0.3)
    compiled = tf.function(shape.shrink, jit_compile=True)(m, t)
    eager = shrink(name, m, t, 0.3, "float32")
    differs = (compiled.numpy() == 0.0) != (eager == 0.0)
    assert differs.sum() <= 2  # at a tie
    # Fused products round otherwise, and next to a jump this is magnified.
    np.testing.assert_allclose(compiled.numpy()[~differs], eager[~differs], rtol=2e-3, atol=1e-6)
    close = np.isclose(compiled.numpy(), eager, rtol=1e-5, atol=1e-7)
    assert close.mean() > 0.99


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_bad_scales_are_named(bad):
    with pytest.raises(ValueError, match="`scale` must be a finite number above 0") as error:
        make_shape("log", bad)
    assert f"scale={bad!r}" in str(error.value)


@pytest.mark.parametrize("bad", ["l2", "", None, 1, ["log"]])
def test_bad_shapes_are_named(bad):
    with pytest.raises(ValueError, match="`shape` must be one of l1, transformed, mcp, log"):
        make_shape(bad)


def test_l1_has_no_scale():
    with pytest.raises(ValueError, match=r"`scale` must be left out.*scale=0.5"):
        make_shape("l1", 0.5)
    assert make_shape("log").scale == 0.1
