"""The builder `cnn`: layers as `model.blocks` lists them."""

from typing import Any

import keras
from keras import layers

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.model_settings import DEFAULT_BLOCKS, ModelConfig

# Keras layers of images and of series, by the block's type.
CONVOLUTIONS: dict[str, tuple[Any, Any]] = {
    "conv": (layers.Conv2D, None),
    "conv1d": (None, layers.Conv1D),
    "separable": (layers.SeparableConv2D, layers.SeparableConv1D),
    "depthwise": (layers.DepthwiseConv2D, layers.DepthwiseConv1D),
}
POOLS = {
    "max": (layers.MaxPooling2D, layers.MaxPooling1D),
    "average": (layers.AveragePooling2D, layers.AveragePooling1D),
}
GLOBAL_POOLS = {
    "max": (layers.GlobalMaxPooling2D, layers.GlobalMaxPooling1D),
    "average": (layers.GlobalAveragePooling2D, layers.GlobalAveragePooling1D),
}


def build(x: Any, config: ModelConfig, output_count: int) -> Any:
    """The output of the configured blocks on a tensor.

    Args:
        x: A Keras tensor of images, series or features.
        config: The `model` section.
        output_count: What `units: outputs` stands for.

    Raises:
        ConfigError: If a block does not go with what comes before it.
    """
    blocks = config.blocks or DEFAULT_BLOCKS
    counts: dict[str, int] = {}
    made: dict[str, Any] = {}
    last_dense = max((i for i, b in enumerate(blocks) if b.type == "dense"), default=None)
    for position, block in enumerate(blocks):
        counts[block.type] = counts.get(block.type, 0) + 1
        name = block.name or f"{block.type}_{counts[block.type]}"
        if config.dropout and position == last_dense:
            x = layers.Dropout(config.dropout, name="dropout")(x)
        if block.type == "add":
            x = layers.Add(name=name)([x, _earlier(block.block, made, x)])
        else:
            x = _layer(block, name, x, output_count)(x)
        made[name] = x
    return x


def _earlier(name: str, made: dict[str, Any], x: Any) -> Any:
    """The output of an earlier block, to be added to `x`."""
    if name not in made:
        raise ConfigError(
            "model.blocks: expected the name of an earlier block in `add`, of "
            f"{', '.join(made) or 'none'}. Received: {name}"
        )
    expected, received = tuple(x.shape[1:]), tuple(made[name].shape[1:])
    if expected != received:
        raise ConfigError(
            f"model.blocks: expected a block of shape {expected} in `add`, as comes before it. "
            f"Received: {name}, which gives {received}"
        )
    return made[name]


def _layer(block: Any, name: str, x: Any, output_count: int) -> keras.Layer:
    match block.type:
        case "conv" | "conv1d" | "separable" | "depthwise":
            settings = block.model_dump(exclude={"type", "name"})
            return _for_rank(block.type, CONVOLUTIONS[block.type], x)(name=name, **settings)
        case "batch_norm":
            return layers.BatchNormalization(name=name)
        case "activation":
            return layers.Activation(block.activation, name=name)
        case "pool":
            kind = _for_rank(block.type, POOLS[block.kind], x)
            return kind(block.pool_size, strides=block.strides, padding=block.padding, name=name)
        case "global_pool":
            return _for_rank(block.type, GLOBAL_POOLS[block.kind], x)(name=name)
        case "dropout":
            return layers.Dropout(block.rate, name=name)
        case "flatten":
            return layers.Flatten(name=name)
        case "dense":
            return layers.Dense(
                block.units if isinstance(block.units, int) else output_count,
                activation=block.activation,
                use_bias=block.use_bias,
                name=name,
            )
    raise ValueError(f"`type` must be a known block. Received: type={block.type!r}")


def _for_rank(block_type: str, kinds: tuple[Any, Any], x: Any) -> Any:
    """The layer of images or of series, as the tensor is one or the other."""
    of_images, of_series = kinds
    if len(x.shape) == 3 and of_series is None:
        raise ConfigError(
            "model.blocks: expected conv1d for a series of (steps, channels). "
            f"Received: {block_type}"
        )
    if len(x.shape) == 4 and of_images is None:
        raise ConfigError(
            "model.blocks: expected conv for an image of (rows, cols, channels). "
            f"Received: {block_type}"
        )
    # Of other ranks Keras says what it takes.
    return of_series if len(x.shape) == 3 or of_images is None else of_images
