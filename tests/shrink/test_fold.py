"""Batch-norms folded into the layers in front of them."""

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.graph.reading import GraphError
from cnn_l1.shrink.fold import fold_batch_norm

RNG = np.random.default_rng(0)


def randomise(model):
    for variable in model.weights:
        low = 0.5 if variable.name in ("moving_variance", "gamma") else -1.0
        variable.assign(RNG.uniform(low, 1.5, variable.shape))
    return model


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def assert_same(model, folded, shape):
    x = RNG.normal(size=(3, *shape)).astype("float32")
    expected, received = (np.asarray(m(x, training=False)) for m in (model, folded))
    assert expected.std() > 1e-2
    # A few float32 roundings a term, in sums of up to some hundred terms.
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(5, 3, use_bias=False),
        layers.Conv2D(6, 3, padding="same", strides=2, groups=3),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.DepthwiseConv2D(3, use_bias=False),
        layers.SeparableConv2D(4, 3),
        layers.Conv2DTranspose(4, 3, strides=2),
        layers.Dense(5),
    ],
    ids=lambda layer: layer.name,
)
def test_fold_gives_the_same_output(layer):
    images = keras.Input((7, 7, 3))
    x = layers.BatchNormalization()(layer(images))
    model = randomise(keras.Model(images, layers.Activation("relu")(x)))
    before = model.get_weights()
    folded = fold_batch_norm(model)
    assert not norms(folded)
    assert_same(model, folded, (7, 7, 3))
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_fold_keeps_zeros_and_the_norm_without_scale_and_shift():
    conv = layers.Conv2D(4, 3)
    norm = layers.BatchNormalization(scale=False, center=False)
    model = randomise(keras.Sequential([keras.Input((5, 5, 2)), conv, norm]))
    conv.kernel.assign(np.where(RNG.random(conv.kernel.shape) < 0.5, 0, conv.kernel))
    folded = fold_batch_norm(model)
    assert np.array_equal(folded.layers[1].kernel == 0, conv.kernel == 0)
    assert_same(model, folded, (5, 5, 2))


def shared_norm(images):
    norm = layers.BatchNormalization()
    return norm(layers.Conv2D(3, 3)(images)) + norm(layers.Conv2D(3, 3)(images))


def read_twice(images):
    x = layers.Conv2D(3, 3)(images)
    return layers.BatchNormalization()(x) + x


def activated(images):
    return layers.BatchNormalization()(layers.Conv2D(3, 3, activation="tanh")(images))


def other_axis(images):
    return layers.BatchNormalization(axis=1)(layers.Conv2D(3, 3)(images))


def pooled(images):
    return layers.BatchNormalization()(layers.AveragePooling2D(2)(images))


@pytest.mark.parametrize("build", [shared_norm, read_twice, activated, other_axis, pooled])
def test_norms_that_cannot_be_folded_stay(build):
    images = keras.Input((6, 6, 3))
    model = randomise(keras.Model(images, build(images)))
    folded = fold_batch_norm(model)
    assert len(norms(folded)) == len(norms(model)) == 1
    assert_same(model, folded, (6, 6, 3))


def test_norm_behind_an_output_stays():
    images = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 3)(images)
    model = randomise(keras.Model(images, [x, layers.BatchNormalization()(x)]))
    assert len(norms(fold_batch_norm(model))) == 1


def test_fold_expects_a_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(GraphError, match=r"Expected a built Functional.*Received: 'own\w*'.*Own"):
        fold_batch_norm(Own())
