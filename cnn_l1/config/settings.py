"""Every setting, its default and its rule. Nothing here imports TensorFlow."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

import pydantic
from pydantic import Field

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
    def _one_validation(self) -> Self:
        if self.fold is not None and self.validation_split is not None:
            raise ValueError("fold must be left out where validation_split is given")
        if self.fold is not None and self.fold[0] >= self.fold[1]:
            raise ValueError(f"fold must be below the number of folds, {self.fold[1]}")
        return self


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
        if (self.target.macs is not None) != (self.penalty.name == "group_l1"):
            raise ValueError("target.macs goes with penalty.name group_l1, and only with it")
        return self
