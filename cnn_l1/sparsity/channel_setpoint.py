"""The setpoint in multiply-adds: which channels go so that no more are left."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cnn_l1.graph import coupling
from cnn_l1.graph.costs import ChannelCosts
from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.shrink.planning import plan_shrink
from cnn_l1.sparsity import importance
from cnn_l1.sparsity.channel_values import ChannelValues
from cnn_l1.sparsity.controller import PATH_ENDS
from cnn_l1.sparsity.setpoints import NewValues, Setpoint, TargetError, is_penalised

OVERSHOOT = 0.1  # of the target, ahead of the path


class ChannelSetpoint(Setpoint):
    """Multiply-adds of what is left once channels of zeros are removed."""

    def __init__(
        self, model: keras.Model, optimizer: Any, macs: int, threshold: float, tolerance: float
    ) -> None:
        self.model = model
        self.macs = macs
        self.threshold = threshold
        self.tolerance = tolerance
        self.analysis = coupling.analyse(model, with_constants=False)
        self.spaces = [
            space
            for space in coupling.spaces_of(self.analysis)
            if any(
                is_penalised(m.variable) and m.variable.regularizer.groups for m in space.members
            )
        ]
        if not self.spaces:
            raise ValueError(
                "`macs` expects a model with penalties on its channels: call `attach_groups`. "
                f"Received: {model.name!r}, without one of a strength above 0"
            )
        self.costs = ChannelCosts(self.analysis)
        # One channel of each group always stays.
        least = self.costs.macs(self.spaces, [np.arange(x.size) > 0 for x in self.spaces])
        self.total = self.costs.macs(self.spaces, [np.zeros(x.size, bool) for x in self.spaces])
        if not least <= macs < self.total:
            raise TargetError(
                f"`macs` must be {least:,} or more, which always stay, and below {self.total:,}, "
                f"what the network has. Received: macs={macs:,}"
            )
        # A channel of zeros does not come back: after a ReLU it has no gradient.
        floor = 1.0 - tolerance
        super().__init__(optimizer, 1.0 - macs / self.total, floor, OVERSHOOT)

    def measure(self) -> None:
        values = ChannelValues(self.spaces)
        gone = [values.sizes(space) <= self.threshold for space in self.spaces]
        self.left = self.costs.macs(self.spaces, gone)
        self.level = 1.0 - self.left / self.total
        pairs = zip(self.spaces, gone, strict=True)
        self.empty = frozenset(space.name for space, all_gone in pairs if all_gone.all())

    def logs(self, target: float) -> dict[str, float]:
        self.measure()
        macs = round((1.0 - target) * self.total)
        return {"strength_scale": self.scale(), "target": macs, "macs": self.left}

    def begin(self) -> None:
        super().begin()
        self.left_before, self.taken = self.left, False

    def state(self) -> list[float]:
        return [*super().state(), self.left_before, self.taken, self.controller.floor]

    def resume(self, state: Sequence[float]) -> None:
        super().resume(state)
        self.left_before, self.taken = int(state[4]), bool(state[5])
        self.controller.floor = float(state[6])

    def parts(self) -> list[str]:
        return [space.name for space in self.spaces]

    def steer(self, progress: float, elapsed: float) -> None:
        if self.taken:
            self.roll_back()

    def keep_pace(self, progress: float) -> None:
        self.taken = self.left < self.left_before
        # Where the path ends, the whole of it: there is time to learn around the last ones.
        ends = progress >= PATH_ENDS
        macs = self.macs if ends else (1.0 - self.controller.path(progress)) * self.total
        if self.left > macs:
            for variable, value in self._without(macs, exactly=ends):
                variable.assign(value)
            self.optimizer.hold_zeros.assign(1.0)  # momentum would bring them back
            self.measure()
            # Not to be undone, where whole channels come no nearer.
            floor = (1.0 - 1e-6) * self.left / self.macs
            self.controller.floor = min(self.controller.floor, floor)
        self.left_before = self.left

    def cut(self, before: Mapping[int, Any]) -> NewValues:
        return self._without(self.macs, exactly=True)

    def _without(self, macs: float, exactly: bool) -> NewValues:
        """New values that take channels out, down to `macs`; see `importance.choose`."""
        values = ChannelValues(self.spaces)
        gone = self._chosen(values, macs, exactly)
        for space, channels in zip(self.spaces, gone, strict=True):
            values.zero(space, channels)
        return values.pairs()

    def _chosen(self, values: ChannelValues, macs: float, exactly: bool) -> list[np.ndarray]:
        """Which channels go, for each group: those of the least part at their price."""
        gone = [values.sizes(space) == 0 for space in self.spaces]
        candidates: list[importance.Candidate] = []
        for number, space in enumerate(self.spaces):
            shares, kernels = self._shares(space, gone[number], values)
            order, parts = importance.lamp_order(shares, kernels, gone[number])
            order, parts = order[1:], parts[1:]  # the largest stays
            price = importance.price(self._saved_by_one(gone, number, order))
            candidates += [
                importance.Candidate(part / price, number, channel)
                for part, channel in zip(parts, order.tolist(), strict=True)
            ]
        candidates.sort()
        return importance.choose(
            candidates,
            gone,
            lambda trial: self.costs.macs(self.spaces, trial),
            macs,
            self.tolerance,
            exactly,
        )

    def _shares(
        self, space: coupling.ChannelSpace, gone: np.ndarray, values: ChannelValues
    ) -> tuple[np.ndarray, int]:
        """Each channel's share of the squares of its kernels, added up, and how many they are.

        Batch-norm scales have a share as a kernel has: after a kernel they are its size.
        """
        shares, kernels = np.zeros(space.size), 0
        for member in space.members:
            if member.variable.name in ("bias", "beta"):
                continue
            squares, _ = values.squares(space, (member,))
            shares += importance.shares(squares, gone)
            kernels += is_kernel(member.variable)
        return shares, max(kernels, 1)

    def _saved_by_one(self, gone: list[np.ndarray], number: int, channels: np.ndarray) -> int:
        """Multiply-adds that go with one of a group's channels, which are all alike."""
        if not len(channels):
            return 0
        trial = [some.copy() for some in gone]
        trial[number][channels[0]] = True
        return self.costs.macs(self.spaces, gone) - self.costs.macs(self.spaces, trial)

    def missed(self) -> str:
        left = plan_shrink(self.model).macs_after
        if (1.0 - self.tolerance) * self.macs <= left <= self.macs:
            return ""
        return (
            f"TargetSparsity expected {self.macs:,} multiply-adds to be left, less at most "
            f"{self.tolerance:.3g} of them. Received: {left:,}, the nearest by whole channels"
        )
