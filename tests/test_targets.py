"""Targets: the path and the steering in closed form, and short runs that must arrive."""

import math
import warnings

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_l1 import coupling, sparsity
from cnn_l1.callbacks import EmptyLayerError, EmptyLayerWarning, SparsityMonitor
from cnn_l1.costs import ChannelCosts
from cnn_l1.groups import attach_groups
from cnn_l1.optimizers import HoldZeros, Proximal
from cnn_l1.penalties import L1, attach
from cnn_l1.shrink import plan_shrink
from cnn_l1.targets import TargetSparsity, TargetWarning, smallest

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
    return [np.array(variable) for _, variable in sparsity.kernels(model)]


def value(variable):
    return float(keras.ops.convert_to_numpy(variable))


# --- The cut ---------------------------------------------------------------------


def test_smallest_takes_what_is_asked_for_and_of_ties_the_first():
    values = np.array([0.5, -0.1, 0.0, 0.1, 0.3, -0.1, 0.1], "float32")
    assert sorted(smallest(values, 2)) == [1, 3]
    assert sorted(smallest(values, 4)) == [1, 3, 5, 6]
    assert sorted(smallest(values, 5)) == [1, 3, 4, 5, 6]
    assert values[0] == np.float32(0.5)  # and leaves the values alone


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
    for _, kernel in sparsity.kernels(model):
        array = np.array(kernel)
        array[np.abs(array) < np.quantile(np.abs(array), 0.9)] = 0
        kernel.assign(array)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TargetWarning)
        history = fit(model, TargetSparsity(0.6, by_epochs=3), SparsityMonitor(), epochs=4)
    assert [WEIGHTS - n for n in history["nonzero"][2:]] == [round(0.6 * WEIGHTS)] * 2


def test_a_strength_that_is_too_high_to_the_end_is_released():
    model = make_model(1e-3)
    for _, kernel in sparsity.kernels(model):
        array = np.array(kernel)
        array[np.abs(array) < np.quantile(np.abs(array), 0.8)] = 0
        kernel.assign(array)
    # One check in the only epoch: the strength has no time to fall.
    callback = TargetSparsity(0.5, by_epochs=1, checks_per_epoch=1)
    fit(model, callback, epochs=1, steps_per_epoch=8)
    assert sparsity.count(model).zeros == round(0.5 * WEIGHTS)


def test_zeros_that_cannot_come_back_are_named():
    model = still_model()
    for _, kernel in sparsity.kernels(model):
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
    counts = {layer.layer: layer.zeros for layer in sparsity.count(model).layers}
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
    assert sparsity.count(model).zeros == round(0.8 * WEIGHTS)


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


# --- Multiply-adds ---------------------------------------------------------------


def residual_model():
    keras.utils.set_random_seed(5)
    images = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(12, 3, padding="same", activation="relu", name="stem")(images)
    y = keras.layers.Conv2D(10, 3, padding="same", use_bias=False, name="inner")(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    y = keras.layers.Conv2D(12, 3, padding="same", name="outer")(keras.layers.ReLU()(y))
    x = keras.layers.MaxPooling2D(2)(keras.layers.ReLU()(keras.layers.Add()([x, y])))
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.Dense(16, activation="relu", name="dense")(keras.layers.Flatten()(x))
    return keras.Model(images, keras.layers.Dense(10, name="last")(x))


def test_counted_multiply_adds_are_those_of_the_plan():
    model = residual_model()
    attach_groups(model, 1e-3)
    analysis = coupling.analyse(model, with_constants=False)
    spaces, costs = coupling.spaces_of(analysis), ChannelCosts(analysis)
    before = model.get_weights()
    rng = np.random.default_rng(0)
    counted = set()
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        # One channel of each stays; without any, the plan finds constants to fold.
        gone = [(rng.random(space.size) < share) & (np.arange(space.size) > 0) for space in spaces]
        expected = costs.macs(spaces, gone)
        for space, channels in zip(spaces, gone, strict=True):
            for member in space.members:
                array = np.array(member.variable)
                zeroed = (member.index >= 0) & channels[member.index]
                np.moveaxis(array, member.axis, 0)[zeroed] = 0
                member.variable.assign(array)
        assert expected == plan_shrink(model).macs_after
        counted.add(expected)
        model.set_weights(before)
    assert len(counted) == 5


@pytest.mark.parametrize("strength", [pytest.param(1e-5, marks=pytest.mark.slow), 0.05])
def test_multiply_adds_arrive_from_a_strength_far_off(strength):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(24, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    attach_groups(model, strength)
    optimizer = Proximal(keras.optimizers.Adam(3e-3))
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    total = plan_shrink(model).macs_before
    wanted = total * 2 // 5
    callback = TargetSparsity(macs=wanted, by_epochs=4, tolerance=0.05)
    images = X.reshape(-1, 8, 8, 1)
    history = model.fit(
        images, Y, BATCH, epochs=5, verbose=0, callbacks=[callback, SparsityMonitor()]
    ).history
    left = plan_shrink(model).macs_after
    assert 0.95 * wanted <= left <= wanted
    assert history["macs"][3:] == [left, left]
    assert history["target"][4] == wanted
    assert history["macs"][2] < 0.75 * total  # steered, not cut alone
    assert history["nonzero"][3] == history["nonzero"][4]
    assert history["accuracy"][-1] > 0.7


def test_the_channels_that_go_are_the_smallest_of_their_layer():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((20,)), keras.layers.Dense(10, name="a"), keras.layers.Dense(5, name="b")]
    )
    attach_groups(model, 1e-3)
    kernel = model.get_layer("a").kernel
    sizes = np.array([5, 1, 9, 2, 8, 3, 7, 4, 6, 10], "float32")
    kernel.assign(np.ones((20, 10)) * sizes)
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    # A channel costs 20 + 5; at 160 there is room for six, and nothing nearer.
    with pytest.warns(TargetWarning, match=r"expected 160 multiply-adds.*Received: 150"):
        model.fit(
            np.ones((4, 20)),
            np.ones((4, 5)),
            verbose=0,
            callbacks=[TargetSparsity(macs=160, by_epochs=1)],
        )
    np.testing.assert_array_equal(np.array(kernel).any(axis=0), sizes > 4)


