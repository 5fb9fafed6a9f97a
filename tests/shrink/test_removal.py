"""Channel removal: the smaller model computes the same, and nothing removable is left.

Every model here has zeros at places chosen by hand, so that the number of channels
that must go is known; graphs drawn at random look for what nobody thought of.
"""

import itertools

import keras
import numpy as np
import pytest
import random_models
from hypothesis import HealthCheck, Phase, event, given, settings
from keras import layers
from random_models import (
    leaf_layers,
    output_channels,
    random_inputs,
    randomize,
    zero_outputs,
    zero_reads,
)

from cnn_l1.config import loading as config
from cnn_l1.graph.macs import call_macs, count_macs
from cnn_l1.graph.reading import read_graph
from cnn_l1.models import builders
from cnn_l1.shrink.removal import ShrinkError, apply_shrink, plan_shrink

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


# --- layers between a producer and a reader ---------------------------------------


def dense():
    return layers.Dense(3, name="b")


def same(kernel=3, **settings):
    return layers.Conv2D(3, kernel, padding="same", name="b", **settings)


# Layers that keep a channel of zeros one of zeros, which may go in front of any reader.
ZERO_TO_ZERO = {
    "nothing": lambda: [],
    "relu": lambda: [layers.Activation("relu")],
    "ReLU layer": lambda: [layers.ReLU(2.0, negative_slope=0.1)],
    "LeakyReLU layer": lambda: [layers.LeakyReLU(0.3)],
    "ELU layer": lambda: [layers.ELU(0.7)],
    "tanh": lambda: [layers.Activation("tanh")],
    "gelu": lambda: [layers.Activation("gelu")],
    "swish": lambda: [layers.Activation("swish")],
    "dropout": lambda: [layers.Dropout(0.5)],
    "spatial dropout": lambda: [layers.SpatialDropout2D(0.5)],
    "noise": lambda: [layers.GaussianNoise(0.5)],
    "max pooling": lambda: [layers.MaxPooling2D(2)],
    "max pooling, same": lambda: [layers.MaxPooling2D(3, strides=2, padding="same")],
    "average pooling": lambda: [layers.AveragePooling2D(2)],
    "average pooling, same": lambda: [layers.AveragePooling2D(3, strides=2, padding="same")],
    "zero padding": lambda: [layers.ZeroPadding2D(((1, 0), (2, 1)))],
    "cropping": lambda: [layers.Cropping2D(((1, 0), (0, 1)))],
    "upsampling": lambda: [layers.UpSampling2D(2)],
    "upsampling, bilinear": lambda: [layers.UpSampling2D(2, interpolation="bilinear")],
    "rescaling": lambda: [layers.Rescaling(0.3)],
    "rescaling by channel": lambda: [layers.Rescaling([0.5, 2.0, 1.0, -1.0, 3.0, 0.1])],
    "batch-norm of zero shift": lambda: [layers.BatchNormalization(name="bn", center=False)],
    "separable reader": lambda: [layers.SeparableConv2D(4, 3, padding="same", name="separable")],
    "transposed reader": lambda: [layers.Conv2DTranspose(4, 3, strides=2, name="transposed")],
    "PReLU": lambda: [layers.PReLU(name="prelu")],
    "PReLU, one slope a channel": lambda: [layers.PReLU(shared_axes=[1, 2], name="prelu")],
    "PReLU, one slope": lambda: [layers.PReLU(shared_axes=[1, 2, 3], name="prelu")],
    "spatial reshape": lambda: [layers.Reshape((4, 9, 6))],
    "open reshape": lambda: [layers.Reshape((-1, 4, 6))],
    "spatial permute": lambda: [layers.Permute((2, 1, 3))],
    "several": lambda: [
        layers.ReLU(),
        layers.MaxPooling2D(2, padding="same"),
        layers.Dropout(0.1),
        layers.ZeroPadding2D(1),
    ],
}
WITH_WEIGHTS = {"bn": 4, "prelu": 4, "separable": 4, "transposed": 4}


@pytest.mark.parametrize("name", ZERO_TO_ZERO)
def test_channels_of_zeros_go_through_any_layer(name):
    model = sandwich(*ZERO_TO_ZERO[name](), reader=same())
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            # Without a shift, a mean of zero is what keeps zero at zero.
            layer.moving_mean.assign(np.zeros(6))
    plan, small = shrink(model)
    expected = {"a": 4, "b": 3, **{k: v for k, v in WITH_WEIGHTS.items() if k in channels(plan)}}
    if name == "PReLU, one slope":
        expected["prelu"] = entry(plan, "prelu").channels_after  # one weight, whatever goes
    assert channels(plan) == expected
    assert small.get_layer("a").kernel.shape == (3, 3, 3, 4)
    assert plan.unsupported == ()
    assert not any(layer.held_back for layer in plan.layers)


# Layers behind which a channel of zeros, or one of 0.4, is another constant than zero.
ZERO_TO_CONSTANT = {
    "sigmoid": lambda: [layers.Activation("sigmoid")],
    "hard sigmoid": lambda: [layers.Activation("hard_sigmoid")],
    "softplus": lambda: [layers.Activation("softplus")],
    "exponential": lambda: [layers.Activation("exponential")],
    "rescaling": lambda: [layers.Rescaling(0.3, offset=-0.2)],
    "rescaling by channel": lambda: [layers.Rescaling(0.3, offset=[0.1, 0.2, 0.3, -0.4, 0.5, 1])],
    "normalization": lambda: [layers.Normalization(mean=[0.2] * 6, variance=[0.5] * 6)],
    "normalization, adapted": lambda: [layers.Normalization(name="adapted")],
    "normalization, one mean": lambda: [layers.Normalization(axis=None, mean=0.2, variance=2.0)],
    "inverse normalization": lambda: [
        layers.Normalization(mean=[0.2] * 6, variance=[0.5] * 6, invert=True)
    ],
    "batch-norm": lambda: [layers.BatchNormalization(name="bn")],
    "batch-norm without scale": lambda: [layers.BatchNormalization(name="bn", scale=False)],
    "batch-norm and pooling": lambda: [
        layers.BatchNormalization(name="bn"),
        layers.AveragePooling2D(3, strides=1, padding="same"),
        layers.MaxPooling2D(2, padding="same"),
    ],
    "sigmoid and cropping": lambda: [layers.Activation("sigmoid"), layers.Cropping2D(1)],
    "sigmoid and upsampling": lambda: [
        layers.Activation("sigmoid"),
        layers.UpSampling2D(2, interpolation="bilinear"),
    ],
    "sigmoid and dropout": lambda: [layers.Activation("sigmoid"), layers.Dropout(0.5)],
    "two activations": lambda: [layers.Activation("softplus"), layers.LeakyReLU(0.1)],
}
FOLDING_READERS = {
    "valid": lambda: layers.Conv2D(3, 3, name="b"),
    "valid, strided": lambda: layers.Conv2D(3, 2, strides=2, name="b"),
    "valid, dilated": lambda: layers.Conv2D(3, 2, dilation_rate=2, name="b"),
    "valid, without bias": lambda: layers.Conv2D(3, 3, use_bias=False, name="b"),
    "valid, with activation": lambda: layers.Conv2D(3, 3, activation="tanh", name="b"),
    "1x1, same": lambda: same(1),
    "1x1, same, strided, without bias": lambda: same(1, strides=2, use_bias=False),
    "dense": dense,
    "dense without bias": lambda: layers.Dense(3, use_bias=False, name="b"),
}


