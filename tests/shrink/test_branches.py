"""Channel removal across sums and products, and whole branches that go."""

import keras
import pytest
from keras import layers
from random_models import randomize, zero_outputs, zero_reads
from shrink_models import (
    add,
    channels,
    check_channels_left,
    dense,
    entry,
    functional,
    multiply,
    residual_chain,
    same,
    several_inputs_and_outputs,
    shrink,
    squeeze_and_excite,
    two_branches,
)


def add_of_constants():
    model = two_branches(layers.Add(), [0, 1, 2], [1, 2, 3], (0.3, 0.5))
    return model, {"a": 4, "b": 4, "c": 3}


def add_of_constants_before_padding():
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Add(), [0, 1, 2], [1, 2, 3], (0.3, 0.5), reader)
    return model, {"a": 6, "b": 6, "c": 3}


def add_of_constants_that_cancel():
    """0.5 - 0.5 at every position is zero, which may go before padding."""
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Add(), [0, 1, 2], [1, 2, 3], (0.5, -0.5), reader)
    return model, {"a": 4, "b": 4, "c": 3}


def add_read_before_too():
    """The first branch is read elsewhere as well, channel 1 of it by nobody."""
    inputs = keras.Input((8, 8, 3))
    a, b, c, d = (layers.Conv2D(6, 3, padding="same", name=name) for name in "abcd")
    x = a(inputs)
    model = functional(inputs, [c(layers.Add()([x, b(inputs)])), d(x)])
    zero_outputs(b, [0, 1])
    for layer in (c, d):
        zero_reads(layer, [1, 2])
    zero_reads(c, [0])
    return model, {"a": 4, "b": 4, "c": 6, "d": 6}


def subtract():
    return two_branches(layers.Subtract(), [0, 1], [1, 3], (0.3, 0.5)), {"a": 5, "b": 5, "c": 3}


def multiply_of_constants():
    model = two_branches(layers.Multiply(), [0, 1], [1, 3], (0.3, 0.5))
    return model, {"a": 5, "b": 5, "c": 3}


def average():
    return two_branches(layers.Average(), [0, 1], [1, 3], (0.3, 0.5)), {"a": 5, "b": 5, "c": 3}


def maximum():
    """Zero and something is the larger of them, no constant."""
    return two_branches(layers.Maximum(), [0, 1], [1, 3], (0.0, 0.5)), {"a": 5, "b": 5, "c": 3}


def minimum():
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Minimum(), [0, 1], [1, 3], (0.0, 0.5), reader)
    return model, {"a": 5, "b": 5, "c": 3}


def one_channel_for_all():
    """An attention map of one channel multiplies all of them."""
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    gate = layers.Conv2D(1, 3, activation="sigmoid", name="gate")
    model = functional(inputs, same()(layers.Multiply()([a(inputs), gate(inputs)])))
    zero_outputs(a, [0, 5])
    return model, {"a": 4, "gate": 1, "b": 3}


def operators_instead_of_layers():
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(6, 3, name=name) for name in "ab")
    x = keras.ops.relu(2.0 * a(inputs) + b(inputs))
    model = functional(inputs, layers.Conv2D(3, 3, padding="same", name="c")(x))
    zero_outputs(a, [0, 1, 2])
    zero_outputs(b, [1, 2, 3])
    return model, {"a": 4, "b": 4, "c": 3}