def test_a_dear_filter_goes_before_many_cheap_units():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="dear"),
            keras.layers.Flatten(),
            keras.layers.Dense(30, name="cheap"),
            keras.layers.Dense(5),
        ]
    )
    attach_groups(model, 1e-3)
    filters, units = np.array([1.0, 0.3, 0.9, 0.8]), np.linspace(0.5, 1.0, 30)
    model.get_layer("dear").kernel.assign(np.ones((3, 3, 1, 4)) * filters)
    model.get_layer("cheap").kernel.assign(np.ones((144, 30)) * units)
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    # A filter has 36 · 9 multiply-adds and 36 · 30 behind it, a unit 144 and 5. The second
    # filter is 0.09 of the squares' 2.54, the first unit 0.25 of 17.5: less at the root of that.
    wanted = plan_shrink(model).macs_before - 1404
    images, outputs = np.ones((4, 8, 8, 1)), np.ones((4, 5))
    target = TargetSparsity(macs=wanted, by_epochs=1)
    model.fit(images, outputs, verbose=0, callbacks=[target])
    assert plan_shrink(model).macs_after == wanted
    kept = np.array(model.get_layer("dear").kernel).any(axis=(0, 1, 2))
    np.testing.assert_array_equal(kept, filters != 0.3)
    assert np.array(model.get_layer("cheap").kernel).any(axis=0).all()


def few_and_many(few, many):
    """Two layers of channels of the given sizes, which training does not move."""
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(len(few), name="few"),
            keras.layers.Dense(len(many), name="many"),
            keras.layers.Dense(5),
        ]
    )
    attach_groups(model, 1e-3)
    for name, sizes in (("few", few), ("many", many)):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.ones(kernel.shape) * sizes)
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    return model


def test_a_layer_with_few_left_gives_none_for_cheap():
    model = few_and_many(np.array([1.0, 0.6]), np.linspace(0.7, 1.0, 20))
    # Of `few` one has 0.36 of 1.36 for 30 multiply-adds; of `many` one has 0.49 of 14.6 for 7.
    # By sizes in units of the largest it would be 0.6 / √30 against 0.7 / √7.
    wanted = plan_shrink(model).macs_before - 3 * 7
    # Wide: it shall not be mended by the search for the nearest fit.
    target = TargetSparsity(macs=wanted, by_epochs=1, tolerance=0.2)
    model.fit(np.ones((4, 10)), np.ones((4, 5)), verbose=0, callbacks=[target])
    assert np.array(model.get_layer("few").kernel).any(axis=0).all()
    kept = np.array(model.get_layer("many").kernel).any(axis=0)
    np.testing.assert_array_equal(kept, np.arange(20) >= 3)


def test_each_that_goes_makes_the_next_of_its_layer_dearer():
    model = few_and_many(np.array([1.0, 0.5, 0.5, 0.5]), np.ones(10))
    # Of `few` 0.25 of 1.75, 1.5 and 1.25, over √20: 0.032, 0.037, 0.045; of `many` a tenth, a
    # ninth, an eighth, over √9: 0.033, 0.037, 0.042. So one of the first goes, and two of the
    # others; by shares of the whole layer it would be 0.032 for each of `few`.
    target = TargetSparsity(macs=3 * 10 + 3 * 8 + 8 * 5, by_epochs=1, tolerance=0.2)
    model.fit(np.ones((4, 10)), np.ones((4, 5)), verbose=0, callbacks=[target])
    left = [np.array(model.get_layer(name).kernel).any(axis=0).sum() for name in ("few", "many")]
    assert left == [3, 8]


