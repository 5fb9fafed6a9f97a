"""Multiply-adds against the counts that a pencil gives."""

import keras
import pytest
from keras import layers

from cnn_l1.config.loading import validate
from cnn_l1.graph.macs import count_macs
from cnn_l1.models import builders


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (layers.Dense(7), 8 * 8 * 4 * 7),  # along the last axis, at every position
        (layers.Conv2D(6, 3), 6 * 6 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, padding="same", strides=2), 4 * 4 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, groups=2), 6 * 6 * 9 * 2 * 6),
        (layers.Conv2D(6, 3, dilation_rate=2), 4 * 4 * 9 * 4 * 6),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), 6 * 6 * 9 * 8),
        (layers.SeparableConv2D(6, 3), 6 * 6 * (9 * 4 + 4 * 6)),
        (layers.Conv2DTranspose(6, 3, strides=2), 8 * 8 * 9 * 4 * 6),
        (layers.BatchNormalization(), None),
        (layers.MaxPooling2D(2), None),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_macs_of_a_layer(layer, macs):
    model = keras.Sequential([keras.Input((8, 8, 4)), layer])
    assert count_macs(model) == ({} if macs is None else {layer.name: macs})


def test_macs_of_the_literatures_networks():
    """LeNet-5 has 2.3 million (Louizos et al., 2018), MLPerf Tiny's ResNet 12.5 million."""

    def total(name, shape):
        config = validate({"name": "x", "model": {"name": name}})
        return sum(count_macs(builders.build(config, shape, 10)).values())

    assert total("lenet5", (28, 28, 1)) == 288_000 + 1_600_000 + 400_000 + 5_000
    assert total("resnet8", (32, 32, 3)) == 12_501_632


def test_calls_of_a_shared_layer_and_of_nested_models_add_up():
    shared = layers.Dense(4)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="inner")])
    x = keras.Input((4,))
    model = keras.Model(x, inner(shared(shared(x))))
    assert count_macs(model) == {shared.name: 2 * 16, "inner": 12}


def test_open_sizes_cannot_be_counted():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3, name="conv")])
    with pytest.raises(ValueError, match=r"conv: expected fixed sizes.*Received: .*None"):
        count_macs(model)
