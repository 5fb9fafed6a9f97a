"""Reach a given sparsity in one run: steer the penalties' strength, then freeze.

`TargetSparsity` measures several times an epoch what the penalties have zeroed, and
moves the logarithm of their strength so that it follows a path to the target; to a
target in multiply-adds it takes channels out along the path itself. At the deadline it
zeroes the few smallest weights that are still missing, holds all zeros and takes the
penalty away.
"""

import dataclasses
import fnmatch
import math
import warnings

import keras
import numpy as np
from keras import ops

from cnn_l1 import coupling, sparsity
from cnn_l1.callbacks import (
    channel_squares,
    check_empty_layers,
    report_empty,
    wrapped_optimizer,
    zero_channels,
)
from cnn_l1.costs import ChannelCosts
from cnn_l1.optimizers import Proximal
from cnn_l1.penalties import Penalty, is_kernel
from cnn_l1.shrink import plan_shrink

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
CHANNELS_TOO_SOON = 0.1
PATH_ENDS = 0.85  # of the way: weights take time to follow
# The path ends with this much more left than the target, for the cut at the deadline.
MARGIN = 0.02


class TargetWarning(UserWarning):
    """A run ended beside its target."""


class TargetSparsity(keras.callbacks.Callback):
    """Steer the penalties' strength to a target by a deadline, then freeze.

    **Path.** From what is zero at the start, `s₀`, to the target `s`, at the fraction
    `t` of the way to the deadline: `s + (s₀ − s) · (1 − t / 0.85)³`, then `s` (Zhu and
    Gupta, To prune, or not to prune, 2017, eq. 1).

    **Channels.** With `macs`, each check takes out what the path asks for and the penalty
    has not zeroed; zeros are held from the first cut on, and behind 0.85 of the way
    nothing is missing any more. Those go whose part of their layer is the least at its
    price: a channel's square over the squares of those that are no smaller (LAMP: Lee et
    al., Layer-adaptive sparsity for the magnitude-based pruning, 2021), divided by the
    root of the multiply-adds that go with it. The penalty makes channels small and is not
    to choose among them, for its prices are those of the whole network: each check that
    finds channels zeroed by it halves its strength.

    **Control.** With `e = logit(path) − logit(what is zero now)`, each check moves

        log strength_scale ← log strength_scale + 16 · e · Δt + Δe

    by at most 40 nats over the whole way (not with `macs`). In these units networks answer
    much alike. A strength far too high is not waited for: where half the target more is
    zero than the path says (with `macs` a tenth), a quarter less is left than the target
    leaves, or a layer has become all zero ahead of the path, the trainable weights of the
    last good check come back and the strength is halved. (Units of zeros behind a ReLU have
    no gradient: no strength brings them back. So with `macs` any miss beyond `tolerance` is
    undone.)

    **Deadline.** Behind the last update of epoch `by_epochs`, the smallest of what is
    left is zeroed until the target is met, `hold_zeros` becomes 1 and the strength 0:
    the epochs that follow fine-tune, and the zeros stay as many as they are. If too
    many weights are zero at the last check before the deadline, the strength is 0 from
    there, so that weights come back and the largest of them stay; those that became zero
    behind the last check come back as they were.

    Give the penalties any strengths: only their ratios between layers matter, and how
    soon the path is met. `StrengthRamp` and `Threshold` move or hold the same things
    and do not belong in the same `fit`. A run that is resumed with `initial_epoch` and
    its saved optimizer goes on from where it is. Data of a length that is not known
    beforehand are steered from the second epoch on. It writes `strength_scale` and
    `target` (where the path is: a fraction, or multiply-adds, and then `macs` too) into
    the epoch's logs; with `layers`, `strength_scale/<layer>` and `target/<layer>`.

    Args:
        sparsity: Float between 0 and 1: the fraction of all kernel weights to become
            zero. Met to the nearest whole weight. Default `None`.
        layers: `{layer name pattern: sparsity}`, patterns as in `fnmatch`, the first
            match wins: the fraction of each matched kernel. Other layers keep their
            strength to the end. Needs `Proximal(variable_scales=True)` and penalties
            on single variables. Default `None`.
        macs: Integer: multiply-adds of one sample to be left, as `plan_shrink` counts
            them, for penalties from `attach_groups`. Met from below within
            `tolerance`, where whole channels allow. Default `None`. Give exactly one
            of the three.
        by_epochs: Whole epochs to the deadline, counted from epoch 0, 1 or more.
        threshold: Float, 0 or more: up to it a weight's size, or a channel's root mean
            square, counts as zero on the way. Under Adam small weights flicker
            between zero and not. Default 1e-3.
        tolerance: Float between 0 and 1: how far below `macs` counts as met, as a
            fraction. Default 0.03.
        checks_per_epoch: Whole number, 1 or more, of checks in each epoch; at the start
            they are denser. Default 20.
        empty_layers: What to do when the cut at the deadline would make a layer all
            zero: `"warn"` (default) or `"forbid"` (raise `EmptyLayerError`).

    Attributes:
        frozen: Whether the deadline has passed.
        found_scale: The `strength_scale` just before the deadline (with `layers`, a
            dict by layer); `None` before.

    Raises:
        ValueError: If an argument is out of range; on training start, if the optimizer
            is not a `Proximal`, zeros are held already, or the target cannot be reached.
    """

    def __init__(
        self,
        sparsity=None,
        layers=None,
        macs=None,
        by_epochs=None,
        threshold=1e-3,
        tolerance=0.03,
        checks_per_epoch=20,
        empty_layers="warn",
    ):
        super().__init__()
        given = {"sparsity": sparsity, "layers": layers, "macs": macs}
        if sum(value is not None for value in given.values()) != 1:
            raise ValueError(
                "TargetSparsity expects exactly one of `sparsity`, `layers` and `macs`. "
                f"Received: {', '.join(f'{name}={value!r}' for name, value in given.items())}"
            )
        if sparsity is not None:
            check_fraction("sparsity", sparsity)
        if layers is not None:
            if not isinstance(layers, dict) or not layers:
                raise ValueError(
                    "`layers` must be a dict from name patterns to sparsities. "
                    f"Received: layers={layers!r}"
                )
            for pattern, value in layers.items():
                check_fraction(f"layers[{pattern!r}]", value)
        if macs is not None:
            check_whole("macs", macs)
        check_whole("by_epochs", by_epochs)
        check_whole("checks_per_epoch", checks_per_epoch)
        check_fraction("tolerance", tolerance)
        if not threshold >= 0:
            raise ValueError(f"`threshold` must be 0 or more. Received: threshold={threshold!r}")
        check_empty_layers(empty_layers)
        self.sparsity = sparsity
        self.layers = layers
        self.macs = macs
        self.by_epochs = by_epochs
        self.threshold = threshold
        self.tolerance = tolerance
        self.checks_per_epoch = checks_per_epoch
        self.empty_layers = empty_layers
        self.frozen = False
        self.found_scale = None

    def on_train_begin(self, logs=None):
        self.frozen, self.found_scale = False, None
        optimizer = wrapped_optimizer(self.model, Proximal, type(self).__name__)
        if not optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._goals = self._make_goals(optimizer)
        self._remembered = []
        self._steps = (self.params or {}).get("steps")
        self._first_epoch = None
        self._seen = 0  # batches of this epoch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._seen = epoch, 0
        if self._first_epoch is None:
            self._begin(epoch)

    def on_train_batch_end(self, batch, logs=None):
        # More than one batch with `steps_per_execution`.
        self._stride, self._seen = batch + 1 - self._seen, batch + 1
        if self.frozen or self._steps is None:
            return
        self._since_check += self._stride
        if self._epoch == self.by_epochs - 1 and self._seen >= self._steps:
            self._freeze()
        elif self._since_check >= self._interval:
            self._check()

    def on_epoch_end(self, epoch, logs=None):
        if self._steps is None:
            # The length of a generator is known behind its first epoch.
            self._steps = self._seen
        if not self.frozen and epoch >= self.by_epochs - 1:
            self._freeze()
        if logs is None:
            return
        for goal in self._goals:
            logs.update(goal.logs(goal.target if self.frozen else goal.path(self._progress())))

    def on_train_end(self, logs=None):
        if not self.frozen:
            warnings.warn(
                f"TargetSparsity expected to train for by_epochs={self.by_epochs} epochs. "
                f"Received: {self._epoch + 1}; the target is not met",
                TargetWarning,
                stacklevel=2,
            )

    def _make_goals(self, optimizer):
        if self.macs is not None:
            return [_ChannelGoal(self.model, optimizer, self.macs, self.threshold, self.tolerance)]
        kernels = sparsity.kernels(self.model)
        if self.sparsity is not None:
            return [_WeightGoal(optimizer, kernels, self.sparsity, self.threshold)]
        unused, goals = set(self.layers), []
        for name, variable in kernels:
            pattern = next((p for p in self.layers if fnmatch.fnmatchcase(name, p)), None)
            if pattern is not None:
                unused.discard(pattern)
                target = self.layers[pattern]
                goals.append(_LayerGoal(optimizer, [(name, variable)], target, self.threshold))
        if unused:
            raise ValueError(
                "`layers` expects patterns that each match a kernel which none before matches, of "
                f"{', '.join(name for name, _ in kernels)}. Received: {', '.join(sorted(unused))}"
            )
        return goals

    def _begin(self, epoch):
        self._first_epoch = epoch
        self._interval, self._since_check, self._time = 1, 0, 0.0
        if epoch >= self.by_epochs:
            self._freeze()
            return
        optimizer = wrapped_optimizer(self.model, Proximal, type(self).__name__)
        if self.macs is None and float(ops.convert_to_numpy(optimizer.hold_zeros)) > 0:
            raise ValueError(
                "TargetSparsity expects that zeros may come back until its deadline. "
                f"Received: hold_zeros=1 in epoch {epoch + 1} of by_epochs={self.by_epochs}"
            )
        for goal in self._goals:
            goal.begin()
        self._remember()

    def _progress(self):
        """The fraction of the way to the deadline, 0 to 1."""
        within = self._seen / self._steps if self._steps else 0.0
        epochs = self.by_epochs - self._first_epoch
        return min(1.0, (self._epoch + within - self._first_epoch) / epochs)

    def _check(self):
        self._sync()
        progress = self._progress()
        elapsed, self._time = progress - self._time, progress
        regular = max(1, self._steps // self.checks_per_epoch)
        self._interval, self._since_check = min(2 * self._interval, regular), 0
        # In batches, up to the deadline.
        left = (1.0 - progress) * (self.by_epochs - self._first_epoch) * self._steps
        for goal in self._goals:
            goal.measure()
        destroyed = [goal for goal in self._goals if goal.is_destroyed(progress)]
        if destroyed:
            self._restore()
            for goal in destroyed:
                goal.move(-RETREAT)
            self._interval = 1
            return
        for goal in self._goals:
            goal.keep_pace(progress)
        self._remember()
        for goal in self._goals:
            goal.steer(progress, elapsed)
            # The deadline comes before the next check, or just behind it.
            if left <= 2 * max(regular, self._stride) and goal.is_above():
                goal.set_scale(0.0)

    def _remember(self):
        """Keep the trainable weights, for `is_destroyed`."""
        self._remembered = [
            (v, ops.copy(ops.convert_to_tensor(v))) for v in self.model.trainable_variables
        ]
        for goal in self._goals:
            goal.remember()

    def _restore(self):
        for variable, value in self._remembered:
            variable.assign(value)

    def _freeze(self):
        self._sync()
        self.frozen = True
        began = self._first_epoch < self.by_epochs
        for goal in self._goals:
            goal.measure()
        if began and any(goal.is_destroyed(1.0) for goal in self._goals):
            self._restore()
        before = {id(variable): value for variable, value in self._remembered}
        self._remembered = []
        planned = [pair for goal in self._goals for pair in goal.cut(before)]
        values = {id(variable): value for variable, value in planned}
        for name, variable in sparsity.kernels(self.model):
            value = values.get(id(variable))
            if value is not None and not value.any() and ops.convert_to_numpy(variable).any():
                report_empty(name, self.empty_layers, "by the cut to the target")
        # Only when every layer has passed: a refused cut changes nothing.
        for variable, value in planned:
            variable.assign(value)
        optimizer = wrapped_optimizer(self.model, Proximal, type(self).__name__)
        optimizer.hold_zeros.assign(1.0)
        if began:
            found = {goal.name: math.exp(goal.log_scale) for goal in self._goals}
            self.found_scale = found if self.layers is not None else found[""]
        for goal in self._goals:
            goal.set_scale(0.0)
            missed = goal.missed()
            if missed:
                warnings.warn(missed, TargetWarning, stacklevel=2)

    def _sync(self):
        """On JAX, weights are elsewhere within an epoch: bring them to the variables."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()


class _Goal:
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


class _WeightGoal(_Goal):
    """A fraction of the weights of some kernels."""

    def __init__(self, optimizer, kernels, target, threshold):
        super().__init__(optimizer, target)
        self.kernels = kernels
        self.threshold = threshold
        self.sizes = np.array([math.prod(variable.shape) for _, variable in kernels])
        self.steered = [variable for _, variable in kernels if is_penalised(variable)]
        reachable = sum(math.prod(v.shape) for v in self.steered) / max(1, self.sizes.sum())
        if target > reachable:
            raise ValueError(
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


class _LayerGoal(_WeightGoal):
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


class _ChannelGoal(_Goal):
    """Multiply-adds of what is left once channels of zeros are removed."""

    soon = CHANNELS_TOO_SOON

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
            raise ValueError(
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


def check_fraction(name, value):
    """Raise unless a setting is a number between 0 and 1."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` must be a number between 0 and 1. Received: {value!r}")


def check_whole(name, value):
    """Raise unless a setting is a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a whole number, 1 or more. Received: {name}={value!r}")
