"""Networks: their sizes, their pixels, and what does not fit."""

import zipfile
from typing import get_args

import keras
import numpy as np
import pytest

from cnn_l1.config import loading as configs
from cnn_l1.config.data_settings import AugmentationConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.model_settings import ACTIVATION, SOURCES, ModelConfig
from cnn_l1.data.augmentation import with_augmentation
from cnn_l1.data.splits import InputStatistics
from cnn_l1.export import tflite
from cnn_l1.models import builders

FLATTEN = {"type": "flatten"}
LOGITS = {"type": "dense", "units": "classes", "activation": "linear"}
CONV = {"type": "conv", "filters": 3}
NORMED = [CONV, {"type": "batch_norm"}, {"type": "depthwise"}, FLATTEN, LOGITS]
BLOCKS = ["conv", "depthwise", "batch_norm", "activation", "pool", "global_pool", "dropout"]
BLOCKS += ["flatten", "dense"]
MORE_BLOCKS = ["conv1d", "separable", "add"]  # see test_blocks.py


def make_config(**sections):
    return configs.validate({"name": "a", **sections})


def build(input_shape=(8, 8, 1), class_count=10, statistics=None, **sections):
    return builders.build(make_config(**sections), input_shape, class_count, statistics)


def refusal(*args, **sections):
    with pytest.raises(ConfigError) as caught:
        build(*args, **sections)
    message = str(caught.value)
    assert "\n" not in message
    return message


def images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


@pytest.mark.parametrize(
    ("name", "input_shape", "parameters"),
    [
        # (5·5·1+1)·20 + (5·5·20+1)·50 + (800+1)·500 + (500+1)·10
        ("lenet5", (28, 28, 1), 431_080),
        # (784+1)·300 + (300+1)·100 + (100+1)·10
        ("lenet_300_100", (28, 28, 1), 266_610),
        # MLPerf Tiny's reference, as its `model.summary()` counts it.
        ("resnet8", (32, 32, 3), 78_666),
        # (5·5·1+1)·32 + (2·2·32+1)·128 + (128+1)·10
        ("cnn", (8, 8, 1), 18_634),
        # With 4 a channel of each batch-norm. First: 27·16. Pairs, 9·c + c·d for c channels
        # to d: 16 → 16 → 16 → 32 → 32 → 64 → 64. Last: (64+1)·10.
        ("pointwise", (32, 32, 3), 12_522),
    ],
)
def test_parameter_counts(name, input_shape, parameters):
    model = build(input_shape, model={"name": name})
    assert model.count_params() == parameters
    assert model.input_shape == (None, *input_shape)
    assert model.output_shape == (None, 10)
    assert model(images((2, *input_shape))).shape == (2, 10)


@pytest.mark.parametrize("name", ["cnn", "lenet5", "lenet_300_100", "resnet8", "pointwise"])
def test_class_count(name):
    model = build((32, 32, 3), 7, model={"name": name})
    assert model.output_shape == (None, 7)


def test_resnet8_adds_its_shortcuts():
    model = build((32, 32, 3), model={"name": "resnet8"})
    assert sum(isinstance(layer, keras.layers.Add) for layer in model.layers) == 3
    # A stack that changes the shape has a 1x1 shortcut of its own.
    assert model.get_layer("stack_2_shortcut").kernel.shape == (1, 1, 16, 32)
    assert model.get_layer("stack_3_shortcut").kernel.shape == (1, 1, 32, 64)


def pointwise(shape=(32, 32, 3), **settings):
    return build(shape, model={"name": "pointwise", "pointwise": settings})


def test_pointwise_follows_its_settings():
    model = pointwise(width=4, halvings=3, repeats=1)
    shapes = [layer.output.shape[1:] for layer in model.layers if layer.name.startswith("point")]
    # By name, each convolution comes with its batch-norm and its relu.
    assert shapes[::3] == [(16, 16, 4), (8, 8, 8), (4, 4, 16), (2, 2, 32)]
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("DepthwiseConv2D") == 4
    # Zeros around each halved image are explicit, and what halves it pads none.
    assert kinds.count("ZeroPadding2D") == 4
    halving = [layer for layer in model.layers if getattr(layer, "strides", None) == (2, 2)]
    assert [layer.padding for layer in halving] == ["valid"] * 4