def constant_model(name, reader):
    middle = ZERO_TO_CONSTANT[name]()
    if name == "normalization, adapted":
        middle[0].adapt(np.random.default_rng(0).normal(0.5, 1.0, (20, 6, 6, 6)))
    return sandwich(*middle, reader=reader)


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        *((name, "valid") for name in ZERO_TO_CONSTANT),
        *(("sigmoid", reader) for reader in FOLDING_READERS if reader != "valid"),
    ],
)
def test_constants_fold_into_the_readers_bias(name, reader):
    model = constant_model(name, FOLDING_READERS[reader]())
    plan, small = shrink(model)
    assert entry(plan, "a").channels_after == 4
    assert entry(plan, "b").channels_after == 3
    if "bn" in channels(plan):
        assert entry(plan, "bn").channels_after == 4
    assert small.get_layer("b").kernel.shape[-2] == 4
    had_bias, old = model.get_layer("b").use_bias, model.get_layer("b").count_params()
    assert small.get_layer("b").use_bias
    spared = 2 * old // 6 if not had_bias else 2 * (old - 3) // 6
    assert entry(plan, "b").parameters_after == old - spared + (0 if had_bias else 3)


@pytest.mark.parametrize("name", ZERO_TO_CONSTANT)
def test_constants_stay_in_front_of_a_padding_reader(name):
    """Zeros at the border are other values than the constant, so no bias replaces it."""
    plan, _ = shrink(constant_model(name, same()))
    assert entry(plan, "a").channels_after == 6
    assert "2 zero" in entry(plan, "a").held_back


PADDING = {
    "zero padding": lambda: [layers.Activation("sigmoid"), layers.ZeroPadding2D(1)],
    "depthwise, same": lambda: [
        layers.Activation("sigmoid"),
        layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
    ],
    "transposed": lambda: [
        layers.Activation("sigmoid"),
        layers.Conv2DTranspose(4, 3, strides=2, name="transposed"),
    ],
}


@pytest.mark.parametrize("name", PADDING)
def test_layers_that_make_a_constant_vary(name):
    plan, _ = shrink(sandwich(*PADDING[name](), reader=layers.Conv2D(3, 3, name="b")))
    assert entry(plan, "a").channels_after == 6


def test_a_bias_alone_is_a_constant_too():
    """Zero kernel, bias 0.4: folded where the reader does not pad, kept where it does."""
    plan, _ = shrink(sandwich(bias=0.4))
    assert channels(plan) == {"a": 4, "b": 3}
    plan, _ = shrink(sandwich(bias=0.4, reader=same()))
    assert channels(plan) == {"a": 6, "b": 3}
    # A negative one behind a ReLU is zero.
    plan, _ = shrink(sandwich(layers.ReLU(), bias=-0.4, reader=same()))
    assert channels(plan) == {"a": 4, "b": 3}
    assert not entry(plan, "a").held_back


def test_no_bias_is_added_for_nothing():
    reader = layers.Conv2D(3, 3, use_bias=False, name="b")
    _, small = shrink(sandwich(reader=reader))
    assert not small.get_layer("b").use_bias


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_batch_norm_scales_of_zero_free_the_layer_in_front(shift):
    """What slimming leaves: live filters behind a scale of zero."""
    model = sandwich(layers.BatchNormalization(name="bn"), layers.ReLU(), reader=same(), dead=())
    zero_outputs(model.get_layer("bn"), [0, 5], shift)
    plan, _ = shrink(model)
    # A positive shift passes the ReLU, and the reader pads.
    left = 6 if shift > 0 else 4
    assert channels(plan) == {"a": left, "bn": left, "b": 3}


# --- one model a kind of layer: the model, and the channels left ---------------------

CASES = {}


def case(make):
    CASES[make.__name__] = make
    return make


def line(shape, *steps):
    """A chain of layers, all weights random."""
    inputs = x = keras.Input(shape)
    for layer in steps:
        x = layer(x)
    return functional(inputs, x)


@case
def conv1d():
    a = layers.Conv1D(6, 3, padding="causal", activation="relu", name="a")
    b = layers.Conv1D(5, 3, padding="causal", dilation_rate=2, name="b")
    model = line((12, 2), a, b, layers.MaxPooling1D(2), layers.Conv1D(3, 2, name="c"))
    zero_outputs(a, [0, 3])
    zero_outputs(b, [1], 0.4)
    return model, {"a": 4, "b": 4, "c": 3}


@case
def conv1d_causal_pads():
    a = layers.Conv1D(6, 3, name="a")
    model = line((12, 2), a, layers.Conv1D(5, 3, padding="causal", name="b"))
    zero_outputs(a, [0, 3], 0.4)
    return model, {"a": 6, "b": 5}


@case
def conv3d():
    a = layers.Conv3D(5, 2, activation="relu", name="a")
    b = layers.Conv3D(4, 2, padding="same", strides=2, name="b")
    model = line(
        (6, 6, 6, 2),
        a,
        layers.MaxPooling3D(2, strides=1),
        b,
        layers.GlobalAveragePooling3D(),
        layers.Dense(2, name="c"),
    )
    zero_outputs(a, [1, 2])
    zero_outputs(b, [3], -0.2)
    return model, {"a": 3, "b": 3, "c": 2}


@case
def strides_and_dilation():
    a = layers.Conv2D(6, 3, strides=2, activation="elu", name="a")
    b = layers.Conv2D(5, 2, dilation_rate=2, padding="same", name="b")
    model = line((13, 13, 3), a, b, layers.Conv2D(4, 3, strides=3, name="c"))
    zero_outputs(a, [0])
    zero_outputs(b, [2, 3], 0.7)
    return model, {"a": 5, "b": 3, "c": 4}


@case
def dense_chain():
    a, b = (layers.Dense(8, activation="relu", name=name) for name in "ab")
    model = line((10,), a, layers.Dropout(0.2), b, layers.Dense(3, name="c"))
    zero_outputs(a, [0, 1, 2])
    zero_outputs(b, [5, 7], 0.5)
    return model, {"a": 5, "b": 6, "c": 3}


@case
def dense_over_images():
    a = layers.Dense(6, activation="relu", name="a")
    model = line((4, 5, 3), a, layers.Dense(4, name="b"))
    zero_outputs(a, [0, 1], 0.5)
    return model, {"a": 4, "b": 4}


@case
def unread_channels():
    """Nobody reads 0 and 3; then nobody who is left reads channel 2 of the layer before."""
    first = layers.Conv2D(4, 1, name="first")
    a, b = layers.Conv2D(6, 3, activation="sigmoid", name="a"), same()
    model = line(
        (8, 8, 3), first, a, layers.BatchNormalization(name="bn"), layers.MaxPooling2D(), b
    )
    zero_reads(b, [0, 3])
    kernel = np.array(a.kernel)
    kernel[:, :, 2, [1, 2, 4, 5]] = 0.0
    a.kernel.assign(kernel)
    return model, {"first": 3, "a": 4, "bn": 4, "b": 3}


@case
def zeros_go_forward():
    """A filter that reads nothing but a channel of zeros is a constant too."""
    a, b = layers.Conv2D(4, 3, name="a"), layers.Conv2D(5, 3, padding="same", name="b")
    model = line((9, 9, 3), a, layers.ReLU(), b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(a, [1])
    kernel = np.array(b.kernel)
    kernel[:, :, [0, 2, 3], 4] = 0.0
    b.kernel.assign(kernel)
    return model, {"a": 3, "b": 4, "c": 3}


@case
def kernel_that_adds_up_to_zero():
    """Weights that cancel still read: their sum alone must not say that they do not."""
    a, b = layers.Conv2D(4, 3, name="a"), layers.Conv2D(3, 2, name="b")
    model = line((8, 8, 3), a, b)
    kernel = np.array(b.kernel)
    kernel[:, :, 1] = np.array([[1.0, -1.0], [-1.0, 1.0]])[:, :, None]
    b.kernel.assign(kernel)
    return model, {"a": 4, "b": 3}


@case
def depthwise_behind_zeros():
    """A channel takes all that the multiplier makes of it."""
    a = layers.Conv2D(5, 3, name="a")
    depthwise = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")
    model = line((9, 9, 3), a, layers.ReLU(), depthwise, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 4])
    return model, {"a": 3, "depthwise": 6, "b": 3}


