"""What a model's channels cost: multiply-adds, numbers in a file, working memory."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnn_l1.graph.channel_labels import Analysis, Array
from cnn_l1.graph.coupling import ChannelSpace
from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.graph.liveness import Liveness
from cnn_l1.graph.macs import call_macs, call_positions
from cnn_l1.graph.reading import Call
from cnn_l1.graph.working_memory import WorkingMemory

# Of each axis of a kernel, the labels along it, or its size where it has none.
Axes = list[Array | int]


class FileCosts(NamedTuple):
    """What decides how large a file is, and the memory that it works in.

    Attributes:
        weights: Weights of kernels.
        channels: Output channels of each layer with kernels: each has a bias and scales.
        alive: The most numbers alive at once; 0 where it was not asked for.
        nearly_most: The same, where other moments count too, the more the nearer to the
            most they are: what a channel is priced by, for one alone may change no maximum.
    """

    weights: int
    channels: tuple[int, ...]
    alive: int
    nearly_most: float


# The exponent of the norm that `FileCosts.nearly_most` is.
NORM = 16


class ChannelCosts:
    """Multiply-adds of the network without some channels, as `plan_shrink` counts them.

    The plan without what takes long: layers' new settings, and constants. A channel that
    goes is all zero, so that every layer that reads it can do without it.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.liveness = Liveness(analysis)
        self.positions: dict[Call, int] = {}
        self.kernels: dict[Call, list[Axes]] = {}
        self.fixed: dict[Call, int] = {}
        for call in analysis.graph.calls:
            positions = call_positions(call)
            if positions is None:  # of a kind that keeps its channels
                self.fixed[call] = call_macs(call)
                continue
            self.positions[call] = positions
            parts = analysis.slices(call)
            self.kernels[call] = [
                [
                    next((p.labels for p in parts if p.variable is v and p.axis == axis), size)
                    for axis, size in enumerate(v.shape)
                ]
                for v in call.operation.weights
                if is_kernel(v)
            ]
        needed = {id(call.operation): call for call in self.liveness.calls}.values()
        # A layer that is called several times is in the file once.
        self.layers = {call: self.kernels[call] for call in needed if self.kernels.get(call)}
        self.memory: WorkingMemory | None = None

    def macs(self, spaces: Sequence[ChannelSpace], gone: Sequence[Array]) -> int:
        """The multiply-adds left without some channels.

        Args:
            spaces: Channel groups of the analysed model.
            gone: For each of them, `(channels,)` booleans: which channels go.
        """
        found = self._without(spaces, gone)
        return sum(
            positions * sum(self._size(axes, found.live) for axes in self.kernels[call])
            for call, positions in self.positions.items()
            if call in found.calls
        ) + sum(macs for call, macs in self.fixed.items() if call in found.calls)

    def saved_macs(self, space: ChannelSpace) -> float:
        """What a channel of a channel group takes with it, on average over all but one."""
        none, all_but_one = np.zeros(space.size, bool), np.arange(space.size) > 0
        saved = self.macs([space], [none]) - self.macs([space], [all_but_one])
        return saved / (space.size - 1)  # a group has two channels or more

    def file_costs(
        self, spaces: Sequence[ChannelSpace], gone: Sequence[Array], memory: bool = False
    ) -> FileCosts:
        """What decides the size of a file without some channels.

        Kernels of layers that keep their channels whatever happens are not counted.

        Args:
            spaces, gone: As of `macs`.
            memory: Whether to find what is alive at once, for a model of fixed sizes.

        Raises:
            OpenSizeError: If the model leaves a size open, with `memory`.
        """
        live = self._without(spaces, gone).live
        weights = sum(self._size(axes, live) for axes in itertools.chain(*self.layers.values()))
        labels = self.analysis.labels
        channels = tuple(int(live[labels[call.outputs[0]]].sum()) for call in self.layers)
        if not memory:
            return FileCosts(weights, channels, 0, 0.0)
        if self.memory is None:
            self.memory = WorkingMemory(self.analysis)
        sums = self.memory.sums(live).astype("float64")
        most = sums.max()
        nearly_most = most * np.power(np.power(sums / most, NORM).sum(), 1 / NORM)
        return FileCosts(weights, channels, int(most), float(nearly_most))

    def _without(self, spaces: Sequence[ChannelSpace], gone: Sequence[Array]) -> Liveness:
        pairs = zip(spaces, gone, strict=True)
        labels = [np.asarray(space.labels, "int64")[channels] for space, channels in pairs]
        found = self.liveness.without(np.concatenate([np.zeros(0, "int64"), *labels]))
        found.settle(1, False)
        return found

    def _size(self, axes: Axes, live: Array) -> int:
        return math.prod(
            int(live[axis].sum()) if isinstance(axis, np.ndarray) else axis for axis in axes
        )
