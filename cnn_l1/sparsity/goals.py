"""A level that a run is to reach, and the strength that drives it there."""

import math

import numpy as np
from keras import ops

from cnn_l1.errors import CnnL1Error
from cnn_l1.sparsity.penalties import Penalty

# Gains in nats of strength for a deviation of one nat of odds. The first is over the
# whole way to the deadline, so that long and short runs are steered alike.
INTEGRAL_GAIN = 16.0
PROPORTIONAL_GAIN = 1.0
LARGEST_DEVIATION = 4.0
LARGEST_MOVE = 40.0  # over the whole way
FARTHEST = math.log(1e7)  # from the strength at the start
RETREAT = math.log(2.0)
DESTROYED = 0.75  # of what the target leaves
TOO_SOON = 0.5  # of the target, ahead of the path
PATH_ENDS = 0.85  # of the way: weights take time to follow
# The path ends with this much more left than the target, for the cut at the deadline.
MARGIN = 0.02


class TargetError(CnnL1Error, ValueError):
    """A target that the model, under its penalties, cannot reach."""

    setting = "target"


class Goal:
    """A level to reach, from 0 to 1, and the strength that drives it.

    Attributes:
        level: What is zero, as a fraction of all, at the last `measure`.
        empty: The names of what was all zero then.
    """

    name = ""
    level = 0.0
    least, soon = DESTROYED, TOO_SOON
    empty: frozenset = frozenset()

    def __init__(self, optimizer, target):
        self.optimizer = optimizer
        self.target = target
        self.aim = 1.0 - (1.0 - target) * (1.0 + MARGIN)

    def begin(self):
        self.measure()
        self.start, self.deviation = self.level, None
        scale = self.scale()
        if not scale > 0:
            scale = 1.0
            self.set_scale(scale)
        self.log_scale = self.log_start = math.log(scale)

    def path(self, progress):
        left = max(0.0, 1.0 - progress / PATH_ENDS)
        return self.aim + (self.start - self.aim) * left**3

    def steer(self, progress, elapsed):
        """Move the strength, with the fractions of the way done and since the last time."""
        deviation = self._odds(self.path(progress)) - self._odds(self.level)
        deviation = min(max(deviation, -LARGEST_DEVIATION), LARGEST_DEVIATION)
        change = 0.0 if self.deviation is None else deviation - self.deviation
        self.deviation = deviation
        wanted = INTEGRAL_GAIN * deviation * elapsed + PROPORTIONAL_GAIN * change
        most = LARGEST_MOVE * elapsed
        self.move(min(max(wanted, -most), most))

    def _odds(self, level):
        # Neither the last weights nor the first ones say how strong a penalty is.
        level = min(max(level, 0.01 * self.target), 1.0 - 0.25 * (1.0 - self.target))
        return math.log(level / (1.0 - level))

    def move(self, change):
        low, high = self.log_start - FARTHEST, self.log_start + FARTHEST
        self.log_scale = min(max(self.log_scale + change, low), high)
        self.set_scale(math.exp(self.log_scale))

    def remember(self):
        self.remembered_empty = self.empty

    def is_destroyed(self, progress):
        """Whether there is so little left that the weights before must come back."""
        path = self.path(progress)
        too_little = 1.0 - self.level < self.least * (1.0 - max(self.target, self.start))
        too_soon = self.level > path + self.soon * self.target
        newly_empty = self.level > path and bool(self.empty - self.remembered_empty)
        return too_little or too_soon or newly_empty

    def state(self):
        """What steering must know to go on later, as numbers."""
        deviation = math.nan if self.deviation is None else self.deviation
        return [self.start, deviation, self.log_scale, self.log_start]

    def resume(self, state):
        """Go on from what `state` gave."""
        self.measure()
        self.start, deviation, self.log_scale, self.log_start = map(float, state[:4])
        self.deviation = None if math.isnan(deviation) else deviation

    def parts(self):
        """The names of what can become all zero, in a fixed order."""
        raise NotImplementedError(f"{type(self).__name__}.parts")

    def is_above(self):
        """Whether more is exactly zero than the target asks for, and may come back."""
        return False

    def keep_pace(self, progress):
        """Zero what the path asks for and the penalty has not brought; by default nothing."""

    def measure(self):
        """Set `level` and `empty`."""
        raise NotImplementedError(f"{type(self).__name__}.measure")

    def cut(self, before):
        """`(variable, new value)` pairs that zero the smallest of what must still go.

        Args:
            before: `{id of a variable: its value at the last check}`.
        """
        raise NotImplementedError(f"{type(self).__name__}.cut")

    def missed(self):
        """A message where the target is not met, or `""`."""
        raise NotImplementedError(f"{type(self).__name__}.missed")

    def scale(self):
        return float(ops.convert_to_numpy(self.optimizer.strength_scale))

    def set_scale(self, scale):
        self.optimizer.strength_scale.assign(scale)

    def logs(self, target):
        return {"strength_scale": self.scale(), "target": target}


