"""Models that several tests of channel removal shrink, and what holds for each of them.

Every model here has zeros at places chosen by hand, so that the number of channels
that must go is known.
"""

import keras
import numpy as np
import pytest
from keras import layers
from random_models import (
    output_channels,
    random_inputs,
    randomize,
    zero_outputs,
    zero_reads,
)

from cnn_l1.graph.macs import call_macs, count_macs
from cnn_l1.graph.reading import read_graph
from cnn_l1.shrink.removal import apply_shrink, plan_shrink

# What a rebuilt model shares with its own: the terms of float32 sums, in another order
# and with constants added up beforehand. Each layer rounds at some 1e-7 of its largest
# term; a few layers of random weights multiply that by some ten. A channel taken out
# wrongly moves outputs by 1e-2 of the largest and more.
ROUNDING = 1e-5


def outputs_of(model, inputs):
    tensors = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def assert_same_outputs(model, small, inputs=None, rounding=ROUNDING, alive=True):
    """Equal outputs, and outputs that depend on the input, so that this says something."""
    inputs = random_inputs(model) if inputs is None else inputs
    expected, got = outputs_of(model, inputs), outputs_of(small, inputs)
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        largest = np.abs(a).max()
        assert np.isfinite(largest)
        if alive:
            assert np.ptp(a, axis=0).max() > 0.01 * largest > 0.0
        np.testing.assert_allclose(b, a, rtol=0, atol=rounding * max(largest, 1e-3))


def shrink(model, inputs=None, rounding=ROUNDING, alive=True, **options):
    """The plan and the small model, with everything checked that holds for any model."""
    plan = plan_shrink(model, **options)
    small = apply_shrink(model, plan)
    assert_same_outputs(model, small, inputs, rounding, alive)
    assert not any(isinstance(layer, keras.Model) for layer in small.layers)
    assert (plan.parameters_before, plan.parameters_after) == (
        model.count_params(),
        small.count_params(),
    )
    before, after = known_macs(model, plan), known_macs(small, plan)
    assert (plan.macs_before, plan.macs_after) == (sum(before.values()), sum(after.values()))
    rebuilt = {layer.name: layer for layer in small.layers}
    for layer in plan.layers:
        assert 0 <= layer.channels_after <= layer.channels_before
        assert layer.macs_before == before.get(layer.name, 0)
        assert layer.macs_after == after.get(layer.name, 0)
        assert (layer.channels_after > 0) == (layer.name in rebuilt)
        if layer.channels_after:
            assert layer.parameters_after == rebuilt[layer.name].count_params()
            width = output_channels(rebuilt[layer.name])
            assert width in (None, layer.channels_after)
    return plan, small


def known_macs(model, plan):
    if plan.macs_known:
        return count_macs(model)
    with pytest.raises(ValueError, match="multiply-adds"):
        count_macs(model)
    counts = {}
    for call in read_graph(model).calls:
        try:
            macs = call_macs(call)
        except ValueError:
            continue
        counts[call.name] = counts.get(call.name, 0) + macs
    return counts


def channels(plan):
    return {layer.name: layer.channels_after for layer in plan.layers}


def entry(plan, name):
    return next(layer for layer in plan.layers if layer.name == name)


def functional(inputs, outputs, seed=0):
    return randomize(keras.Model(inputs, outputs), seed)


def sandwich(*middle, reader=None, shape=(8, 8, 3), dead=(1, 4), bias=0.0):
    """Convolution `a` of 6 channels, layers, reader `b`; channels `dead` of `a` constant."""
    inputs = x = keras.Input(shape)
    producer = layers.Conv2D(6, 3, name="a")
    reader = layers.Conv2D(3, 3, name="b") if reader is None else reader
    for layer in (producer, *middle, reader):
        x = layer(x)
    model = functional(inputs, x)
    zero_outputs(producer, dead, bias)
    return model


def dense():
    return layers.Dense(3, name="b")


def same(kernel=3, **settings):
    return layers.Conv2D(3, kernel, padding="same", name="b", **settings)


def line(shape, *steps):
    """A chain of layers, all weights random."""
    inputs = x = keras.Input(shape)
    for layer in steps:
        x = layer(x)
    return functional(inputs, x)


def two_branches(merge, dead_a, dead_b, bias=(0.0, 0.0), reader=None):
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(6, 3, name=name) for name in "ab")
    reader = layers.Conv2D(3, 3, name="c") if reader is None else reader
    model = functional(inputs, reader(merge([a(inputs), b(inputs)])))
    zero_outputs(a, dead_a, bias[0])
    zero_outputs(b, dead_b, bias[1])
    return model


@keras.saving.register_keras_serializable("test_shrink")
def centred(x):
    return x - keras.ops.mean(x, -1, keepdims=True)


def check_channels_left(model, left):
    """Of each layer those channels are left that carry something, and no more can go."""
    plan, small = shrink(model)
    assert channels(plan) == left
    before = {layer.name: layer.channels_before for layer in plan.layers}
    assert plan.removes_anything == (before != left)
    # What is left is left for good.
    assert channels(plan_shrink(small)) == {k: v for k, v in left.items() if v}


# Each gives a model, and the channels left of its layers.


def flatten():
    """A channel is a block of features; of channel 0 one position is still read."""
    a, b = layers.Conv2D(5, 3, activation="relu", name="a"), dense()
    model = line((5, 5, 3), a, layers.MaxPooling2D(2, strides=1), layers.Flatten(), b)
    zero_outputs(a, [3], 0.4)
    zero_reads(b, [0, 5, 10, 1, 6, 11, 16])  # 2x2 positions, channels the last axis
    return model, {"a": 3, "b": 3}


