"""Networks of keras.applications, with their preprocessing in front and a head of one's own."""

import dataclasses
import difflib
import inspect
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.model_settings import ModelConfig
from cnn_l1.data.splits import InputScaling
from cnn_l1.graph.reading import read_graph

# Arguments of an application that this module gives.
OURS = {
    "include_top", "weights", "input_tensor", "input_shape", "pooling", "classes",
    "classifier_activation", "name",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a family's `preprocess_input` does.

    Attributes:
        scaling: By channel, in the order of the data; `None` where the network itself scales.
        flips: Whether the network reads blue, green and red.
    """

    scaling: InputScaling | None
    flips: bool


def find(name: str | None) -> Callable[..., keras.Model]:
    """The function of keras.applications of a name.

    Raises:
        ConfigError: If there is none; it says which name is close.
    """
    known = {n: f for n, f in vars(keras.applications).items() if inspect.isfunction(f)}
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        raise ConfigError(
            "model.application: expected a network of keras.applications, such as "
            f"{close[0] if close else ', '.join(sorted(known))}. Received: {name}"
        )
    return known[name]


def preprocessing(config: ModelConfig, input_shape: tuple[int, ...]) -> Preprocessing:
    """What the family's `preprocess_input` does, read from what it makes of a few colours.

    It is a scale and an offset for each channel, for some families with the channels turned
    round. Images of another number of channels than 3, on which a network with random weights
    may be built, get the mean of both.
    """
    module = sys.modules[find(config.application).__module__]
    black = np.zeros((1, 1, 1, 3), "float32")
    offset = module.preprocess_input(black.copy(), data_format="channels_last")[0, 0, 0]
    colours = np.eye(3, dtype="float32").reshape(3, 1, 1, 3) * 255.0
    made = module.preprocess_input(colours.copy(), data_format="channels_last")[:, 0, 0]
    matrix = (np.asarray(made, "float64") - np.asarray(offset, "float64")) / 255.0
    flips = bool(abs(matrix[0, 2]) > 0)
    if flips:  # the offset comes in the order of the network
        matrix, offset = matrix[:, ::-1], offset[::-1]
    scale, offset = np.diag(matrix), np.asarray(offset, "float64")
    if np.array_equal(scale, np.ones(3)) and not offset.any():
        return Preprocessing(None, flips)
    if np.ptp(scale) < 1e-9 and np.ptp(offset) < 1e-9:
        scale, offset = scale[:1], offset[:1]
    elif _channels_read(config, input_shape, True) != 3:
        scale, offset = scale.mean(keepdims=True), offset.mean(keepdims=True)
    family = module.__name__.rpartition(".")[2]
    meaning = f"pixels as keras.applications.{family}.preprocess_input makes them"
    if flips:
        meaning += ", in RGB"
    return Preprocessing(
        InputScaling(tuple(scale.tolist()), tuple(offset.tolist()), meaning), flips
    )


def _channels_read(config: ModelConfig, input_shape: tuple[int, ...], scaled: bool) -> int:
    """Channels that the network reads: 3 of gray images where its weights or settings need it."""
    needs_colours = config.weights is not None or not scaled
    return 3 if input_shape[-1] == 1 and needs_colours else input_shape[-1]


def build(
    config: ModelConfig,
    input_shape: tuple[int, ...],
    outputs: dict[str, int],
    scaled: Callable[[Any], Any] | None = None,
) -> keras.Model:
    """An application without its top, under a pooling and a dense layer for each output.

    Gray images are given three times, as three channels, where the network comes with weights
    or scales its channels itself; else it is built for one channel.

    Args:
        config: The `model` section.
        input_shape: Shape of an image.
        outputs: Numbers of values by the names of the dense layers that give them.
        scaled: From pixels to what the network reads. Default: the pixels.

    Returns:
        A Functional model of plain layers, none of them a model.

    Raises:
        ConfigError: If the network does not fit, or its weights cannot be had.
    """
    function = find(config.application)
    if len(input_shape) != 3:
        raise ConfigError(
            "model.application: expected images of (rows, cols, channels). "
            f"Received: inputs of shape {input_shape}"
        )
    wrong = sorted(OURS & config.arguments.keys())
    if wrong:
        raise ConfigError(
            "model.arguments: expected arguments beside those that the data and other settings "
            f"give. Received: {', '.join(wrong)}"
        )
    prepared = preprocessing(config, input_shape)
    channels = _channels_read(config, input_shape, prepared.scaling is not None)
    if config.weights is not None and channels != 3:
        raise ConfigError(
            "model.application: expected images of 1 or 3 channels, for which there are weights. "
            f"Received: {channels} channels"
        )
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    if channels != input_shape[-1]:
        x = layers.Concatenate(name="gray_as_colours")([x, x, x])
    if scaled is not None:
        x = scaled(x)
    base = _base(function, config, x, (*input_shape[:2], channels))
    if prepared.flips and channels == 3 and config.input_range is None:
        _flip_first_kernel(base)
    pooled = layers.GlobalAveragePooling2D(name="head_pool")(base.output)
    # Half-precision outputs cost accuracy and nothing is gained by them.
    heads = {
        n: layers.Dense(count, dtype="float32", name=n)(pooled) for n, count in outputs.items()
    }
    return keras.Model(inputs, heads, name=base.name)


def _base(
    function: Callable[..., keras.Model], config: ModelConfig, x: Any, shape: tuple[int, ...]
) -> keras.Model:
    is_path = config.weights not in (None, "imagenet")
    if is_path and not pathlib.Path(str(config.weights)).is_file():
        raise ConfigError(
            f"model.weights: expected imagenet, or the path of a file. Received: {config.weights}, "
            "where there is none"
        )
    try:
        with warnings.catch_warnings():
            # Of sizes that no weights were trained for: without a top all of them fit.
            warnings.simplefilter("ignore", UserWarning)
            return function(
                include_top=False, weights=config.weights, input_tensor=x, input_shape=shape,
                **config.arguments,
            )  # fmt: skip
    except Exception as error:  # Keras raises many kinds, for a download too
        reason = " ".join(str(error).split())[:300]
        if not is_path and (isinstance(error, OSError) or "URL fetch failure" in reason):
            raise ConfigError(
                "model.weights: expected weights that can be downloaded: do so once where there is "
                "a network, which keeps them in ~/.keras/models, or give a file's path. Received: "
                f"{config.weights}, {reason}"
            ) from None
        if isinstance(error, TypeError) and "unexpected keyword" in reason:
            known = sorted(inspect.signature(function).parameters.keys() - OURS)
            raise ConfigError(
                f"model.arguments: expected arguments of {config.application}, of "
                f"{', '.join(known) or 'none'}. Received: {', '.join(config.arguments)}"
            ) from None
        if is_path and not _builds(function, config, shape):
            is_path = False
        if is_path:
            raise ConfigError(
                f"model.weights: expected weights of {config.application} without its top. "
                f"Received: {config.weights} ({reason})"
            ) from None
        size = "x".join(map(str, shape))
        raise ConfigError(
            f"model.application: expected a network that fits {size} images. "
            f"Received: {config.application}, which does not: {reason}"
        ) from None


def _builds(function: Callable[..., keras.Model], config: ModelConfig, shape: tuple) -> bool:
    """Whether the network can be built with random weights."""
    try:
        function(include_top=False, weights=None, input_shape=shape, **config.arguments)
    except Exception:  # what Keras and its layers raise for sizes and arguments is of many kinds
        return False
    return True


def _flip_first_kernel(model: keras.Model) -> None:
    """Let the first convolution read red, green and blue instead of their reverse."""
    graph = read_graph(model)
    reached = set(graph.inputs)
    for call in graph.calls:
        if not reached & set(call.inputs):
            continue
        if not call.operation.weights:
            reached |= set(call.outputs)
            continue
        kernel = call.operation.kernel
        kernel.assign(keras.ops.flip(kernel, axis=2))
        return
