"""What a target of a run's files is measured by: the int8 file, as that run will write it."""

from collections.abc import Sequence

import keras

from cnn_l1.config.data_settings import AugmentationConfig
from cnn_l1.export.file_costs import int8_costs
from cnn_l1.export.formats import TRIED_IMAGES
from cnn_l1.models.setup import Setup
from cnn_l1.runs.exported_files import description_of
from cnn_l1.sparsity.budgets import Measure


def measure_of(setup: Setup) -> Measure:
    """A `measure` for `TargetSparsity`: figures of the file with a run's own settings.

    Args:
        setup: The `Setup`, some of whose training examples calibrate.
    """
    config, dataset = setup.config, setup.dataset
    export, shrink = config.export, config.shrink
    is_augmented = config.data.augmentation != AugmentationConfig()

    def measure(trained: keras.Model, names: Sequence[str]) -> dict[str, int]:
        # Around the network may be its augmentation, which no file has.
        network = trained.layers[-1] if is_augmented else trained
        return int8_costs(
            network,
            names,
            samples=dataset.train.sample(TRIED_IMAGES),
            round_to=shrink.round_to,
            allow_empty=shrink.allow_empty,
            fold_batch_norm=export.fold_batch_norm,
            io_type=export.io_type,
            description=description_of(config, dataset, setup.task) if export.metadata else None,
        )

    return measure
