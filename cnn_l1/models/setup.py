"""What a run is of: its data, its task and its network, from a config."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.data import sets
from cnn_l1.data.own_sets import OwnSet
from cnn_l1.data.splits import Data, InputStatistics, Split, select
from cnn_l1.data.task_choice import outputs_needed, task_of
from cnn_l1.models import builders
from cnn_l1.models.input_range import input_scaling
from cnn_l1.models.optimizer import like_optimizer, make_optimizer
from cnn_l1.models.own_models import check_source
from cnn_l1.models.untrained import built_as, new_network


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run is of.

    Attributes:
        config: The `Config`.
        dataset: The `Data`, its inputs scaled as the network takes them.
        task: The `Task`, or `SeveralTasks`.
        statistics: `InputStatistics` of the raw training inputs.
        new_network: From a config to the network as training finds it, with that config's
            penalties on it: anew at each call, of random weights or of those given.
        given: The user's own network with its weights, which is the dense baseline; `None`
            where weights are random.
        own_optimizer: The optimizer that the user's network was compiled with, or `None`.
    """

    config: Config
    dataset: Data
    task: Any
    statistics: InputStatistics | None
    new_network: Callable[[Config], keras.Model]
    given: keras.Model | None = None
    own_optimizer: keras.optimizers.Optimizer | None = None

    def optimizer(self, learning_rate: float | None, steps: int) -> keras.optimizers.Optimizer:
        """A new optimizer for a stage of `steps` updates: the user's own, or the config's."""
        if self.own_optimizer is not None:
            return like_optimizer(self.own_optimizer, self.config.optimizer, learning_rate, steps)
        return make_optimizer(self.config.optimizer, learning_rate, steps)

    def examples(self) -> Split:
        """The split that files are measured on."""
        if self.config.measure.split == "test":
            return self.dataset.load_test()
        return self.dataset.validation


def configured(config: Config) -> Setup:
    """Load a config's data, choose its task, and say how its network is made.

    Raises:
        ConfigError: If data, task and network do not go together.
    """
    check_source(config.model)
    dataset = sets.load(config.data, config.seed)
    about, statistics = dataset.about, dataset.statistics()
    outputs = outputs_needed(config.training, about)

    def start(config: Config) -> keras.Model:
        model = new_network(built_as(config, about), about.input_shape, outputs, statistics)
        if config.model.initial_weights is not None:
            builders.load_weights(model, config.model.initial_weights)
        return model

    own = start(config) if config.model.is_own else None
    task = task_of(config.training, about, own)
    given = own if config.model.has_weights else None
    dataset, statistics = prepared(dataset, task, config, statistics)
    return Setup(config, dataset, task, statistics, start, given)


def load_examples(
    config: Config, model: keras.Model, given: OwnSet | None = None
) -> tuple[Split, Any]:
    """The examples that a run's files were measured on, and their task.

    Args:
        config: The run's `Config`.
        model: The run's network.
        given: The examples to measure on, as `train`, in place of the config's data.

    Raises:
        ConfigError: If the data are not there, or not of the network's task.
    """
    own = model if config.model.is_own else None
    if given is not None:
        return given.train, task_of(config.training, given.about, own)
    dataset = sets.load(config.data, config.seed)
    task = task_of(config.training, dataset.about, own)
    dataset, _ = prepared(dataset, task, config, dataset.statistics())
    if config.measure.split == "test":
        return dataset.load_test(), task
    return dataset.validation, task


def prepared(
    dataset: Data, task: Any, config: Config, statistics: InputStatistics
) -> tuple[Data, InputStatistics]:
    """Data as a task and a network take them: what is to be learnt alone, and scaled.

    Args:
        dataset: Raw data.
        task: The `Task`, or `SeveralTasks`.
        config: The `Config`.
        statistics: `InputStatistics` of the raw training inputs.

    Returns:
        `(data, statistics)`: of an autoencoder's data, the statistics of what is normal.
    """
    if task.normal_class is not None:
        dataset = normal_alone(dataset, task)
        statistics = dataset.statistics()
    about = dataset.about
    settings = built_as(config, about).model
    return dataset.scaled(input_scaling(settings, about.input_shape, statistics)), statistics


def normal_alone(dataset: Data, task: Any) -> Data:
    """Data whose training and validation splits have normal examples alone.

    For an autoencoder that finds anomalies: it learns what is normal. Other tasks' data stay.
    """
    if task.normal_class is None:
        return dataset

    def normal(split: Split, name: str) -> Split:
        rows = np.flatnonzero(np.asarray(split.targets) == task.normal_class)
        if not len(rows):
            raise ConfigError(
                f"data: expected normal examples to learn in the {name} split of "
                f"{dataset.about.source}. Received: anomalies alone"
            )
        return split if len(rows) == split.size else select(split, rows)

    train, validation = normal(dataset.train, "training"), normal(dataset.validation, "validation")
    return dataclasses.replace(dataset, train=train, validation=validation)
