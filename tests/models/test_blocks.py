"""Blocks of `cnn` beyond images: series, separable convolutions, additions."""

import keras
import numpy as np
import pytest

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.data.splits import InputStatistics
from cnn_l1.models import builders

FLATTEN = {"type": "flatten"}
LOGITS = {"type": "dense", "units": "outputs", "activation": "linear"}
CONV1D = {"type": "conv1d", "filters": 4}


def build(input_shape, blocks, outputs=3, statistics=None, **settings):
    settings.setdefault("normalization", "none")
    config = configs.validate({"name": "a", "model": {"blocks": blocks, **settings}})
    return builders.build(config, input_shape, outputs, statistics)


def refusal(*args, **settings):
    with pytest.raises(ConfigError) as caught:
        build(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:-1]]


def test_blocks_on_series_are_those_of_series():
    blocks = [
        {**CONV1D, "strides": 2},
        {"type": "batch_norm"},
        {"type": "separable", "filters": 6},
        {"type": "depthwise"},
        {"type": "pool"},
        {"type": "pool", "kind": "average", "pool_size": 1},
        {"type": "global_pool", "kind": "max"},
        LOGITS,
    ]
    model = build((16, 2), blocks)
    assert model.input.name == "series"
    assert kinds(model) == [
        "Conv1D", "BatchNormalization", "SeparableConv1D", "DepthwiseConv1D", "MaxPooling1D",
        "AveragePooling1D", "GlobalMaxPooling1D", "Dense",
    ]  # fmt: skip
    # 3·2·4+4, 4·4, 3·4 + 4·6+6, 3·6+6, 6·3+3
    assert model.count_params() == 28 + 16 + 42 + 24 + 21
    assert model.get_layer("pool_1").output.shape == (None, 4, 6)


def test_separable_on_images():
    blocks = [{"type": "separable", "filters": 5, "strides": 2, "activation": "tanh"}, FLATTEN]
    model = build((8, 8, 3), [*blocks, LOGITS])
    layer = model.get_layer("separable_1")
    assert type(layer) is keras.layers.SeparableConv2D
    assert layer.count_params() == 9 * 3 + 3 * 5 + 5
    assert layer.output.shape == (None, 4, 4, 5)
    assert layer.activation is keras.activations.tanh


def test_global_pool_of_series_is_their_mean():
    model = build((4, 2), [{"type": "global_pool"}, LOGITS])
    series = np.float32([[[1, 0], [2, 0], [3, 0], [4, 8]]])
    pooled = keras.Model(model.input, model.get_layer("global_pool_1").output)(series)
    np.testing.assert_array_equal(pooled, [[2.5, 2.0]])


def test_add_is_the_sum_of_two_blocks():
    conv = {"type": "conv", "filters": 2, "padding": "same"}
    blocks = [{**conv, "name": "first"}, conv, {"type": "add", "block": "first"}, FLATTEN, LOGITS]
    model = build((4, 4, 1), blocks)
    names = ("first", "conv_2", "add_1")
    outputs = keras.Model(model.input, [model.get_layer(n).output for n in names])
    first, second, total = outputs(np.random.default_rng(0).normal(size=(2, 4, 4, 1)))
    np.testing.assert_array_equal(total, first + second)
    assert np.any(second.numpy() != 0)


def test_add_of_a_block_that_is_not_there_or_has_another_shape():
    add = {"type": "add", "block": "conv_1"}
    assert refusal((8, 8, 1), [FLATTEN, add, LOGITS]) == (
        "model.blocks: expected the name of an earlier block in `add`, of flatten_1. "
        "Received: conv_1"
    )
    blocks = [{"type": "conv", "filters": 2}, {"type": "pool"}, add, FLATTEN, LOGITS]
    assert refusal((8, 8, 1), blocks) == (
        "model.blocks: expected a block of shape (3, 3, 2) in `add`, as comes before it. "
        "Received: conv_1, which gives (6, 6, 2)"
    )


def test_convolutions_of_the_other_kind():
    assert refusal((8, 2), [{"type": "conv", "filters": 2}, FLATTEN, LOGITS]) == (
        "model.blocks: expected conv1d for a series of (steps, channels). Received: conv"
    )
    assert refusal((8, 8, 2), [CONV1D, FLATTEN, LOGITS]) == (
        "model.blocks: expected conv for an image of (rows, cols, channels). Received: conv1d"
    )
    assert refusal((8,), [CONV1D, LOGITS]).startswith(
        "model: expected a network that fits 8 features. Received: cnn, which does not: "
    )


def test_the_last_block_of_a_segmentation():
    classes = {"type": "conv", "filters": 3, "kernel_size": 1, "activation": "linear"}
    assert build((8, 8, 1), [classes], (8, 8, 3)).output_shape == (None, 8, 8, 3)
    assert refusal((8, 8, 1), [classes, FLATTEN], (8, 8, 3)) == (
        "model.blocks: expected a last block that gives values of shape (8, 8, 3) an example. "
        "Received: an output of shape (192,)"
    )


@pytest.mark.parametrize("name", ["linear", "lenet_300_100"])
def test_dense_networks_take_series(name):
    config = configs.validate({"name": "a", "model": {"name": name, "normalization": "none"}})
    assert builders.build(config, (6, 2), 3).output_shape == (None, 3)


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "pointwise", "mobilenet_v1"])
def test_networks_of_images_refuse_series(name):
    config = configs.validate({"name": "a", "model": {"name": name, "normalization": "none"}})
    with pytest.raises(ConfigError, match=r"^model: expected a network that fits 32x3 series\. "):
        builders.build(config, (32, 3), 3)


def test_series_are_standardized_by_channel():
    statistics = InputStatistics((1.0, -2.0), (4.0, 0.25))
    blocks = [{**CONV1D}, FLATTEN, LOGITS]
    model = build((3, 2), blocks, statistics=statistics, normalization="auto")
    standardized = keras.Model(model.input, model.get_layer("standardize").output)
    series = np.float32([[[1, -2], [3, -1.5], [-3, -3]]])
    # (x − mean) / √variance
    np.testing.assert_allclose(standardized(series), [[[0, 0], [1, 1], [-2, -2]]], atol=1e-6)