def depthwise_of_zeros():
    """Both products of channel 1 and one of channel 2 are zero: only channel 1 can go."""
    depthwise = layers.DepthwiseConv2D(
        3, strides=2, depth_multiplier=2, activation="relu", name="depthwise"
    )
    model = line((9, 9, 3), layers.Conv2D(5, 1, name="a"), depthwise, same())
    zero_outputs(depthwise, [2, 3, 4])
    return model, {"a": 4, "depthwise": 8, "b": 3}


def groups_go_whole():
    """Of three groups of two: the first has one zero, the second two."""
    b = layers.Conv2D(6, 3, groups=3, padding="same", activation="relu", name="b")
    model = line(
        (8, 8, 3),
        layers.Conv2D(6, 3, name="a"),
        b,
        layers.Conv2D(3, 3, padding="same", name="c"),
    )
    zero_outputs(b, [0, 2, 3])
    return model, {"a": 4, "b": 4, "c": 3}


def softmax_keeps_all():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.Softmax(), layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "b": 3}


def add():
    """A sum is zero where both are."""
    return two_branches(layers.Add(), [0, 1, 2], [1, 2, 3]), {"a": 4, "b": 4, "c": 3}


def multiply():
    """A product is zero where one of them is, whatever the other."""
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Multiply(), [0, 1], [1, 3], reader=reader)
    return model, {"a": 3, "b": 3, "c": 3}


def concatenate():
    model = two_branches(layers.Concatenate(), [0, 1], [3], (0.3, 0.0))
    return model, {"a": 4, "b": 5, "c": 3}


def residual_chain():
    """Three sums bind four producers: what is zero in all of them goes."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    for i in range(2):
        y = layers.BatchNormalization(name=f"bn_{i}")(x)
        y = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"in_{i}")(y)
        y = layers.Conv2D(6, 3, padding="same", name=f"out_{i}")(y)
        x = layers.Add()([x, y])
    model = functional(inputs, dense()(layers.GlobalAveragePooling2D()(x)))
    for name in ("stem", "out_0", "out_1"):
        zero_outputs(model.get_layer(name), [2, 3])
    zero_outputs(model.get_layer("out_1"), [4])
    for i in range(2):  # batch-norms would make constants that 3x3 same cannot fold
        zero_outputs(model.get_layer(f"bn_{i}"), [2, 3])
        zero_outputs(model.get_layer(f"in_{i}"), [i])
    zero_outputs(model.get_layer("in_1"), [2, 3])
    left = {"stem": 4, "bn_0": 4, "in_0": 3, "out_0": 4, "bn_1": 4, "in_1": 1, "out_1": 4, "b": 3}
    return model, left


def squeeze_and_excite():
    """A gate is a product: zero channels go, and with them their gates."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="swish", name="a")(inputs)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(4, 1, activation="swish", name="squeeze")(y)
    y = layers.Conv2D(6, 1, activation="sigmoid", name="excite")(y)
    model = functional(inputs, same()(layers.Multiply()([x, y])))
    zero_outputs(model.get_layer("a"), [0, 5])
    zero_outputs(model.get_layer("squeeze"), [3], 0.5)
    return model, {"a": 4, "squeeze": 3, "excite": 4, "b": 3}


def shared_on_two_tensors():
    """Both of its inputs must lack a channel that it reads."""
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    x = layers.Concatenate()([shared(a(inputs)), shared(b(inputs))])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1])
    zero_outputs(b, [1, 2])
    zero_outputs(shared, [3], 0.2)
    return model, {"a": 4, "b": 4, "shared": 5, "c": 3}


def shared_in_a_row():
    """It reads what it made: channel 0 goes where what it reads first has none either."""
    a = layers.Conv2D(4, 3, name="a")
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    inputs = keras.Input((8, 8, 3))
    model = functional(inputs, same()(shared(shared(a(inputs)))))
    zero_outputs(a, [0])
    zero_outputs(shared, [0, 1])
    return model, {"a": 3, "shared": 3, "b": 3}


def nested():
    """A Sequential model in a Functional one in a model: all of it comes out flat."""
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="a"), layers.ReLU()], name="inner"
    )
    x = keras.Input((8, 8, 3))
    middle = keras.Model(x, layers.Conv2D(5, 3, name="m")(inner(x)), name="middle")
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="bn")(middle(inputs))
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(x))
    zero_outputs(inner.get_layer("a"), [0, 1])
    zero_outputs(middle.get_layer("m"), [3])
    return model, {"a": 4, "m": 4, "bn": 4, "b": 3}


def several_inputs_and_outputs():
    images, features = keras.Input((8, 8, 3)), keras.Input((5,))
    a = layers.Conv2D(6, 3, activation="relu", name="a")
    b = layers.Dense(4, activation="relu", name="b")
    pooled = layers.GlobalAveragePooling2D()(a(images))
    joined = layers.Concatenate()([pooled, b(features), features])
    out_1, out_2 = layers.Dense(3, name="c")(joined), layers.Dense(2, name="d")(pooled)
    model = functional([images, features], [out_1, out_2])
    zero_outputs(a, [0, 1])
    zero_outputs(b, [2], 0.3)
    zero_reads(model.get_layer("c"), [3])  # of `a`, which `d` reads still
    zero_outputs(model.get_layer("c"), [0])
    return model, {"a": 4, "b": 3, "c": 3, "d": 2}


def dead_outputs_stay():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.ReLU(), layers.BatchNormalization(name="bn"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "bn": 6}


def nothing_to_remove():
    a = layers.Conv2D(6, 3, name="a")
    bn, depthwise = layers.BatchNormalization(name="bn"), layers.DepthwiseConv2D(3, name="d")
    model = line((8, 8, 3), a, bn, layers.ReLU(), depthwise, layers.Flatten(), dense())
    return model, {"a": 6, "bn": 6, "d": 6, "b": 3}
