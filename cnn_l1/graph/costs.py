"""What a model's channels cost: the multiply-adds that go with each."""

import math
from collections.abc import Sequence

import numpy as np

from cnn_l1.graph.channel_labels import Analysis, Array
from cnn_l1.graph.coupling import ChannelSpace
from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.graph.liveness import Liveness
from cnn_l1.graph.macs import call_macs, call_positions
from cnn_l1.graph.reading import Call

# Of each axis of a kernel, the labels along it, or its size where it has none.
Axes = list[Array | int]


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

    def macs(self, spaces: Sequence[ChannelSpace], gone: Sequence[Array]) -> int:
        """The multiply-adds left without some channels.

        Args:
            spaces: Channel groups of the analysed model.
            gone: For each of them, `(channels,)` booleans: which channels go.
        """
        pairs = zip(spaces, gone, strict=True)
        labels = [np.asarray(space.labels, "int64")[channels] for space, channels in pairs]
        found = self.liveness.without(np.concatenate([np.zeros(0, "int64"), *labels]))
        found.settle(1, False)
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

    def _size(self, axes: Axes, live: Array) -> int:
        return math.prod(
            int(live[axis].sum()) if isinstance(axis, np.ndarray) else axis for axis in axes
        )