class WeightGoal(Goal):
    """A fraction of the weights of some kernels."""

    def __init__(self, optimizer, kernels, target, threshold):
        super().__init__(optimizer, target)
        self.kernels = kernels
        self.threshold = threshold
        self.sizes = np.array([math.prod(variable.shape) for _, variable in kernels])
        self.steered = [variable for _, variable in kernels if is_penalised(variable)]
        reachable = sum(math.prod(v.shape) for v in self.steered) / max(1, self.sizes.sum())
        if target > reachable:
            raise TargetError(
                f"TargetSparsity expects a sparsity of at most {reachable:.4g}, the part of "
                f"{', '.join(name for name, _ in kernels) or 'no kernels'} under a penalty with a "
                f"strength above 0. Received: {target}"
            )
        self.wanted = round(target * int(self.sizes.sum()))

    def measure(self):
        counts = small_counts(self.kernels, self.threshold)
        self.level = float(counts.sum() / self.sizes.sum())
        pairs = zip(self.kernels, counts == self.sizes, strict=True)
        self.empty = frozenset(name for (name, _), all_small in pairs if all_small)

    def parts(self):
        return [name for name, _ in self.kernels]

    def zeros(self):
        return int(small_counts(self.kernels, 0.0).sum())

    def is_above(self):
        return self.zeros() > self.wanted

    def cut(self, before):
        values = [np.array(ops.convert_to_numpy(variable)) for variable in self.steered]
        whole = np.concatenate([value.ravel() for value in values])
        missing = self.wanted - self.zeros()
        if missing > 0:
            whole[smallest(whole, missing)] = 0
        elif missing < 0 and before:
            # Those come back that were largest at the last check.
            then = [np.ravel(ops.convert_to_numpy(before[id(v)])) for v in self.steered]
            lost = np.where(whole == 0, np.concatenate(then), 0)
            back = np.argsort(-np.abs(lost), kind="stable")[:-missing]
            whole[back] = lost[back]
        parts = np.split(whole, np.cumsum([value.size for value in values])[:-1])
        pairs = zip(self.steered, values, parts, strict=True)
        return [(variable, part.reshape(value.shape)) for variable, value, part in pairs]

    def missed(self):
        zeros, weights = self.zeros(), int(self.sizes.sum())
        if zeros == self.wanted:
            return ""
        return (
            f"TargetSparsity{self.name and f' of {self.name}'} expected {self.wanted:,} of "
            f"{weights:,} weights to be zero. Received: {zeros:,}, which did not come back"
        )


class LayerGoal(WeightGoal):
    """A fraction of the weights of one kernel, with a strength of its own."""

    def __init__(self, optimizer, kernels, target, threshold):
        super().__init__(optimizer, kernels, target, threshold)
        ((self.name, self.variable),) = kernels
        if optimizer.variable_scales is None:
            raise ValueError(
                "`layers` expects an optimizer with a scale for each variable: "
                "Proximal(..., variable_scales=True). Received: variable_scales=False"
            )
        if self.variable.regularizer.groups:
            raise ValueError(
                "`layers` expects penalties on single variables; with `attach_groups`, give "
                f"`sparsity` or `macs`. Received: {self.name!r}, which is in a channel group"
            )

    def scale(self):
        return self.optimizer.variable_scale(self.variable)

    def set_scale(self, scale):
        self.optimizer.set_variable_scale(self.variable, scale)

    def logs(self, target):
        return {f"strength_scale/{self.name}": self.scale(), f"target/{self.name}": target}


def small_counts(kernels, limit):
    """How many weights of each kernel have `|w| ≤ limit`, as an array of ints."""
    counts = [
        ops.sum(ops.cast(ops.abs(ops.convert_to_tensor(variable)) <= limit, "int32"))
        for _, variable in kernels
    ]
    # Stacked: one wait for the device, not one a kernel.
    return np.asarray(ops.convert_to_numpy(ops.stack(counts)), "int64")


def smallest(values, count):
    """The positions of the `count` smallest sizes that are not zero; of equals the first."""
    sizes = np.abs(values)
    sizes[sizes == 0] = np.inf
    limit = np.partition(sizes, count - 1)[count - 1]
    below = np.flatnonzero(sizes < limit)
    ties = np.flatnonzero(sizes == limit)[: count - len(below)]
    return np.concatenate([below, ties])


def is_penalised(variable):
    """Whether a variable carries one of our penalties, of a strength above 0."""
    penalty = variable.regularizer
    if not isinstance(penalty, Penalty):
        return False
    parts = penalty.groups or (penalty,)
    return any(getattr(part, "l1_strength", 1.0) > 0 for part in parts)