def test_channels_of_an_addition_count_in_each_layer_that_ends_there():
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 4))
    stem = keras.layers.Conv2D(8, 1, name="stem")(images)
    x = keras.layers.Conv2D(8, 1, name="inner")(stem)
    x = keras.layers.Conv2D(8, 1, name="outer")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([stem, x]))
    model = keras.Model(images, keras.layers.Dense(5, name="last")(x))
    attach_groups(model, 1e-3)
    small = np.where(np.arange(8) == 3, 0.5, 1.0)
    for name, unit in (("stem", 1.0), ("inner", 9.0), ("outer", 0.1)):
        # Another unit in each: only parts of a kernel compare.
        kernel = model.get_layer(name).kernel
        kernel.assign(np.ones(kernel.shape) * small * unit)
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    # The small channel of the addition has 2 · 0.25 / 7.25 for 64 + 128 + 128 + 5 multiply-adds,
    # that of `inner` half of it for 128 + 128: less, at the roots of these.
    wanted = plan_shrink(model).macs_before - 256
    target = TargetSparsity(macs=wanted, by_epochs=1)
    model.fit(np.ones((4, 4, 4, 4)), np.ones((4, 5)), verbose=0, callbacks=[target])
    for name in ("stem", "outer"):
        assert np.array(model.get_layer(name).kernel).any(axis=(0, 1, 2)).all()
    kept = np.array(model.get_layer("inner").kernel).any(axis=(0, 1, 2))
    np.testing.assert_array_equal(kept, np.arange(8) != 3)


def test_batch_norm_scales_say_how_large_a_channel_is():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Conv2D(8, 1, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    attach_groups(model, 1e-3)
    # The third has 0.81 of 7.81 of the kernel, the sixth next to nothing of the scales.
    sizes = np.where(np.arange(8) == 2, 0.9, 1.0)
    model.get_layer("conv").kernel.assign(np.ones((1, 1, 3, 8)) * sizes)
    model.get_layer("norm").gamma.assign(np.where(np.arange(8) == 5, 0.01, 1.0))
    model.compile(Proximal(keras.optimizers.SGD(0.0)), "mse")
    wanted = plan_shrink(model).macs_before - (48 + 5)
    target = TargetSparsity(macs=wanted, by_epochs=1)
    model.fit(np.ones((4, 4, 4, 3)), np.ones((4, 5)), verbose=0, callbacks=[target])
    kept = np.array(model.get_layer("conv").kernel).any(axis=(0, 1, 2))
    np.testing.assert_array_equal(kept, np.arange(8) != 5)


def test_channels_go_along_the_path_and_stay_gone():
    """Under a penalty too weak to move any, and momentum, which would bring them back."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(48, activation="relu", name="first"),
            keras.layers.Dense(24, activation="relu", name="second"),
            keras.layers.Dense(10),
        ]
    )
    attach_groups(model, 1e-9)
    model.compile(Proximal(keras.optimizers.Adam(3e-3)), LOSS, metrics=["accuracy"])
    alive, masks, before_the_deadline = np.ones(48, bool), [], []

    def look(epoch, logs):
        masks.append(np.array(model.get_layer("first").kernel).any(axis=0))

    def look_early(batch, logs):
        if len(masks) == 3 and batch == 39:
            before_the_deadline.append(np.array(model.get_layer("first").kernel).any(axis=0))

    history = fit(
        model,
        TargetSparsity(macs=1200, by_epochs=4),
        keras.callbacks.LambdaCallback(on_epoch_end=look, on_train_batch_begin=look_early),
        epochs=5,
    )
    # The last ones go where the path ends, so that a fit that ends here has learned around them.
    np.testing.assert_array_equal(before_the_deadline, masks[3:4])
    for mask in masks:
        assert not (mask & ~alive).any()
        alive = mask
    assert alive.sum() < masks[0].sum() < 48
    # Never a whole channel above the path, of which the dearest has 64 + 24 multiply-adds.
    left, path = np.array(history["macs"]), np.array(history["target"])
    assert (left < path + 88).all()
    assert 0.97 * 1200 <= left[-1] <= 1200
    assert history["accuracy"][-1] > 0.9
    assert max(history["strength_scale"]) <= 1.0


# --- Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"exactly one of `sparsity`, `layers` and `macs`.*sparsity=None"),
        ({"sparsity": 0.5, "macs": 10}, r"exactly one of.*sparsity=0\.5.*macs=10"),
        ({"sparsity": 1.0}, r"`sparsity` must be a number between 0 and 1\. Received: 1\.0"),
        ({"sparsity": 95}, r"`sparsity` must be a number between 0 and 1\. Received: 95"),
        ({"layers": {"a": 0.0}}, r"`layers\['a'\]` must be a number between 0 and 1.*0\.0"),
        ({"layers": {}}, r"`layers` must be a dict.*layers=\{\}"),
        ({"macs": 0.5}, r"`macs` must be a whole number, 1 or more.*macs=0\.5"),
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
    for macs in (74, WEIGHTS):
        with pytest.raises(ValueError, match=rf"`macs` must be 75 or .*below 4,464, .*{macs:,}"):
            fit(model, TargetSparsity(macs=macs, by_epochs=2))
    with pytest.raises(ValueError, match=r"penalties on single variables.*'first'"):
        fit(model, TargetSparsity(layers={"first": 0.5}, by_epochs=2))
