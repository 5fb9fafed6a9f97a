"""Networks for microcontrollers: those of MLPerf Tiny, and a small U-Net.

MLPerf Tiny's are those of `keras_model.py` and `vww_model.py` in the repository
mlcommons/tiny (Banbury et al., MLPerf Tiny Benchmark, 2021), weight for weight, without
their softmax, their weight decay and, in `ds_cnn`, their dropout, for which `model.dropout`
stands.
"""

import math
from collections.abc import Callable
from typing import Any

from keras import layers

from cnn_l1.config.model_settings import ModelConfig

MOBILENET_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
"""Channels and strides of MobileNet's depthwise-separable pairs (Howard et al., 2017)."""
AUTOENCODER_UNITS = (128, 128, 128, 128, 8, 128, 128, 128, 128)
UNET_CHANNELS = (16, 32, 64)


def ds_cnn(x: Any, config: ModelConfig, output_count: int) -> Any:
    """Keyword spotting: a convolution, then four depthwise-separable pairs.

    The reference averages 24 of its 25 last rows; here all are averaged.
    """
    _check_image(x)
    filters = _channels(64, config)
    x = _norm_relu(_conv(x, filters, (10, 4), "conv", strides=2), "conv")
    for number in range(1, 5):
        x = _pair(x, filters, 1, number)
    return _classes(x, config, output_count)


def mobilenet_v1(x: Any, config: ModelConfig, output_count: int) -> Any:
    """Visual wake words: MobileNet v1, a quarter as wide unless `model.width` says otherwise."""
    _check_image(x)
    x = _conv(x, _channels(32, config, 0.25), 3, "conv", strides=2, kernel_initializer="he_normal")
    x = _norm_relu(x, "conv")
    for number, (filters, strides) in enumerate(MOBILENET_BLOCKS, start=1):
        x = _pair(x, _channels(filters, config, 0.25), strides, number, "he_normal")
    return _classes(x, config, output_count)


def autoencoder(x: Any, config: ModelConfig, output_count: int) -> Any:
    """Anomaly detection: dense layers through a bottleneck of 8, back to the input's shape."""
    shape = tuple(x.shape[1:])
    if len(shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(AUTOENCODER_UNITS, start=1):
        x = _norm_relu(layers.Dense(units, name=f"dense_{number}")(x), f"dense_{number}")
    if config.dropout:
        x = layers.Dropout(config.dropout, name="dropout")(x)
    x = layers.Dense(math.prod(shape), name=f"dense_{len(AUTOENCODER_UNITS) + 1}")(x)
    return layers.Reshape(shape, name="reshape")(x) if len(shape) > 1 else x


def unet_small(x: Any, config: ModelConfig, output_count: int) -> Any:
    """Segmentation: a U-Net (Ronneberger et al., 2015) of three sizes, with batch-norm.

    It gives `output_count` logits at each pixel. Upsampling repeats pixels and convolves
    them, where the paper has transposed convolutions, which leave a checkerboard.
    """
    _check_image(x)
    rows, cols = x.shape[1:3]
    if rows % 4 or cols % 4:
        raise ValueError(f"it halves rows and columns twice, and 4 must divide {rows}x{cols}")

    def conv(x: Any, filters: int, name: str) -> Any:
        x = _conv(x, filters, 3, name, use_bias=False, kernel_initializer="he_normal")
        return _norm_relu(x, name)

    fine, middle, coarse = (_channels(filters, config) for filters in UNET_CHANNELS)
    skips = []
    for level, filters in enumerate((fine, middle), start=1):
        x = conv(conv(x, filters, f"down_{level}_conv_1"), filters, f"down_{level}_conv_2")
        skips.append((level, filters, x))
        x = layers.MaxPooling2D(2, name=f"down_{level}_pool")(x)
    x = conv(conv(x, coarse, "bottom_conv_1"), coarse, "bottom_conv_2")
    for level, filters, skip in reversed(skips):
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"up_{level}_size")(x)
        x = conv(x, filters, f"up_{level}_conv_1")
        x = layers.Concatenate(name=f"up_{level}_skip")([x, skip])
        x = conv(x, filters, f"up_{level}_conv_2")
    if config.dropout:
        x = layers.Dropout(config.dropout, name="dropout")(x)
    return _conv(x, output_count, 1, "classes")


BUILDERS: dict[str, Callable[[Any, ModelConfig, int], Any]] = {
    "ds_cnn": ds_cnn,
    "mobilenet_v1": mobilenet_v1,
    "autoencoder": autoencoder,
    "unet_small": unet_small,
}


def _check_image(x: Any) -> None:
    if len(x.shape) != 4:
        raise ValueError(
            f"it reads rows, columns and channels, not a shape of {tuple(x.shape[1:])}"
        )


def _channels(channels: int, config: ModelConfig, default_width: float = 1.0) -> int:
    width = default_width if config.width is None else config.width
    return max(1, round(channels * width))


def _conv(x: Any, filters: int, kernel_size: Any, name: str, **settings: Any) -> Any:
    return layers.Conv2D(filters, kernel_size, padding="same", name=name, **settings)(x)


def _norm_relu(x: Any, name: str) -> Any:
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _pair(
    x: Any, filters: int, strides: int, number: int, initializer: str = "glorot_uniform"
) -> Any:
    """A depthwise and a 1×1 convolution, each with batch-norm and ReLU."""
    name = f"depthwise_{number}"
    x = layers.DepthwiseConv2D(
        3, strides=strides, padding="same", depthwise_initializer=initializer, name=name
    )(x)
    x = _norm_relu(x, name)
    name = f"pointwise_{number}"
    return _norm_relu(_conv(x, filters, 1, name, kernel_initializer=initializer), name)


def _classes(x: Any, config: ModelConfig, output_count: int) -> Any:
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    if config.dropout:
        x = layers.Dropout(config.dropout, name="dropout")(x)
    return layers.Dense(output_count, name="dense")(x)
