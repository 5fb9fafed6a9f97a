"""What a network's input takes, in the network or before it, and how a wrong one is found."""

import numpy as np
import pytest

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.data.splits import InputScaling, InputStatistics
from cnn_l1.models.input_range import (
    better_range,
    for_autoencoder,
    input_scaling,
    rescaling,
    scaling_inside,
)

IMAGE, SERIES, FEATURES = (4, 4, 2), (6, 2), (2,)
STATISTICS = InputStatistics((10.0, 20.0), (4.0, 0.25))


def section(**settings):
    settings = {"name": "file", "path": "a.keras", **settings}
    if settings["name"] != "file":
        del settings["path"]
    return configs.validate({"name": "a", "model": settings}).model


@pytest.mark.parametrize(
    ("input_range", "scale", "offset", "meaning"),
    [
        ("0-1", (1 / 255,), (0.0,), "pixels from 0 to 1"),
        ("-1-1", (1 / 127.5,), (-1.0,), "pixels from -1 to 1"),
        # 1/√4 and 1/√0.25; −10/2 and −20/0.5
        (
            "standardized",
            (0.5, 2.0),
            (-5.0, -40.0),
            "pixels, each channel of mean 0 and variance 1",
        ),
    ],
)
def test_ranges_of_images(input_range, scale, offset, meaning):
    expected = InputScaling(scale, offset, meaning)
    config = section(input_range=input_range)
    assert scaling_inside(config, IMAGE, STATISTICS) == expected
    assert input_scaling(config, IMAGE, STATISTICS) is None
    config = section(input_range=input_range, normalization="none")
    assert scaling_inside(config, IMAGE, STATISTICS) is None
    assert input_scaling(config, IMAGE, STATISTICS) == expected


def test_the_layer_scales_by_channel():
    layer = rescaling(scaling_inside(section(input_range="standardized"), IMAGE, STATISTICS))
    pixels = np.float32([[[[10, 20], [12, 20.5]]]])
    np.testing.assert_array_equal(layer(pixels), [[[[0, 0], [1, 1]]]])
    layer = rescaling(scaling_inside(section(input_range="-1-1"), IMAGE))
    np.testing.assert_allclose(layer(np.float32([0, 127.5, 255])), [-1, 0, 1], atol=1e-6)


@pytest.mark.parametrize("shape", [IMAGE, FEATURES])
@pytest.mark.parametrize("normalization", ["auto", "none"])
def test_nothing_is_scaled_unasked(shape, normalization):
    config = section(normalization=normalization)
    assert scaling_inside(config, shape) is input_scaling(config, shape) is None
    config = section(input_range="0-255", normalization=normalization)
    assert scaling_inside(config, IMAGE) is input_scaling(config, IMAGE) is None
    config = section(name="lenet5", normalization="none")
    assert scaling_inside(config, IMAGE) is input_scaling(config, IMAGE) is None


def test_features_and_series_have_no_pixels():
    found = scaling_inside(section(input_range="standardized"), FEATURES, STATISTICS)
    assert found.meaning == "features, each of mean 0 and variance 1"
    found = scaling_inside(section(input_range="standardized"), SERIES, STATISTICS)
    assert found.meaning == "series, each channel of mean 0 and variance 1"
    with pytest.raises(ConfigError) as caught:
        scaling_inside(section(input_range="0-1"), FEATURES, STATISTICS)
    assert str(caught.value) == (
        "model.input_range: expected standardized, or none, for inputs that are no images, "
        "which a network gets as they are. Received: 0-1"
    )


def test_normalization_of_own_networks():
    assert scaling_inside(section(normalization="rescale"), IMAGE).scale == (1 / 255,)
    for normalization, input_range in (("rescale", "-1-1"), ("standardize", "0-1")):
        config = section(normalization=normalization, input_range=input_range)
        with pytest.raises(ConfigError) as caught:
            scaling_inside(config, IMAGE, STATISTICS)
        assert str(caught.value) == (
            f"model.normalization: expected auto or none with input_range {input_range}. "
            f"Received: {normalization}"
        )


