"""Networks of keras.applications: their preprocessing, their heads, what does not fit."""

import sys

import keras
import numpy as np
import pytest

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.export.tflite import export_tflite
from cnn_l1.graph.reading import as_functional
from cnn_l1.models import applications
from cnn_l1.models.input_range import input_scaling
from cnn_l1.models.own_models import own_model
from cnn_l1.shrink.removal import plan_shrink

SMALL = {"alpha": 0.35}


def section(application="MobileNetV2", **settings):
    model = {"name": "application", "application": application, **settings}
    return configs.validate({"name": "a", "model": model}).model


def refusal(input_shape, outputs=5, **settings):
    with pytest.raises(ConfigError) as caught:
        own_model(section(**settings), input_shape, outputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


# One network of each kind of preprocessing: "tf", "torch", "caffe", and none.
@pytest.mark.parametrize(
    ("application", "arguments"),
    [
        ("MobileNet", {"alpha": 0.25}),
        pytest.param("DenseNet121", {}, marks=pytest.mark.slow),
        ("VGG16", {}),
        pytest.param("EfficientNetB0", {}, marks=pytest.mark.slow),
        ("MobileNetV3Small", {"alpha": 0.75, "minimalistic": True}),
    ],
)
@pytest.mark.parametrize("normalization", ["auto", "none"])
def test_preprocessing_is_that_of_keras(application, arguments, normalization):
    if application == "DenseNet121" and normalization == "none":
        pytest.skip("as slow as with auto, and no other code")
    keras.utils.set_random_seed(1)
    config = section(application, arguments=arguments, normalization=normalization)
    model = own_model(config, (32, 32, 3), 5)
    function = applications.find(application)
    keras.utils.set_random_seed(1)
    plain = function(include_top=False, weights=None, input_shape=(32, 32, 3), **arguments)
    module = sys.modules[function.__module__]
    # Made with the same seed, and so of the same weights; what reads blue first is turned round.
    weights = [v for layer in model.layers if "head" not in layer.name for v in layer.weights]
    flips = application == "VGG16"
    for number, (ours, theirs) in enumerate(zip(weights, plain.weights, strict=True)):
        expected = keras.ops.flip(theirs, axis=2) if flips and number == 0 else theirs
        np.testing.assert_array_equal(ours, expected)
    pixels = images((2, 32, 32, 3))
    expected = plain(module.preprocess_input(pixels.copy()))
    given = pixels
    scaling = input_scaling(config, (32, 32, 3))
    assert (scaling is not None) == (
        normalization == "none" and application in ("MobileNet", "VGG16")
    )
    if scaling is not None:
        given = pixels * np.float32(scaling.scale) + np.float32(scaling.offset)
    found = keras.Model(model.input, model.get_layer("head_pool").input)(given)
    scale = np.abs(expected).max()
    assert scale > 0
    # One float32 product and sum in place of two of each, through up to 121 layers.
    np.testing.assert_allclose(found, expected, atol=2e-4 * scale)


def test_every_family_has_a_known_preprocessing():
    modes = {}
    for name in (
        "MobileNetV2",
        "ResNet50",
        "ResNet50V2",
        "DenseNet121",
        "ConvNeXtTiny",
        "NASNetMobile",
    ):
        found = applications.preprocessing(section(name), (32, 32, 3))
        modes[name] = (found.scaling and len(found.scaling.scale), found.flips)
    assert modes == {
        "MobileNetV2": (1, False),
        "ResNet50": (3, True),
        "ResNet50V2": (1, False),
        "DenseNet121": (3, False),
        "ConvNeXtTiny": (None, False),
        "NASNetMobile": (1, False),
    }  # fmt: skip
    scaling = applications.preprocessing(section("ResNet50"), (32, 32, 3)).scaling
    # The means that Keras subtracts, in the order of the data.
    np.testing.assert_allclose(scaling.offset, [-123.68, -116.779, -103.939], rtol=1e-6)
    assert scaling.meaning == (
        "pixels as keras.applications.resnet.preprocess_input makes them, in RGB"
    )
    scaling = applications.preprocessing(section("DenseNet121"), (32, 32, 3)).scaling
    np.testing.assert_allclose(scaling.scale, 1 / 255 / np.array([0.229, 0.224, 0.225]), rtol=1e-5)


def test_the_model_is_flat_and_shrinks_and_converts():
    model = own_model(section(arguments=SMALL), (32, 32, 3), 5)
    assert as_functional(model) is model
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert [layer.name for layer in model.layers[-2:]] == ["head_pool", "head"]
    assert model.output_shape == (None, 5)
    assert model.get_layer("head").activation is keras.activations.linear
    # Channels inside the inverted residuals can go, those of the residuals as well.
    kernel = model.get_layer("block_6_expand").kernel
    values = kernel.numpy()
    values[..., :7] = 0
    kernel.assign(values)
    plan = plan_shrink(model)
    assert {layer.name: layer for layer in plan.layers}["block_6_expand"] is not None
    assert plan.macs_after < plan.macs_before


def test_several_outputs_have_a_head_each():
    model = own_model(section(arguments=SMALL), (32, 32, 3), {"kind": 4, "size": 1})
    assert {name: t.shape for name, t in model.output.items()} == {
        "kind": (None, 4),
        "size": (None, 1),
    }


def test_gray_images():
    """Built for one channel with random weights; shown three times to what needs three."""
    model = own_model(section(arguments=SMALL), (32, 32, 1), 5)
    assert model.get_layer("Conv1").kernel.shape[2] == 1
    model = own_model(section("EfficientNetB0"), (32, 32, 1), 5)
    assert model.get_layer("stem_conv").kernel.shape[2] == 3
    pixels = images((2, 32, 32, 1))
    colours = keras.Model(model.input, model.get_layer("gray_as_colours").output)(pixels)
    np.testing.assert_array_equal(colours, np.repeat(pixels, 3, axis=-1))
    # Mean of the three channels' scales and offsets.
    scaling = applications.preprocessing(section("ResNet50"), (32, 32, 1)).scaling
    np.testing.assert_allclose(scaling.offset, [-(123.68 + 116.779 + 103.939) / 3], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "arguments"),
    [("MobileNet", {"alpha": 0.25}), ("MobileNetV3Small", {"alpha": 0.75, "minimalistic": True})],
)
def test_files_take_raw_pixels(application, arguments, tmp_path):
    """`export_tflite` compares the file with the model; the second is shown gray as colours."""
    keras.utils.set_random_seed(1)
    model = own_model(section(application, arguments=arguments), (32, 32, 1), 5)
    export_tflite(model, tmp_path / "a.tflite", calibration_data=images((8, 32, 32, 1)))