@pytest.mark.parametrize(("residual", "adds"), [(True, 4), (False, 0)])
def test_pointwise_adds_pairs_that_keep_their_shape(residual, adds):
    model = pointwise(residual=residual)
    assert sum(isinstance(layer, keras.layers.Add) for layer in model.layers) == adds


@pytest.mark.parametrize(
    ("shape", "settings", "reason"),
    [
        ((28, 28, 1), {}, "its first convolution reads 3 channels, not shape (28, 28, 1)"),
        (
            (28, 28, 3),
            {},
            "depthwise_5 must halve an even number of rows and columns, not 7x7",
        ),
        ((33, 32, 3), {}, "conv must halve an even number of rows and columns, not 33x32"),
    ],
)
def test_pointwise_that_does_not_fit(shape, settings, reason):
    message = refusal(shape, model={"name": "pointwise", "pointwise": settings})
    assert message.endswith(f"Received: pointwise, which does not: {reason}")
    build((28, 28, 3), model={"name": "pointwise", "pointwise": {"halvings": 1}})


def test_rescale_takes_raw_pixels():
    model = build()
    rescale = keras.Model(model.input, model.get_layer("rescale").output)
    pixels = np.linspace(0, 255, 64, dtype="float32").reshape(1, 8, 8, 1)
    # One float32 product by 1/255, so within two roundings.
    np.testing.assert_allclose(rescale(pixels), pixels / 255.0, rtol=3e-7)


def test_standardize_gives_mean_0_and_variance_1():
    # Channels unlike each other, so that no mix-up of them passes.
    pixels = images((500, 8, 8, 3)) * np.float32([1.0, 0.5, 0.1]) + np.float32([0, 90, 7])
    statistics = InputStatistics(
        tuple(pixels.mean((0, 1, 2), dtype="float64")),
        tuple(pixels.var((0, 1, 2), dtype="float64")),
    )
    model = build((8, 8, 3), statistics=statistics, model={"normalization": "standardize"})
    standardize = keras.Model(model.input, model.get_layer("standardize").output)
    found = standardize(pixels).numpy().astype("float64")
    # float32: an offset of up to 15 beside each value costs some of its 7 digits.
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.var((0, 1, 2)), 1.0, atol=1e-5)


def test_standardize_a_channel_that_is_constant():
    statistics = InputStatistics((10.0, 20.0), (4.0, 0.0))
    model = build((8, 8, 2), statistics=statistics, model={"normalization": "standardize"})
    standardize = keras.Model(model.input, model.get_layer("standardize").output)
    pixels = np.full((1, 8, 8, 2), [12.0, 20.0], "float32")
    # 20·1000 - 20·1000 in float32: exact, or one rounding of 20,000.
    np.testing.assert_allclose(standardize(pixels)[0, 0, 0], [1.0, 0.0], atol=2e-3)


def test_standardize_needs_statistics():
    with pytest.raises(ValueError, match="`statistics` must be given"):
        build(model={"normalization": "standardize"})


AUGMENTATIONS = {
    "shift": {"shift_pixels": 2},
    "crop": {"crop_pixels": 2},
    "flip": {"flip": True},
    "all": {"shift_pixels": 1, "crop_pixels": 1, "flip": True},
}


def augmented(settings, shape=(16, 8, 8, 3), seed=0):
    """The model that is trained, and its part before the network."""
    network = build(shape[1:])
    trained = with_augmentation(network, AugmentationConfig(**settings), seed)
    assert trained.layers[-1] is network
    return trained, keras.Model(trained.input, trained.layers[-2].output)