@case
def depthwise_of_zeros():
    """Both products of channel 1 and one of channel 2 are zero: only channel 1 can go."""
    depthwise = layers.DepthwiseConv2D(
        3, strides=2, depth_multiplier=2, activation="relu", name="depthwise"
    )
    model = line((9, 9, 3), layers.Conv2D(5, 1, name="a"), depthwise, same())
    zero_outputs(depthwise, [2, 3, 4])
    return model, {"a": 4, "depthwise": 8, "b": 3}


@case
def depthwise_folds_what_is_constant_through_it():
    a = layers.Conv2D(5, 3, name="a")
    depthwise = layers.DepthwiseConv2D(3, activation="tanh", name="depthwise")
    model = line((9, 9, 3), a, depthwise, layers.BatchNormalization(name="bn"), same(1))
    zero_outputs(a, [0, 4], 0.6)
    return model, {"a": 3, "depthwise": 3, "bn": 3, "b": 3}


@case
def depthwise_without_bias():
    a = layers.Conv2D(5, 3, name="a")
    depthwise = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")
    model = line((9, 9, 3), a, layers.ReLU(6.0), depthwise, layers.ReLU(6.0), same())
    zero_outputs(a, [2])
    return model, {"a": 4, "depthwise": 4, "b": 3}


@case
def depthwise_1d():
    a = layers.Conv1D(5, 3, name="a")
    depthwise = layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise")
    model = line((12, 3), a, depthwise, layers.Conv1D(3, 2, name="b"))
    zero_outputs(a, [2], 0.5)
    return model, {"a": 4, "depthwise": 8, "b": 3}


@case
def separable():
    """It reads with one kernel and writes with the other."""
    a = layers.Conv2D(5, 3, name="a")
    b = layers.SeparableConv2D(6, 3, depth_multiplier=2, activation="relu", name="b")
    model = line((9, 9, 3), a, b, layers.Conv2D(3, 3, padding="same", name="c"))
    zero_reads(b, [1])
    zero_outputs(a, [4])
    zero_outputs(b, [0, 5])
    return model, {"a": 3, "b": 4, "c": 3}


@case
def separable_whose_pointwise_kernel_reads_nothing():
    """Zeros in either kernel leave a channel unread."""
    b = layers.SeparableConv2D(6, 3, depth_multiplier=2, name="b")
    model = line((9, 9, 3), layers.Conv2D(5, 3, name="a"), b)
    pointwise = np.array(b.pointwise_kernel)
    pointwise[:, :, 4:6] = 0.0  # both products of channel 2
    b.pointwise_kernel.assign(pointwise)
    return model, {"a": 4, "b": 6}


@case
def separable_1d():
    a = layers.Conv1D(5, 3, name="a")
    b = layers.SeparableConv1D(6, 3, padding="same", name="b")
    model = line((9, 3), a, b, layers.Conv1D(3, 1, name="c"))
    zero_outputs(a, [4])
    zero_outputs(b, [0, 5], 0.4)
    return model, {"a": 4, "b": 4, "c": 3}


@case
def transposed():
    a = layers.Conv2D(5, 3, activation="relu", name="a")
    b = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="b")
    model = line((7, 7, 3), a, b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(a, [0, 1])
    zero_outputs(b, [2, 5], 0.5)
    return model, {"a": 3, "b": 4, "c": 3}


@case
def transposed_1d_and_unread():
    b = layers.Conv1DTranspose(6, 3, strides=2, name="b")
    model = line((7, 3), layers.Conv1D(5, 2, name="a"), b, layers.Conv1D(3, 3, name="c"))
    zero_reads(b, [3])
    return model, {"a": 4, "b": 6, "c": 3}


@case
def transposed_3d():
    a = layers.Conv3D(4, 2, name="a")
    model = line((4, 4, 4, 2), a, layers.Conv3DTranspose(3, 2, strides=2, name="b"))
    zero_outputs(a, [3])
    return model, {"a": 3, "b": 3}


@case
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


@case
def groups_behind_zeros():
    """The second group gets zeros alone: a constant, which folds."""
    a = layers.Conv2D(6, 3, name="a")
    b = layers.Conv2D(9, 3, groups=3, padding="same", name="b")
    model = line((8, 8, 3), a, b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(a, [0, 2, 3])
    return model, {"a": 4, "b": 6, "c": 3}


@case
def groups_down_to_one():
    b = layers.Conv2D(4, 3, groups=2, name="b")
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(b, [2, 3], 0.3)
    return model, {"a": 3, "b": 2, "c": 3}


@case
def groups_of_one():
    """As many groups as channels: each goes by itself."""
    b = layers.Conv2D(6, 3, groups=6, padding="same", name="b")
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(b, [2, 3], 0.3)
    zero_outputs(model.get_layer("a"), [0])
    return model, {"a": 3, "b": 3, "c": 3}


@case
def layer_normalization_keeps_all():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.LayerNormalization(name="ln"), same())
    zero_outputs(a, [0, 1])
    zero_outputs(model.get_layer("ln"), [2])
    return model, {"a": 6, "ln": 6, "b": 3}


@case
def softmax_keeps_all():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.Softmax(), layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "b": 3}


@case
def softmax_inside_a_layer_keeps_all():
    a = layers.Conv2D(6, 3, activation="softmax", name="a")
    model = line((8, 8, 3), a, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "b": 3}


@keras.saving.register_keras_serializable("test_shrink")
def centred(x):
    return x - keras.ops.mean(x, -1, keepdims=True)


@case
def activation_of_ones_own_keeps_all():
    """Nothing is known of a function: this one mixes channels."""
    a = layers.Conv2D(6, 3, activation=centred, name="a")
    model = line((8, 8, 3), a, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "b": 3}


@case
def group_norm_takes_whole_groups():
    """Groups of four: all of the second are zero, two of the first."""
    norm = layers.GroupNormalization(2, name="norm")
    model = line((8, 8, 3), layers.Conv2D(8, 3, name="a"), norm, layers.ReLU(), same())
    zero_outputs(norm, [0, 1, 4, 5, 6, 7])
    return model, {"a": 4, "norm": 4, "b": 3}


@case
def group_norm_behind_zeros():
    """Zeros count for the mean of their group."""
    a = layers.Conv2D(8, 3, name="a")
    norm = layers.GroupNormalization(2, name="norm")
    model = line((8, 8, 3), a, norm, layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, [0, 1])
    return model, {"a": 8, "norm": 8, "b": 3}


@case
def instance_norm():
    """A group a channel: each goes by itself."""
    norm = layers.GroupNormalization(-1, name="norm")
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), norm, layers.Conv2D(3, 3, name="b"))
    zero_outputs(norm, [0, 1], 0.5)
    return model, {"a": 4, "norm": 4, "b": 3}


@case
def batch_norm_along_another_axis():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.BatchNormalization(axis=1, name="bn"), dense())
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "bn": 6, "b": 3}


