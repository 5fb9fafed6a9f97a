"""Channel removal where channels are bound in groups: depthwise, separable, grouped."""

import keras
import numpy as np
import pytest
from keras import layers
from random_models import zero_outputs, zero_reads
from shrink_models import (
    check_channels_left,
    depthwise_of_zeros,
    functional,
    groups_go_whole,
    line,
    same,
    shrink,
)


def depthwise_after_zeros():
    """A channel takes all that the multiplier makes of it."""
    a = layers.Conv2D(5, 3, name="a")
    depthwise = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")
    model = line((9, 9, 3), a, layers.ReLU(), depthwise, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 4])
    return model, {"a": 3, "depthwise": 6, "b": 3}


def depthwise_folds_what_is_constant_through_it():
    a = layers.Conv2D(5, 3, name="a")
    depthwise = layers.DepthwiseConv2D(3, activation="tanh", name="depthwise")
    model = line((9, 9, 3), a, depthwise, layers.BatchNormalization(name="bn"), same(1))
    zero_outputs(a, [0, 4], 0.6)
    return model, {"a": 3, "depthwise": 3, "bn": 3, "b": 3}


def depthwise_without_bias():
    a = layers.Conv2D(5, 3, name="a")
    depthwise = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")
    model = line((9, 9, 3), a, layers.ReLU(6.0), depthwise, layers.ReLU(6.0), same())
    zero_outputs(a, [2])
    return model, {"a": 4, "depthwise": 4, "b": 3}


def depthwise_1d():
    a = layers.Conv1D(5, 3, name="a")
    depthwise = layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise")
    model = line((12, 3), a, depthwise, layers.Conv1D(3, 2, name="b"))
    zero_outputs(a, [2], 0.5)
    return model, {"a": 4, "depthwise": 8, "b": 3}


def separable():
    """It reads with one kernel and writes with the other."""
    a = layers.Conv2D(5, 3, name="a")
    b = layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="relu", name="b")
    model = line((9, 9, 3), a, b, layers.Conv2D(3, 3, padding="same", name="c"))
    zero_reads(b, [1])
    zero_outputs(a, [4])
    zero_outputs(b, [0, 5])
    return model, {"a": 3, "b": 4, "c": 3}


def separable_whose_pointwise_kernel_reads_nothing():
    """Zeros in either kernel leave a channel unread."""
    b = layers.SeparableConv2D(6, 3, depth_multiplier=2, name="b")
    model = line((9, 9, 3), layers.Conv2D(5, 3, name="a"), b)
    pointwise = np.array(b.pointwise_kernel)
    pointwise[:, :, 4:6] = 0.0  # both products of channel 2
    b.pointwise_kernel.assign(pointwise)
    return model, {"a": 4, "b": 6}


def separable_1d():
    a = layers.Conv1D(5, 3, name="a")
    b = layers.SeparableConv1D(6, 3, padding="same", name="b")
    model = line((9, 3), a, b, layers.Conv1D(3, 1, name="c"))
    zero_outputs(a, [4])
    zero_outputs(b, [0, 5], 0.4)
    return model, {"a": 4, "b": 4, "c": 3}


def groups_after_zeros():
    """The second group gets zeros alone: a constant, which folds."""
    a = layers.Conv2D(6, 3, name="a")
    b = layers.Conv2D(9, 3, groups=3, padding="same", name="b")
    model = line((8, 8, 3), a, b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(a, [0, 2, 3])
    return model, {"a": 4, "b": 6, "c": 3}


def groups_down_to_one():
    b = layers.Conv2D(4, 3, groups=2, name="b")
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(b, [2, 3], 0.3)
    return model, {"a": 3, "b": 2, "c": 3}


def groups_of_one():
    """As many groups as channels: each goes by itself."""
    b = layers.Conv2D(6, 3, groups=6, padding="same", name="b")
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(b, [2, 3], 0.3)
    zero_outputs(model.get_layer("a"), [0])
    return model, {"a": 3, "b": 3, "c": 3}


CASES = (
    depthwise_after_zeros,
    depthwise_folds_what_is_constant_through_it,
    depthwise_without_bias,
    depthwise_1d,
    separable,
    separable_whose_pointwise_kernel_reads_nothing,
    separable_1d,
    groups_after_zeros,
    groups_down_to_one,
    groups_of_one,
    depthwise_of_zeros,
    groups_go_whole,
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_channels_left_are_those_that_carry_something(make):
    check_channels_left(*make())


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle(groups):
    """ShuffleNet's: groups, then a permutation of channels, then groups again."""
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    b = layers.Conv2D(6, 1, groups=groups, name="b")
    x = layers.Reshape((6, 6, groups, 6 // groups))(b(a(inputs)))
    x = layers.Reshape((6, 6, 6))(layers.Permute((1, 2, 4, 3))(x))
    model = functional(inputs, layers.Conv2D(3, 1, name="c")(x))
    zero_outputs(b, range(6 // groups), 0.5)
    zero_outputs(b, [0], 0.7)
    shrink(model)
