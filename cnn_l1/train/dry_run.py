"""What can be known before training: settings, layers, and files that cannot be written."""

import keras
import numpy as np

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import Config
from cnn_l1.export import formats
from cnn_l1.models.untrained import untrained_network
from cnn_l1.runs import exported_files


def dry_run(config: Config) -> None:
    """Print the resolved config, the model's layers, and files that cannot be written."""
    model, about = untrained_network(config)
    exported_files.check_formats(model, config.export.formats)
    print(configs.dump(config))
    model.summary(line_length=80)
    forewarn_of_formats(model, config, formats.made_up_samples(about.input_shape))


def forewarn_of_formats(network: keras.Model, config: Config, samples: np.ndarray) -> None:
    """Print which files cannot be written of a network, before it is trained."""
    for name, reason in formats.try_formats(network, config, samples).items():
        print(f"Will not be written: {name}: {reason.removeprefix(f'{name}: ')}")
