"""Setpoints: what is to be zero at the deadline, measured, steered to and cut to."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from cnn_l1.errors import CnnL1Error
from cnn_l1.sparsity.controller import FLOOR, OVERSHOOT, StrengthController
from cnn_l1.sparsity.importance import smallest
from cnn_l1.sparsity.penalty import Penalty

Kernels = Sequence[tuple[str, Any]]  # names and variables
NewValues = list[tuple[Any, np.ndarray]]  # variables and what they become


class TargetError(CnnL1Error, ValueError):
    """A target that the model, under its penalties, cannot reach."""

    setting = "target"


class LimitError(TargetError):
    """A limit that a network cannot meet, or meets already; it names the setting itself."""

    setting = ""


class Setpoint:
    """A level to reach, and the strength that a controller moves to reach it.

    A subclass writes `measure`, `parts`, `cut` and `missed`.

    Args:
        optimizer: The built `Proximal`.
        target: What is to be zero, as a fraction of all, between 0 and 1.
        floor: See `StrengthController`.
        overshoot: See `StrengthController`.

    Attributes:
        name: The layer, where it is for one layer; else `""`.
        controller: Its `StrengthController`.
        level: What is zero, as a fraction of all, at the last `measure`.
        empty: The names of what was all zero then.
        remembered_empty: The names of what was all zero at the last good check.
    """

    name = ""
    level = 0.0
    empty: frozenset[str] = frozenset()
    remembered_empty: frozenset[str] = frozenset()

    def __init__(
        self, optimizer: Any, target: float, floor: float = FLOOR, overshoot: float = OVERSHOOT
    ) -> None:
        self.optimizer = optimizer
        self.target = target
        self.controller = StrengthController(target, floor, overshoot)

    def setting(self) -> str:
        """What a saved state of it is good for, as text."""
        return f"{self.name}={self.target!r}"

    def begin(self) -> None:
        """Start from what is zero now."""
        self.measure()
        scale = self.scale()
        first = self.controller.begin(self.level, scale)
        if first != scale:
            self.set_scale(first)

    def steer(self, progress: float, elapsed: float) -> None:
        """Move the strength, with the fractions of the way done and since the last time."""
        self.set_scale(self.controller.steer(self.level, progress, elapsed))

    def roll_back(self) -> None:
        """Lower the strength after the weights of the last good check came back."""
        self.set_scale(self.controller.roll_back())

    def remember(self) -> None:
        """Keep what is empty now, for `is_destroyed`."""
        self.remembered_empty = self.empty

    def is_destroyed(self, progress: float) -> bool:
        """Whether there is so little left that the weights before must come back."""
        newly_empty = bool(self.empty - self.remembered_empty)
        return self.controller.is_destroyed(self.level, progress, newly_empty)

    def state(self) -> list[float]:
        """What steering must know to go on later, as numbers."""
        return self.controller.state()

    def resume(self, state: Sequence[float]) -> None:
        """Go on from what `state` gave."""
        self.measure()
        self.controller.resume(state)

    def parts(self) -> list[str]:
        """The names of what can become all zero, in a fixed order."""
        raise NotImplementedError(f"{type(self).__name__}.parts")

    def is_above(self) -> bool:
        """Whether more is exactly zero than the target asks for, and may come back."""
        return False

    def keep_pace(self, progress: float) -> None:
        """Zero what the path asks for and the penalty has not brought; by default nothing."""

    def measure(self) -> None:
        """Set `level` and `empty`."""
        raise NotImplementedError(f"{type(self).__name__}.measure")

    def cut(self, before: Mapping[int, Any]) -> NewValues:
        """New values that zero the smallest of what must still go.

        Args:
            before: `{id of a variable: its value at the last check}`.
        """
        raise NotImplementedError(f"{type(self).__name__}.cut")

    def missed(self) -> str:
        """A message where the target is not met, or `""`."""
        raise NotImplementedError(f"{type(self).__name__}.missed")

    def scale(self) -> float:
        """The factor on the penalties' strength now."""
        return float(ops.convert_to_numpy(self.optimizer.strength_scale))

    def set_scale(self, scale: float) -> None:
        """Set the factor on the penalties' strength."""
        self.optimizer.strength_scale.assign(scale)

    def logs(self, target: float) -> dict[str, float]:
        """What to write into an epoch's logs, with the path's level there."""
        return {"strength_scale": self.scale(), "target": target}


