"""Every setting, its default and its rule. Nothing here imports TensorFlow."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

import pydantic
from pydantic import Field

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.formats import NAMES, chosen
from cnn_l1.config.model_settings import ModelConfig
from cnn_l1.config.section import COUNT, POSITIVE, Section
from cnn_l1.config.sweep_settings import SweepConfig
from cnn_l1.config.training_settings import (
    FineTuningConfig,
    OptimizerConfig,
    PenaltyConfig,
    ShrinkConfig,
    TargetConfig,
    ThresholdingConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[NAMES]


class ExportConfig(Section):
    """Which files are written; `model.keras` always is."""

    formats: tuple[FormatName, ...] = ("saved_model", "float32", "int8")
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
    def _sources_are_chosen(self) -> Self:
        for one in chosen(self.formats):
            if one.made_of and not set(one.made_of) & set(self.formats):
                raise ValueError(f"format {one.name} needs {' or '.join(one.made_of)} beside it")
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
    modules_dir: str | None = None
    """Where Python modules that `data` and `model` name are looked for; relative to the config's
    file. Default: its folder."""
    sweep: SweepConfig = SweepConfig()
    """For `python -m cnn_l1.sweep` alone."""

    @pydantic.model_validator(mode="after")
    def _reweighting_is_proximal(self) -> Self:
        if self.penalty.shape == "reweighted" and self.training.method != "proximal":
            raise ValueError(
                "penalty.shape reweighted needs training.method proximal, not "
                f"{self.training.method!r}; log is its value"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _target_steers_alone(self) -> Self:
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
        if self.target.is_of_channels != (self.penalty.name == "group_l1"):
            raise ValueError(
                "target.macs, bytes, ram_bytes and board go with penalty.name group_l1, and only "
                "with it"
            )
        return self
