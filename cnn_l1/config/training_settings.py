"""Settings of the training: penalty, optimizer, stages, thresholding, target."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field, ValidationInfo

from cnn_l1.config.boards import board_of
from cnn_l1.config.section import COUNT, FRACTION, POSITIVE, STRENGTH, Section


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
    layers: dict[str, STRENGTH] = Field(default={})
    """`l1_strength` by layer-name pattern, e.g. {"conv*": 1e-4}; first match wins."""
    biases: bool = False
    """Whether biases are penalised too."""
    batch_norm: bool = False
    """Whether batch-norm scales and shifts are penalised too."""

    @pydantic.field_validator("scale")
    @classmethod
    def _default_scale(cls, value: float | None, info: ValidationInfo) -> float | None:
        shape = info.data.get("shape", "l1")  # missing where it was refused
        # Here, so that the resolved config shows the number.
        return 0.1 if value is None and shape != "l1" else value

    @pydantic.model_validator(mode="after")
    def _shape_belongs_to_l1(self) -> Self:
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
    def _l2_belongs_to_l1l2(self) -> Self:
        if self.l2_strength and self.name != "l1l2":
            raise ValueError(f"l2_strength must be 0 unless name is 'l1l2', not {self.name!r}")
        return self

    @pydantic.model_validator(mode="after")
    def _channels_bring_their_own(self) -> Self:
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
    def zeroes(self) -> tuple[str, ...]:
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
# its 1e-3 for Adam leaves more weights or less accuracy under a penalty (docs/experiments.md).
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
    def _default_learning_rate(cls, value: float | None, info: ValidationInfo) -> float | None:
        # Here alone, so that the resolved config shows the number.
        name = info.data.get("name", "")  # missing where it was refused
        return LEARNING_RATES.get(name, 1e-3) if value is None else value

    @pydantic.model_validator(mode="after")
    def _settings_belong_to_optimizer(self) -> Self:
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


TASK = Literal["auto", "classes", "binary", "multilabel", "values", "segmentation", "autoencoder"]


class OutputConfig(Section):
    """One of several outputs of a network."""

    task: TASK = "auto"
    """As `training.task`."""
    loss: str = "auto"
    """As `training.loss`."""
    metrics: tuple[str, ...] = ()
    """As `training.metrics`."""
    loss_weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor on its loss in the sum."""


class TrainingConfig(Section):
    """The stage under the penalty."""

    method: Literal["proximal", "subgradient"] = "proximal"
    """Soft-threshold after each update, or plain Keras with the penalty's gradient."""
    task: TASK = "auto"
    """What is learnt: `classes`, `binary` (one output), `multilabel`, `values`, `segmentation`
    (a label for each pixel) or `autoencoder` (the input itself). Default: by the targets
    and the network's outputs."""
    loss: str = "auto"
    """`squared_error`, the mean of (output − target)², `crossentropy`, or any loss of Keras
    by name, e.g. `huber`. Default: by the task."""
    metrics: tuple[str, ...] = ()
    """Metrics of Keras by name, e.g. [AUC], also measured on the exported files."""
    outputs: dict[str, OutputConfig] = Field(default={})
    """For networks with several outputs: task, loss, metrics and loss weight by the output's
    name."""
    proximal_threshold: Literal["auto", "scaled", "decoupled"] = "auto"
    """Threshold ηλ in the optimizer's own metric, or the same for every weight."""
    epochs: COUNT = 30
    """0 trains nothing: a network of your own is exported and measured as it is."""
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
    def _ramp_is_proximal(self) -> Self:
        if self.ramp_epochs and self.method != "proximal":
            raise ValueError(f"ramp_epochs must be 0 for method {self.method!r}")
        if self.ramp_epochs and self.ramp_epochs >= self.epochs:
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
    def _exactly_one(self) -> Self:
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
    macs: int | float | None = None
    """Multiply-adds of one example that are left, or the part of them; for `group_l1`."""
    bytes: POSITIVE | None = None
    """Bytes of the shrunk int8 TFLite file, at most; for `group_l1`."""
    ram_bytes: POSITIVE | None = None
    """Bytes of the arena that TFLite Micro needs for that file, at most; for `group_l1`."""
    board: str | None = None
    """A board by its name, e.g. `arduino_nano_33_ble`: its flash and RAM, of which a quarter
    is left to the program; for `group_l1`."""
    by_epochs: POSITIVE
    """Whole epochs until it is met; later ones train without penalty."""

    @property
    def is_of_channels(self) -> bool:
        """Whether whole channels go, for which the penalty must be `group_l1`."""
        return self.sparsity is None and self.layers is None

    @pydantic.field_validator("macs")
    @classmethod
    def _count_or_part(cls, value: int | float | None) -> int | float | None:
        if value is not None and not 0 < value < 1 and (value < 1 or not isinstance(value, int)):
            raise ValueError("expected a whole number from 1, or a part between 0 and 1")
        return value

    @pydantic.field_validator("board")
    @classmethod
    def _known_board(cls, value: str | None) -> str | None:
        return value if value is None else board_of(value).key

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Self:
        names = ("sparsity", "layers", "macs", "bytes", "ram_bytes", "board")
        given = [n for n in names if getattr(self, n) is not None]
        if len(given) != 1 and set(given) != {"bytes", "ram_bytes"}:
            raise ValueError(
                f"exactly one of {', '.join(names[:-1])} and {names[-1]} must be set, or bytes "
                f"and ram_bytes, not {' and '.join(given) or 'none'}"
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
    def _fine_tuning_is_of_the_shrunk(self) -> Self:
        if self.fine_tuning_epochs and not self.enabled:
            raise ValueError(
                "fine_tuning_epochs must be 0 where enabled is false, not "
                f"{self.fine_tuning_epochs}; fine_tuning.epochs trains without shrinking"
            )
        return self
