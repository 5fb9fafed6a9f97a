"""The Keras optimizer of a config, with its learning-rate schedule."""

from typing import Any

import keras

from cnn_l1.config.training_settings import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, learning_rate: float | None, steps: int
) -> keras.optimizers.Optimizer:
    """A Keras optimizer with its schedule over `steps` updates.

    Args:
        config: The `optimizer` section of the settings.
        learning_rate: At the start; `None` for the section's own.
        steps: Updates until the schedule's end.
    """
    given = config.model_dump(exclude={"name", "learning_rate", "schedule"}, exclude_none=True)
    rate = scheduled(config, learning_rate, steps)
    return optimizer_class(config.name)(learning_rate=rate, **given)


def like_optimizer(
    optimizer: keras.optimizers.Optimizer,
    config: OptimizerConfig,
    learning_rate: float | None,
    steps: int,
) -> keras.optimizers.Optimizer:
    """A new optimizer like a user's own, with the config's schedule from its learning rate.

    A schedule that the user's optimizer has stays.

    Args:
        optimizer: The user's.
        config: The `optimizer` section, for its schedule.
        learning_rate: At the start; `None` for the section's own.
        steps: Updates until the schedule's end.
    """
    settings = optimizer.get_config()
    if not isinstance(settings.get("learning_rate"), dict):
        schedule = scheduled(config, learning_rate, steps)
        serialized = keras.optimizers.schedules.serialize
        is_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
        settings["learning_rate"] = serialized(schedule) if is_schedule else schedule
    return type(optimizer).from_config(settings)


def scheduled(config: OptimizerConfig, learning_rate: float | None, steps: int) -> Any:
    """A learning rate, or Keras' schedule of it over `steps` updates, as a config has it."""
    start = config.learning_rate if learning_rate is None else learning_rate
    assert start is not None  # the section's validator fills it in
    # Keras hands a schedule the count of micro-steps, so accumulation changes nothing.
    updates = max(1, steps)
    schedules, schedule = keras.optimizers.schedules, config.schedule
    rate: Any = start
    if schedule.name == "cosine":
        rate = schedules.CosineDecay(start, updates, alpha=schedule.final_fraction)
    elif schedule.name == "linear":
        rate = schedules.PolynomialDecay(start, updates, start * schedule.final_fraction)
    elif schedule.name == "exponential":
        rate = schedules.ExponentialDecay(start, updates, schedule.final_fraction)
    return rate


def optimizer_class(name: str) -> type[keras.optimizers.Optimizer]:
    """The Keras class of a config's `optimizer.name`."""
    # By class name: `keras.optimizers.get` does not know all of its optimizers.
    return next(cls for key, cls in vars(keras.optimizers).items() if key.lower() == name)
