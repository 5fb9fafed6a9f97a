"""Channels of zeros, and of constants, through the layers between a producer and its reader."""

import numpy as np
import pytest
from keras import layers
from random_models import zero_outputs
from shrink_models import channels, dense, entry, same, sandwich, shrink

# Layers that keep a channel of zeros one of zeros, which may go before any reader.
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


# Layers after which a channel of zeros, or one of 0.4, is another constant than zero.
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
def test_constants_stay_before_a_padding_reader(name):
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
    # A negative one after a ReLU is zero.
    plan, _ = shrink(sandwich(layers.ReLU(), bias=-0.4, reader=same()))
    assert channels(plan) == {"a": 4, "b": 3}
    assert not entry(plan, "a").held_back


def test_no_bias_is_added_for_nothing():
    reader = layers.Conv2D(3, 3, use_bias=False, name="b")
    _, small = shrink(sandwich(reader=reader))
    assert not small.get_layer("b").use_bias


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_batch_norm_scales_of_zero_free_the_layer_before(shift):
    """What slimming leaves: live filters after a scale of zero."""
    model = sandwich(layers.BatchNormalization(name="bn"), layers.ReLU(), reader=same(), dead=())
    zero_outputs(model.get_layer("bn"), [0, 5], shift)
    plan, _ = shrink(model)
    # A positive shift passes the ReLU, and the reader pads.
    left = 6 if shift > 0 else 4
    assert channels(plan) == {"a": left, "bn": left, "b": 3}
