"""Budgets for what is left of a network: multiply-adds, bytes of its file, bytes of its arena.

Files are too slow to write at each step of the way, so their sizes are estimated, from
what `ChannelCosts.file_costs` counts, on a line through the sizes of two real files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_l1.graph.costs import ChannelCosts
from cnn_l1.graph.coupling import ChannelSpace
from cnn_l1.sparsity import importance

Array = np.ndarray
# From a model, whose channels of zeros are to be removed, and the names of figures,
# `"bytes"` and `"ram_bytes"`, to these figures of its int8 file.
Measure = Callable[[Any, Sequence[str]], Mapping[str, int]]

MEANINGS = {
    "macs": "multiply-adds",
    "bytes": "bytes of the int8 file",
    "ram_bytes": "bytes of the int8 file's arena",
}
OF_FILES = ("bytes", "ram_bytes")
# Of a channel, besides its weights: a bias, and the scales of kernel and bias.
CHANNEL_BYTES = 12.0
# Zero points are zeros, and layers with as many channels share theirs.
ZERO_POINT_BYTES = 8

# Kept free of a limit in bytes: later values of weights and ranges may take so much more.
RESERVE = {"bytes": 32}

_default: list[Measure] = []


def set_default_measure(measure: Measure) -> None:
    """Say how files are measured where a target is not given a `measure` of its own."""
    _default[:] = [measure]


def default_measure() -> Measure | None:
    """What `set_default_measure` was given last, or `None`."""
    return _default[0] if _default else None


class Budgets:
    """Limits of one or more figures of a network without some channels.

    What counts is the load: the largest of the figures in units of their limits, 1 where
    all are met and one is used up. Of a file's bytes a few are kept free (`RESERVE`).

    Args:
        costs: Counts multiply-adds and what decides a file's size.
        spaces: The channel groups.
        limits: `{"macs": …, "bytes": …, "ram_bytes": …}`, one of them or more.
    """

    def __init__(
        self, costs: ChannelCosts, spaces: Sequence[ChannelSpace], limits: Mapping[str, int]
    ) -> None:
        self.costs, self.spaces, self.limits = costs, spaces, dict(limits)
        self.aims = {name: max(1, n - RESERVE.get(name, 0)) for name, n in limits.items()}
        self.of_files = [name for name in limits if name in OF_FILES]
        # `{name: (a channel, the rest)}`: bytes besides weights, or besides what is alive.
        self.lines = dict.fromkeys(self.of_files, (CHANNEL_BYTES, 0.0))

    @property
    def prices_move(self) -> bool:
        """Whether what channels save changes much as others go: another one is the largest."""
        return "ram_bytes" in self.limits or len(self.limits) > 1

    def figures(self, gone: Sequence[Array]) -> dict[str, float]:
        """The figures without some channels: multiply-adds exactly, others estimated.

        Args:
            gone: For each channel group, `(channels,)` booleans.
        """
        return self._figures(gone, smooth=False)

    def load(self, gone: Sequence[Array]) -> float:
        """The largest of the figures, in units of their limits."""
        return self.load_of(self.figures(gone))

    def load_of(self, figures: Mapping[str, float]) -> float:
        """The largest of some figures, in units of their limits."""
        return max(figures[name] / aim for name, aim in self.aims.items())

    def lowest(self, tolerance: float) -> float:
        """The load that is near enough to 1, for a tolerance in units of the limits."""
        nearest = min((1.0 - tolerance) * self.limits[n] / aim for n, aim in self.aims.items())
        return min(nearest, 1.0)

    def prices(self, gone: Sequence[Array], trials: Sequence[Sequence[Array]]) -> list[float]:
        """What each of some further channels costs, in the figure that is exceeded most.

        Args:
            gone: The channels that are gone.
            trials: The same and one further channel, for each that is asked for.
        """
        figures = self.figures(gone)
        name = max(self.limits, key=lambda one: figures[one] / self.aims[one])
        before = self._figures(gone, smooth=True)[name]
        saved = [before - self._figures(trial, smooth=True)[name] for trial in trials]
        if name == "ram_bytes":
            # Not the root: most layers are not where memory is full, and may well stay.
            return [max(bytes_, 1e-3) for bytes_ in saved]
        return [importance.price(one) for one in saved]

    def fit(
        self, whole: tuple[Sequence[Array], Mapping], least: tuple[Sequence[Array], Mapping]
    ) -> None:
        """Fit the estimates to two real files.

        Args:
            whole: The channels that are gone in the first, and its figures.
            least: The same of the second, which has fewer channels.
        """
        for name in self.of_files:
            first, second = (self._base(name, gone) for gone, _ in (whole, least))
            rests = whole[1][name] - first[0], least[1][name] - second[0]
            channels = first[1] - second[1]
            slope = (rests[0] - rests[1]) / channels if channels else CHANNEL_BYTES
            slope = max(slope, 0.0)
            self.lines[name] = slope, rests[0] - slope * first[1]

    def correct(self, gone: Sequence[Array], real: Mapping[str, int]) -> None:
        """Shift the estimates, so that they are right for one real file."""
        estimated = self.figures(gone)
        for name in self.of_files:
            slope, rest = self.lines[name]
            self.lines[name] = slope, rest + real[name] - estimated[name]

    def state(self) -> list[float]:
        """The estimates' numbers, to go on later."""
        return [number for name in self.of_files for number in self.lines[name]]

    def resume(self, state: Sequence[float]) -> None:
        """Go on from what `state` gave."""
        pairs = np.reshape(np.asarray(state, "float64"), (-1, 2)).tolist()
        self.lines = {name: (a, b) for name, (a, b) in zip(self.of_files, pairs, strict=True)}

    def _figures(self, gone: Sequence[Array], smooth: bool) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in self.limits:
            if name == "macs":
                found[name] = self.costs.macs(self.spaces, gone)
                continue
            slope, rest = self.lines[name]
            base, channels = self._base(name, gone, smooth)
            found[name] = base + slope * channels + rest
        return found

    def _base(self, name: str, gone: Sequence[Array], smooth: bool = False) -> tuple[float, int]:
        costs = self.costs.file_costs(self.spaces, gone, memory=name == "ram_bytes")
        channels = sum(costs.channels)
        if name == "ram_bytes":
            return costs.nearly_most if smooth else costs.alive, channels
        # As if all had their own, for prices: whether two are alike is chance.
        widths = costs.channels if smooth else set(costs.channels)
        return costs.weights + ZERO_POINT_BYTES * sum(widths), channels
