"""A config's network before training: plain layers, with the config's penalties on them."""

from collections.abc import Sequence

import keras

from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.data import sets, splits
from cnn_l1.data.augmentation import check_augmentation
from cnn_l1.data.task_choice import outputs_needed, rebuilds_input, task_of
from cnn_l1.models import builders, own_models
from cnn_l1.models.input_range import for_autoencoder
from cnn_l1.sparsity.configured import attach_configured


def new_network(
    config: Config,
    input_shape: Sequence[int],
    output_count: own_models.Outputs,
    statistics: splits.InputStatistics | None = None,
) -> keras.Model:
    """Build a config's network, or load the user's own, and put its penalties on it.

    Args:
        config: A `Config`.
        input_shape, output_count, statistics: As `builders.build` and `own_models.own_model`
            take them.

    Raises:
        ConfigError: If network, data and penalty do not go together.
    """
    shape = tuple(input_shape)
    if config.model.is_own:
        check_augmentation(config.data.augmentation, shape)
        model = own_models.own_model(config.model, shape, output_count, statistics)
    elif isinstance(output_count, dict):
        raise ConfigError(
            "model.name: expected a network of your own, file, function or application, for "
            f"several outputs. Received: {config.model.name}"
        )
    else:
        model = builders.build(config, shape, output_count, statistics)
    attach_configured(model, config.penalty)
    return model


def built_as(config: Config, about: splits.Description) -> Config:
    """A config with its network's scaling settled: where the target is the input, none inside."""
    if not rebuilds_input(config.training, about):
        return config
    settings = for_autoencoder(config.model, about.input_shape)
    return config.model_copy(update={"model": settings})


def untrained_network(config: Config) -> tuple[keras.Model, splits.Description]:
    """Build a config's network, and describe its data, without reading an example.

    Args:
        config: A `Config`.

    Returns:
        `(model, about)`: the network, whose standardization is neutral, and the
        `sets.Description` of the data.

    Raises:
        ConfigError: If data, task, network and penalty do not go together.
    """
    about = sets.describe(config.data)
    channels = about.input_shape[-1]
    neutral = splits.InputStatistics((0.0,) * channels, (1.0,) * channels)
    outputs = outputs_needed(config.training, about)
    model = new_network(built_as(config, about), about.input_shape, outputs, neutral)
    task_of(config.training, about, model if config.model.is_own else None)  # or refuse
    return model, about
