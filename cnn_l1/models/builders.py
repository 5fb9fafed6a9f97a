"""Builders: config -> keras.Model, in plain Keras layers.

Every model but an autoencoder takes raw 0-255 pixels, raw series or raw features, rescales
them inside, and gives logits, one a class (softmax moves no decision, and int8 resolves
logits better), or values.
"""

import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.config.model_settings import ModelConfig, PointwiseConfig
from cnn_l1.data.augmentation import check_augmentation
from cnn_l1.data.splits import InputStatistics
from cnn_l1.models import blocks, tiny_networks
from cnn_l1.models.input_range import standardizing

Shape = tuple[int, ...]


def build(
    config: Config,
    input_shape: Sequence[int],
    output_count: int | Shape,
    statistics: InputStatistics | None = None,
) -> keras.Model:
    """Build the configured network.

    Args:
        config: A `Config`.
        input_shape: `(rows, cols, channels)` of one image, `(steps, channels)` of one
            series, or `(features,)`.
        output_count: Number of outputs: of classes, or of values to predict. `unet_small`
            gives as many at each pixel; `autoencoder` gives its input's shape, whatever
            the number. Or the whole shape of an example's output, which is checked.
        statistics: `InputStatistics` of the training split; for
            `normalization: standardize`.

    Returns:
        A built `keras.Model` from a batch of inputs to `(batch, output_count)`. Penalties
        are put on by `sparsity.configured.attach_configured`, augmentation by
        `data.augmentation.with_augmentation`.

    Raises:
        ConfigError: If the network, or the configured augmentation, does not fit its
            input.
    """
    model_config = config.model
    input_shape = tuple(input_shape)
    check_augmentation(config.data.augmentation, input_shape)
    wanted = _output_shape(model_config.name, input_shape, output_count)
    inputs = keras.Input(input_shape, name=input_name(input_shape))
    # The target of an autoencoder is its input, so that the data are scaled, not the network.
    normalization = "none" if model_config.name == "autoencoder" else model_config.normalization
    x = _normalize(inputs, normalization, statistics)
    builder = BUILDERS[model_config.name]
    try:
        outputs = builder(x, model_config, wanted[-1])
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"model: expected a network that fits {_size(input_shape)}. "
            f"Received: {model_config.name}, which does not: {_reason(error)}"
        ) from None
    _check_output(model_config.name, tuple(outputs.shape[1:]), wanted)
    # Half-precision outputs cost accuracy and nothing is gained by them.
    outputs = layers.Activation("linear", dtype="float32", name="logits")(outputs)
    try:
        model = keras.Model(inputs, outputs, name=model_config.name)
    except ValueError as error:
        raise ConfigError(
            f"model.blocks: expected a name of its own for each block. Received: {_reason(error)}"
        ) from None
    return model


def input_name(input_shape: Sequence[int]) -> str:
    """What a network's input is called: by what an example is."""
    return {1: "features", 2: "series", 3: "image"}.get(len(input_shape), "input")


def _output_shape(name: str, input_shape: Shape, output_count: int | Shape) -> Shape:
    if not isinstance(output_count, int):
        return tuple(output_count)
    if name == "autoencoder":
        return input_shape
    if name == "unet_small" and len(input_shape) == 3:
        return (*input_shape[:2], output_count)
    return (output_count,)


