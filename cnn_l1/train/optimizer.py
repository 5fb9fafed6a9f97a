"""The Keras optimizer of a config, with its learning-rate schedule."""

import keras

from cnn_l1.config.training_settings import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, learning_rate: float | None, steps: int
) -> keras.optimizers.Optimizer:
    """A Keras optimizer with its schedule over `steps` updates."""
    # Keras hands a schedule the count of micro-steps, so accumulation changes nothing.
    updates = max(1, steps)
    schedules, schedule = keras.optimizers.schedules, config.schedule
    rate = learning_rate
    if schedule.name == "cosine":
        rate = schedules.CosineDecay(learning_rate, updates, alpha=schedule.final_fraction)
    elif schedule.name == "linear":
        rate = schedules.PolynomialDecay(
            learning_rate, updates, learning_rate * schedule.final_fraction
        )
    elif schedule.name == "exponential":
        rate = schedules.ExponentialDecay(learning_rate, updates, schedule.final_fraction)
    given = config.model_dump(exclude={"name", "learning_rate", "schedule"}, exclude_none=True)
    return optimizer_class(config.name)(learning_rate=rate, **given)


def optimizer_class(name: str) -> type[keras.optimizers.Optimizer]:
    """The Keras class behind a config's `optimizer.name`."""
    # By class name: `keras.optimizers.get` does not know all of its optimizers.
    return next(cls for key, cls in vars(keras.optimizers).items() if key.lower() == name)
