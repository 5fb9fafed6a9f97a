"""The controller of `TargetSparsity`: from how much is zero to how strong the penalty is.

Numbers only, without Keras: tests drive it in milliseconds.
"""

import math
from collections.abc import Sequence

# Gains in nats of strength for a deviation of one nat of odds. The first is over the
# whole way to the deadline, so that long and short runs are steered alike.
INTEGRAL_GAIN = 16.0
PROPORTIONAL_GAIN = 1.0
LARGEST_DEVIATION = 4.0
LARGEST_MOVE = 40.0  # over the whole way
FARTHEST = math.log(1e7)  # from the strength at the start
ROLLBACK_FACTOR = 0.5  # of the strength, where the weights before came back
FLOOR = 0.75  # of what the target leaves: below it, too little is left
OVERSHOOT = 0.5  # of the target, ahead of the path: above it, too much is zero too early
PATH_ENDS = 0.85  # of the way: weights take time to follow
# The path ends with this much more left than the target, for the cut at the deadline.
MARGIN = 0.02


class StrengthController:
    """Moves a penalty's strength so that a level follows a path to its setpoint.

    A level is what is zero, as a fraction of all, 0 to 1. `progress` is the fraction of
    the way to the deadline that is done, `elapsed` that since the last `steer`.

    **Path.** From the level at the start, `s₀`, to `s = 1 − 1.02 · (1 − target)`:
    `s + (s₀ − s) · (1 − progress / 0.85)³`, then `s`.

    **Control.** With `e = logit(path) − logit(level)`, both limited:

        log scale ← log scale + 16 · e · elapsed + (change of e)

    by at most `40 · elapsed`, and never farther than a factor of 10⁷ from the start.

    Args:
        target: The setpoint, between 0 and 1.
        floor: Part of what the target leaves; with less left the weights are destroyed.
            Default 0.75.
        overshoot: Part of the target; farther ahead of the path they are destroyed too.
            Default 0.5.

    Example:
        >>> controller = StrengthController(target=0.8)
        >>> controller.begin(level=0.1, scale=1.0)
        1.0
        >>> controller.steer(level=0.1, progress=0.1, elapsed=0.1) > 1.0  # behind the path
        True
    """

    def __init__(self, target: float, floor: float = FLOOR, overshoot: float = OVERSHOOT) -> None:
        self.target = target
        self.floor, self.overshoot = floor, overshoot
        self.aim = 1.0 - (1.0 - target) * (1.0 + MARGIN)
        self.start = 0.0
        self.deviation: float | None = None
        self.log_scale = self.log_start = 0.0

    def begin(self, level: float, scale: float) -> float:
        """Start from a level and a scale; returns the scale to begin with, 1 in place of 0."""
        self.start, self.deviation = level, None
        scale = scale if scale > 0 else 1.0
        self.log_scale = self.log_start = math.log(scale)
        return scale

    @property
    def scale(self) -> float:
        """The factor on the penalty's strength, as it was moved last."""
        return math.exp(self.log_scale)

    def path(self, progress: float) -> float:
        """The level that the path has at a fraction of the way."""
        left = max(0.0, 1.0 - progress / PATH_ENDS)
        return self.aim + (self.start - self.aim) * left**3

    def steer(self, level: float, progress: float, elapsed: float) -> float:
        """Move the strength towards the path; returns the new scale."""
        deviation = self._odds(self.path(progress)) - self._odds(level)
        deviation = min(max(deviation, -LARGEST_DEVIATION), LARGEST_DEVIATION)
        change = 0.0 if self.deviation is None else deviation - self.deviation
        self.deviation = deviation
        wanted = INTEGRAL_GAIN * deviation * elapsed + PROPORTIONAL_GAIN * change
        most = LARGEST_MOVE * elapsed
        return self.move(min(max(wanted, -most), most))

    def roll_back(self) -> float:
        """Lower the strength after the weights of the last check came back."""
        return self.move(math.log(ROLLBACK_FACTOR))

    def move(self, change: float) -> float:
        """Add to the logarithm of the strength, within its limits; returns the new scale."""
        low, high = self.log_start - FARTHEST, self.log_start + FARTHEST
        self.log_scale = min(max(self.log_scale + change, low), high)
        return self.scale

    def is_destroyed(self, level: float, progress: float, newly_empty: bool) -> bool:
        """Whether there is so little left that the weights before must come back.

        Args:
            level: What is zero.
            progress: The fraction of the way.
            newly_empty: Whether a layer has become all zero since the last check.
        """
        path = self.path(progress)
        too_little = 1.0 - level < self.floor * (1.0 - max(self.target, self.start))
        too_soon = level > path + self.overshoot * self.target
        return too_little or too_soon or (level > path and newly_empty)

    def state(self) -> list[float]:
        """What steering must know to go on later."""
        deviation = math.nan if self.deviation is None else self.deviation
        return [self.start, deviation, self.log_scale, self.log_start]

    def resume(self, state: Sequence[float]) -> None:
        """Go on from what `state` gave."""
        self.start, deviation, self.log_scale, self.log_start = map(float, state[:4])
        self.deviation = None if math.isnan(deviation) else deviation

    def _odds(self, level: float) -> float:
        # Neither the last weights nor the first ones say how strong a penalty is.
        level = min(max(level, 0.01 * self.target), 1.0 - 0.25 * (1.0 - self.target))
        return math.log(level / (1.0 - level))
