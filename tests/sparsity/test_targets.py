"""Targets: the path and the steering in closed form, and short runs that must arrive."""

import math
import warnings

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_l1.sparsity import counting
from cnn_l1.sparsity.callbacks import EmptyLayerError, EmptyLayerWarning, SparsityMonitor
from cnn_l1.sparsity.groups import attach_groups
from cnn_l1.sparsity.optimizers import HoldZeros, Proximal
from cnn_l1.sparsity.penalties import L1, attach
from cnn_l1.sparsity.targets import TargetSparsity, TargetWarning

DIGITS, LABELS = load_digits(return_X_y=True)
X = (DIGITS[:1280] / 16.0).astype("float32")
Y = LABELS[:1280]
BATCH = 32  # 40 batches an epoch
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_model(strength=1e-3, inner=None, **settings):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(48, activation="relu", name="first"),
            keras.layers.Dense(24, activation="relu", name="second"),
            keras.layers.Dense(10, name="last"),
        ]
    )
    attach(model, L1(strength))
    inner = inner or keras.optimizers.Adam(3e-3)
    model.compile(Proximal(inner, **settings), LOSS, metrics=["accuracy"], jit_compile=False)
    return model


WEIGHTS = 64 * 48 + 48 * 24 + 24 * 10


def fit(model, *callbacks, epochs=7, **settings):
    return model.fit(X, Y, BATCH, epochs, verbose=0, callbacks=list(callbacks), **settings).history


def still_model(**settings):
    """A model whose weights training does not move."""
    return make_model(inner=keras.optimizers.SGD(0.0), **settings)


def kernels_of(model):
    return [np.array(variable) for _, variable in counting.kernels(model)]


def value(variable):
    return float(keras.ops.convert_to_numpy(variable))


# --- The cut ---------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.3, 0.77])
def test_the_cut_zeroes_the_smallest_weights_of_all_layers_together(fraction):
    model = still_model()
    before = np.concatenate([k.ravel() for k in kernels_of(model)])
    wanted = round(fraction * WEIGHTS)
    fit(model, TargetSparsity(fraction, by_epochs=1), epochs=1)
    after = np.concatenate([k.ravel() for k in kernels_of(model)])
    gone = np.argsort(np.abs(before), kind="stable")[:wanted]
    assert set(np.flatnonzero(after == 0)) == set(gone)
    np.testing.assert_array_equal(after[after != 0], before[after != 0])


def test_the_cut_leaves_unpenalised_kernels_alone_but_counts_them():
    model = still_model()
    model.get_layer("second").kernel.regularizer = None
    model.compile(Proximal(keras.optimizers.SGD(0.0)), LOSS)
    fit(model, TargetSparsity(0.5, by_epochs=1), epochs=1)
    zeros = [int((k == 0).sum()) for k in kernels_of(model)]
    assert zeros[1] == 0
    assert sum(zeros) == round(0.5 * WEIGHTS)


@pytest.mark.parametrize("empty_layers", ["warn", "forbid"])
def test_a_cut_that_empties_a_layer(empty_layers):
    model = still_model()
    last = model.get_layer("last").kernel
    last.assign(1e-6 * np.ones(last.shape))
    before = model.get_weights()
    callback = TargetSparsity(0.5, by_epochs=1, threshold=0.0, empty_layers=empty_layers)
    if empty_layers == "warn":
        with pytest.warns(EmptyLayerWarning, match="'last' is all zero by the cut"):
            fit(model, callback, epochs=1)
        return
    with pytest.raises(EmptyLayerError, match="'last' is all zero by the cut"):
        fit(model, callback, epochs=1)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# --- Path and steering -----------------------------------------------------------


