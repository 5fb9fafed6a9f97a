"""Every setting, its default and its rule. Nothing here imports TensorFlow."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

POSITIVE = Annotated[int, Field(ge=1)]
COUNT = Annotated[int, Field(ge=0)]
STRENGTH = Annotated[float, Field(ge=0)]
FRACTION = Annotated[float, Field(ge=0, lt=1)]
ACTIVATION = Literal["linear", "relu", "relu6", "tanh", "sigmoid", "elu", "leaky_relu", "swish"]
PADDING = Literal["valid", "same"]


class Section(pydantic.BaseModel):
    """Base of all sections: frozen, unknown keys forbidden, finite numbers."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class AugmentationConfig(Section):
    """Random changes to training images, as Keras layers; 0 and false are off."""

    shift_pixels: COUNT = 0
    """Shift by up to this many pixels each way, filled with zeros."""
    flip: bool = False
    """Mirror left to right, every second image."""
    crop_pixels: COUNT = 0
    """Pad by this many zero pixels each side, then crop back at random."""


class DataConfig(Section):
    """Which data set, and how it is split."""

    name: str = "digits"
    """A TFDS name; `digits`, `xor`, `diabetes` and `sparse_regression` are embedded."""
    data_dir: str | None = None
    """Where TFDS finds it. Default: $TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    download: bool = False
    """Whether TFDS may download a data set that is not there."""
    train_split: str = "train"
    """TFDS split for training and validation, e.g. `train` or `train[:80%]`."""
    validation_split: str | None = None
    """TFDS split for validation. Default: a part of the training split."""
    test_split: str = "test"
    """TFDS split for the final report."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of the training split kept for validation, stratified by label."""
    fold: tuple[COUNT, Annotated[int, Field(ge=2)]] | None = None
    """[k, K]: validation is the k-th, from 0, of K seeded folds, stratified by label."""
    image_size: tuple[POSITIVE, POSITIVE] | None = None
    """Resize to (rows, columns); needed where images differ in size."""
    in_memory: bool | None = None
    """Decode once and keep in memory. Default: if it takes less than 2 GiB."""
    augmentation: AugmentationConfig = AugmentationConfig()

    @pydantic.model_validator(mode="after")
    def _one_validation(self):
        if self.fold is not None and self.validation_split is not None:
            raise ValueError("fold must be left out where validation_split is given")
        if self.fold is not None and self.fold[0] >= self.fold[1]:
            raise ValueError(f"fold must be below the number of folds, {self.fold[1]}")
        return self


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
    """An activation by itself, e.g. behind a batch-norm."""

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
    """How often the image is halved, behind the first convolution, which does so too."""
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
    """Dropout rate in front of the last dense layer."""
    normalization: Literal["auto", "rescale", "standardize", "none"] = "auto"
    """In the model: `rescale` pixels from 0-255 to 0-1, or `standardize` each channel or
    feature to mean 0 and variance 1. Default: `rescale` for images, else `standardize`."""
    initial_weights: str | None = None
    """A `.keras` file of the same network to start from, instead of random weights."""
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy in training; exported files come from float32 weights."""

    @pydantic.model_validator(mode="after")
    def _blocks_belong_to_cnn(self):
        if self.blocks is not None and self.name != "cnn":
            raise ValueError(f"blocks must be left out unless name is 'cnn', not {self.name!r}")
        if self.blocks is not None and not self.blocks:
            raise ValueError("blocks must have at least one block")
        return self

    @pydantic.model_validator(mode="after")
    def _settings_belong_to_pointwise(self):
        if self.pointwise is not None and self.name != "pointwise":
            raise ValueError(
                f"pointwise must be left out unless name is 'pointwise', not {self.name!r}"
            )
        return self


class PenaltyConfig(Section):
    """Which penalty, how strong, and on what."""

    name: Literal["l1", "l1l2", "group_l1", "slimming", "none"] = "l1"
    """L1, elastic net, L1 of whole channels, L1 of batch-norm scales, or no penalty."""
    l1_strength: STRENGTH = 1e-3
    """The field's λ: penalty `l1_strength · sum(|w|)`, or of the channels' norms."""
    shape: Literal["l1", "transformed", "mcp", "log", "reweighted"] = "l1"
    """For `l1` and `group_l1`: how it grows with a weight's size, or with the root mean
    square of a channel's; as L1 does, or as a concave penalty that lets go of large ones.
    `reweighted`, for `l1`: `log` by an L1 whose strengths follow the weights each epoch."""
    scale: Annotated[float, Field(gt=0)] | None = Field(default=None, validate_default=True)
    """The size, in units of a weight, at which a concave shape bends. Default: 0.1."""
    l1_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """For `group_l1`: the part of it that is plain L1 (sparse group lasso)."""
    channel_cost: Literal["weights", "macs"] = "weights"
    """For `group_l1`: what channels are priced by. With `macs` the strength is times
    `√(multiply-adds that go with a channel / its weights)`, about 1 for a dense unit."""
    l2_strength: STRENGTH = 0.0
    """For `l1l2`: penalty `l2_strength · sum(w²)` on top."""
    layers: dict[str, STRENGTH] = {}
    """`l1_strength` by layer-name pattern, e.g. {"conv*": 1e-4}; first match wins."""
    biases: bool = False
    """Whether biases are penalised too."""
    batch_norm: bool = False
    """Whether batch-norm scales and shifts are penalised too."""

    @pydantic.field_validator("scale")
    @classmethod
    def _default_scale(cls, value, info):
        shape = info.data.get("shape", "l1")  # missing where it was refused
        # Here, so that the resolved config shows the number.
        return 0.1 if value is None and shape != "l1" else value

    @pydantic.model_validator(mode="after")
    def _shape_belongs_to_l1(self):
        if self.shape != "l1" and self.name not in ("l1", "group_l1"):
            raise ValueError(
                f"shape must be 'l1' unless name is 'l1' or 'group_l1', not {self.name!r}"
            )
        if self.shape == "reweighted" and self.name != "l1":
            raise ValueError(f"shape must not be 'reweighted' for name {self.name!r}")
        if self.scale is not None and self.shape == "l1":
            raise ValueError("scale must be left out for shape 'l1', which does not bend")
        return self

    @pydantic.model_validator(mode="after")
    def _l2_belongs_to_l1l2(self):
        if self.l2_strength and self.name != "l1l2":
            raise ValueError(f"l2_strength must be 0 unless name is 'l1l2', not {self.name!r}")
        return self

    @pydantic.model_validator(mode="after")
    def _channels_bring_their_own(self):
        if self.l1_ratio and self.name != "group_l1":
            raise ValueError(f"l1_ratio must be 0 unless name is 'group_l1', not {self.name!r}")
        if self.channel_cost != "weights" and self.name != "group_l1":
            raise ValueError(
                f"channel_cost must be 'weights' unless name is 'group_l1', not {self.name!r}"
            )
        for setting in ("biases", "batch_norm"):
            if getattr(self, setting) and self.name in ("group_l1", "slimming"):
                raise ValueError(
                    f"{setting} must be false for name {self.name!r}, which says itself "
                    "what belongs to a channel"
                )
        return self

    @property
    def zeroes(self):
        """What it makes zero, as `Threshold` names them."""
        if self.name == "slimming":
            return ("scales",)
        if self.name == "group_l1":
            return ("channels", "weights") if self.l1_ratio else ("channels",)
        return ("weights",)


class ScheduleConfig(Section):
    """How the learning rate moves over a stage's steps."""

    name: Literal["constant", "cosine", "linear", "exponential"] = "cosine"
    """Shape of the decay (Keras CosineDecay, PolynomialDecay, ExponentialDecay)."""
    final_fraction: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Learning rate at the end, as a part of the one at the start."""


# Which optional settings each Keras optimizer takes; a test holds this against Keras.
ADAM = frozenset({"beta_1", "beta_2", "epsilon"})
OPTIMIZER_SETTINGS: dict[str, frozenset[str]] = {
    "sgd": frozenset({"momentum", "nesterov"}),
    "rmsprop": frozenset({"momentum", "rho", "epsilon"}),
    "adam": ADAM,
    "adamw": ADAM,
    "nadam": ADAM,
    "adamax": ADAM,
    "lamb": ADAM,
    "lion": frozenset({"beta_1", "beta_2"}),
    "adagrad": frozenset({"epsilon"}),
    "adadelta": frozenset({"rho", "epsilon"}),
    "adafactor": frozenset(),
    "ftrl": frozenset(),
}

# Default learning rates that are not 1e-3, by validation: Keras' 0.01 for SGD is too slow, and
# its 1e-3 for Adam leaves more weights or less accuracy under a penalty (docs/l1.md).
LEARNING_RATES: dict[str, float] = {"sgd": 0.1, "adam": 3e-3}


class OptimizerConfig(Section):
    """Any Keras optimizer; settings left out take Keras' defaults."""

    name: Literal[
        "sgd",
        "rmsprop",
        "adam",
        "adamw",
        "nadam",
        "adamax",
        "lamb",
        "lion",
        "adagrad",
        "adadelta",
        "adafactor",
        "ftrl",
    ] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(default=None, validate_default=True)
    """Default: 0.1 for `sgd`, 0.003 for `adam`, Keras' own, 0.001, for the others."""
    schedule: ScheduleConfig = ScheduleConfig()
    momentum: FRACTION | None = None
    nesterov: bool | None = None
    rho: FRACTION | None = None
    beta_1: FRACTION | None = None
    beta_2: FRACTION | None = None
    epsilon: Annotated[float, Field(gt=0)] | None = None
    weight_decay: STRENGTH | None = None
    clipnorm: Annotated[float, Field(gt=0)] | None = None
    global_clipnorm: Annotated[float, Field(gt=0)] | None = None
    clipvalue: Annotated[float, Field(gt=0)] | None = None
    gradient_accumulation_steps: Annotated[int, Field(ge=2)] | None = None

    @pydantic.field_validator("learning_rate")
    @classmethod
    def _default_learning_rate(cls, value, info):
        # Here alone, so that the resolved config shows the number.
        name = info.data.get("name")  # missing where it was refused
        return LEARNING_RATES.get(name, 1e-3) if value is None else value

    @pydantic.model_validator(mode="after")
    def _settings_belong_to_optimizer(self):
        own = ("momentum", "nesterov", "rho", "beta_1", "beta_2", "epsilon")
        for setting in own:
            given = getattr(self, setting) is not None
            if given and setting not in OPTIMIZER_SETTINGS[self.name]:
                takes = sorted(OPTIMIZER_SETTINGS[self.name]) or ["none of its own"]
                raise ValueError(
                    f"{setting} is no setting of {self.name!r}, which takes: {', '.join(takes)}"
                )
        clips = [n for n in ("clipnorm", "global_clipnorm", "clipvalue") if getattr(self, n)]
        if len(clips) > 1:
            raise ValueError(f"at most one of {' and '.join(clips)} may be set")
        return self