def _check_output(name: str, shape: tuple[int | None, ...], wanted: Shape) -> None:
    if shape == wanted:
        return
    if name == "cnn":
        what = f"{wanted[-1]} values an example (units: outputs)"
        if len(wanted) > 1:
            what = f"values of shape {wanted} an example"
        raise ConfigError(
            f"model.blocks: expected a last block that gives {what}. "
            f"Received: an output of shape {shape}"
        )
    raise ConfigError(
        f"model.name: expected a network that gives values of shape {wanted} an example, as "
        f"the targets have. Received: {name}, which gives {shape}"
    )


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Give a model the weights of a `.keras` file of the same network.

    Raises:
        ConfigError: If the file cannot be read, or holds other layers or shapes.
    """
    try:
        source = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"model.initial_weights: expected a readable .keras file. Received: {path} "
            f"({_reason(error)})"
        ) from None
    given = {v.path: v for v in source.weights}
    wanted = model.weights
    for variable in wanted:
        found = given.get(variable.path)
        if found is None or tuple(found.shape) != tuple(variable.shape):
            received = "none of that name" if found is None else f"shape {tuple(found.shape)}"
            raise ConfigError(
                f"model.initial_weights: expected {variable.path} of shape "
                f"{tuple(variable.shape)} in {path}. Received: {received}"
            )
    more = sorted(given.keys() - {v.path for v in wanted})
    if more:
        raise ConfigError(
            f"model.initial_weights: expected the weights of this network alone in {path}. "
            f"Received: also {', '.join(more)}"
        )
    for variable in wanted:
        variable.assign(given[variable.path])


def _normalize(x: Any, normalization: str, statistics: InputStatistics | None) -> Any:
    if normalization == "none":
        return x
    if normalization == "auto":
        normalization = "rescale" if len(x.shape) == 4 else "standardize"
    if normalization == "rescale":
        return layers.Rescaling(1.0 / 255.0, name="rescale")(x)
    scaling = standardizing(statistics)
    return layers.Rescaling(list(scaling.scale), offset=list(scaling.offset), name="standardize")(x)


def _dense(x: Any, units: int, name: str, activation: str = "relu") -> Any:
    return layers.Dense(units, activation=activation, name=name)(x)


def _conv(x: Any, filters: int, kernel_size: int, name: str, **settings: Any) -> Any:
    return layers.Conv2D(filters, kernel_size, name=name, **settings)(x)


def _drop(x: Any, config: ModelConfig) -> Any:
    return layers.Dropout(config.dropout, name="dropout")(x) if config.dropout else x


def _linear(x: Any, config: ModelConfig, output_count: int) -> Any:
    """Linear or softmax regression: one dense layer."""
    if len(x.shape) > 2:
        x = layers.Flatten(name="flatten")(x)
    return _dense(_drop(x, config), output_count, "dense", "linear")


def _lenet_300_100(x: Any, config: ModelConfig, output_count: int) -> Any:
    """LeNet-300-100 (LeCun et al., 1998): two hidden dense layers."""
    x = layers.Flatten(name="flatten")(x)
    x = _dense(x, 300, "dense_1")
    x = _dense(x, 100, "dense_2")
    return _dense(_drop(x, config), output_count, "dense_3", "linear")


def _lenet5(x: Any, config: ModelConfig, output_count: int) -> Any:
    """LeNet-5 as the pruning literature has it (Caffe's): 20-50-500."""
    x = _conv(x, 20, 5, "conv_1", activation="relu")
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = _conv(x, 50, 5, "conv_2", activation="relu")
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = _dense(x, 500, "dense_1")
    return _dense(_drop(x, config), output_count, "dense_2", "linear")


def _resnet8(x: Any, config: ModelConfig, output_count: int) -> Any:
    """The image-classification network of MLPerf Tiny (Banbury et al., 2021)."""

    def conv(x: Any, filters: int, kernel_size: int, strides: int, name: str) -> Any:
        return _conv(
            x, filters, kernel_size, name, strides=strides, padding="same",
            kernel_initializer="he_normal",
        )  # fmt: skip

    def norm_relu(x: Any, name: str, relu: bool = True) -> Any:
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x

    x = norm_relu(conv(x, 16, 3, 1, "conv"), "conv")
    for stack, (filters, strides) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        name = f"stack_{stack}"
        y = norm_relu(conv(x, filters, 3, strides, f"{name}_conv_1"), f"{name}_conv_1")
        y = norm_relu(conv(y, filters, 3, 1, f"{name}_conv_2"), f"{name}_conv_2", relu=False)
        if strides != 1:
            x = conv(x, filters, 1, strides, f"{name}_shortcut")
        x = layers.Add(name=f"{name}_add")([x, y])
        x = layers.Activation("relu", name=f"{name}_relu")(x)
    size = min(x.shape[1], x.shape[2])
    x = layers.AveragePooling2D(size, name="pool")(x)
    x = _drop(layers.Flatten(name="flatten")(x), config)
    return _dense(x, output_count, "dense", "linear")


def _pointwise(x: Any, config: ModelConfig, output_count: int) -> Any:
    """A small MobileNet (Howard et al., 2017), for XNNPACK's sparse path.

    Almost all its weights are in 1×1 convolutions, the only ones which that path has
    sparse; what else it asks for is in docs/sparse.md, and `cnn_l1.export.sparse_tflite` checks it.
    """
    settings = config.pointwise or PointwiseConfig()

    def norm_relu(x: Any, name: str) -> Any:
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x)

    def halve(x: Any, name: str) -> Any:
        # Zeros that a layer of its own adds stay explicit in the file on even sizes only:
        # of odd ones the converter makes `same` padding, which the sparse path has not.
        rows, columns = x.shape[1:3]
        if rows % 2 or columns % 2:
            raise ValueError(
                f"{name} must halve an even number of rows and columns, not {rows}x{columns}"
            )
        return layers.ZeroPadding2D(1, name=f"{name}_pad")(x)

    def depthwise(x: Any, strides: int, name: str) -> Any:
        if strides == 2:
            x = halve(x, name)
        x = layers.DepthwiseConv2D(
            3, strides=strides, padding="valid" if strides == 2 else "same", use_bias=False,
            depthwise_initializer="he_normal", name=name,
        )(x)  # fmt: skip
        return norm_relu(x, name)

    def conv(x: Any, filters: int, kernel_size: int, name: str, **settings: Any) -> Any:
        x = _conv(
            x, filters, kernel_size, name, use_bias=False,
            kernel_initializer="he_normal", **settings,
        )  # fmt: skip
        return norm_relu(x, name)

    if len(x.shape) != 4 or x.shape[-1] != 3:
        raise ValueError(f"its first convolution reads 3 channels, not shape {tuple(x.shape[1:])}")
    x = conv(halve(x, "conv"), settings.width, 3, "conv", strides=2)
    filters, number = settings.width, 0
    for size in range(settings.halvings + 1):
        for repeat in range(settings.repeats):
            number += 1
            strides = 2 if size and not repeat else 1
            filters *= strides
            y = depthwise(x, strides, f"depthwise_{number}")
            y = conv(y, filters, 1, f"pointwise_{number}")
            keeps = settings.residual and strides == 1
            x = layers.Add(name=f"add_{number}")([x, y]) if keeps else y
    x = _drop(layers.GlobalAveragePooling2D(name="global_pool")(x), config)
    return _dense(x, output_count, "dense", "linear")


BUILDERS: dict[str, Callable[[Any, ModelConfig, int], Any]] = {
    "cnn": blocks.build,
    "linear": _linear,
    "lenet_300_100": _lenet_300_100,
    "lenet5": _lenet5,
    "resnet8": _resnet8,
    "pointwise": _pointwise,
    **tiny_networks.BUILDERS,
}


def _size(shape: Sequence[int]) -> str:
    kind = {2: "series", 3: "images"}.get(len(shape), "features")
    return f"{'x'.join(str(size) for size in shape)} {kind}"


def _reason(error: Exception) -> str:
    """The first sentence of a Keras error, without its list of arguments."""
    text = " ".join(str(error).split())
    return text.split(" Arguments received", 1)[0].split("Call arguments", 1)[0].strip()
