"""Settings of the network: a builder, or blocks of layers."""

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from cnn_l1.config.data_settings import FUNCTION
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


class Conv1DBlock(Section):
    """Conv1D, for series."""

    type: Literal["conv1d"]
    filters: POSITIVE
    kernel_size: POSITIVE = 3
    strides: POSITIVE = 1
    padding: PADDING = "same"
    activation: ACTIVATION = "relu"
    use_bias: bool = True
    name: str | None = None


class SeparableBlock(Section):
    """SeparableConv2D: a depthwise and a 1×1 convolution."""

    type: Literal["separable"]
    filters: POSITIVE
    kernel_size: POSITIVE = 3
    strides: POSITIVE = 1
    padding: PADDING = "same"
    activation: ACTIVATION = "relu"
    use_bias: bool = True
    name: str | None = None


class AddBlock(Section):
    """Add: the output of an earlier block, by its name, of the same shape (a residual)."""

    type: Literal["add"]
    block: str
    """Name of the earlier block."""
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
    | DenseBlock
    | Conv1DBlock
    | SeparableBlock
    | AddBlock,
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


# Networks of the user's own, by `model.name`, and the settings that belong to each.
SOURCES: dict[str, frozenset[str]] = {
    "file": frozenset({"path", "modules"}),
    "function": frozenset({"function", "arguments", "modules"}),
    "application": frozenset({"application", "arguments", "weights"}),
    "given": frozenset(),
}
NEEDED = {"file": "path", "function": "function", "application": "application"}
# Settings that builders alone have.
OF_BUILDERS = frozenset({"blocks", "pointwise", "width", "dropout"})
INPUT_RANGE = Literal["0-255", "0-1", "-1-1", "standardized"]


class ModelConfig(Section):
    """Which network."""

    name: Literal[
        "cnn", "linear", "lenet_300_100", "lenet5", "resnet8", "pointwise",
        "ds_cnn", "mobilenet_v1", "autoencoder", "unet_small",
        "file", "function", "application", "given",
    ] = "cnn"  # fmt: skip
    """Builder (`cnn` reads `blocks`, `pointwise` its section), or a network of your own: `file`,
    `function` or `application`. `given` is in the config of a run that was called in Python."""
    path: str | None = None
    """For `file`: a .keras or .h5 file; relative to the config's file. Training starts from its
    weights, and it is the dense baseline, measured as it is."""
    modules: tuple[str, ...] = ()
    """For `file` and `function`: Python modules that are imported first, such as those that
    register layers of your own."""
    function: Annotated[str, Field(pattern=FUNCTION)] | None = None
    """For `function`: `package.module:name`. It is called with `input_shape`, `outputs` and
    `arguments`, and returns a `keras.Model`."""
    application: str | None = None
    """For `application`: a class or function of keras.applications, e.g. `MobileNetV2`."""
    arguments: dict[str, Any] = Field(default={})
    """For `function` and `application`: keyword arguments, e.g. {alpha: 0.35}."""
    weights: str | None = None
    """For `application`: `imagenet`, or a path to weights without the top; relative to the
    config's file. Default: random weights."""
    freeze: bool | str = False
    """Layers that are not trained: `true` for all that came with weights (all but a new
    head), or a pattern of names, e.g. `block_1*`."""
    input_range: INPUT_RANGE | None = None
    """What the network's input takes, where that is not what the data give; see
    `normalization`."""
    width: Annotated[float, Field(gt=0)] | None = None
    """For `mobilenet_v1`, `ds_cnn` and `unet_small`: factor on their channels. Default: 0.25
    for `mobilenet_v1`, else 1."""
    blocks: tuple[Block, ...] | None = None
    """Layers of `cnn`, in order; the last must give one value a class or target."""
    pointwise: PointwiseConfig | None = None
    """Settings of `pointwise`. Default: those of its section."""
    dropout: FRACTION = 0.0
    """Dropout rate before the last dense layer."""
    normalization: Literal["auto", "rescale", "standardize", "none"] = "auto"
    """In the model: `rescale` pixels from 0-255 to 0-1, or `standardize` each channel or
    feature to mean 0 and variance 1. Default: `rescale` for images, else `standardize`. For a
    network of your own: what `input_range` asks for is put in, and files take raw data. With
    `none` the data are scaled to `input_range` before, and files take scaled data. The data of
    an `autoencoder` are always scaled before, for its target is its input."""
    initial_weights: str | None = None
    """A `.keras` file of the same network to start from, instead of random weights."""
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy in training; exported files come from float32 weights."""

    @property
    def is_own(self) -> bool:
        """Whether the network is the user's own, not a builder's."""
        return self.name in SOURCES

    @property
    def has_weights(self) -> bool:
        """Whether the network comes with trained weights, so that it is the dense baseline."""
        return self.name in ("file", "given") or self.weights is not None

    @pydantic.model_validator(mode="after")
    def _settings_belong_to_source(self) -> Self:
        own = SOURCES.get(self.name, OF_BUILDERS)
        for setting in sorted(set().union(OF_BUILDERS, *SOURCES.values()) - own):
            if getattr(self, setting) != type(self).model_fields[setting].get_default():
                takes = [name for name, settings in SOURCES.items() if setting in settings]
                takes += ["builders"] if setting in OF_BUILDERS else []
                raise ValueError(
                    f"{setting} must be left out for name {self.name!r}: it belongs to "
                    f"{' and '.join(takes)}"
                )
        needed = NEEDED.get(self.name)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"{needed} must be given for name {self.name!r}")
        if self.is_own and self.normalization == "standardize" and self.input_range is None:
            raise ValueError("normalization 'standardize' needs input_range 'standardized'")
        if self.input_range is not None and not self.is_own and self.normalization != "none":
            raise ValueError(
                f"input_range needs normalization 'none' for the builder {self.name!r}, which "
                f"scales its input itself, not {self.normalization!r}"
            )
        if self.freeze and not self.is_own:
            raise ValueError(
                f"freeze must be left out for the builder {self.name!r}, whose weights are random"
            )
        if self.width is not None and self.name not in ("mobilenet_v1", "ds_cnn", "unet_small"):
            raise ValueError(f"width must be left out for name {self.name!r}")
        return self

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