class TrainingConfig(Section):
    """The stage under the penalty."""

    method: Literal["proximal", "subgradient"] = "proximal"
    """Soft-threshold after each update, or plain Keras with the penalty's gradient."""
    loss: Literal["auto", "crossentropy", "squared_error"] = "auto"
    """`squared_error`, the mean of (output − target)², or `crossentropy` of logits.
    Default: by the targets, numbers or class labels."""
    proximal_threshold: Literal["auto", "scaled", "decoupled"] = "auto"
    """Threshold ηλ in the optimizer's own metric, or the same for every weight."""
    epochs: POSITIVE = 30
    ramp_epochs: COUNT = 0
    """Epochs over which the penalty grows to full strength; proximal only."""
    batch_size: POSITIVE = 128
    """Examples a step; a smaller training split is one batch."""
    steps_per_epoch: POSITIVE | None = None
    """Steps an epoch. Default: one pass over the training split."""
    early_stopping_epochs: POSITIVE | None = None
    """Stop when validation loss has not fallen for this many epochs."""
    empty_layers: Literal["warn", "forbid"] = "warn"
    """What to do when a layer becomes all zero."""
    steps_per_execution: POSITIVE = 10
    """Training steps in one call of the compiled function."""
    jit_compile: bool = False
    """XLA. On CPUs it is slower for these networks."""

    @pydantic.model_validator(mode="after")
    def _ramp_is_proximal(self):
        if self.ramp_epochs and self.method != "proximal":
            raise ValueError(f"ramp_epochs must be 0 for method {self.method!r}")
        if self.ramp_epochs >= self.epochs:
            raise ValueError(
                f"ramp_epochs must be less than epochs ({self.epochs}), not {self.ramp_epochs}"
            )
        return self


