"""Channel removal before and after layers that mix or normalize channels."""

import keras
import numpy as np
import pytest
from keras import layers
from random_models import random_inputs, zero_outputs
from shrink_models import (
    assert_same_outputs,
    centred,
    channels,
    check_channels_left,
    dense,
    functional,
    line,
    same,
    softmax_keeps_all,
)

from cnn_l1.shrink.removal import apply_shrink, plan_shrink


def layer_normalization_keeps_all():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.LayerNormalization(name="ln"), same())
    zero_outputs(a, [0, 1])
    zero_outputs(model.get_layer("ln"), [2])
    return model, {"a": 6, "ln": 6, "b": 3}


def softmax_inside_a_layer_keeps_all():
    a = layers.Conv2D(6, 3, activation="softmax", name="a")
    model = line((8, 8, 3), a, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "b": 3}


def activation_of_ones_own_keeps_all():
    """Nothing is known of a function: this one mixes channels."""
    a = layers.Conv2D(6, 3, activation=centred, name="a")
    model = line((8, 8, 3), a, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "b": 3}


def group_norm_takes_whole_groups():
    """Groups of four: all of the second are zero, two of the first."""
    norm = layers.GroupNormalization(2, name="norm")
    model = line((8, 8, 3), layers.Conv2D(8, 3, name="a"), norm, layers.ReLU(), same())
    zero_outputs(norm, [0, 1, 4, 5, 6, 7])
    return model, {"a": 4, "norm": 4, "b": 3}


def group_norm_after_zeros():
    """Zeros count for the mean of their group."""
    a = layers.Conv2D(8, 3, name="a")
    norm = layers.GroupNormalization(2, name="norm")
    model = line((8, 8, 3), a, norm, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 8, "norm": 8, "b": 3}


def instance_norm():
    """A group a channel: each goes by itself."""
    norm = layers.GroupNormalization(-1, name="norm")
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), norm, layers.Conv2D(3, 3, name="b"))
    zero_outputs(norm, [0, 1], 0.5)
    return model, {"a": 4, "norm": 4, "b": 3}


def batch_norm_along_another_axis():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.BatchNormalization(axis=1, name="bn"), dense())
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "bn": 6, "b": 3}


CASES = (
    layer_normalization_keeps_all,
    softmax_inside_a_layer_keeps_all,
    activation_of_ones_own_keeps_all,
    group_norm_takes_whole_groups,
    group_norm_after_zeros,
    instance_norm,
    batch_norm_along_another_axis,
    softmax_keeps_all,
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_channels_left_are_those_that_carry_something(make):
    check_channels_left(*make())


@pytest.mark.parametrize("inside", [False, True])
def test_layers_told_to_train_are_not_taken_for_what_they_do_otherwise(inside):
    """A batch-norm that is in training subtracts the batch's own mean."""
    inputs = keras.Input((8, 8, 3))
    a, bn = layers.Conv2D(6, 3, name="a"), layers.BatchNormalization(name="bn")
    if inside:
        x = keras.Sequential([keras.Input((8, 8, 3)), a, bn])(inputs, training=True)
    else:
        x = bn(a(inputs), training=True)
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(x))
    zero_outputs(a, [0, 1], 0.7)
    small = apply_shrink(model, plan_shrink(model))
    images = random_inputs(model)
    # A value of `training` for the whole model, as `predict` gives, goes before.
    assert_same_outputs(model, small, images)
    expected, got = (keras.ops.convert_to_numpy(m(images)) for m in (model, small))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_noise_that_is_always_on_is_no_constant():
    """Dropout keeps zero at zero, but no other constant."""
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    x = layers.Dropout(0.5, seed=1)(a(inputs), training=True)
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(x))
    zero_outputs(a, [0, 1], 5.0)
    assert channels(plan_shrink(model))["a"] == 6
