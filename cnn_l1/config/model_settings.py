"""Settings of the network: a builder, or blocks of layers."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from cnn_l1.config.section import COUNT, FRACTION, POSITIVE, Section

ACTIVATION = Literal["linear", "relu", "relu6", "tanh", "sigmoid", "elu", "leaky_relu", "swish"]
PADDING = Literal["valid", "same"]


class ConvBlock(Section):
    """Conv2D."""

    type: Literal["conv"]
    filters: POSITIVE
    kernel_size: POSITIVE = 3
    strides: POSITIVE = 1
    padding: PADDING = "valid"
    activation: ACTIVATION = "relu"
    use_bias: bool = True
    name: str | None = None


class DepthwiseBlock(Section):
    """DepthwiseConv2D."""

    type: Literal["depthwise"]
    kernel_size: POSITIVE = 3
    strides: POSITIVE = 1
    padding: PADDING = "same"
    depth_multiplier: POSITIVE = 1
    activation: ACTIVATION = "relu"
    use_bias: bool = True
    name: str | None = None


class BatchNormBlock(Section):
    """BatchNormalization."""

    type: Literal["batch_norm"]
    name: str | None = None


class ActivationBlock(Section):
    """An activation by itself, e.g. after a batch-norm."""

    type: Literal["activation"]
    activation: ACTIVATION = "relu"
    name: str | None = None


class PoolBlock(Section):
    """MaxPooling2D or AveragePooling2D."""

    type: Literal["pool"]
    kind: Literal["max", "average"] = "max"
    pool_size: POSITIVE = 2
    strides: POSITIVE | None = None
    padding: PADDING = "valid"
    name: str | None = None


class GlobalPoolBlock(Section):
    """GlobalAveragePooling2D or GlobalMaxPooling2D."""

    type: Literal["global_pool"]
    kind: Literal["max", "average"] = "average"
    name: str | None = None


class DropoutBlock(Section):
    """Dropout."""

    type: Literal["dropout"]
    rate: FRACTION = 0.5
    name: str | None = None


class FlattenBlock(Section):
    """Flatten."""

    type: Literal["flatten"]
    name: str | None = None


class DenseBlock(Section):
    """Dense; `units: outputs`, or `classes`, takes as many as the targets need."""

    type: Literal["dense"]
    units: POSITIVE | Literal["classes", "outputs"]
    activation: ACTIVATION = "relu"
    use_bias: bool = True
    name: str | None = None


Block = Annotated[
    ConvBlock
    | DepthwiseBlock
    | BatchNormBlock
    | ActivationBlock
    | PoolBlock
    | GlobalPoolBlock
    | DropoutBlock
    | FlattenBlock
    | DenseBlock,
    Field(discriminator="type"),
]


DEFAULT_BLOCKS: tuple[Block, ...] = (
    ConvBlock(type="conv", filters=32, kernel_size=5),
    PoolBlock(type="pool", pool_size=2),
    FlattenBlock(type="flatten"),
    DenseBlock(type="dense", units=128),
    DenseBlock(type="dense", units="classes", activation="linear"),
)


class PointwiseConfig(Section):
    """The builder `pointwise`: depthwise and 1×1 convolutions, as MobileNet has."""

    width: POSITIVE = 16
    """Channels of the first convolution; each halving of the image doubles them."""
    halvings: COUNT = 2
    """How often the image is halved, after the first convolution, which does so too."""
    repeats: POSITIVE = 2
    """Pairs of depthwise and 1×1 convolution at each size of the image."""
    residual: bool = True
    """Whether a pair that keeps its shape is added to its input."""


class ModelConfig(Section):
    """Which network."""

    name: Literal["cnn", "linear", "lenet_300_100", "lenet5", "resnet8", "pointwise"] = "cnn"
    """Builder; `cnn` reads `blocks`, `pointwise` its section."""
    blocks: tuple[Block, ...] | None = None
    """Layers of `cnn`, in order; the last must give one value a class or target."""
    pointwise: PointwiseConfig | None = None
    """Settings of `pointwise`. Default: those of its section."""
    dropout: FRACTION = 0.0
    """Dropout rate before the last dense layer."""
    normalization: Literal["auto", "rescale", "standardize", "none"] = "auto"
    """In the model: `rescale` pixels from 0-255 to 0-1, or `standardize` each channel or
    feature to mean 0 and variance 1. Default: `rescale` for images, else `standardize`."""
    initial_weights: str | None = None
    """A `.keras` file of the same network to start from, instead of random weights."""
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy in training; exported files come from float32 weights."""

    @pydantic.model_validator(mode="after")
    def _blocks_belong_to_cnn(self) -> Self:
        if self.blocks is not None and self.name != "cnn":
            raise ValueError(f"blocks must be left out unless name is 'cnn', not {self.name!r}")
        if self.blocks is not None and not self.blocks:
            raise ValueError("blocks must have at least one block")
        return self

    @pydantic.model_validator(mode="after")
    def _settings_belong_to_pointwise(self) -> Self:
        if self.pointwise is not None and self.name != "pointwise":
            raise ValueError(
                f"pointwise must be left out unless name is 'pointwise', not {self.name!r}"
            )
        return self
