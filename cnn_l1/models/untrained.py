"""A config's network before anything is read or trained: what checks and counts need."""

import keras

from cnn_l1.config.loading import Config
from cnn_l1.data import sets, tasks
from cnn_l1.models import builders


def untrained_network(config: Config) -> tuple[keras.Model, sets.Description]:
    """Build a config's network, and describe its data, without reading an example.

    Args:
        config: A `Config`.

    Returns:
        `(model, about)`: the network, whose standardization is neutral, and the
        `sets.Description` of the data.

    Raises:
        ConfigError: If data, task and network do not go together.
    """
    about = sets.describe(config.data)
    channels = about.input_shape[-1]
    neutral = sets.InputStatistics((0.0,) * channels, (1.0,) * channels)
    outputs = tasks.task_of(config.training.loss, about).outputs
    return builders.build(config, about.input_shape, outputs, neutral), about
