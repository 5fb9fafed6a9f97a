"""Settings of the data: which set, where it is, how it is split and changed."""

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from cnn_l1.config.section import COUNT, POSITIVE, Section

FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class AugmentationConfig(Section):
    """Random changes to training images, as Keras layers; 0 and false are off."""

    shift_pixels: COUNT = 0
    """Shift by up to this many pixels each way, filled with zeros."""
    flip: bool = False
    """Mirror left to right, every second image."""
    crop_pixels: COUNT = 0
    """Pad by this many zero pixels each side, then crop back at random."""


# Data of the user's own, by `data.name`, and the settings that belong to each. Other names are
# TFDS sets.
SOURCES: dict[str, frozenset[str]] = {
    "folder": frozenset({"path", "image_size", "color_mode", "skip_broken", "test_fraction"}),
    "arrays": frozenset({"path", "test_fraction"}),
    "series": frozenset({"path", "test_fraction", "sampling_rate_hz"}),
    "table": frozenset({"path", "test_fraction", "target", "ignore", "skip_broken"}),
    "function": frozenset({"function", "arguments"}),
    "given": frozenset(),
}
# And those that they need.
NEEDED: dict[str, tuple[str, ...]] = {
    "folder": ("path",),
    "arrays": ("path",),
    "series": ("path",),
    "table": ("path", "target"),
    "function": ("function",),
}
# Settings that TFDS sets alone have.
OF_TFDS = frozenset(
    {"data_dir", "download", "train_split", "validation_split", "test_split", "image_size"}
)


class DataConfig(Section):
    """Which data, and how they are split."""

    name: str = "digits"
    """A TFDS name (`digits`, `xor`, `diabetes` and `sparse_regression` are embedded), or your
    own data: `folder` of images, `arrays` (.npz), `series` (.npz), `table` (CSV or Parquet),
    `function`, or `huggingface:NAME`."""
    path: str | None = None
    """Folder or file of your own data; relative to the config's file."""
    color_mode: Literal["rgb", "grayscale"] | None = None
    """For `folder`: channels of every image. Default: grayscale where all images are."""
    skip_broken: bool = False
    """For `folder` and `table`: leave out what cannot be read, and say how much it is."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Part kept for the test, where your own data have no test split."""
    sampling_rate_hz: Annotated[float, Field(gt=0)] | None = None
    """For `series`: steps a second, for the exported files' description."""
    target: str | tuple[str, ...] | None = None
    """For `table`: the column to predict, or several columns of numbers."""
    ignore: tuple[str, ...] = ()
    """For `table`: columns to leave out, such as ids and dates."""
    function: Annotated[str, Field(pattern=FUNCTION)] | None = None
    """For `function`: `package.module:name`. It returns `(train, validation, test)`, each
    `(inputs, targets)` arrays or a `tf.data.Dataset` of such pairs."""
    arguments: dict[str, Any] = Field(default={})
    """For `function`: its keyword arguments."""
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

    @property
    def is_own(self) -> bool:
        """Whether the data are the user's own, not a TFDS set."""
        return self.name in SOURCES

    @pydantic.model_validator(mode="after")
    def _one_validation(self) -> Self:
        if self.fold is not None and self.validation_split is not None:
            raise ValueError("fold must be left out where validation_split is given")
        if self.fold is not None and self.fold[0] >= self.fold[1]:
            raise ValueError(f"fold must be below the number of folds, {self.fold[1]}")
        return self

    @pydantic.model_validator(mode="after")
    def _settings_belong_to_source(self) -> Self:
        own = SOURCES.get(self.name, OF_TFDS)
        for setting in sorted(set().union(OF_TFDS, *SOURCES.values()) - own):
            if getattr(self, setting) != type(self).model_fields[setting].get_default():
                takes = [name for name, settings in SOURCES.items() if setting in settings]
                takes += ["a TFDS set"] if setting in OF_TFDS else []
                raise ValueError(
                    f"{setting} must be left out for name {self.name!r}: it belongs to "
                    f"{' and '.join(takes)}"
                )
        for setting in NEEDED.get(self.name, ()):
            if not getattr(self, setting):
                raise ValueError(f"{setting} must be given for name {self.name!r}")
        return self