class ThresholdingConfig(Section):
    """Zeroing what is small; zeros are held from then on."""

    threshold: STRENGTH | None = None
    """Zero weights with |w| below this; under `group_l1` also channels, by root mean square."""
    relative_threshold: STRENGTH | None = None
    """Zero weights with |w| below this many standard deviations of their kernel."""
    start_epochs: COUNT | None = None
    """Whole epochs before the first one. It is done after the last epoch in any case."""
    every_epochs: COUNT = 0
    """Whole epochs between two; 0 for none between the first and the end."""

    @pydantic.model_validator(mode="after")
    def _exactly_one(self):
        if (self.threshold is None) == (self.relative_threshold is None):
            raise ValueError("exactly one of threshold and relative_threshold must be set")
        if self.every_epochs and self.start_epochs is None:
            raise ValueError("every_epochs needs start_epochs")
        return self


class TargetConfig(Section):
    """What shall be zero: the strength is steered there in one run, then zeros are held."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of all kernel weights."""
    layers: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = None
    """Fraction by layer-name pattern; first match wins, other layers keep their strength."""
    macs: POSITIVE | None = None
    """Multiply-adds of one example that are left; for `group_l1`."""
    by_epochs: POSITIVE
    """Whole epochs until it is met; those behind it train without penalty."""

    @pydantic.model_validator(mode="after")
    def _exactly_one(self):
        given = [n for n in ("sparsity", "layers", "macs") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                "exactly one of sparsity, layers and macs must be set, "
                f"not {' and '.join(given) or 'none'}"
            )
        return self