@case
def flatten():
    """A channel is a block of features; of channel 0 one position is still read."""
    a, b = layers.Conv2D(5, 3, activation="relu", name="a"), dense()
    model = line((5, 5, 3), a, layers.MaxPooling2D(2, strides=1), layers.Flatten(), b)
    zero_outputs(a, [3], 0.4)
    zero_reads(b, [0, 5, 10, 1, 6, 11, 16])  # 2x2 positions, channels the last axis
    return model, {"a": 3, "b": 3}


@case
def flatten_between_dense_layers():
    a = layers.Dense(6, name="a")
    model = line((5,), a, layers.Flatten(), dense())
    zero_outputs(a, [3])
    return model, {"a": 5, "b": 3}


@case
def reshape_to_a_sequence():
    a = layers.Conv2D(5, 3, name="a")
    model = line((6, 6, 3), a, layers.Reshape((16, 5)), layers.Conv1D(4, 3, name="b"))
    zero_outputs(a, [3], 0.4)
    return model, {"a": 4, "b": 4}


@case
def reshape_between_global_pooling_and_1x1():
    """MobileNet's ending."""
    a = layers.Conv2D(5, 3, name="a")
    model = line(
        (6, 6, 3),
        a,
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Reshape((1, 1, 5)),
        layers.Conv2D(4, 1, padding="same", name="b"),
        layers.Reshape((4,)),
    )
    zero_outputs(a, [3], 0.4)
    return model, {"a": 4, "b": 4}


@case
def reshape_from_features_to_images():
    """A channel of the images is four features: it stays while one of them is not zero."""
    a = layers.Dense(16, activation="relu", name="a")
    model = line((5,), a, layers.Reshape((2, 2, 4)), same())
    zero_outputs(a, [0, 4, 8, 12, 1, 5, 9])
    return model, {"a": 16, "b": 3}


@case
def permute_to_channels_first():
    """Flattened with the channels in front: blocks of neighbours."""
    a = layers.Conv2D(4, 3, name="a")
    model = line((5, 5, 3), a, layers.Permute((3, 1, 2)), layers.Flatten(), dense())
    zero_outputs(a, [1], 0.3)
    zero_reads(model.get_layer("b"), range(18, 27))
    return model, {"a": 2, "b": 3}


@case
def permute_and_read_another_axis():
    a = layers.Conv2D(4, 3, name="a")
    model = line((5, 5, 3), a, layers.Permute((3, 1, 2)), dense())
    zero_outputs(a, [1])
    return model, {"a": 4, "b": 3}


@case
def global_max_pooling():
    a = layers.Conv2D(5, 3, name="a")
    model = line((6, 6, 3), a, layers.GlobalMaxPooling2D(), dense())
    zero_outputs(a, [0, 3], -0.4)
    return model, {"a": 3, "b": 3}


@case
def global_pooling_1d():
    a = layers.Conv1D(5, 3, name="a")
    model = line((6, 3), a, layers.GlobalAveragePooling1D(), dense())
    zero_outputs(a, [0, 3], -0.4)
    return model, {"a": 3, "b": 3}


@case
def global_pooling_of_another_axis():
    """Told that channels come first, it pools the channels away."""
    a = layers.Conv2D(5, 3, name="a")
    pool = layers.GlobalAveragePooling2D(data_format="channels_first")
    model = line((6, 6, 3), a, pool, dense())
    zero_outputs(a, [0, 3])
    return model, {"a": 5, "b": 3}


def two_branches(merge, dead_a, dead_b, bias=(0.0, 0.0), reader=None):
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(6, 3, name=name) for name in "ab")
    reader = layers.Conv2D(3, 3, name="c") if reader is None else reader
    model = functional(inputs, reader(merge([a(inputs), b(inputs)])))
    zero_outputs(a, dead_a, bias[0])
    zero_outputs(b, dead_b, bias[1])
    return model


@case
def add():
    """A sum is zero where both are."""
    return two_branches(layers.Add(), [0, 1, 2], [1, 2, 3]), {"a": 4, "b": 4, "c": 3}


@case
def add_of_constants():
    model = two_branches(layers.Add(), [0, 1, 2], [1, 2, 3], (0.3, 0.5))
    return model, {"a": 4, "b": 4, "c": 3}


@case
def add_of_constants_in_front_of_padding():
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Add(), [0, 1, 2], [1, 2, 3], (0.3, 0.5), reader)
    return model, {"a": 6, "b": 6, "c": 3}


@case
def add_of_constants_that_cancel():
    """0.5 - 0.5 at every position is zero, which may go in front of padding."""
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Add(), [0, 1, 2], [1, 2, 3], (0.5, -0.5), reader)
    return model, {"a": 4, "b": 4, "c": 3}


@case
def add_read_in_front_too():
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


@case
def subtract():
    return two_branches(layers.Subtract(), [0, 1], [1, 3], (0.3, 0.5)), {"a": 5, "b": 5, "c": 3}


@case
def multiply():
    """A product is zero where one of them is, whatever the other."""
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Multiply(), [0, 1], [1, 3], reader=reader)
    return model, {"a": 3, "b": 3, "c": 3}


@case
def multiply_of_constants():
    model = two_branches(layers.Multiply(), [0, 1], [1, 3], (0.3, 0.5))
    return model, {"a": 5, "b": 5, "c": 3}


@case
def average():
    return two_branches(layers.Average(), [0, 1], [1, 3], (0.3, 0.5)), {"a": 5, "b": 5, "c": 3}


@case
def maximum():
    """Zero and something is the larger of them, no constant."""
    return two_branches(layers.Maximum(), [0, 1], [1, 3], (0.0, 0.5)), {"a": 5, "b": 5, "c": 3}


@case
def minimum():
    reader = layers.Conv2D(3, 3, padding="same", name="c")
    model = two_branches(layers.Minimum(), [0, 1], [1, 3], (0.0, 0.5), reader)
    return model, {"a": 5, "b": 5, "c": 3}


@case
def concatenate():
    model = two_branches(layers.Concatenate(), [0, 1], [3], (0.3, 0.0))
    return model, {"a": 4, "b": 5, "c": 3}


@case
def concatenate_and_batch_norm():
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(4, 3, name=name) for name in "ab")
    bn = layers.BatchNormalization(name="bn")
    x = layers.ReLU()(bn(layers.Concatenate()([inputs[:, 1:-1, 1:-1], a(inputs), b(inputs)])))
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1])
    zero_outputs(bn, [8])
    return model, {"a": 2, "b": 3, "bn": 8, "c": 3}


