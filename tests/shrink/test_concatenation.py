"""Channel removal across concatenations, and the branches that leave them."""

import keras
import pytest
from keras import layers
from random_models import zero_outputs, zero_reads
from shrink_models import (
    channels,
    check_channels_left,
    concatenate,
    dense,
    functional,
    same,
    sandwich,
    shrink,
)


def concatenate_and_batch_norm():
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(4, 3, name=name) for name in "ab")
    bn = layers.BatchNormalization(name="bn")
    x = layers.ReLU()(bn(layers.Concatenate()([inputs[:, 1:-1, 1:-1], a(inputs), b(inputs)])))
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1])
    zero_outputs(bn, [8])
    return model, {"a": 2, "b": 3, "bn": 8, "c": 3}


def concatenate_of_one_tensor_twice():
    """Each half is read by itself; a channel goes once both are unread."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="a")(inputs)
    model = functional(inputs, same()(layers.Concatenate()([x, x])))
    zero_reads(model.get_layer("b"), [0, 1, 5, 6])
    return model, {"a": 3, "b": 3}


def concatenate_along_rows():
    """One image below the other: a channel is a constant if it is in both the same."""
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    x = layers.Concatenate(axis=1)([a(inputs), b(inputs)])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1, 2], 0.3)
    zero_outputs(b, [0, 1], 0.3)
    zero_outputs(b, [3, 1], 0.5)
    return model, {"a": 4, "b": 4, "c": 3}


CASES = (
    concatenate_and_batch_norm,
    concatenate_of_one_tensor_twice,
    concatenate_along_rows,
    concatenate,
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_channels_left_are_those_that_carry_something(make):
    check_channels_left(*make())


def empty_branch(make):
    """`a` is all zeros, and reaches a concatenation through the layers of `make`."""
    inputs = keras.Input((8, 8, 3))
    first = layers.Conv2D(5, 1, name="first")
    a, b = (layers.Conv2D(4, 3, name=name) for name in "ab")
    x = a(first(inputs))
    for layer in make():
        x = layer(x)
    y = b(inputs)
    for layer in make():  # as large an image, and no other channels
        if isinstance(layer, layers.MaxPooling2D):
            y = layer(y)
    model = functional(inputs, layers.Conv2D(3, 2, name="c")(layers.Concatenate()([x, y])))
    zero_outputs(a, range(4))
    return model


AFTER = {
    "nothing": (lambda: [], {}),
    "sigmoid and pooling": (lambda: [layers.Activation("sigmoid"), layers.MaxPooling2D()], {}),
    "batch-norm": (lambda: [layers.BatchNormalization(name="bn")], {"bn": 1}),
    "depthwise": (
        lambda: [layers.DepthwiseConv2D(1, depth_multiplier=2, name="depthwise")],
        {"depthwise": 2},
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_an_empty_branch_leaves_a_concatenation_if_allowed(name):
    make, kept = AFTER[name]
    plan, _ = shrink(empty_branch(make))
    assert channels(plan) == {"first": 1, "a": 1, "b": 4, "c": 3, **kept}
    plan, small = shrink(empty_branch(make), allow_empty=True)
    assert channels(plan) == {"first": 0, "a": 0, "b": 4, "c": 3, **dict.fromkeys(kept, 0)}
    assert not any(isinstance(layer, layers.Concatenate) for layer in small.layers)


def test_one_of_three_leaves_a_concatenation():
    inputs = keras.Input((8, 8, 3))
    branches = [layers.Conv2D(4, 3, name=f"a{i}") for i in range(3)]
    x = layers.Concatenate()([branch(inputs) for branch in branches])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(branches[1], range(4), 0.3)
    zero_outputs(branches[2], [0])
    plan, small = shrink(model, allow_empty=True)
    assert channels(plan) == {"a0": 4, "a1": 0, "a2": 3, "c": 3}
    assert any(isinstance(layer, layers.Concatenate) for layer in small.layers)


def test_allow_empty_keeps_a_chain_and_rows():
    """Only a concatenation of channels can do without one of its inputs."""
    plan, _ = shrink(sandwich(dead=range(6)), alive=False, allow_empty=True)
    assert channels(plan) == {"a": 1, "b": 3}
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(4, 3, name=name) for name in "ab")
    rows = layers.Concatenate(axis=1)([a(inputs), b(inputs)])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(rows))
    zero_outputs(a, range(4))
    plan, small = shrink(model, allow_empty=True)
    assert channels(plan) == {"a": 4, "b": 4, "c": 3}
    assert small.output_shape == model.output_shape


@pytest.mark.parametrize("deeper", [0, 1])
def test_allow_empty_of_a_shared_layer(deeper):
    """One call of a dead layer goes into a concatenation, the other where it must stay."""
    inputs = keras.Input((8, 8, 3))
    dead = layers.Conv2D(4, 3, name="dead")
    b = layers.Conv2D(4, 3, name="b")
    x = layers.Concatenate()([dead(inputs), b(inputs)])
    x = layers.Conv2D(3, 3, name="c")(x)
    for _ in range(3 * deeper):  # which of the calls comes first in the graph
        x = layers.ReLU(negative_slope=0.1)(x)
    y = layers.Dense(2, name="d")(layers.Flatten()(dead(keras.ops.flip(inputs, 1))))
    model = functional(inputs, [x, y])
    zero_outputs(dead, range(4))
    plan, _ = shrink(model, alive=False, allow_empty=True)
    assert channels(plan) == {"dead": 1, "b": 4, "c": 3, "d": 2}


def test_channels_that_go_together_keep_their_own_constants():
    """A channel and its sigmoid go together: 0 here, 0.5 there, joined on one axis."""
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(3, 3, name="a")
    x = a(inputs)
    x = layers.Concatenate()([x, layers.Activation("sigmoid")(x)])
    x = layers.Reshape((6, 6, 2, 3))(x)
    model = functional(inputs, dense()(x))
    zero_outputs(a, [0])
    shrink(model)
