"""Penalties: values, gradients and proximal operators against their definitions."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnn_l1.penalties import L1, L1L2, Penalty, attach, detach, is_kernel, soft_threshold

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


@pytest.mark.parametrize("penalty", [L1(0.25), L1L2(0.25, 0.5)], ids=["L1", "L1L2"])
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