CASES = (
    add_of_constants,
    add_of_constants_before_padding,
    add_of_constants_that_cancel,
    add_read_before_too,
    subtract,
    multiply_of_constants,
    average,
    maximum,
    minimum,
    one_channel_for_all,
    operators_instead_of_layers,
    add,
    multiply,
    residual_chain,
    squeeze_and_excite,
    several_inputs_and_outputs,
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_channels_left_are_those_that_carry_something(make):
    check_channels_left(*make())


def residual(merge, norm=False, swap=False):
    """A stem, a branch of two layers that ends in zeros, their sum, a reader."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="stem")(inputs)
    y = layers.Conv2D(4, 3, padding="same", activation="sigmoid", name="in")(x)
    y = layers.Conv2D(6, 3, padding="same", name="out")(y)
    if norm:
        y = layers.BatchNormalization(name="bn")(y)
    model = functional(inputs, same()(merge([y, x] if swap else [x, y])))
    zero_outputs(model.get_layer("bn" if norm else "out"), range(6))
    return model


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("merge", [layers.Add, layers.Subtract])
def test_a_branch_of_zeros_is_left_out(merge, norm):
    plan, small = shrink(residual(merge(), norm))
    gone = {"in": 0, "out": 0, **({"bn": 0} if norm else {})}
    assert channels(plan) == {"stem": 6, "b": 3, **gone}
    kinds = {type(layer) for layer in small.layers}
    assert not kinds & {layers.Add, layers.Subtract, layers.BatchNormalization}
    for name in gone:
        assert (entry(plan, name).macs_after, entry(plan, name).parameters_after) == (0, 0)


def test_a_branch_of_zeros_before_a_sum_is_left_out():
    plan, _ = shrink(residual(layers.Add(), swap=True))
    assert channels(plan) == {"stem": 6, "in": 0, "out": 0, "b": 3}
    # 0 - x is not x.
    plan, _ = shrink(residual(layers.Subtract(), swap=True))
    assert entry(plan, "stem").channels_after == 6


def test_a_branch_of_a_constant_is_not_left_out():
    model = residual(layers.Add())
    zero_outputs(model.get_layer("out"), range(6), 0.5)
    plan, _ = shrink(model)
    # The sum has six live channels, and the branch ends in as many.
    assert channels(plan) == {"stem": 6, "in": 1, "out": 6, "b": 3}
    assert entry(plan, "out").held_back


@pytest.mark.parametrize("dead", [1, 2, 3])
def test_sums_of_three(dead):
    inputs = keras.Input((8, 8, 3))
    branches = [layers.Conv2D(4, 3, name=f"a{i}") for i in range(3)]
    x = layers.Add()([branch(inputs) for branch in branches])
    model = functional(inputs, dense()(layers.Flatten()(x)))
    for branch in branches[:dead]:
        zero_outputs(branch, range(4))
    plan, small = shrink(model, alive=dead < 3)
    if dead < 3:
        expected = {f"a{i}": 0 if i < dead else 4 for i in range(3)}
        assert channels(plan) == {**expected, "b": 3}
        adds = [layer for layer in small.layers if isinstance(layer, layers.Add)]
        assert len(adds) == (dead == 1)
    else:
        assert sum(v for k, v in channels(plan).items() if k != "b") == 1


def test_a_branch_that_gives_the_sum_its_shape_is_not_left_out():
    """(6, 6, 4) of zeros + (1, 1, 4): what is left is smaller than the sum."""
    inputs = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(4, 3, name="a"), layers.Conv2D(4, 1, name="b")
    pooled = b(layers.GlobalAveragePooling2D(keepdims=True)(inputs))
    model = functional(inputs, layers.Add()([a(inputs), pooled]))
    zero_outputs(a, range(4))
    plan, small = shrink(model)
    assert small.output_shape == (None, 6, 6, 4)
    assert channels(plan) == {"a": 4, "b": 4}
    # The other way round the small one may go.
    randomize(model)
    zero_outputs(b, range(4))
    assert channels(shrink(model)[0]) == {"a": 4, "b": 0}


def test_a_channel_for_all_that_is_zero_is_left_out():
    """(6, 6, 4) + (6, 6, 1)."""
    inputs = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(4, 3, name="a"), layers.Conv2D(1, 3, name="b")
    sum_of_both = layers.Add()([a(inputs), b(inputs)])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(sum_of_both))
    zero_outputs(b, [0])
    plan, _ = shrink(model)
    assert channels(plan) == {"a": 4, "b": 0, "c": 3}


def test_a_sum_that_is_the_output_and_a_model_input():
    """What is left of the model is its input."""
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(3, 3, padding="same", name="a")
    model = functional(inputs, layers.Add()([inputs, a(inputs)]))
    zero_outputs(a, range(3))
    plan, small = shrink(model)
    assert channels(plan) == {"a": 0}
    assert small.count_params() == 0


def test_an_input_that_nothing_depends_on_stays():
    """The smaller model takes what the model took."""
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    a, b = (layers.Conv2D(4, 3, name=name) for name in "ab")
    model = functional([left, right], layers.Add()([a(left), b(right)]))
    zero_outputs(b, range(4))
    plan, small = shrink(model)
    assert channels(plan) == {"a": 4, "b": 0}
    assert [tensor.name for tensor in small.inputs] == ["left", "right"]


def test_two_dead_branches_after_each_other():
    """The first branch is read by the second as well, which is gone."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, name="stem")(inputs)
    for i in range(3):
        y = layers.Conv2D(5, 3, padding="same", name=f"branch_{i}")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    model = functional(inputs, dense()(layers.Flatten()(x)))
    for i in range(2):
        zero_outputs(model.get_layer(f"branch_{i}"), range(5))
    zero_outputs(model.get_layer("stem"), [1])
    zero_outputs(model.get_layer("branch_2"), [1])
    plan, _ = shrink(model)
    assert channels(plan) == {"stem": 4, "branch_0": 0, "branch_1": 0, "branch_2": 4, "b": 3}