class FineTuningConfig(Section):
    """The stage without the penalty, zeros held exactly; best epoch by validation."""

    epochs: COUNT = 10
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Default: the optimizer's."""
    early_stopping_epochs: POSITIVE | None = None
    """Stop when validation accuracy has not risen for this many epochs."""


class ShrinkConfig(Section):
    """Removal of filters and units that change no output; `shrunk/` holds the files."""

    enabled: bool = True
    """Whether to, where there are any."""
    round_to: POSITIVE = 1
    """Keep channel counts at multiples of this."""
    allow_empty: bool = False
    """Whether a branch without channels may vanish from a concatenation."""
    fine_tuning_epochs: COUNT = 0
    """Epochs of fine-tuning after it, remaining zeros held; best epoch by validation.
    Where no channel can go, the network as it is is fine-tuned and written to `shrunk/`."""

    @pydantic.model_validator(mode="after")
    def _fine_tuning_is_of_the_shrunk(self):
        if self.fine_tuning_epochs and not self.enabled:
            raise ValueError(
                "fine_tuning_epochs must be 0 where enabled is false, not "
                f"{self.fine_tuning_epochs}; fine_tuning.epochs trains without shrinking"
            )
        return self


class ExportConfig(Section):
    """Which files are written; `model.keras` always is."""

    formats: tuple[
        Literal[
            "saved_model",
            "float32",
            "float16",
            "dynamic_int8",
            "int8",
            "int16x8",
            "sparse_float32",
            "sparse_float16",
            "onnx",
            "c",
        ],
        ...,
    ] = ("saved_model", "float32", "int8")
    """TFLite files by their numbers; `c` is a C array of the int8 file, else of the float32.
    `sparse_*` store zeros as sparse tensors, for XNNPACK on ARM, where that is right."""
    encode_zeros: bool = False
    """Whether to write int8 and float32 files a second time, `*_encoded.tflite`, their zeros
    a bit each: less flash and more RAM, for TFLite Micro alone."""
    io_type: Literal["int8", "uint8"] = "int8"
    """Input and output of the int8 file."""
    metadata: bool = True
    """Whether TFLite files say what they are: labels, the input's meaning, the config."""
    fold_batch_norm: bool = False
    """Fold batch-norms into convolutions in every file; TFLite files have it anyway."""
    calibration_images: POSITIVE = 500
    """Training examples that set the int8 and int16 ranges."""

    @pydantic.model_validator(mode="after")
    def _c_is_of_a_file(self):
        if "c" in self.formats and not {"int8", "float32"} & set(self.formats):
            raise ValueError("format c needs int8 or float32 beside it")
        return self


class MeasureConfig(Section):
    """How exported files are measured."""

    split: Literal["test", "validation"] = "test"
    """Which data. `validation` leaves the test split unread."""
    latency_runs: POSITIVE = 200
    """Timed runs a file, single thread, after a tenth as many warm-up runs."""
    ram: bool = False
    """Whether to measure the arena that TFLite Micro needs for each TFLite file."""
    micro_examples: COUNT = 0
    """Run files in TFLite Micro on so many examples: accuracy, agreement, arena, boards."""


class BudgetConfig(Section):
    """What a device has room for; the exported file must fit all that is given."""

    max_bytes: POSITIVE | None = None
    """Size of the file."""
    max_macs: POSITIVE | None = None
    """Multiply-adds of one example."""
    max_ram_bytes: POSITIVE | None = None
    """The arena that TFLite Micro needs, measured on this host."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Median CPU time of one example on this host, one thread."""

    @pydantic.model_validator(mode="after")
    def _limits_something(self):
        if all(value is None for _, value in self):
            raise ValueError("at least one of its limits must be set")
        return self


class EarlyStoppingConfig(Section):
    """Stopping hopeless points: asynchronous successive halving, by Ray Tune."""

    grace_epochs: POSITIVE = 5
    """Epochs that every point may have."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of the points that come to a rung, one in this many goes on."""