class WeightSetpoint(Setpoint):
    """A fraction of the weights of some kernels."""

    def __init__(self, optimizer: Any, kernels: Kernels, target: float, threshold: float) -> None:
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

    def measure(self) -> None:
        counts = small_counts(self.kernels, self.threshold)
        self.level = float(counts.sum() / self.sizes.sum())
        pairs = zip(self.kernels, counts == self.sizes, strict=True)
        self.empty = frozenset(name for (name, _), all_small in pairs if all_small)

    def parts(self) -> list[str]:
        return [name for name, _ in self.kernels]

    def zeros(self) -> int:
        """How many weights are exactly zero."""
        return int(small_counts(self.kernels, 0.0).sum())

    def is_above(self) -> bool:
        return self.zeros() > self.wanted

    def cut(self, before: Mapping[int, Any]) -> NewValues:
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

    def missed(self) -> str:
        zeros, weights = self.zeros(), int(self.sizes.sum())
        if zeros == self.wanted:
            return ""
        return (
            f"TargetSparsity{self.name and f' of {self.name}'} expected {self.wanted:,} of "
            f"{weights:,} weights to be zero. Received: {zeros:,}, which did not come back"
        )


class LayerSetpoint(WeightSetpoint):
    """A fraction of the weights of one kernel, with a strength of its own."""

    def __init__(self, optimizer: Any, kernels: Kernels, target: float, threshold: float) -> None:
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

    def scale(self) -> float:
        return self.optimizer.variable_scale(self.variable)

    def set_scale(self, scale: float) -> None:
        self.optimizer.set_variable_scale(self.variable, scale)

    def logs(self, target: float) -> dict[str, float]:
        return {f"strength_scale/{self.name}": self.scale(), f"target/{self.name}": target}


def layer_setpoints(
    optimizer: Any, kernels: Kernels, layers: Mapping[str, float], threshold: float
) -> list[LayerSetpoint]:
    """A setpoint for each kernel that a pattern names; of several patterns the first counts.

    Args:
        optimizer: The built `Proximal`.
        kernels: All kernels.
        layers: `{layer name pattern: sparsity}`.
        threshold: As `TargetSparsity` takes it.

    Raises:
        ValueError: If a pattern names none.
    """
    unused, setpoints = set(layers), []
    for name, variable in kernels:
        pattern = next((p for p in layers if fnmatch.fnmatchcase(name, p)), None)
        if pattern is not None:
            unused.discard(pattern)
            one = [(name, variable)]
            setpoints.append(LayerSetpoint(optimizer, one, layers[pattern], threshold))
    if unused:
        raise ValueError(
            "`layers` expects patterns that each match a kernel which none before matches, of "
            f"{', '.join(name for name, _ in kernels)}. Received: {', '.join(sorted(unused))}"
        )
    return setpoints


def small_counts(kernels: Kernels, limit: float) -> np.ndarray:
    """How many weights of each kernel have `|w| ≤ limit`, as an array of ints."""
    counts = [
        ops.sum(ops.cast(ops.abs(ops.convert_to_tensor(variable)) <= limit, "int32"))
        for _, variable in kernels
    ]
    # Stacked: one wait for the device, not one a kernel.
    return np.asarray(ops.convert_to_numpy(ops.stack(counts)), "int64")


def is_penalised(variable: Any) -> bool:
    """Whether a variable carries one of our penalties, of a strength above 0."""
    penalty = variable.regularizer
    return isinstance(penalty, Penalty) and penalty.largest_strength > 0