@pytest.mark.parametrize("settings", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_augmentation_only_in_training(settings):
    _, front = augmented(settings)
    pixels = images((16, 8, 8, 3))
    np.testing.assert_array_equal(front(pixels, training=False), pixels)
    changed = front(pixels, training=True).numpy()
    assert changed.shape == pixels.shape
    assert not np.array_equal(changed, pixels)
    assert not np.array_equal(front(pixels, training=True), changed)  # anew each time
    # Shifts, crops and mirrors move pixels; they make up none but the zeros.
    assert set(changed.ravel()) <= set(pixels.ravel()) | {0.0}


@pytest.mark.parametrize("settings", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_augmentation_follows_the_seed(settings):
    pixels = images((16, 8, 8, 3))
    first, again, other = (
        augmented(settings, seed=seed)[1](pixels, training=True).numpy() for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_flip_mirrors_left_to_right():
    _, front = augmented({"flip": True})
    pixels = images((16, 8, 8, 3))
    found = [
        (np.array_equal(new, old), np.array_equal(new, old[:, ::-1]))
        for new, old in zip(front(pixels, training=True).numpy(), pixels, strict=True)
    ]
    assert set(found) == {(True, False), (False, True)}


@pytest.mark.parametrize("settings", [{"shift_pixels": 2}, {"crop_pixels": 2}], ids=str)
def test_moves_are_whole_pixels_and_bounded(settings):
    _, front = augmented(settings, shape=(16, 12, 9, 1))
    pixels = images((16, 12, 9, 1)) + 1.0  # no zeros but the filled ones
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)))
    moves = set()
    for new, old in zip(front(pixels, training=True).numpy(), padded, strict=True):
        found = {
            (row, col)
            for row in range(5)
            for col in range(5)
            if np.array_equal(new, old[row : row + 12, col : col + 9])
        }
        assert found, "no move by whole pixels"
        moves |= found
    # Image by image, not a batch alike: sixteen equal draws of 25 would be no chance.
    assert len(moves) > 1


@pytest.mark.parametrize("settings", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_augmentation_changes_no_evaluation(settings):
    model, _ = augmented(settings)
    bare = model.layers[-1]
    pixels = images((16, 8, 8, 3))
    # The same operations on the same numbers, so the same logits.
    np.testing.assert_array_equal(model(pixels, training=False), bare(pixels))


def test_no_augmentation():
    network = build()
    assert with_augmentation(network, AugmentationConfig()) is network


def test_the_network_is_built_without_augmentation():
    names = [layer.name for layer in build(data={"augmentation": AUGMENTATIONS["all"]}).layers]
    assert names == [layer.name for layer in build().layers]


def test_training_around_the_network_trains_it():
    blocks = [{**CONV, "name": name} for name in ("flip", "crop", "augment_shift")]
    network = build(model={"blocks": [*blocks, FLATTEN, LOGITS]})
    paths = [v.path for v in network.trainable_variables]
    trained = with_augmentation(network, AugmentationConfig(**AUGMENTATIONS["all"]), 0)
    assert [v.path for v in trained.trainable_variables] == paths
    kernels = [v.numpy() for v in network.trainable_variables if v.name == "kernel"]
    trained.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trained.fit(images((8, 8, 8, 1)), np.zeros(8), verbose=0)
    for layer, before in zip(("flip", "crop", "augment_shift"), kernels, strict=False):
        assert np.any(network.get_layer(layer).kernel.numpy() != before)
    copy = tflite.plain_copy(network)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in network.layers]
    pixels = images((4, 8, 8, 1))
    np.testing.assert_array_equal(copy(pixels), trained(pixels, training=False))


@pytest.mark.parametrize("setting", ["shift_pixels", "crop_pixels"])
def test_augmentation_beyond_the_image_is_refused(setting):
    with_it = {"augmentation": {setting: 8}}
    build((8, 8, 1), data=with_it)
    message = refusal((8, 7, 1), 10, data=with_it)
    assert message.startswith(f"data.augmentation.{setting}: expected at most the size")


@pytest.mark.parametrize(
    ("input_shape", "section", "name"),
    [
        ((8, 8, 1), {"name": "lenet5"}, "lenet5"),
        ((4, 4, 1), {"name": "cnn"}, "cnn"),
        ((3, 3, 1), {"blocks": [CONV, {"type": "pool"}, FLATTEN, LOGITS]}, "cnn"),
    ],
)
def test_input_that_is_too_small(input_shape, section, name):
    size = "x".join(map(str, input_shape))
    assert refusal(input_shape, model=section).startswith(
        f"model: expected a network that fits {size} images. Received: {name}, which does not: "
    )


def test_blocks_that_do_not_follow_each_other():
    message = refusal(model={"blocks": [FLATTEN, CONV, LOGITS]})
    assert message.startswith("model: expected a network that fits 8x8x1 images.")
    assert "conv_1" in message


@pytest.mark.parametrize(
    ("blocks", "shape"),
    [
        ([FLATTEN, {"type": "dense", "units": 7}], "(7,)"),
        ([LOGITS], "(8, 8, 10)"),
        ([CONV, FLATTEN], "(108,)"),
    ],
)
def test_last_block_that_gives_no_logits(blocks, shape):
    assert refusal(model={"blocks": blocks}) == (
        "model.blocks: expected a last block that gives 10 values an example (units: outputs). "
        f"Received: an output of shape {shape}"
    )