class SweepConfig(Section):
    """Many runs along the penalty's strength, one choice: `python -m cnn_l1.sweep`."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """The strengths themselves. Default: `points` of them, spaced evenly in their logarithm."""
    points: POSITIVE = 8
    """Number of strengths."""
    max_strength: Annotated[float, Field(gt=0)] | None = None
    """The largest. Default: found, where the network's output is constant."""
    min_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """The smallest, as a part of the largest."""
    path: Literal["independent", "dense_to_sparse", "sparse_to_dense"] = "independent"
    """Each point from random weights, or each from the one before it along the path."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Seeded cross-validation with this many folds. Default: one validation part."""
    seeds: tuple[COUNT, ...] | None = None
    """Seeds to repeat each point with. Default: the config's `seed`."""
    file: Literal["model_int8.tflite", "model_float32.tflite", "model.keras"] | None = None
    """The exported file that counts, shrunk where channels went. Default: the first of
    these that `export.formats` writes."""
    rule: Literal["best", "one_standard_error", "max_drop"] = "best"
    """The best score on validation data; or the sparsest within one standard error of it,
    or within `max_drop` of the dense baseline."""
    max_drop: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Points of accuracy that may be lost against the dense baseline."""
    budget: BudgetConfig | None = None
    """Choose among files that fit a device."""
    engine: Literal["local", "ray"] = "local"
    """Processes on this machine, or Ray Tune, here or on the cluster at `--address`."""
    workers: POSITIVE | None = None
    """Runs at once. Default: as many as there are cores for `threads`."""
    threads: POSITIVE = 1
    """Threads of each run; figures repeat with the same number only."""
    early_stopping: EarlyStoppingConfig | None = None
    """For engine `ray`."""

    @pydantic.model_validator(mode="after")
    def _settings_go_together(self):
        if self.early_stopping is not None:
            if self.engine != "ray":
                raise ValueError(f"early_stopping needs engine 'ray', not {self.engine!r}")
            if self.path != "independent":
                raise ValueError(f"early_stopping needs path 'independent', not {self.path!r}")
        if self.strengths is not None:
            if self.max_strength is not None:
                raise ValueError("max_strength must be left out where strengths are given")
            if len(set(self.strengths)) != len(self.strengths) or not self.strengths:
                raise ValueError("strengths must be one or more, each once")
        if self.seeds is not None and (len(set(self.seeds)) != len(self.seeds) or not self.seeds):
            raise ValueError("seeds must be one or more, each once")
        return self


class Config(Section):
    """One run, from data to report."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the run and of its folder."""
    expected_result: str = ""
    """What this config gives: figures, seeds and spread."""
    seed: COUNT = 0
    """Seeds the split, the weights, the order and the augmentation."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    penalty: PenaltyConfig = PenaltyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    thresholding: ThresholdingConfig | None = None
    target: TargetConfig | None = None
    fine_tuning: FineTuningConfig = FineTuningConfig()
    shrink: ShrinkConfig = ShrinkConfig()
    baseline: bool = True
    """Also train the dense baseline: same network, data, stages and epochs, no penalty."""
    export: ExportConfig = ExportConfig()
    measure: MeasureConfig = MeasureConfig()
    tensorboard: bool = True
    """Write TensorBoard logs."""
    sweep: SweepConfig = SweepConfig()
    """For `python -m cnn_l1.sweep` alone."""

    @pydantic.model_validator(mode="after")
    def _reweighting_is_proximal(self):
        if self.penalty.shape == "reweighted" and self.training.method != "proximal":
            raise ValueError(
                "penalty.shape reweighted needs training.method proximal, not "
                f"{self.training.method!r}; log is its value"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _target_steers_alone(self):
        if self.target is None:
            return self
        if self.penalty.name in ("none", "slimming"):
            raise ValueError(f"target needs a penalty it can steer, not {self.penalty.name!r}")
        if not self.penalty.l1_strength:
            raise ValueError("target needs penalty.l1_strength above 0 to start from")
        if self.training.method != "proximal":
            raise ValueError(f"target needs training.method proximal, not {self.training.method!r}")
        if self.thresholding is not None or self.training.ramp_epochs:
            raise ValueError(
                "remove `thresholding` and set training.ramp_epochs to 0: a target does both"
            )
        if self.target.by_epochs > self.training.epochs:
            raise ValueError(
                f"target.by_epochs must be at most training.epochs ({self.training.epochs}), "
                f"not {self.target.by_epochs}"
            )
        if (self.target.macs is not None) != (self.penalty.name == "group_l1"):
            raise ValueError("target.macs goes with penalty.name group_l1, and only with it")
        return self
