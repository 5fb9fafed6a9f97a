"""Data of the user's own: which reader reads them, and how they are parted."""

import dataclasses
import importlib
from collections.abc import Callable

import numpy as np

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.data.splits import Data, Description, Split, part, part_by_fold

TEST_SEED = 0  # the test split is the same whatever the run's seed


@dataclasses.dataclass(frozen=True)
class OwnSet:
    """What a reader gives: a training split, and the others where the data have them.

    Attributes:
        about: The `Description`.
        train: `Split` to train on, and to part where others are missing.
        validation: `Split`, or `None`.
        test: `Split`, or `None`.
        groups: `(size,)` ints for `train`: examples of equal numbers are duplicates, which
            stay on one side when it is parted. Default: no duplicates.
        known_classes: Whether a network that is there already says which classes there are, so
            that the data may have few examples of some, or none.
    """

    about: Description
    train: Split
    validation: Split | None = None
    test: Split | None = None
    groups: np.ndarray | None = None
    known_classes: bool = False


# Modules that have `read(config: DataConfig) -> OwnSet`, by `data.name`.
READERS = {
    "folder": "folder_set",
    "arrays": "array_sets",
    "series": "array_sets",
    "table": "table_set",
    "function": "function_set",
}


def reader_of(config: DataConfig) -> Callable[[DataConfig], OwnSet]:
    """The function that reads own data of a config's kind.

    Raises:
        ConfigError: If the data were given in Python and are in no file.
    """
    if config.name not in READERS:
        raise ConfigError(
            "data.name: expected data that a config can name. Received: 'given', for the run was "
            "called in Python with its data: call cnn_l1.sparsify again, or cnn_l1.verify with data"
        )
    return importlib.import_module(f"cnn_l1.data.{READERS[config.name]}").read


def load_own(config: DataConfig, seed: int) -> Data:
    """Read the user's own data and part them where splits are missing.

    Args:
        config: A `DataConfig` with `is_own`.
        seed: Seeds the parting into training and validation.

    Raises:
        ConfigError: If the data cannot be used.
    """
    given = reader_of(config)(config)
    _ABOUT[config.model_dump_json()] = given.about
    return part_own(given, config, seed)


# What was read last of each config. To read a folder of images once more, for its shape and its
# classes, would take minutes.
_ABOUT: dict[str, Description] = {}


def describe_own(config: DataConfig) -> Description:
    """The `Description` of own data, as they were when this process read them last."""
    key = config.model_dump_json()
    if key not in _ABOUT:
        _ABOUT[key] = reader_of(config)(config).about
    return _ABOUT[key]


def part_own(given: OwnSet, config: DataConfig, seed: int) -> Data:
    """Part own data: the test split first, alike for every seed, then validation."""

    def ordered(split: Split | None) -> Split | None:
        return None if split is None else dataclasses.replace(split, is_ordered=True)

    train, groups = dataclasses.replace(given.train, is_ordered=True), given.groups
    test, validation = ordered(given.test), ordered(given.validation)
    stratify = given.about.kind == "classes"
    if stratify and given.known_classes:
        _, counts = np.unique(train.targets, return_counts=True)
        smaller = min(config.validation_fraction, config.test_fraction) * train.size
        stratify = bool(counts.min() >= 2 and smaller >= len(counts))
    if test is None:
        train, test, groups = part(
            train, config.test_fraction, TEST_SEED, stratify, groups, "data.test_fraction"
        )
    if validation is not None:
        pass
    elif config.fold is not None:
        train, validation = part_by_fold(train, config.fold, seed, stratify, groups)
    else:
        train, validation, _ = part(train, config.validation_fraction, seed, stratify, groups)
    return Data(given.about, train, validation, load_test=lambda: test)