def test_path_and_steering_in_closed_form():
    model = still_model()
    kernel = model.get_layer("first").kernel
    kernel.assign(np.where(np.arange(64)[:, None] < 16, 0.0, kernel))
    start = 16 * 48 / WEIGHTS
    callback = TargetSparsity(0.8, by_epochs=4, threshold=0.0, checks_per_epoch=2)
    history = fit(model, callback, epochs=4)
    aim = 1.0 - 0.2 * 1.02

    def path(t):
        return aim + (start - aim) * max(0.0, 1.0 - t / 0.85) ** 3

    assert history["target"] == pytest.approx([path(0.25), path(0.5), path(0.75), 0.8])
    # Checks behind 1, 2, 4, 8 and 16 batches more, then every 20.
    checks = [1, 3, 7, 15, 31, *range(51, 160, 20)]
    odds = [math.log(p / (1 - p)) for p in (path(batch / 160) for batch in checks)]
    deviations = [value - math.log(start / (1 - start)) for value in odds]
    log_scale, scales = 0.0, {}
    for i, (batch, deviation) in enumerate(zip(checks, deviations, strict=True)):
        elapsed = (batch - (checks[i - 1] if i else 0)) / 160
        change = deviation - deviations[i - 1] if i else 0.0
        log_scale += min(16 * deviation * elapsed + change, 40 * elapsed)
        log_scale = min(log_scale, math.log(1e7))  # no farther from the start
        scales[batch] = math.exp(log_scale)
    expected = [scales[31], scales[71], scales[111], 0.0]
    assert scales[71] < scales[111] == pytest.approx(1e7)
    # The strength is a float32.
    assert history["strength_scale"] == pytest.approx(expected, rel=1e-5)
    assert callback.found_scale == pytest.approx(scales[151], rel=1e-9)


# --- Runs that arrive ------------------------------------------------------------


@pytest.mark.parametrize("strength", [1e-6, 1e-3, 10.0])
def test_arrives_from_a_strength_far_off_and_stays(strength):
    model = make_model(strength)
    callback = TargetSparsity(0.8, by_epochs=5)
    history = fit(model, callback, SparsityMonitor(), epochs=7)
    wanted = round(0.8 * WEIGHTS)
    assert [WEIGHTS - n for n in history["nonzero"][4:]] == [wanted] * 3
    assert history["strength_scale"][4:] == [0.0] * 3
    # Steered there, not cut there: little was left to cut.
    assert history["sparsity"][3] > 0.65
    assert callback.frozen
    # The strength in force is some 0.01, however it began.
    assert 1e-3 < callback.found_scale * strength < 0.1
    assert history["accuracy"][-1] > 0.8  # a network destroyed on the way stays far below


def test_comes_down_from_above():
    model = make_model(1e-3)
    for _, kernel in counting.kernels(model):
        array = np.array(kernel)
        array[np.abs(array) < np.quantile(np.abs(array), 0.9)] = 0
        kernel.assign(array)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TargetWarning)
        history = fit(model, TargetSparsity(0.6, by_epochs=3), SparsityMonitor(), epochs=4)
    assert [WEIGHTS - n for n in history["nonzero"][2:]] == [round(0.6 * WEIGHTS)] * 2


def test_a_strength_that_is_too_high_to_the_end_is_released():
    model = make_model(1e-3)
    for _, kernel in counting.kernels(model):
        array = np.array(kernel)
        array[np.abs(array) < np.quantile(np.abs(array), 0.8)] = 0
        kernel.assign(array)
    # One check in the only epoch: the strength has no time to fall.
    callback = TargetSparsity(0.5, by_epochs=1, checks_per_epoch=1)
    fit(model, callback, epochs=1, steps_per_epoch=8)
    assert counting.count(model).zeros == round(0.5 * WEIGHTS)


def test_zeros_that_cannot_come_back_are_named():
    model = still_model()
    for _, kernel in counting.kernels(model):
        array = np.array(kernel)
        array[np.abs(array) < np.quantile(np.abs(array), 0.8)] = 0
        kernel.assign(array)
    with pytest.warns(TargetWarning, match=r"expected 2,232 of 4,464 .*which did not come back"):
        fit(model, TargetSparsity(0.5, by_epochs=1), epochs=1)