@pytest.mark.parametrize("name", ["dense_2", "image", "rescale", "logits"])
def test_block_names_given_twice(name):
    blocks = [FLATTEN, {"type": "dense", "units": 3, "name": name}, LOGITS]
    message = refusal(model={"blocks": blocks})
    assert message.startswith("model.blocks: expected a name of its own for each block.")
    assert name in message


@pytest.mark.parametrize("name", ["cnn", "lenet5", "lenet_300_100", "resnet8", "pointwise"])
def test_dropout_is_in_front_of_the_last_dense_layer(name):
    model = build((32, 32, 3), model={"name": name, "dropout": 0.25})
    names = [layer.name for layer in model.layers]
    position = names.index("dropout")
    assert isinstance(model.layers[position + 1], keras.layers.Dense)
    assert names[position + 2 :] == ["logits"]
    assert model.get_layer("dropout").rate == 0.25
    assert "dropout" not in [
        layer.name for layer in build((32, 32, 3), model={"name": name}).layers
    ]


def test_dropout_block():
    blocks = [FLATTEN, {"type": "dropout", "rate": 0.5}, {"type": "dropout"}, LOGITS]
    model = build(model={"blocks": blocks})
    assert model.get_layer("dropout_1").rate == 0.5
    pixels = images((4, 8, 8, 1))
    np.testing.assert_array_equal(model(pixels), model(pixels))  # off outside training
    assert not np.array_equal(model(pixels, training=True), model(pixels, training=True))


def test_every_block():
    blocks = [
        {**CONV, "kernel_size": 5, "strides": 2, "padding": "same", "activation": "tanh"},
        {"type": "batch_norm"},
        {"type": "activation", "activation": "leaky_relu"},
        {"type": "depthwise", "depth_multiplier": 2, "use_bias": False},
        {"type": "pool", "padding": "same"},
        {"type": "pool", "kind": "average", "pool_size": 2, "strides": 1, "name": "mean"},
        {"type": "conv", "filters": 5, "kernel_size": 1, "use_bias": False, "name": "mix"},
        {"type": "global_pool"},
        {"type": "dropout"},
        {"type": "flatten"},
        {"type": "dense", "units": 6, "use_bias": False},
        LOGITS,
    ]
    assert {block["type"] for block in blocks} == set(BLOCKS)
    model = build((16, 16, 1), model={"blocks": blocks})
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert shapes == {
        "image": (16, 16, 1),
        "rescale": (16, 16, 1),
        "conv_1": (8, 8, 3),
        "batch_norm_1": (8, 8, 3),
        "activation_1": (8, 8, 3),
        "depthwise_1": (8, 8, 6),
        "pool_1": (4, 4, 6),
        "mean": (3, 3, 6),
        "mix": (3, 3, 5),
        "global_pool_1": (5,),
        "dropout_1": (5,),
        "flatten_1": (5,),
        "dense_1": (6,),
        "dense_2": (10,),
        "logits": (10,),
    }
    layers = keras.layers
    kinds = {
        "conv_1": layers.Conv2D,
        "depthwise_1": layers.DepthwiseConv2D,
        "pool_1": layers.MaxPooling2D,
        "mean": layers.AveragePooling2D,
        "global_pool_1": layers.GlobalAveragePooling2D,
    }
    for name, kind in kinds.items():
        assert type(model.get_layer(name)) is kind
    assert model.get_layer("conv_1").activation is keras.activations.tanh
    assert model.get_layer("depthwise_1").activation is keras.activations.relu
    assert model.get_layer("dense_2").activation is keras.activations.linear
    assert [model.get_layer(n).use_bias for n in ("conv_1", "depthwise_1", "mix", "dense_1")] == [
        True,
        False,
        False,
        False,
    ]


def test_global_max_pool():
    blocks = [CONV, {"type": "global_pool", "kind": "max"}, LOGITS]
    model = build(model={"blocks": blocks})
    assert type(model.get_layer("global_pool_1")) is keras.layers.GlobalMaxPooling2D


