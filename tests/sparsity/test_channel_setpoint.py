"""Multiply-adds as a target: what they are, which channels go, and when."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_l1.graph import coupling
from cnn_l1.graph.costs import ChannelCosts
from cnn_l1.shrink.removal import plan_shrink
from cnn_l1.sparsity.callbacks import SparsityMonitor
from cnn_l1.sparsity.groups import attach_groups
from cnn_l1.sparsity.optimizers import Proximal
from cnn_l1.sparsity.targets import TargetSparsity, TargetWarning

DIGITS, LABELS = load_digits(return_X_y=True)
X = (DIGITS[:1280] / 16.0).astype("float32")
Y = LABELS[:1280]
BATCH = 32  # 40 batches an epoch
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


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

    watch = keras.callbacks.LambdaCallback(on_epoch_end=look, on_train_batch_begin=look_early)
    steps = [TargetSparsity(macs=1200, by_epochs=4), watch]
    history = model.fit(X, Y, BATCH, epochs=5, verbose=0, callbacks=steps).history
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