@case
def concatenate_of_one_tensor_twice():
    """Each half is read by itself; a channel goes once both are unread."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="a")(inputs)
    model = functional(inputs, same()(layers.Concatenate()([x, x])))
    zero_reads(model.get_layer("b"), [0, 1, 5, 6])
    return model, {"a": 3, "b": 3}


@case
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


@case
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


@case
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


@case
def one_channel_for_all():
    """An attention map of one channel multiplies all of them."""
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    gate = layers.Conv2D(1, 3, activation="sigmoid", name="gate")
    model = functional(inputs, same()(layers.Multiply()([a(inputs), gate(inputs)])))
    zero_outputs(a, [0, 5])
    return model, {"a": 4, "gate": 1, "b": 3}


@case
def operators_instead_of_layers():
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(6, 3, name=name) for name in "ab")
    x = keras.ops.relu(2.0 * a(inputs) + b(inputs))
    model = functional(inputs, layers.Conv2D(3, 3, padding="same", name="c")(x))
    zero_outputs(a, [0, 1, 2])
    zero_outputs(b, [1, 2, 3])
    return model, {"a": 4, "b": 4, "c": 3}


@case
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


@case
def shared_with_other_constants():
    """One bias cannot take in 0.3 for the first call and 0.5 for the second."""
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    shared = layers.Conv2D(6, 3, name="shared")
    x = layers.Subtract()([shared(a(inputs)), shared(b(inputs))])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1], 0.3)
    zero_outputs(b, [0], 0.3)
    zero_outputs(b, [1], 0.5)
    return model, {"a": 4, "b": 4, "shared": 6, "c": 3}


@case
def shared_in_a_row():
    """It reads what it made: channel 0 goes where what it reads first has none either."""
    a = layers.Conv2D(4, 3, name="a")
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    inputs = keras.Input((8, 8, 3))
    model = functional(inputs, same()(shared(shared(a(inputs)))))
    zero_outputs(a, [0])
    zero_outputs(shared, [0, 1])
    return model, {"a": 3, "shared": 3, "b": 3}


@case
def shared_batch_norm():
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    bn = layers.BatchNormalization(name="bn")
    x = layers.Concatenate()([bn(a(inputs)), bn(b(inputs))])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1])
    zero_outputs(b, [0, 2], 0.7)
    return model, {"a": 4, "b": 4, "bn": 4, "c": 3}


@case
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


@case
def nested_called_twice():
    """Siamese towers."""
    tower = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="a"), layers.Flatten()], name="tower"
    )
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.Subtract()([tower(left), tower(right)])
    model = functional([left, right], dense()(x))
    zero_outputs(tower.get_layer("a"), [1, 2], 0.5)
    return model, {"a": 4, "b": 3}


@case
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


@case
def inner_tensor_as_an_output():
    inputs = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(6, 3, name="a"), layers.Conv2D(5, 3, name="b")
    x = a(inputs)
    y = b(x)
    model = functional(inputs, [x, layers.Conv2D(3, 3, name="c")(y)])
    zero_outputs(a, [0, 1])
    zero_outputs(b, [0, 1])
    return model, {"a": 6, "b": 3, "c": 3}


@case
def dead_outputs_stay():
    a = layers.Conv2D(6, 3, name="a")
    model = line((8, 8, 3), a, layers.ReLU(), layers.BatchNormalization(name="bn"))
    zero_outputs(a, [0, 1])
    return model, {"a": 6, "bn": 6}


@case
def nothing_to_remove():
    a = layers.Conv2D(6, 3, name="a")
    bn, depthwise = layers.BatchNormalization(name="bn"), layers.DepthwiseConv2D(3, name="d")
    model = line((8, 8, 3), a, bn, layers.ReLU(), depthwise, layers.Flatten(), dense())
    return model, {"a": 6, "bn": 6, "d": 6, "b": 3}


@pytest.mark.parametrize("name", CASES)
def test_channels_left_are_those_that_carry_something(name):
    model, left = CASES[name]()
    plan, small = shrink(model)
    assert channels(plan) == left
    before = {layer.name: layer.channels_before for layer in plan.layers}
    assert plan.removes_anything == (before != left)
    # What is left is left for good.
    assert channels(plan_shrink(small)) == {k: v for k, v in left.items() if v}


def test_a_shared_reshape():
    """The layer is told one shape, and its two tensors could lose unequally many channels."""
    inputs = keras.Input((6, 6, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    reshape = layers.Reshape((16, 5))
    x = layers.Concatenate()([reshape(a(inputs)), reshape(b(inputs))])
    model = functional(inputs, layers.Conv1D(3, 3, name="c")(x))
    zero_outputs(a, [0], 0.3)
    zero_outputs(b, [0, 1, 2], 0.3)
    shrink(model)


def test_why_channels_stay():
    """A channel of zeros that stays has a reason; one with weights needs none."""
    for model, name, reason in (
        (CASES["softmax_keeps_all"]()[0], "a", "softmax"),
        (CASES["dead_outputs_stay"]()[0], "a", "output"),
        (CASES["add"]()[0], "a", ""),
        (CASES["groups_go_whole"]()[0], "b", ""),
        (sandwich(bias=0.4, reader=same()), "a", "b"),
        (sandwich(dead=range(6)), "a", "last"),
    ):
        held_back = entry(plan_shrink(model), name).held_back
        assert held_back
        assert reason in held_back
        assert held_back.split()[0] in " ".join(str(plan_shrink(model)).split())
    plan = plan_shrink(CASES["nothing_to_remove"]()[0])
    assert {layer.held_back for layer in plan.layers} == {""}


# --- whole branches ------------------------------------------------------------------


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


def test_a_branch_of_zeros_in_front_of_a_sum_is_left_out():
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


def test_two_dead_branches_behind_each_other():
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


def test_a_layer_is_never_emptied():
    plan, _ = shrink(sandwich(layers.ReLU(), dead=range(6)), alive=False)
    assert channels(plan) == {"a": 1, "b": 3}
    assert "last" in entry(plan, "a").held_back


def all_zero(model):
    for layer in leaf_layers(model):
        count = output_channels(layer)
        if count is not None:
            zero_outputs(layer, range(count))
    return model


@pytest.mark.parametrize("allow_empty", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "residual_chain",
        "concatenate",
        "groups_go_whole",
        "squeeze_and_excite",
        "shared_in_a_row",
        "depthwise_of_zeros",
        "nested",
        "several_inputs_and_outputs",
        "flatten",
        "multiply",
    ],
)
def test_a_model_of_zeros(name, allow_empty):
    """Nothing is left but what makes a model of it."""
    model = all_zero(CASES[name]()[0])
    plan, _ = shrink(model, alive=False, allow_empty=allow_empty)
    assert plan.parameters_after < plan.parameters_before


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


BEHIND = {
    "nothing": (lambda: [], {}),
    "sigmoid and pooling": (lambda: [layers.Activation("sigmoid"), layers.MaxPooling2D()], {}),
    "batch-norm": (lambda: [layers.BatchNormalization(name="bn")], {"bn": 1}),
    "depthwise": (
        lambda: [layers.DepthwiseConv2D(1, depth_multiplier=2, name="depthwise")],
        {"depthwise": 2},
    ),
}


@pytest.mark.parametrize("name", BEHIND)
def test_an_empty_branch_leaves_a_concatenation_if_allowed(name):
    make, kept = BEHIND[name]
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


# --- rounding ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("round_to", "dead", "left"),
    [(1, 3, 5), (2, 3, 6), (4, 3, 8), (4, 5, 4), (4, 8, 4), (3, 5, 3), (3, 1, 8), (16, 5, 8)],
)
def test_round_to(round_to, dead, left):
    """Of eight channels: counts are multiples of `round_to`, or as they were."""
    a = layers.Conv2D(8, 3, activation="relu", name="a")
    model = line((8, 8, 3), a, layers.BatchNormalization(name="bn"), layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, range(dead))
    plan, _ = shrink(model, round_to=round_to, alive=dead < 8)
    assert channels(plan) == {"a": left, "bn": left, "b": 3}
    expected = left > 8 - dead
    assert bool(entry(plan, "a").held_back) == expected


@pytest.mark.parametrize("round_to", [2, 3, 4])
@pytest.mark.parametrize(
    "name",
    [
        "residual_chain",
        "concatenate",
        "add",
        "multiply",
        "groups_go_whole",
        "depthwise_of_zeros",
        "shared_in_a_row",
        "shared_on_two_tensors",
        "flatten",
        "squeeze_and_excite",
    ],
)
def test_round_to_in_any_graph(name, round_to):
    model, _ = CASES[name]()
    plan, _ = shrink(model, round_to=round_to)
    for layer in plan.layers:
        if layer.kind in ("Conv2D", "Dense"):
            assert (
                layer.channels_after % round_to == 0
                or layer.channels_after == layer.channels_before
            )


@pytest.mark.parametrize("round_to", [0, -1, 1.5, True, "4"])
def test_round_to_is_a_whole_number(round_to):
    with pytest.raises(ValueError, match="round_to"):
        plan_shrink(sandwich(), round_to=round_to)


# --- what is not supported -----------------------------------------------------------


@keras.saving.register_keras_serializable("test_shrink")
class Mix(layers.Layer):
    """Adds the mean over channels: no channel can go without a change."""

    def call(self, x):
        return x + keras.ops.mean(x, -1, keepdims=True) + 0.3


@keras.saving.register_keras_serializable("test_shrink")
class Reversed(layers.Conv2D):
    """A convolution with its filters in another order: not the rule of its parent."""

    def call(self, x):
        return super().call(x)[..., ::-1]


UNSUPPORTED = {
    "custom": lambda: Mix(name="odd"),
    "subclass": lambda: Reversed(6, 3, name="odd"),
    "attention": lambda: layers.MultiHeadAttention(2, 3, name="odd"),
    "lstm": lambda: layers.LSTM(4, return_sequences=True, name="odd"),
    "wrapper": lambda: layers.TimeDistributed(layers.Dense(6), name="odd"),
    "unit norm": lambda: layers.UnitNormalization(name="odd"),
    "lambda": lambda: layers.Lambda(centred, name="odd"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_layers_keep_their_channels_and_are_named(name):
    sequence = name in ("attention", "lstm", "wrapper")
    conv = layers.Conv1D if sequence else layers.Conv2D
    inputs = keras.Input((8, 3) if sequence else (8, 8, 3))
    first, a, b, c, d = (conv(6, 1, name=n) for n in ("first", *"abcd"))
    odd = UNSUPPORTED[name]()
    x = a(first(inputs))
    x = odd(x, x) if name == "attention" else odd(x)
    model = functional(inputs, d(c(b(x))))
    for layer in (first, a, b, c):
        zero_outputs(layer, [0, 1])
    zero_reads(b, [2])
    plan, small = shrink(model)
    (text,) = plan.unsupported
    assert "odd" in text
    assert type(odd).__name__ in text
    assert text in " ".join(str(plan).split())
    # In front of it and behind it all goes as ever.
    left = {k: v for k, v in channels(plan).items() if k != "odd"}
    assert left == {"first": 4, "a": 6, "b": 4, "c": 4, "d": 6}
    assert "odd" in entry(plan, "a").held_back
    assert type(small.get_layer("odd")) is type(odd)


def test_operations_that_are_not_supported_keep_channels():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    x = keras.ops.roll(a(inputs), 1, axis=-1)[..., ::-1] ** 2
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(x))
    zero_outputs(a, [0, 1])
    plan, _ = shrink(model)
    assert channels(plan) == {"a": 6, "b": 3}
    assert plan.unsupported


def test_an_array_as_an_operand_keeps_channels_or_is_cut():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    x = a(inputs) * np.linspace(0.5, 2.0, 6, dtype="float32")
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(x))
    zero_outputs(a, [0, 1])
    assert entry(shrink(model)[0], "b").channels_after == 3


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


def test_layers_that_cannot_be_made_anew_are_refused_by_name():
    """Its config lacks an argument that its constructor must have."""

    class Odd(layers.Layer):
        def __init__(self, amount, **settings):
            super().__init__(**settings)
            self.amount = amount

        def call(self, x):
            return x + self.amount

        def get_config(self):
            return {"name": self.name}

    inputs = keras.Input((8, 8, 3))
    model = functional(inputs, layers.Conv2D(3, 3, name="a")(Odd(0.5, name="odd")(inputs)))
    with pytest.raises(ShrinkError, match="odd"):
        apply_shrink(model, plan_shrink(model))


def test_a_lambda_is_copied_with_its_function():
    """Keras does not read one back from a config; here the function is at hand."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Lambda(lambda x: x + 0.5, name="odd")(inputs)
    model = functional(inputs, layers.Conv2D(3, 3, name="a")(x))
    assert_same_outputs(model, apply_shrink(model, plan_shrink(model)))