def test_every_block_type_of_the_config_is_built():
    schema = configs.Config.model_json_schema()
    assert set(schema["$defs"]["ModelConfig"]["properties"]["blocks"]["anyOf"][0]["items"][
        "discriminator"
    ]["mapping"]) == {*BLOCKS, *MORE_BLOCKS}  # fmt: skip
    names = ModelConfig.model_json_schema()["properties"]["name"]["enum"]
    assert set(names) == {*builders.BUILDERS, *SOURCES}


@pytest.mark.parametrize("activation", get_args(ACTIVATION))
def test_every_activation(activation):
    blocks = [{**CONV, "activation": activation}, FLATTEN, LOGITS]
    assert build(model={"blocks": blocks})(images((1, 8, 8, 1))).shape == (1, 10)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float32"])
def test_logits_are_float32(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build(model={"blocks": NORMED})
    finally:
        keras.config.set_dtype_policy(before)
    assert model(images((2, 8, 8, 1))).dtype == "float32"
    assert model.get_layer("dense_1").compute_dtype == policy.removeprefix("mixed_")
    # Weights, and so exact zeros and files, stay float32.
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


# Features instead of pixels.


@pytest.mark.parametrize(
    ("input_shape", "outputs", "layers"),
    [
        ((10,), 1, ["features", "standardize", "dense", "logits"]),
        ((8, 8, 1), 10, ["image", "rescale", "flatten", "dense", "logits"]),
    ],
)
def test_linear(input_shape, outputs, layers):
    statistics = InputStatistics((1.0,) * input_shape[-1], (4.0,) * input_shape[-1])
    model = build(input_shape, outputs, statistics, model={"name": "linear"})
    assert [layer.name for layer in model.layers] == layers
    inputs = images((5, *input_shape))
    kernel, bias = (v.numpy().astype("float64") for v in model.trainable_variables)
    assert kernel.shape == (np.prod(input_shape), outputs)
    model.trainable_variables[1].assign(bias + 0.5)
    scaled = (inputs - 1.0) / 2.0 if len(input_shape) == 1 else inputs / 255.0
    # Sums of up to 64 float32 terms of some tens.
    expected = scaled.reshape(5, -1) @ kernel + bias + 0.5
    np.testing.assert_allclose(model(inputs), expected, atol=2e-4)


def test_linear_with_dropout():
    model = build(
        (10,),
        1,
        InputStatistics((0.0,) * 10, (1.0,) * 10),
        model={"name": "linear", "dropout": 0.5},
    )
    assert [layer.name for layer in model.layers][-3:] == ["dropout", "dense", "logits"]


@pytest.mark.parametrize(
    ("input_shape", "normalization", "layer"),
    [
        ((8, 8, 1), "auto", "rescale"),
        ((8, 8, 1), "standardize", "standardize"),
        ((8, 8, 1), "none", None),
        ((6,), "auto", "standardize"),
        ((6,), "rescale", "rescale"),
        ((6,), "none", None),
    ],
)
def test_normalization(input_shape, normalization, layer):
    statistics = InputStatistics((3.0,) * input_shape[-1], (4.0,) * input_shape[-1])
    model = build(
        input_shape, 2, statistics, model={"name": "linear", "normalization": normalization}
    )
    names = {found.name for found in model.layers} & {"rescale", "standardize"}
    assert names == ({layer} if layer else set())
    if layer is None:
        inputs = images((2, *input_shape))
        kernel = model.get_layer("dense").kernel.numpy().astype("float64")
        # Sums of up to 64 float32 terms of up to 255.
        expected = inputs.reshape(2, -1) @ kernel
        np.testing.assert_allclose(model(inputs), expected, atol=1e-3)


def test_standardized_features_have_mean_0_and_variance_1():
    inputs = np.random.default_rng(0).normal(0.0, 1.0, (500, 4)) * [1, 20, 0.01, 3] + [0, 90, 7, -5]
    statistics = InputStatistics(tuple(inputs.mean(axis=0)), tuple(inputs.var(axis=0)))
    model = build((4,), 1, statistics, model={"name": "linear"})
    standardize = keras.Model(model.input, model.get_layer("standardize").output)
    found = standardize(inputs.astype("float32")).numpy().astype("float64")
    # float32: 7 with a deviation of 0.01 is an offset of 700, and costs three digits more.
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(found.var(axis=0), 1.0, atol=1e-3)


def test_units_by_either_name():
    for units in ("outputs", "classes"):
        blocks = [{"type": "dense", "units": units, "activation": "linear"}]
        model = build((6,), 3, model={"blocks": blocks, "normalization": "none"})
        assert model.output_shape == (None, 3)


def test_convolutions_do_not_fit_features():
    message = refusal((10,), 1, model={"name": "cnn", "normalization": "none"})
    assert message.startswith(
        "model: expected a network that fits 10 features. Received: cnn, which does not: "
    )


def test_augmentation_of_features_is_refused():
    message = refusal((10,), 1, data={"augmentation": {"flip": True}})
    assert message.startswith("data.augmentation: expected nothing, for these inputs are no images")
    assert "flip=True" in message


# Weights to start from.

AUGMENTED = {"augmentation": {"shift_pixels": 1, "flip": True}}
STATEFUL = [CONV, {"type": "batch_norm"}, FLATTEN, {"type": "dropout"}, LOGITS]


def moved(model, seed=0):
    """A model whose every weight and statistic is another than at the start."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed_generator" not in variable.path:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.mark.parametrize("augmented", [False, True])
def test_load_weights(tmp_path, augmented):
    sections = {"model": {"blocks": STATEFUL}}
    source = moved(build(**sections, data=AUGMENTED))
    path = tmp_path / "model.keras"
    tflite.plain_copy(source).save(path)
    model = build(**sections, data=AUGMENTED if augmented else {})
    pixels = images((4, 8, 8, 1))
    # Said each time: Keras' random layers act as in training unless told otherwise.
    expected_logits = source(pixels, training=False)
    assert not np.allclose(model(pixels, training=False), expected_logits)
    builders.load_weights(model, str(path))
    pairs = zip(
        [v for v in model.weights if "seed_generator" not in v.path],
        [v for v in source.weights if "seed_generator" not in v.path],
        strict=True,
    )
    names = set()
    for found, expected in pairs:
        assert found.path == expected.path
        names.add(found.name)
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"} <= names
    # The same operations on the same numbers.
    np.testing.assert_array_equal(model(pixels, training=False), expected_logits)


def weights_refusal(path, **sections):
    model = build(**sections)
    before = [v.numpy() for v in model.weights]
    with pytest.raises(ConfigError) as caught:
        builders.load_weights(model, str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert message.startswith("model.initial_weights: expected ")
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())  # nothing is half loaded
    return message


@pytest.mark.parametrize(
    ("blocks", "expected", "received"),
    [
        (
            [{**CONV, "filters": 4}, FLATTEN, LOGITS],
            "conv_1/kernel of shape (3, 3, 1, 4)",
            "shape (3, 3, 1, 3)",
        ),
        (
            [CONV, {**CONV, "padding": "same"}, FLATTEN, LOGITS],
            "conv_2/kernel of shape (3, 3, 3, 3)",
            "none of that name",
        ),
        ([FLATTEN, LOGITS], "dense_1/kernel of shape (64, 10)", "shape (108, 10)"),
        (
            [{**CONV, "use_bias": False}, FLATTEN, LOGITS],
            "the weights of this network alone",
            "also conv_1/bias",
        ),
    ],
    ids=["other shape", "missing", "other input", "more"],
)
def test_weights_of_another_network(tmp_path, blocks, expected, received):
    path = tmp_path / "model.keras"
    tflite.plain_copy(build(model={"blocks": [CONV, FLATTEN, LOGITS]})).save(path)
    message = weights_refusal(path, model={"blocks": blocks})
    assert f"expected {expected} in {path}. " in message
    assert message.endswith(f"Received: {received}")


def archive_without(part, source, path):
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as rest:
        for name in whole.namelist():
            if name != part:
                rest.writestr(name, whole.read(name))


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "text", "cut", "no config", "no weights", "damaged", "folder", "lambda"],
)
def test_unreadable_weights(tmp_path, kind):
    whole, path = tmp_path / "whole.keras", tmp_path / "model.keras"
    tflite.plain_copy(build()).save(whole)
    content = whole.read_bytes()
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("no model", encoding="utf-8")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "no config":
            archive_without("config.json", whole, path)
        case "no weights":
            archive_without("model.weights.h5", whole, path)
        case "damaged":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
        case "folder":
            path.mkdir()
        case "lambda":  # code in a file is not run
            inputs = keras.Input((8, 8, 1))
            keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(inputs)).save(path)
    message = weights_refusal(path)
    assert f"expected a readable .keras file. Received: {path} (" in message