def test_each_layer_arrives_at_its_own():
    model = make_model(1e-3, variable_scales=True)
    callback = TargetSparsity(layers={"first": 0.95, "f*": 0.1, "sec*": 0.7}, by_epochs=5)
    with pytest.raises(ValueError, match=r"`layers` expects patterns.*Received: f\*"):
        fit(model, callback)
    callback = TargetSparsity(layers={"first": 0.95, "[!l]*": 0.7}, by_epochs=5)
    history = fit(model, callback, epochs=6)
    counts = {layer.layer: layer.zeros for layer in counting.count(model).layers}
    assert counts["first"] == round(0.95 * 64 * 48)
    assert counts["second"] == round(0.7 * 48 * 24)
    assert callback.found_scale["first"] > 2 * callback.found_scale["second"]
    assert history["strength_scale/first"][3] > 0 == history["strength_scale/first"][5]
    assert history["target/second"][5] == 0.7
    optimizer = model.optimizer
    assert value(optimizer.strength_scale) == 1.0
    assert optimizer.variable_scale(model.get_layer("last").kernel) == 1.0


def test_steps_per_execution():
    model = make_model(1e-2)
    model.compile(
        Proximal(keras.optimizers.Adam(3e-3)), LOSS, steps_per_execution=8, jit_compile=False
    )
    history = fit(model, TargetSparsity(0.8, by_epochs=4), SparsityMonitor(), epochs=5)
    assert [WEIGHTS - n for n in history["nonzero"][3:]] == [round(0.8 * WEIGHTS)] * 2


def test_data_of_unknown_length():
    def batches():
        for first in range(0, 640, BATCH):
            yield X[first : first + BATCH], Y[first : first + BATCH]

    import tensorflow as tf

    signature = (tf.TensorSpec((None, 64)), tf.TensorSpec((None,), "int64"))
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    model = make_model(1e-2)
    callback = TargetSparsity(0.8, by_epochs=4)
    history = model.fit(data, epochs=4, verbose=0, callbacks=[callback, SparsityMonitor()]).history
    assert history["sparsity"][2] > 0.6
    assert counting.count(model).zeros == round(0.8 * WEIGHTS)


def test_resumes_from_a_saved_model_before_and_behind_the_deadline(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(48, activation="relu", kernel_regularizer=L1(1e-5)),
            keras.layers.Dense(10, kernel_regularizer=L1(1e-5)),
        ]
    )
    model.compile(Proximal(keras.optimizers.Adam(3e-3)), LOSS, jit_compile=False)
    with pytest.warns(TargetWarning, match=r"by_epochs=6 epochs. Received: 3;"):
        first = fit(model, TargetSparsity(0.85, by_epochs=6), epochs=3)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert value(model.optimizer.strength_scale) == pytest.approx(first["strength_scale"][-1])
    second = fit(model, TargetSparsity(0.85, by_epochs=6), initial_epoch=3, epochs=6)
    # The path goes on from what is zero; the strength from what it was.
    assert second["target"][0] > first["target"][0]
    assert second["strength_scale"][0] > 0.3 * first["strength_scale"][-1]
    zeros = [kernel == 0 for kernel in kernels_of(model)]
    assert sum(mask.sum() for mask in zeros) == round(0.85 * (64 * 48 + 48 * 10))
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    third = fit(model, TargetSparsity(0.85, by_epochs=6), initial_epoch=6, epochs=7)
    assert third["strength_scale"] == [0.0]
    for mask, kernel in zip(zeros, kernels_of(model), strict=True):
        np.testing.assert_array_equal(mask, kernel == 0)


