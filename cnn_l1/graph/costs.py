"""What a model's channels cost: the multiply-adds that go with each."""

import copy
import math

import numpy as np

from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.graph.liveness import Liveness
from cnn_l1.graph.macs import call_macs, call_positions


class ChannelCosts:
    """Multiply-adds of the network without some channels, as `plan_shrink` counts them.

    The plan without what takes long: layers' new settings, and constants. A channel of a
    space that goes is all zero, so that every reader can do without it.
    """

    def __init__(self, analysis):
        self.analysis = analysis
        self.liveness = Liveness(analysis)
        self.positions, self.kernels, self.fixed = {}, {}, {}
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

    def macs(self, spaces, gone):
        """The multiply-adds left without the channels `gone`, an array of booleans a space."""
        alive = np.ones(self.analysis.count, bool)
        for space, channels in zip(spaces, gone, strict=True):
            alive[np.asarray(space.labels)[channels]] = False
        found = copy.copy(self.liveness)
        found.live, found.reasons = self.liveness.live.copy(), {}
        found.readers = [
            (call, read, own, needs & alive[read][:, None] & alive[own], blocked)
            for call, read, own, needs, blocked in self.liveness.readers
        ]
        found.settle(1, False)
        return sum(
            positions * sum(self._size(axes, found.live) for axes in self.kernels[call])
            for call, positions in self.positions.items()
            if call in found.calls
        ) + sum(macs for call, macs in self.fixed.items() if call in found.calls)

    def saved_macs(self, space):
        """What a channel of the space takes with it, on average over all but one."""
        none, all_but_one = np.zeros(space.size, bool), np.arange(space.size) > 0
        saved = self.macs([space], [none]) - self.macs([space], [all_but_one])
        return saved / (space.size - 1)  # a space has two channels or more

    def _size(self, axes, live):
        return math.prod(
            int(live[axis].sum()) if isinstance(axis, np.ndarray) else axis for axis in axes
        )