def test_the_data_of_an_autoencoder_are_scaled():
    config = section(name="autoencoder")
    assert input_scaling(config, IMAGE).meaning == "pixels from 0 to 1"
    found = input_scaling(config, FEATURES, STATISTICS)
    assert (found.scale, found.offset) == ((0.5, 2.0), (-5.0, -40.0))
    standardized = section(name="autoencoder", normalization="standardize")
    assert input_scaling(standardized, IMAGE, STATISTICS).scale == (0.5, 2.0)
    assert input_scaling(section(name="autoencoder", normalization="none"), IMAGE) is None
    assert scaling_inside(config, IMAGE) is None


# A network that is right where pixels are from 0 to 1: its output is the mean of them, and
# the class whether that is over a half. Labels are those.
PIXELS = np.random.default_rng(0).integers(0, 256, (256, 4, 4, 1)).astype("uint8")
LABELS = PIXELS.mean(axis=(1, 2, 3)) / 255 > 0.5


def accuracy(outputs):
    return np.mean((outputs > 0.5) == LABELS)


def mean_of(x):
    return x.mean(axis=(1, 2, 3))


def test_a_range_with_far_more_right_is_named():
    share = LABELS.mean()
    assert str(better_range(mean_of, PIXELS, accuracy)) == (
        f"model.input_range: the network is right for {share:.0%} of 256 training examples as "
        "the data are and for 100% at 0-1: set model.input_range: 0-1"
    )
    inside = InputScaling((1 / 255,), (0.0,), "")
    assert better_range(lambda x: mean_of(x / 255), PIXELS, accuracy, inside) is None


def test_a_scaling_that_should_not_be_is_named():
    """The network takes raw pixels, and is given −1 to 1."""
    now = InputScaling((1 / 127.5,), (-1.0,), "")
    found = better_range(
        lambda x: (x / 127.5 - 1).mean(axis=(1, 2, 3)) / 255, PIXELS, accuracy, now
    )
    assert str(found).endswith("and for 100% unscaled: set model.input_range: 0-255")


def test_a_range_with_a_far_lower_loss_is_named():
    rows = np.random.default_rng(1).normal([10, 20], [2, 0.5], (100, 2))
    targets = (rows - [10, 20]) / [2, 0.5] + 0.5

    def loss(outputs):
        return np.mean((outputs - targets) ** 2)

    settings = {"statistics": STATISTICS, "is_accuracy": False}
    found = better_range(lambda x: x, rows, loss, **settings)
    assert str(found) == (
        f"model.input_range: the network has a loss of {loss(rows):.3g} on 100 training examples "
        "as the data are and of 0.25 at standardized: set model.input_range: standardized"
    )
    assert better_range(lambda x: (x - [10, 20]) / [2, 0.5], rows, loss, **settings) is None


def test_a_little_better_is_no_reason():
    scores = iter([0.5, 0.5, 0.59, 0.5])
    assert better_range(mean_of, PIXELS, lambda _: next(scores)) is None
    scores = iter([0.5, 0.5, 0.61, 0.5])
    assert better_range(mean_of, PIXELS, lambda _: next(scores)) is not None


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        (IMAGE, {}, "0-1"),
        (FEATURES, {}, "standardized"),
        (IMAGE, {"normalization": "standardize"}, "standardized"),
        (IMAGE, {"normalization": "none"}, None),
    ],
)
def test_a_builders_data_are_scaled_where_the_target_is_the_input(shape, settings, expected):
    config = configs.validate({"name": "a", "model": {"name": "cnn", **settings}}).model
    found = for_autoencoder(config, shape)
    assert (found.normalization, found.input_range) == ("none", expected)
    assert (input_scaling(found, shape, STATISTICS) is None) == (expected is None)