# --- Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"exactly one of `sparsity`, `layers`, `macs`, .*`board`, or .*sparsity=None"),
        ({"sparsity": 0.5, "macs": 10}, r"exactly one of.*sparsity=0\.5.*macs=10"),
        ({"sparsity": 1.0}, r"`sparsity` must be a number between 0 and 1\. Received: 1\.0"),
        ({"sparsity": 95}, r"`sparsity` must be a number between 0 and 1\. Received: 95"),
        ({"layers": {"a": 0.0}}, r"`layers\['a'\]` must be a number between 0 and 1.*0\.0"),
        ({"layers": {}}, r"`layers` must be a dict.*layers=\{\}"),
        ({"macs": 1.5}, r"`macs` must be a number between 0 and 1.*1\.5"),
        ({"macs": 0}, r"`macs` must be a whole number, 1 or more.*macs=0"),
        ({"bytes": 0.5}, r"`bytes` must be a whole number, 1 or more.*bytes=0\.5"),
        ({"bytes": 9, "ram_bytes": 0}, r"`ram_bytes` must be a whole number.*ram_bytes=0"),
        ({"bytes": 9, "macs": 9}, r"exactly one of.*macs=9, bytes=9"),
        ({"board": "pico"}, r"`board`: expected one of .*raspberry_pi_pico.*Received: 'pico'"),
        ({"sparsity": 0.5, "by_epochs": 0}, r"`by_epochs` must be a whole number.*by_epochs=0"),
        ({"sparsity": 0.5, "by_epochs": None}, r"`by_epochs` must be a whole number.*=None"),
        ({"sparsity": 0.5, "threshold": -1.0}, r"`threshold` must be 0 or more.*-1\.0"),
        ({"sparsity": 0.5, "tolerance": 0}, r"`tolerance` must be a number between 0 and 1"),
        ({"sparsity": 0.5, "checks_per_epoch": 0}, r"`checks_per_epoch` must be a whole number"),
        ({"sparsity": 0.5, "empty_layers": "no"}, r"`empty_layers` must be .*'no'"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TargetSparsity(**{"by_epochs": 3, **settings})


def test_what_the_optimizer_must_be():
    model = make_model()
    model.compile(HoldZeros(keras.optimizers.Adam()), LOSS)
    message = r"TargetSparsity expects .*cnn_l1\.Proximal.*=HoldZeros"
    with pytest.raises(ValueError, match=message):
        fit(model, TargetSparsity(0.5, by_epochs=2))
    with pytest.raises(ValueError, match=r"zeros may come back.*hold_zeros=1 in epoch 1"):
        fit(make_model(hold_zeros=True), TargetSparsity(0.5, by_epochs=2))
    with pytest.raises(ValueError, match=r"Proximal\(\.\.\., variable_scales=True\)"):
        fit(make_model(), TargetSparsity(layers={"*": 0.5}, by_epochs=2))


def test_targets_that_cannot_be_reached():
    model = make_model()
    model.get_layer("first").kernel.regularizer = L1(0.0)
    model.compile(Proximal(keras.optimizers.Adam()), LOSS)
    with pytest.raises(ValueError, match=r"at most 0\.3118, .*above 0\. Received: 0\.5"):
        fit(model, TargetSparsity(0.5, by_epochs=2))
    with pytest.raises(ValueError, match=r"`macs` expects .*call `attach_groups`"):
        fit(model, TargetSparsity(macs=1000, by_epochs=2))
    attach_groups(model, 1e-3)
    model.compile(Proximal(keras.optimizers.Adam(), variable_scales=True), LOSS)
    # One unit stays in each: 64 + 1 + 10.
    for macs, bound in ((74, "at least 75"), (WEIGHTS, "below 4,464")):
        with pytest.raises(ValueError, match=rf"target.macs: expected .*{bound}.*{macs:,}"):
            fit(model, TargetSparsity(macs=macs, by_epochs=2))
    with pytest.raises(ValueError, match=r"penalties on single variables.*'first'"):
        fit(model, TargetSparsity(layers={"first": 0.5}, by_epochs=2))
