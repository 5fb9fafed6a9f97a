"""A config's network before training: plain layers, with the config's penalties on them."""

from collections.abc import Sequence

import keras

from cnn_l1.config.loading import Config
from cnn_l1.data import sets, splits, tasks
from cnn_l1.models import builders
from cnn_l1.sparsity.configured import attach_configured


def new_network(
    config: Config,
    input_shape: Sequence[int],
    output_count: int,
    statistics: splits.InputStatistics | None = None,
) -> keras.Model:
    """Build a config's network and put its penalties on it.

    Args:
        config: A `Config`.
        input_shape, output_count, statistics: As `builders.build` takes them.

    Raises:
        ConfigError: If network, data and penalty do not go together.
    """
    model = builders.build(config, input_shape, output_count, statistics)
    attach_configured(model, config.penalty)
    return model


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
    outputs = tasks.task_of(config.training.loss, about).outputs
    return new_network(config, about.input_shape, outputs, neutral), about
