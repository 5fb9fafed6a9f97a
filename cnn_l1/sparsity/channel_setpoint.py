"""The setpoint of whole channels: which of them go, so that a budget is met."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cnn_l1.graph import coupling
from cnn_l1.graph.costs import ChannelCosts
from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.shrink.planning import plan_shrink
from cnn_l1.sparsity import importance
from cnn_l1.sparsity.budgets import MEANINGS, Budgets, Measure
from cnn_l1.sparsity.channel_values import ChannelValues
from cnn_l1.sparsity.controller import PATH_ENDS, StrengthController
from cnn_l1.sparsity.setpoints import LimitError, NewValues, Setpoint, is_penalised

OVERSHOOT = 0.1  # of the target, ahead of the path
STEP = 1.1  # in load, after which channels are priced anew where prices move
LOOK_AGAIN = 0.85  # of the load at the last file: then another is written
MOST_FILES = 12  # that are written to find the cut
TIGHTER = 0.01  # of the limits, where the nearest file is above them


class ChannelSetpoint(Setpoint):
    """What is left once channels of zeros are removed: multiply-adds, or bytes of files.

    Args:
        model: The model that is trained.
        optimizer: The built `Proximal`.
        limits: `{"macs": …}`, or `"bytes"`, or `"ram_bytes"`, or several. Multiply-adds
            below 1 are a part of the network's.
        threshold, tolerance: As `TargetSparsity` takes them.
        measure: What finds the figures of real files, for limits in bytes.
        board: The board that the limits are of, for messages.

    Attributes:
        is_met: Whether the whole network is within the limits.
        total: The load of the whole network.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: Any,
        limits: Mapping[str, int | float],
        threshold: float,
        tolerance: float,
        measure: Measure | None = None,
        board: str | None = None,
    ) -> None:
        self.model = model
        self.threshold, self.tolerance = threshold, tolerance
        self.measure_files, self.board = measure, board
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
                f"`{'board' if board else next(iter(limits))}` expects a model with penalties on "
                f"its channels: call `attach_groups`. Received: {model.name!r}, without one of a "
                "strength above 0"
            )
        self.costs = ChannelCosts(self.analysis)
        nothing = [np.zeros(x.size, bool) for x in self.spaces]
        whole_macs = self.costs.macs(self.spaces, nothing)
        whole_numbers = {
            name: max(1, round(limit * whole_macs)) if limit < 1 else int(limit)
            for name, limit in limits.items()
        }
        self.budgets = Budgets(self.costs, self.spaces, whole_numbers)
        self.lowest = self.budgets.lowest(tolerance)
        least = self._fit_estimates()
        self.total = self.budgets.load(nothing)
        self.is_met = self.total <= 1.0
        self.optimizer = optimizer
        self._check_limits(least, self.budgets.figures(nothing))
        # A channel of zeros does not come back: after a ReLU it has no gradient.
        floor = self.lowest
        super().__init__(optimizer, 1.0 - 1.0 / max(self.total, 1.0), floor, OVERSHOOT)

    def _fit_estimates(self) -> dict[str, float]:
        """Fit the estimates to real files; returns the least that is possible."""
        values = ChannelValues(self.spaces)
        gone = [values.sizes(space) == 0 for space in self.spaces]
        # One channel of each group always stays.
        smallest = [np.arange(x.size) > 0 for x in self.spaces]
        if not self.budgets.of_files:
            return self.budgets.figures(smallest)
        least = self._figures_of_file(smallest)
        self.budgets.fit((gone, self._figures_of_file(gone)), (smallest, least))
        return dict(least)

    def _check_limits(self, least: Mapping[str, float], whole: Mapping[str, float]) -> None:
        for name, limit in self.budgets.limits.items():
            needed = least[name] + limit - self.budgets.aims[name]
            if needed > limit:
                if self.board is not None:
                    raise LimitError(
                        f"target.board: expected room for {needed:,.0f} "
                        f"{MEANINGS[name]}, which the network needs at its smallest. "
                        f"Received: {self.board!r}, which has {limit:,} for it"
                    )
                raise LimitError(
                    f"target.{name}: expected at least {needed:,.0f}, which the network "
                    f"needs at its smallest. Received: {limit:,}"
                )
        if self.is_met and self.board is None:
            name = max(whole, key=lambda one: whole[one] / self.budgets.limits[one])
            raise LimitError(
                f"target.{name}: expected below {whole[name]:,.0f}, which the network has "
                f"without a target. Received: {self.budgets.limits[name]:,}"
            )

    def setting(self) -> str:
        limits = self.budgets.limits
        if not self.budgets.of_files:
            # As runs that are resumed have it.
            return super().setting()
        return f"{self.name}={limits!r}"

    def measure(self) -> None:
        values = ChannelValues(self.spaces)
        gone = [values.sizes(space) <= self.threshold for space in self.spaces]
        self.figures = self.budgets.figures(gone)
        self.left = self.budgets.load_of(self.figures)
        self.level = 1.0 - self.left / self.total
        pairs = zip(self.spaces, gone, strict=True)
        self.empty = frozenset(space.name for space, all_gone in pairs if all_gone.all())

    def logs(self, target: float) -> dict[str, float]:
        self.measure()
        load = (1.0 - target) * self.total
        limits = self.budgets.limits
        if len(limits) == 1:
            load = round(load * next(iter(self.budgets.aims.values())))
        found = {name: round(figure) for name, figure in self.figures.items()}
        return {"strength_scale": self.scale(), "target": load, **found}

    def begin(self) -> None:
        super().begin()
        self.left_before, self.taken = self.left, False
        self.left_at_file = self.left

    def state(self) -> list[float]:
        numbers = [self.left_before, self.taken, self.controller.floor]
        if self.budgets.of_files:
            numbers += [self.total, *self.budgets.state()]
        return [*super().state(), *numbers]

    def resume(self, state: Sequence[float]) -> None:
        if self.budgets.of_files:
            # Not as they were fitted just now: to a network that has lost channels.
            self.total = float(state[7])
            self.target = 1.0 - 1.0 / self.total
            self.controller = StrengthController(self.target, self.lowest, OVERSHOOT)
            self.budgets.resume(state[8:])
        super().resume(state)
        self.left_before, self.taken = float(state[4]), bool(state[5])
        self.controller.floor = float(state[6])
        self.left_at_file = self.left

    def parts(self) -> list[str]:
        return [space.name for space in self.spaces]

    def steer(self, progress: float, elapsed: float) -> None:
        if self.taken:
            self.roll_back()

    def keep_pace(self, progress: float) -> None:
        self.taken = self.left < self.left_before
        if self.budgets.of_files and self.left < LOOK_AGAIN * self.left_at_file:
            self._correct_estimate()
        # Where the path ends, the whole of it: there is time to learn around the last ones.
        ends = progress >= PATH_ENDS
        load = 1.0 if ends else (1.0 - self.controller.path(progress)) * self.total
        if self.left > load:
            for variable, value in self.without(load, exactly=ends):
                variable.assign(value)
            self.optimizer.hold_zeros.assign(1.0)  # momentum would bring them back
            self.measure()
            # Not to be undone, where whole channels come no nearer.
            floor = (1.0 - 1e-6) * self.left
            self.controller.floor = min(self.controller.floor, floor)
        self.left_before = self.left

    def _correct_estimate(self) -> None:
        """Write a file on the way: channels that an estimate took too early stay gone."""
        values = ChannelValues(self.spaces)
        gone = [values.sizes(space) == 0 for space in self.spaces]
        self.budgets.correct(gone, self._figures_of_file(gone))
        self.measure()
        self.left_at_file = self.left

    def cut(self, before: Mapping[int, Any]) -> NewValues:
        return self.without(1.0, exactly=True)

    def without(self, load: float, exactly: bool) -> NewValues:
        """New values that take channels out, down to a load; see `importance.choose`."""
        values = ChannelValues(self.spaces)
        if exactly and self.budgets.of_files:
            return self._values_without(self._chosen_by_files(values))
        return self._values_without(self._chosen(values, load, exactly))

    def _values_without(self, gone: Sequence[np.ndarray]) -> NewValues:
        values = ChannelValues(self.spaces)
        for space, channels in zip(self.spaces, gone, strict=True):
            values.zero(space, channels)
        return values.pairs()

    def _chosen_by_files(self, values: ChannelValues) -> list[np.ndarray]:
        """Which channels go, so that the real file is within the limits, and near them.

        Each file says by how much the estimate is wrong thereabouts, and the next choice is
        by the estimate so corrected. It ends where the file is near enough, or a choice comes
        again: then whole channels come no nearer.
        """
        best: tuple[float, list[np.ndarray], Mapping[str, int]] | None = None
        seen: set[bytes] = set()
        load = 1.0
        for _ in range(MOST_FILES):
            gone = self._chosen(values, load, exactly=True)
            key = np.packbits(np.concatenate(gone)).tobytes()
            if key in seen:
                if best is not None:
                    break
                load -= TIGHTER
                continue
            seen.add(key)
            real = self._figures_of_file(gone)
            self.budgets.correct(gone, real)
            found = self.budgets.load_of(real)
            if found <= 1.0 and (best is None or found > best[0]):
                best = found, gone, real
            if self.lowest <= found <= 1.0:
                break
        if best is None:
            return gone  # `missed` says so
        self.budgets.correct(best[1], best[2])
        return best[1]

    def _figures_of_file(self, gone: Sequence[np.ndarray] | None = None) -> Mapping[str, int]:
        """Figures of the real file without some channels; the model stays as it is."""
        assert self.measure_files is not None
        names = self.budgets.of_files
        pairs = [] if gone is None else self._values_without(gone)
        before = ChannelValues(self.spaces).pairs()
        try:
            for variable, value in pairs:
                variable.assign(value)
            return self.measure_files(self.model, names)
        finally:
            for variable, value in before if pairs else ():
                variable.assign(value)

    def _chosen(self, values: ChannelValues, load: float, exactly: bool) -> list[np.ndarray]:
        """Which channels go, for each group: those of the least part at their price."""
        gone = [values.sizes(space) == 0 for space in self.spaces]
        if self.budgets.prices_move:
            now = self.budgets.load(gone)
            while now > STEP * load:
                gone = self._choose(values, gone, now / STEP, exactly=False, at_least_one=True)
                before, now = now, self.budgets.load(gone)
                if now >= before:
                    break
        return self._choose(values, gone, load, exactly)

    def _choose(
        self,
        values: ChannelValues,
        gone: list[np.ndarray],
        load: float,
        exactly: bool,
        at_least_one: bool = False,
    ) -> list[np.ndarray]:
        """`gone`, with further channels, those first that are the least at today's prices."""
        candidates: list[importance.Candidate] = []
        found = []
        for number in range(len(self.spaces)):
            order, parts = self.order_of(number, gone[number], values)
            order, parts = order[1:], parts[1:]  # the largest stays
            if len(order):
                found.append((number, order, parts))
        trials = []
        for number, order, _ in found:
            trial = [some.copy() for some in gone]
            trial[number][order[0]] = True  # all of a group save the same
            trials.append(trial)
        for (number, order, parts), price in zip(
            found, self.budgets.prices(gone, trials), strict=True
        ):
            candidates += [
                importance.Candidate(part / price, number, channel)
                for part, channel in zip(parts, order.tolist(), strict=True)
            ]
        candidates.sort()
        chosen = importance.choose(
            candidates, gone, self.budgets.load, load, 1.0 - self.lowest, exactly
        )
        if at_least_one and candidates and all(map(np.array_equal, chosen, gone)):
            chosen[candidates[0].group][candidates[0].channel] = True
        return chosen

    def order_of(
        self, number: int, gone: np.ndarray, values: ChannelValues
    ) -> tuple[np.ndarray, np.ndarray]:
        """A group's channels that are left, the most important first, and their importance."""
        shares, kernels = self._shares(self.spaces[number], gone, values)
        return importance.lamp_order(shares, kernels, gone)

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

    def missed(self) -> str:
        real: Mapping[str, float] = {}
        if self.budgets.of_files:
            real = self._figures_of_file()
        if "macs" in self.budgets.limits:
            real = {**real, "macs": plan_shrink(self.model).macs_after}
        limits = self.budgets.limits
        used = max(real[name] / limit for name, limit in limits.items())
        if 1.0 - self.tolerance <= used <= 1.0:
            return ""
        wanted = " and ".join(f"{limit:,} {MEANINGS[name]}" for name, limit in limits.items())
        received = " and ".join(f"{real[name]:,}" for name in limits)
        return (
            f"TargetSparsity expected {wanted} to be left, less at most "
            f"{self.tolerance:.3g} of them. Received: {received}, the nearest by whole channels"
        )
