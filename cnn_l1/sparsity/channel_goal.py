"""Multiply-adds to be left, and which channels go for it."""

import dataclasses
import math

import numpy as np
from keras import ops

from cnn_l1.graph import coupling
from cnn_l1.graph.costs import ChannelCosts
from cnn_l1.shrink.removal import plan_shrink
from cnn_l1.sparsity.callbacks import channel_squares, zero_channels
from cnn_l1.sparsity.goals import PATH_ENDS, RETREAT, Goal, TargetError, is_penalised
from cnn_l1.sparsity.penalties import is_kernel

TOO_SOON = 0.1  # of the target, ahead of the path


class ChannelGoal(Goal):
    """Multiply-adds of what is left once channels of zeros are removed."""

    soon = TOO_SOON

    def __init__(self, model, optimizer, macs, threshold, tolerance):
        self.model = model
        self.macs = macs
        self.threshold = threshold
        self.tolerance = tolerance
        # A channel of zeros does not come back: behind a ReLU it has no gradient.
        self.least = 1.0 - tolerance
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
        # One channel of each space always stays.
        least = self.costs.macs(self.spaces, [np.arange(x.size) > 0 for x in self.spaces])
        self.total = self.costs.macs(self.spaces, [np.zeros(x.size, bool) for x in self.spaces])
        if not least <= macs < self.total:
            raise TargetError(
                f"`macs` must be {least:,} or more, which always stay, and below {self.total:,}, "
                f"what the network has. Received: macs={macs:,}"
            )
        super().__init__(optimizer, 1.0 - macs / self.total)

    def measure(self):
        gone = [sizes <= self.threshold for sizes in self._channel_sizes()]
        self.left = self.costs.macs(self.spaces, gone)
        self.level = 1.0 - self.left / self.total
        pairs = zip(self.spaces, gone, strict=True)
        self.empty = frozenset(space.name for space, all_gone in pairs if all_gone.all())

    def logs(self, target):
        self.measure()
        macs = round((1.0 - target) * self.total)
        return {"strength_scale": self.scale(), "target": macs, "macs": self.left}

    def _values(self):
        variables = {id(m.variable): m.variable for space in self.spaces for m in space.members}
        return {
            key: (variable, np.array(ops.convert_to_numpy(variable)))
            for key, variable in variables.items()
        }

    def _channel_sizes(self, values=None):
        """The root mean square of each channel's weights, an array a space."""
        values = self._values() if values is None else values
        found = []
        for space in self.spaces:
            squares, sizes = channel_squares(space, lambda variable: values[id(variable)][1])
            found.append(np.sqrt(squares / sizes))
        return found

    def begin(self):
        super().begin()
        self.left_before, self.taken = self.left, False

    def state(self):
        return [*super().state(), self.left_before, self.taken, self.least]

    def resume(self, state):
        super().resume(state)
        self.left_before, self.taken, self.least = int(state[4]), bool(state[5]), float(state[6])

    def parts(self):
        return [space.name for space in self.spaces]

    def steer(self, progress, elapsed):
        if self.taken:
            self.move(-RETREAT)

    def keep_pace(self, progress):
        self.taken = self.left < self.left_before
        # Where the path ends, the whole of it: there is time to learn around the last ones.
        ends = progress >= PATH_ENDS
        macs = self.macs if ends else (1.0 - self.path(progress)) * self.total
        if self.left > macs:
            for variable, value in self._without(macs, exactly=ends):
                variable.assign(value)
            self.optimizer.hold_zeros.assign(1.0)  # momentum would bring them back
            self.measure()
            # Not to be undone, where whole channels come no nearer.
            self.least = min(self.least, (1.0 - 1e-6) * self.left / self.macs)
        self.left_before = self.left

    def cut(self, before):
        return self._without(self.macs, exactly=True)

    def _without(self, macs, exactly):
        """`(variable, new value)` pairs that take channels out, down to `macs`."""
        values = self._values()
        gone = self._chosen(values, macs, exactly)
        for space, channels in zip(self.spaces, gone, strict=True):
            zero_channels(space, channels, lambda variable: values[id(variable)][1])
        return list(values.values())

    def _chosen(self, values, macs, exactly):
        """Which channels go, so that `macs` is met: those of the least part at their price.

        A channel's part in a kernel is its square over the squares of those that are no
        smaller (LAMP: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning,
        2021), so that a layer with few left gives none for cheap. Where several layers end
        in one space, as around an addition, it has as many parts. The price is the root of
        the multiply-adds that go with it. Without one, whole layers of cheap units would go
        before a dear filter does; at all of them LeNet-5 is no better, and its file seven
        times as large, for dense units cost next to nothing.

        Args:
            values: `{id of a variable: (variable, its value)}`.
            macs: What may be left.
            exactly: Whether to end just below it, by cheaper channels in place of one that
                costs too much. Otherwise the cut stops above.
        """
        gone = [size == 0 for size in self._channel_sizes(values)]
        candidates = []
        for number, space in enumerate(self.spaces):
            shares, kernels = self._shares(space, gone[number], values)
            order = np.argsort(-shares, kind="stable")
            order = order[~gone[number][order]]
            parts = kernels * shares[order] / np.maximum(np.cumsum(shares[order]), 1e-300)
            smaller = list(zip(parts[1:], order[1:].tolist(), strict=True))  # the largest stays
            price = math.sqrt(max(self._saved_by_one(gone, number, order[1:]), 1))
            candidates += [(part / price, number, channel) for part, channel in smaller]
        candidates.sort()

        def left(chosen):
            trial = [channels.copy() for channels in gone]
            for _, number, channel in chosen:
                trial[number][channel] = True
            return self.costs.macs(self.spaces, trial), trial

        low, high = 0, len(candidates)
        while low < high:
            middle = (low + high) // 2
            if left(candidates[:middle])[0] <= macs:
                high = middle
            else:
                low = middle + 1
        chosen = candidates[: max(low - 1, 0)]
        if not exactly:
            return left(chosen)[1]
        best = left(candidates[:low])
        # The channel that crosses the target may cost too much: try those behind it.
        for candidate in candidates[low:]:
            if best[0] >= (1.0 - self.tolerance) * macs:
                break
            found, trial = left([*chosen, candidate])
            if found > macs:
                chosen.append(candidate)
            elif found > best[0]:
                best = found, trial
        return best[1]

    def _shares(self, space, gone, values):
        """Each channel's share of the squares of its kernels, added up, and how many they are.

        Batch-norm scales have a share as a kernel has: behind a kernel they are its size.
        """
        shares, kernels = np.zeros(space.size), 0
        for member in space.members:
            if member.variable.name in ("bias", "beta"):
                continue
            squares, _ = channel_squares(
                dataclasses.replace(space, members=(member,)), lambda v: values[id(v)][1]
            )
            squares[gone] = 0.0
            shares += squares / max(squares.sum(), 1e-300)
            kernels += is_kernel(member.variable)
        return shares, max(kernels, 1)

    def _saved_by_one(self, gone, number, channels):
        """Multiply-adds that go with one of a space's channels, which are all alike."""
        if not len(channels):
            return 0
        trial = [some.copy() for some in gone]
        trial[number][channels[0]] = True
        return self.costs.macs(self.spaces, gone) - self.costs.macs(self.spaces, trial)

    def missed(self):
        left = plan_shrink(self.model).macs_after
        if (1.0 - self.tolerance) * self.macs <= left <= self.macs:
            return ""
        return (
            f"TargetSparsity expected {self.macs:,} multiply-adds to be left, less at most "
            f"{self.tolerance:.3g} of them. Received: {left:,}, the nearest by whole channels"
        )
