"""The strengths λ of a path. Nothing here imports TensorFlow."""

import math
from typing import Any

from cnn_l1.config.loading import Config, ConfigError, with_settings


def spaced(largest: float, min_ratio: float, points: int) -> tuple[float, ...]:
    """`points` strengths from `min_ratio · largest` to `largest`, evenly in the logarithm."""
    step = math.log(min_ratio) / max(1, points - 1)
    powers = range(points - 1, -1, -1)
    # Ten digits: a strength can be read, and typed again.
    return tuple(float(f"{largest * math.exp(step * power):.10g}") for power in powers)


def with_strength(config: Config, strength: float) -> Config:
    """A config at another strength; strengths by layer keep their proportion to it.

    Raises:
        ConfigError: If `penalty.layers` has strengths in proportion to 0.
    """
    penalty = config.penalty
    settings: dict[str, Any] = {"penalty.l1_strength": strength}
    if penalty.layers:
        if not penalty.l1_strength:
            raise ConfigError(
                "penalty.l1_strength: expected more than 0, for the strengths of penalty.layers "
                "keep their proportion to it. Received: 0"
            )
        factor = strength / penalty.l1_strength
        settings["penalty.layers"] = {p: s * factor for p, s in penalty.layers.items()}
    return with_settings(config, settings)
