"""What can be known before training: settings, layers, and files that cannot be written."""

import dataclasses
from typing import Any

import keras
import numpy as np

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import Config
from cnn_l1.data.splits import scaled
from cnn_l1.export import formats
from cnn_l1.models.input_range import BetterRange, better_range, scaling_inside
from cnn_l1.models.setup import Setup
from cnn_l1.models.untrained import untrained_network
from cnn_l1.runs import exported_files

RANGE_EXAMPLES = 256  # of the training split, that tell which range a network takes


def dry_run(config: Config) -> None:
    """Print the resolved config, the model's layers, and files that cannot be written."""
    model, about = untrained_network(config)
    exported_files.check_formats(model, config.export.formats)
    print(configs.dump(config))
    model.summary(line_length=80)
    forewarn_of_formats(model, config, formats.made_up_samples(about.input_shape))


def forewarn_of_range(setup: Setup) -> None:
    """Print a warning where a network with weights is right on inputs of another range."""
    found = range_of(setup)
    if found is not None:
        print(f"Warning: {found}")


def range_of(setup: Setup) -> BetterRange | None:
    """The range of inputs that a network with weights is right on, if another than now."""
    task = setup.task
    if setup.given is None or task.kind not in ("classes", "binary"):
        return None
    given: Any = setup.given
    scaling = setup.dataset.train.scaling
    raw = dataclasses.replace(setup.dataset.train, scaling=None)
    labels = np.asarray(raw.sampled_targets(RANGE_EXAMPLES))
    shape = setup.dataset.about.input_shape
    inside = scaling_inside(setup.config.model, shape, setup.statistics)
    return better_range(
        lambda inputs: np.asarray(given(scaled(inputs, scaling), training=False)),
        raw.sample(RANGE_EXAMPLES),
        lambda outputs: float(np.mean(task.decide(outputs) == labels)),
        scaling if scaling is not None else inside,
        setup.statistics,
    )


def forewarn_of_formats(network: keras.Model, config: Config, samples: np.ndarray) -> None:
    """Print which files cannot be written of a network, before it is trained."""
    for name, reason in formats.try_formats(network, config, samples).items():
        print(f"Will not be written: {name}: {reason.removeprefix(f'{name}: ')}")