def test_models_without_a_graph_are_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.ones((1, 4)))
    with pytest.raises(ShrinkError, match="Own"):
        plan_shrink(own)
    with pytest.raises(ShrinkError, match="built"):
        plan_shrink(keras.Sequential([layers.Dense(3)]))


def test_a_subclassed_model_inside_is_unsupported():
    @keras.saving.register_keras_serializable("test_shrink")
    class Inner(keras.Model):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.dense = layers.Dense(6)

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(Inner(name="inner")(a(inputs))))
    zero_outputs(a, [0])
    plan = plan_shrink(model)
    assert "inner" in plan.unsupported[0]
    assert entry(plan, "a").channels_after == 6


# --- the plan and the model ----------------------------------------------------------


@pytest.fixture(scope="module")
def example():
    """A model with a bit of everything: its plan and the smaller one."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(6, 3, name="stem", kernel_regularizer="l2")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.Conv2D(6, 1, use_bias=False, name="pointwise")(y)
    x = layers.Add()([x, y])
    x = layers.Flatten()(layers.MaxPooling2D(name="pool")(x))
    x = layers.Dense(10, activation="sigmoid", name="hidden")(x)
    model = functional(inputs, layers.Dense(4, use_bias=False, name="logits")(x))
    zero_outputs(model.get_layer("stem_bn"), [0, 1, 2])
    zero_outputs(model.get_layer("depthwise"), [0, 1, 2])
    zero_outputs(model.get_layer("pointwise"), [0, 1, 3])
    zero_outputs(model.get_layer("hidden"), [7, 8, 9])
    plan, small = shrink(model)
    return model, plan, small


def test_figures_of_the_plan(example):
    """Counted by hand."""
    model, plan, small = example
    left = {"stem": 4, "stem_bn": 4, "depthwise": 4, "pointwise": 4, "hidden": 7, "logits": 4}
    assert channels(plan) == left
    assert [layer.name for layer in plan.layers] == list(left)
    assert [layer.kind for layer in plan.layers[:3]] == [
        "Conv2D",
        "BatchNormalization",
        "DepthwiseConv2D",
    ]
    # 6x6 positions behind the stem, 3x3 behind the pool.
    expected = {
        "stem": (36 * 27 * 6, 36 * 27 * 4, 27 * 6 + 6, 27 * 4 + 4),
        "stem_bn": (0, 0, 4 * 6, 4 * 4),
        "depthwise": (36 * 9 * 6, 36 * 9 * 4, 9 * 6 + 6, 9 * 4 + 4),
        "pointwise": (36 * 36, 36 * 16, 36, 16),
        "hidden": (540, 36 * 7, 550, 36 * 7 + 7),
        # Three sigmoids of a bias go into a bias that was not there.
        "logits": (40, 28, 40, 28 + 4),
    }
    for layer in plan.layers:
        figures = (
            layer.macs_before,
            layer.macs_after,
            layer.parameters_before,
            layer.parameters_after,
        )
        assert figures == expected[layer.name], layer.name
    totals = plan.macs_before, plan.macs_after, plan.parameters_before, plan.parameters_after
    assert totals == tuple(sum(column) for column in zip(*expected.values(), strict=True))
    assert (model.count_params(), small.count_params()) == totals[2:]


def test_printing_the_plan(example):
    _, plan, _ = example
    text = str(plan)
    for layer in plan.layers:
        assert layer.name in text
        if layer.channels_after < layer.channels_before:
            assert f"{layer.channels_before} → {layer.channels_after}" in text
    assert f"{plan.parameters_after:,}" in text
    assert f"{plan.macs_after:,}" in text
    held_back = entry(plan, "pointwise").held_back
    assert held_back
    # The last column breaks its lines; its first words are in one.
    assert " ".join(held_back.split()[:2]) in text


def test_the_model_stays_as_it_was(example):
    model, plan, small = example
    weights, config = model.get_weights(), model.get_config()
    other = apply_shrink(model, plan)
    other.set_weights([np.zeros_like(value) for value in other.get_weights()])
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert model.get_config() == config
    assert not {id(v) for v in model.weights} & {id(v) for v in small.weights}
    assert not {id(x) for x in model.layers} & {id(x) for x in small.layers}
    assert any(value.any() for value in small.get_weights())


def test_the_small_model_is_a_plain_keras_model(example, tmp_path):
    model, _, small = example
    assert type(small) is keras.Model or type(small).__name__ == "Functional"
    assert small.input_shape == model.input_shape
    assert small.output_shape == model.output_shape
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    images = random_inputs(model)
    # The same operations on the same weights.
    np.testing.assert_array_equal(outputs_of(loaded, images)[0], outputs_of(small, images)[0])
    # It trains on.
    loaded.compile("sgd", "mse")
    loaded.fit(images, np.zeros((3, 4)), verbose=0)


def test_every_layer_keeps_its_settings(example):
    model, _, small = example
    changed = {"filters", "units", "use_bias", "build_config", "name"}
    for layer in small.layers:
        ours, theirs = layer.get_config(), model.get_layer(layer.name).get_config()
        differ = {key for key in theirs if ours[key] != theirs[key]}
        assert differ <= changed, layer.name
    assert small.get_layer("stem").kernel_regularizer is not None


def test_a_plan_belongs_to_its_model(example):
    model, plan, _ = example
    copy = keras.models.clone_model(model)
    with pytest.raises(ShrinkError, match="plan_shrink"):
        apply_shrink(copy, plan)
    copy.set_weights(model.get_weights())
    with pytest.raises(ShrinkError, match="plan_shrink"):
        apply_shrink(sandwich(), plan)
    stem = model.get_layer("stem")
    before = np.array(stem.kernel)
    try:
        stem.kernel.assign(before + 1.0)
        with pytest.raises(ShrinkError, match="plan_shrink"):
            apply_shrink(model, plan)
    finally:
        stem.kernel.assign(before)
    apply_shrink(model, plan)


def test_a_model_with_nothing_to_remove_is_copied():
    model, _ = CASES["nothing_to_remove"]()
    plan, small = shrink(model)
    assert not plan.removes_anything
    assert plan.unsupported == ()
    for before, after in zip(model.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [layer.name for layer in model.layers] == [layer.name for layer in small.layers]


def test_a_sequential_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="a"), layers.Flatten(), dense()]
    )
    randomize(model)
    zero_outputs(model.get_layer("a"), [0, 1])
    assert channels(shrink(model)[0]) == {"a": 4, "b": 3}


def test_inputs_and_outputs_by_name():
    inputs = {"first": keras.Input((5,), name="first"), "second": keras.Input((4,), name="second")}
    a, b = (layers.Dense(6, activation="relu", name=name) for name in "ab")
    x = layers.Concatenate()([a(inputs["first"]), b(inputs["second"])])
    model = functional(inputs, {"out": layers.Dense(3, name="c")(x), "other": a(inputs["first"])})
    zero_outputs(a, [0])
    zero_outputs(b, [0])
    random = np.random.default_rng(0)
    batch = {"first": random.normal(size=(3, 5)), "second": random.normal(size=(3, 4))}
    plan, small = shrink(model, inputs={k: v.astype("float32") for k, v in batch.items()})
    assert channels(plan) == {"a": 6, "b": 5, "c": 3}
    assert set(small(batch)) == {"out", "other"}


def test_names_that_repeat_in_nested_models():
    def block(name):
        return keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, activation="relu", name="dense")], name=name
        )

    first, second = block("first"), block("second")
    model = keras.Sequential([keras.Input((6,)), first, second, layers.Dense(3, name="last")])
    randomize(model)
    zero_outputs(first.get_layer("dense"), [0, 1])
    zero_outputs(second.get_layer("dense"), [0, 1, 2])
    plan, small = shrink(model)
    assert [layer.channels_after for layer in plan.layers] == [4, 3, 3]
    assert len({layer.name for layer in plan.layers}) == 3
    assert [layer.name for layer in small.layers[1:]] == [layer.name for layer in plan.layers]


def test_names_that_repeat_once_models_are_opened():
    """An input of the outer model and a layer of the inner one."""
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="x")], name="inner")
    inputs = keras.Input((6,), name="x")
    model = functional(inputs, dense()(inner(inputs)))
    zero_outputs(inner.get_layer("x"), [0, 1])
    plan, _ = shrink(model)
    assert [layer.channels_after for layer in plan.layers] == [4, 3]


def test_operations_that_repeat_in_nested_models():
    """Models made in two sessions have operations of one name."""

    def block(name):
        keras.backend.clear_session()
        x = keras.Input((6,))
        y = keras.ops.relu(layers.Dense(6, name=f"dense_{name}")(x) + 0.5)
        return keras.Model(x, y, name=name)

    blocks = block("first"), block("second")
    inputs = keras.Input((6,))
    model = functional(inputs, dense()(blocks[1](blocks[0](inputs))))
    zero_outputs(blocks[0].get_layer("dense_first"), [0, 1])
    plan, _ = shrink(model)
    assert channels(plan) == {"dense_first": 4, "dense_second": 6, "b": 3}


def test_a_fixed_batch_of_integers():
    """What an exported model takes: uint8 images, so many at a time."""
    inputs = keras.Input(batch_shape=(4, 8, 8, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255.0)(inputs)
    model = functional(inputs, same()(layers.Conv2D(6, 3, name="a")(x)))
    zero_outputs(model.get_layer("a"), [0, 1])
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("uint8")
    plan, small = shrink(model, images)
    assert channels(plan) == {"a": 4, "b": 3}
    assert small.inputs[0].shape == (4, 8, 8, 3)
    assert small.inputs[0].dtype == "uint8"
    assert small.inputs[0].name == "images"


def test_an_output_given_twice_and_an_input_given_back():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    x = layers.Conv2D(4, 3, name="b")(a(inputs))
    model = functional(inputs, [x, inputs, x])
    zero_outputs(a, [0, 1])
    zero_outputs(model.get_layer("b"), [0])
    assert channels(shrink(model)[0]) == {"a": 4, "b": 4}


def test_low_rank_adapters_are_kept_or_refused():
    """With LoRA the kernel is a sum of weights, none of which is the kernel."""
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), dense())
    zero_outputs(model.get_layer("a"), [0, 1])
    model.get_layer("b").enable_lora(2)
    for variable in (model.get_layer("b").lora_kernel_a, model.get_layer("b").lora_kernel_b):
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    try:
        small = apply_shrink(model, plan_shrink(model))
    except ShrinkError:
        return
    assert_same_outputs(model, small)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, activation="sigmoid", name="a", dtype=policy)
    x = layers.BatchNormalization(name="bn", dtype=policy)(a(inputs))
    model = functional(inputs, layers.Conv2D(3, 3, name="b", dtype=policy)(x))
    zero_outputs(a, [0, 1], 0.5)
    # bfloat16 has 8 bits, and constants are summed with more.
    plan, small = shrink(model, rounding=0.05 if policy == "mixed_bfloat16" else ROUNDING)
    assert channels(plan) == {"a": 4, "bn": 4, "b": 3}
    for layer in small.layers[1:]:
        assert layer.dtype_policy.name == policy


def test_open_image_sizes():
    """Multiply-adds are not known; channels are."""
    model = line(
        (None, None, 3),
        layers.Conv2D(6, 3, name="a"),
        layers.GlobalAveragePooling2D(),
        dense(),
    )
    zero_outputs(model.get_layer("a"), [0, 1])
    plan = plan_shrink(model)
    assert channels(plan) == {"a": 4, "b": 3}
    assert not plan.macs_known
    assert "unknown" in str(plan)
    images = np.random.default_rng(0).normal(size=(3, 9, 7, 3)).astype("float32")
    assert_same_outputs(model, apply_shrink(model, plan), images)


def test_frozen_layers_stay_frozen():
    model = sandwich()
    model.get_layer("a").trainable = False
    _, small = shrink(model)
    assert not small.get_layer("a").trainable
    assert small.get_layer("b").trainable


# --- graphs drawn at random ----------------------------------------------------------

_drawn = itertools.count()


def check_random_model(recipe):
    """Same outputs, true figures, reasons for what stays, and nothing more to remove."""
    if next(_drawn) % 50 == 49:
        keras.backend.clear_session()  # names and graphs of models that are gone
    built = random_models.build(recipe)
    seed = recipe[-2]
    options = {"round_to": (1, 1, 2, 3)[seed % 4], "allow_empty": seed % 5 == 0}
    # Building takes longest: the same graph serves for two sets of weights.
    for variant in range(2):
        if variant:
            built.plant(variant)
        # Up to twenty layers; their rounding adds up, and sums may cancel.
        plan, small = shrink(built.model, rounding=1e-4, alive=False, **options)
        event(f"removed: {plan.removes_anything}")
        leaves = {layer.name: layer for layer in leaf_layers(built.model)}
        for layer in plan.layers:
            if layer.kind not in ("Conv2D", "Dense") or not layer.channels_after:
                continue
            kernel = np.array(leaves[layer.name].kernel)
            carrying = np.count_nonzero(kernel.reshape(-1, kernel.shape[-1]).any(axis=0))
            if layer.channels_after > carrying:
                assert layer.held_back, layer.name
        again = channels(plan_shrink(small, **options))
        # A branch whose live channels are all zero is left out once the others are gone;
        # the last of several groups is no longer bound to go whole.
        grouped = any(getattr(layer, "groups", 1) > 1 for layer in leaves.values())
        if all(again.values()) and not grouped:
            assert again == {k: v for k, v in channels(plan).items() if v}


def check_and_reduce(recipe):
    """Fail with the smallest recipe that fails: each step left out that may be."""

    def fails(other):
        try:
            check_random_model(other)
        except Exception:  # building the smaller model may fail too, and is as wrong
            return True
        return False

    try:
        check_random_model(recipe)
    except Exception as error:
        smaller = random_models.smaller_recipe(recipe, fails)
        raise AssertionError(f"wrong for random_models.build({smaller!r})") from error


DRAWING = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.generate],  # a seed is no simpler for being smaller
    "suppress_health_check": [HealthCheck.too_slow],
}


@settings(max_examples=12, **DRAWING)
@given(random_models.recipes())
def test_random_models(recipe):
    check_and_reduce(recipe)


@pytest.mark.slow
@settings(max_examples=500, **DRAWING)
@given(random_models.recipes())
def test_many_random_models(recipe):
    check_and_reduce(recipe)


# --- networks of keras.applications, and of our own -----------------------------------


def pointwise(input_shape, classes, **_):
    """The builder of our own that has depthwise convolutions, and zero padding between."""
    section = {"name": "pointwise", "pointwise": {"width": 32}}
    resolved = config.validate({"name": "a", "model": section})
    return builders.build(resolved, input_shape, classes)


NETWORKS = {
    "pointwise": pointwise,
    "MobileNetV2": keras.applications.MobileNetV2,
    "MobileNet": keras.applications.MobileNet,
    "ResNet50": keras.applications.ResNet50,
    "DenseNet121": keras.applications.DenseNet121,
    "EfficientNetB0": keras.applications.EfficientNetB0,
}


def dead_channels(count):
    """A quarter of them, always the same for one width: sums bind equal widths."""
    return np.sort(np.random.default_rng(count).permutation(count)[: count // 4])


def sparse_network(name):
    """A network with random weights, of which a quarter of the channels are zero.

    Batch-norms get about the statistics of what enters them, for signals to stay
    near 1 through fifty layers.
    """
    keras.utils.set_random_seed(1)
    model = NETWORKS[name](weights=None, input_shape=(64, 64, 3), classes=10)
    random = np.random.default_rng(1)
    norms = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    for layer in norms:
        size = layer.gamma.shape
        layer.gamma.assign(random.uniform(0.5, 1.5, size))
        layer.beta.assign(random.normal(0.0, 0.3, size))
        zero_outputs(layer, dead_channels(size[0]))
        layer.momentum = 0.0
    for layer in model.layers[:-1]:
        if isinstance(layer, layers.Conv2D) and type(layer) is layers.Conv2D:
            if layer.use_bias:
                layer.bias.assign(random.normal(0.0, 0.3, layer.bias.shape))
            # The layers of SE gates and of dense blocks, which no batch-norm follows.
            zero_outputs(layer, dead_channels(layer.filters))
    if name == "DenseNet121":  # its batch-norms read what was joined, each alone
        for layer in norms:
            layer.beta.assign(random.normal(0.0, 0.3, layer.beta.shape))
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
    images = random_inputs(model, count=16, seed=2)
    if name in ("EfficientNetB0", "pointwise"):
        images = 64.0 * images + 128.0  # they rescale by themselves
    model(images, training=True)  # sets the moving statistics
    for layer in norms:
        variance = np.array(layer.moving_variance)
        variance[variance < 1e-6] = 1.0  # of channels that are constant
        layer.moving_variance.assign(variance * random.uniform(0.5, 2.0, variance.shape))
        shift = random.normal(0.0, 0.1, variance.shape)
        layer.moving_mean.assign_add(shift * variance**0.5)
        layer.momentum = 0.99
    last = model.layers[-1]
    if hasattr(last, "kernel"):
        last.bias.assign(random.normal(0.0, 0.3, last.bias.shape))
    return model, images[:4]


@pytest.mark.parametrize(
    "name",
    [
        "pointwise",
        "MobileNetV2",
        *(pytest.param(x, marks=pytest.mark.slow) for x in list(NETWORKS)[2:]),
    ],
)
def test_networks_of_keras(name):
    model, images = sparse_network(name)
    # Fifty layers and more, each rounding at 1e-7 of its largest term.
    plan, small = shrink(model, images, rounding=1e-4)
    assert plan.unsupported == ()
    assert plan.parameters_after < 0.8 * plan.parameters_before
    assert plan.macs_after < 0.8 * plan.macs_before
    if name == "MobileNetV2":
        for layer in plan.layers:
            dead = len(dead_channels(layer.channels_before))
            left = layer.channels_before - (0 if layer.kind == "Dense" else dead)
            assert layer.channels_after == left, layer.name
    assert not plan_shrink(small).removes_anything


def test_an_initializer_of_the_old_shape_does_not_stand_in_the_way():
    inputs = keras.Input((5,))
    values = keras.initializers.Constant(np.ones((5, 6)).tolist())
    a = layers.Dense(6, kernel_initializer=values, name="fixed")
    model = functional(inputs, dense()(a(inputs)))
    zero_outputs(a, [0])
    _, small = shrink(model)
    assert small.get_layer("fixed").units == 5
