"""Load any data set and build `tf.data` pipelines of it."""

import functools

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.data.own_sets import describe_own, load_own
from cnn_l1.data.splits import Data, Description, part, part_by_fold
from cnn_l1.data.tfds_sets import check_split, description_of, find_builder, keys_of, read_split


def load(config: DataConfig, seed: int) -> Data:
    """Load the configured data set and part its training split.

    Args:
        config: A `DataConfig`.
        seed: Seeds the parting into training and validation.

    Returns:
        A `Data`.

    Raises:
        ConfigError: If the data set is unknown, not there, cannot be downloaded,
            or holds nothing to learn.
    """
    if config.is_own:
        return load_own(config, seed)
    builder = find_builder(config)
    keys = keys_of(builder)
    about = description_of(builder, keys, config)
    for setting in ("train_split", "validation_split", "test_split"):
        if getattr(config, setting) is not None:
            check_split(builder, setting, getattr(config, setting))
    read = functools.partial(read_split, builder, keys, about.input_shape, config)
    whole = read(config.train_split)
    stratify = about.kind == "classes"
    if config.validation_split is not None:
        train, validation = whole, read(config.validation_split)
    elif config.fold is not None:
        train, validation = part_by_fold(whole, config.fold, seed, stratify)
    else:
        train, validation, _ = part(whole, config.validation_fraction, seed, stratify)
    return Data(about, train, validation, load_test=lambda: read(config.test_split))


def describe(config: DataConfig) -> Description:
    """A data set's `Description`; of TFDS sets without reading an example."""
    if config.is_own:
        return describe_own(config)
    builder = find_builder(config)
    return description_of(builder, keys_of(builder), config)