def test_weights_of_a_file(tmp_path):
    path = tmp_path / "mine.weights.h5"
    plain = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25
    )
    plain.save_weights(path)
    settings = {"application": "MobileNet", "arguments": {"alpha": 0.25}, "weights": str(path)}
    model = own_model(section(**settings, freeze=True), (32, 32, 1), 5)
    pixels = images((2, 32, 32, 1))
    found = keras.Model(model.input, model.get_layer("head_pool").input)(pixels)
    expected = plain(np.repeat(pixels, 3, axis=-1) / 127.5 - 1)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    # All but the head is frozen.
    assert [v.path for v in model.trainable_variables] == ["head/kernel", "head/bias"]
    settings["arguments"] = {"alpha": 0.5}
    message = refusal((32, 32, 3), **settings)
    assert message.startswith("model.weights: expected weights of MobileNet without its top. Recei")
    assert refusal((32, 32, 4), **settings) == (
        "model.application: expected images of 1 or 3 channels, for which there are weights. "
        "Received: 4 channels"
    )
    message = refusal((16, 16, 3), **settings)
    assert message.startswith("model.application: expected a network that fits 16x16x3 images.")


def test_weights_that_cannot_be_had(monkeypatch):
    def get_file(*args, **kwargs):
        raise Exception("URL fetch failure on https://a/b.h5: None -- no route")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    assert refusal((32, 32, 3), weights="imagenet", arguments=SMALL) == (
        "model.weights: expected weights that can be downloaded: do so once where there is a "
        "network, which keeps them in ~/.keras/models, or give a file's path. Received: "
        "imagenet, URL fetch failure on https://a/b.h5: None -- no route"
    )
    assert refusal((32, 32, 3), weights="none.h5") == (
        "model.weights: expected imagenet, or the path of a file. Received: none.h5, where "
        "there is none"
    )


def test_what_does_not_fit():
    assert refusal((32, 32, 3), application="MobilNetV2") == (
        "model.application: expected a network of keras.applications, such as MobileNetV2. "
        "Received: MobilNetV2"
    )
    assert "DenseNet121, DenseNet169, " in refusal((32, 32, 3), application="mine")
    message = refusal((16, 16, 3))
    assert message.startswith(
        "model.application: expected a network that fits 16x16x3 images. Received: MobileNetV2, "
        "which does not: Input size must be at least 32x32"
    )
    assert refusal((20,)).startswith("model.application: expected images of (rows, cols, channels)")
    assert refusal((32, 32, 3), outputs=(4, 4, 2)).startswith(
        "model.application: expected targets that are one value, or one row of values"
    )
    assert refusal((32, 32, 3), arguments={"alpa": 1}) == (
        "model.arguments: expected arguments of MobileNetV2, of alpha. Received: alpa"
    )
    assert refusal((32, 32, 3), arguments={"pooling": "avg"}) == (
        "model.arguments: expected arguments beside those that the data and other settings give. "
        "Received: pooling"
    )
    assert refusal((32, 32, 3), arguments=SMALL, freeze=True) == (
        "model.freeze: expected true for a network with model.weights, or a pattern. Received: "
        "true for MobileNetV2 with random weights"
    )


def test_an_input_range_takes_the_place_of_the_familys():
    model = own_model(section(arguments=SMALL, input_range="0-1"), (32, 32, 3), 5)
    assert model.get_layer("input_range").scale == 1 / 255
    model = own_model(section(arguments=SMALL, input_range="0-255"), (32, 32, 3), 5)
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
