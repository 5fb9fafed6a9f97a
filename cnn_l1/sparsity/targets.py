"""Reach a given sparsity in one run: steer the penalties' strength, then freeze.

`TargetSparsity` measures several times an epoch what the penalties have zeroed, and
moves the logarithm of their strength so that it follows a path to the target; to a
target of channels it takes them out along the path itself. At the deadline it
zeroes the few smallest weights that are still missing, holds all zeros and takes the
penalty away.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from cnn_l1.sparsity import counting
from cnn_l1.sparsity.budgets import Measure, default_measure
from cnn_l1.sparsity.channel_setpoint import ChannelSetpoint
from cnn_l1.sparsity.empty_layers import check_empty_layers, report_empty
from cnn_l1.sparsity.hold_zeros import built_optimizer, wrapped_optimizer
from cnn_l1.sparsity.optimizers import Proximal
from cnn_l1.sparsity.setpoints import Setpoint, WeightSetpoint, layer_setpoints
from cnn_l1.sparsity.target_arguments import (
    check_fraction,
    check_target,
    check_whole,
    limits_of,
)


class TargetWarning(UserWarning):
    """A run ended beside its target."""


class TargetSparsity(keras.callbacks.Callback):
    """Reach a given sparsity: steer the penalties' strength, then hold the zeros.

    Several times an epoch it looks how much is zero, and makes the penalties stronger or
    weaker. At the deadline, the end of epoch `by_epochs`, it zeroes the smallest weights
    that are still missing, holds all zeros and switches the penalties off; the epochs
    that follow fine-tune.

    **Path.** From what is zero at the start, `s₀`, to the target `s`, at the fraction
    `t` of the way to the deadline: `s + (s₀ − s) · (1 − t / 0.85)³`, then `s` (Zhu and
    Gupta, To prune, or not to prune, 2017, eq. 1).

    **Channels.** With `macs`, `bytes`, `ram_bytes` or `board`, which whole channels meet,
    each check takes out what the path asks for and the penalty has not zeroed; zeros are
    held from the first cut on, and after 0.85 of the way nothing is missing any more. The
    least important at their price go first: a channel's square over the squares of those
    that are no smaller (LAMP: Lee et al., Layer-adaptive sparsity for the magnitude-based
    pruning, 2021), divided by the root of the multiply-adds or bytes of the file that go
    with it, or by the bytes of the arena. Of two limits, the one that is exceeded most
    counts. The penalty makes channels small and is not to choose among them, for its prices
    are those of the whole network: each check that finds channels zeroed by it halves its
    strength.

    **Files.** Before training, int8 files of the whole network and of the smallest possible
    are written, to fit an estimate of the file's bytes and of its arena. The last cut of the
    path and that at the deadline write files again, until one is just within the limits.

    **Control.** With `e = logit(path) − logit(what is zero now)`, each check moves

        log strength_scale ← log strength_scale + 16 · e · Δt + Δe

    by at most 40 nats over the whole way (not for channels). In these units networks answer
    much alike. A strength far too high is undone: where half the target more is
    zero than the path says (of channels a tenth), a quarter less is left than the target
    leaves, or a layer has become all zero ahead of the path, the trainable weights of the
    last good check come back and the strength is halved. (Units of zeros after a ReLU have
    no gradient: no strength brings them back. So of channels any miss beyond `tolerance` is
    undone.)

    **Deadline.** After the last update of epoch `by_epochs`, the smallest of what is
    left is zeroed until the target is met, `hold_zeros` becomes 1 and the strength 0:
    the epochs that follow fine-tune, and the zeros stay as many as they are. If too
    many weights are zero at the last check before the deadline, the strength is 0 from
    there, so that weights come back and the largest of them stay; those that became zero
    after the last check come back as they were.

    Give the penalties any strengths: only their ratios between layers matter, and how
    soon the path is met. `StrengthRamp` and `Threshold` move or hold the same things
    and do not belong in the same `fit`. A run that is resumed with `initial_epoch` and
    its saved optimizer goes on as if it had not been interrupted. Data of a length that
    is not known beforehand are steered from the second epoch on. It writes `strength_scale` and
    `target` (where the path is: a fraction, or multiply-adds or bytes, and then `macs`,
    `bytes` or `ram_bytes` too; of two limits in units of the limits) into
    the epoch's logs; with `layers`, `strength_scale/<layer>` and `target/<layer>`.

    Args:
        sparsity: Float between 0 and 1: the fraction of all kernel weights to become
            zero. Met to the nearest whole weight. Default `None`.
        layers: `{layer name pattern: sparsity}`, patterns as in `fnmatch`, the first
            match wins: the fraction of each matched kernel. Other layers keep their
            strength to the end. Needs `Proximal(variable_scales=True)` and penalties
            on single variables. Default `None`.
        macs: Integer: multiply-adds of one sample to be left, as `plan_shrink` counts
            them; or a float between 0 and 1: the part of them to be left. For penalties from
            `attach_groups`, like the next three. Met from below within `tolerance`, where
            whole channels allow. Default `None`.
        by_epochs: Whole epochs to the deadline, counted from epoch 0, 1 or more.
        threshold: Float, 0 or more: up to it a weight's size, or a channel's root mean
            square, counts as zero on the way. Under Adam small weights flicker
            between zero and not. Default 1e-3.
        tolerance: Float between 0 and 1: how far below a limit counts as met, as a
            fraction. Default 0.03.
        checks_per_epoch: Whole number, 1 or more, of checks in each epoch; at the start
            they are denser. Default 20.
        empty_layers: What to do when the cut at the deadline would make a layer all
            zero: `"warn"` (default) or `"forbid"` (raise `EmptyLayerError`).
        bytes: Integer: bytes of the int8 TFLite file once the channels are removed. Default
            `None`.
        ram_bytes: Integer: bytes of the arena that TFLite Micro needs for that file; alone
            or with `bytes`. Default `None`.
        board: A board's name, e.g. `"arduino_nano_33_ble"`: three quarters of its flash and
            RAM, as `bytes` and `ram_bytes`. Where the whole network has room there, it trains
            without penalty. Default `None`. Give exactly one target, or these two together.
        measure: From a model and names of figures, `"bytes"` and `"ram_bytes"`, to these
            figures of the file that it is to become. Default: of the int8 file that
            `export_tflite` writes once `apply_shrink` has removed channels of zeros.

    Attributes:
        frozen: Whether the deadline has passed.
        found_scale: The `strength_scale` just before the deadline (with `layers`, a
            dict by layer); `None` before.

    Raises:
        ValueError: If an argument is out of range; on training start, if the optimizer
            is not a `Proximal`, zeros are held already, or the target cannot be reached.

    Example:
        Half of 12 weights, after 3 epochs; the strength of `L1` is only where to start:

        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> attached = cnn_l1.attach(model, cnn_l1.L1(1e-3))
        >>> model.compile(cnn_l1.Proximal(keras.optimizers.Adam()), "mse")
        >>> target = cnn_l1.TargetSparsity(sparsity=0.5, by_epochs=3)
        >>> data = np.ones((8, 4)), np.ones((8, 3))
        >>> history = model.fit(*data, epochs=4, verbose=0, callbacks=[target])
        >>> cnn_l1.count(model).zeros
        6
    """

    def __init__(
        self,
        sparsity: float | None = None,
        layers: dict[str, float] | None = None,
        macs: int | float | None = None,
        by_epochs: int | None = None,
        threshold: float = 1e-3,
        tolerance: float = 0.03,
        checks_per_epoch: int = 20,
        empty_layers: str = "warn",
        *,
        bytes: int | None = None,
        ram_bytes: int | None = None,
        board: str | None = None,
        measure: Measure | None = None,
    ) -> None:
        super().__init__()
        self._given = {
            "sparsity": sparsity,
            "layers": layers,
            "macs": macs,
            "bytes": bytes,
            "ram_bytes": ram_bytes,
            "board": board,
        }
        check_target(self._given)
        check_whole("by_epochs", by_epochs)
        check_whole("checks_per_epoch", checks_per_epoch)
        check_fraction("tolerance", tolerance)
        if not threshold >= 0:
            raise ValueError(f"`threshold` must be 0 or more. Received: threshold={threshold!r}")
        check_empty_layers(empty_layers)
        self.sparsity = sparsity
        self.layers: Any = layers
        self.macs = macs
        self.bytes, self.ram_bytes, self.board = bytes, ram_bytes, board
        self.measure = measure
        self._limits = limits_of(self._given)
        if {"bytes", "ram_bytes"} & set(self._limits) and measure is None:
            self.measure = default_measure()
            if self.measure is None:
                raise ValueError(
                    "`measure` must be given to TargetSparsity of cnn_l1.sparsity, or take "
                    "cnn_l1.TargetSparsity, which measures int8 files. Received: None"
                )
        self.by_epochs: Any = by_epochs
        self.threshold = threshold
        self.tolerance = tolerance
        self.checks_per_epoch = checks_per_epoch
        self.empty_layers = empty_layers
        self.frozen = False
        self.found_scale: float | dict[str, float] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.frozen, self.found_scale = False, None
        optimizer = built_optimizer(self.model, Proximal, type(self).__name__)
        self._setpoints = self._make_setpoints(optimizer)
        self._remembered: list[tuple[Any, Any]] = []
        self._steps: Any = (self.params or {}).get("steps")
        self._first_epoch: Any = None
        self._seen, self._epoch_is_over = 0, False  # batches of this epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._seen, self._epoch_is_over = epoch, 0, False
        if self._first_epoch is None:
            self._begin(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # More than one batch with `steps_per_execution`.
        self._stride, self._seen = batch + 1 - self._seen, batch + 1
        if self.frozen or self._steps is None:
            return
        self._since_check += self._stride
        if self._epoch == self.by_epochs - 1 and self._seen >= self._steps:
            self._freeze()
        elif self._since_check >= self._interval:
            self._check()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._steps is None:
            # The length of a generator is known after its first epoch.
            self._steps = self._seen
        if not self.frozen and epoch >= self.by_epochs - 1:
            self._freeze()
        self._epoch_is_over = True
        if logs is None:
            return
        for setpoint in self._setpoints:
            path = setpoint.controller.path
            logs.update(setpoint.logs(setpoint.target if self.frozen else path(self._progress())))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self.frozen:
            warnings.warn(
                f"TargetSparsity expected to train for by_epochs={self.by_epochs} epochs. "
                f"Received: {self._epoch + 1}; the target is not met",
                TargetWarning,
                stacklevel=2,
            )

    def _make_setpoints(self, optimizer: Proximal) -> Sequence[Setpoint]:
        if self._limits:
            setpoint = ChannelSetpoint(
                self.model,
                optimizer,
                self._limits,
                self.threshold,
                self.tolerance,
                self.measure,
                self.board,
            )
            if setpoint.is_met:
                print(f"target.board: {self.board} has room for the whole network: no penalty")
                setpoint.set_scale(0.0)
                return []
            return [setpoint]
        kernels = counting.kernels(self.model, frozen=False)
        if self.sparsity is not None:
            return [WeightSetpoint(optimizer, kernels, self.sparsity, self.threshold)]
        return layer_setpoints(optimizer, kernels, self.layers, self.threshold)

    def _begin(self, epoch: int) -> None:
        self._first_epoch = epoch
        self._interval, self._since_check, self._time = 1, 0, 0.0
        states = wrapped_optimizer(self.model, Proximal, type(self).__name__).states
        state = states.get("target")
        goes_on = state and self._fits(state, epoch, states.was_loaded("target"))
        states.keep("target", self._state)
        if goes_on:
            self._resume(state)
            if self.frozen:
                return
            if epoch >= self.by_epochs:
                self._freeze()
            return
        if epoch >= self.by_epochs:
            self._freeze()
            return
        optimizer = wrapped_optimizer(self.model, Proximal, type(self).__name__)
        if not self._limits and float(ops.convert_to_numpy(optimizer.hold_zeros)) > 0:
            raise ValueError(
                "TargetSparsity expects that zeros may come back until its deadline. "
                f"Received: hold_zeros=1 in epoch {epoch + 1} of by_epochs={self.by_epochs}"
            )
        for setpoint in self._setpoints:
            setpoint.begin()
        self._remember()

    def _settings(self) -> str:
        """What a saved state is good for: the targets, by name."""
        return ",".join(setpoint.setting() for setpoint in self._setpoints)

    def _state(self) -> dict[str, Any]:
        """What a later training must know to go on as this one would."""
        if self._first_epoch is None:
            return {}
        is_over = self._epoch_is_over or (self._steps is not None and self._seen >= self._steps)
        state: dict[str, Any] = {
            "settings": np.frombuffer(self._settings().encode(), "uint8"),
            "epoch": self._epoch,
            "epoch_is_over": is_over,
            "frozen": self.frozen,
            "first_epoch": self._first_epoch,
            "steps": self._steps or 0,
        }
        if self.found_scale is not None:
            found = self.found_scale
            state["found_scale"] = list(found.values()) if isinstance(found, dict) else [found]
        if self.frozen:
            return state
        state["pace"] = [self._interval, self._since_check, self._time]
        for number, setpoint in enumerate(self._setpoints):
            state[f"goal_{number}"] = setpoint.state()
            remembered = setpoint.remembered_empty
            state[f"empty_{number}"] = [name in remembered for name in setpoint.parts()]
        for number, (_, value) in enumerate(self._remembered):
            state[f"weight_{number}"] = ops.convert_to_numpy(value)
        return state

    def _fits(self, state: dict[str, Any], epoch: int, was_loaded: bool) -> bool:
        """Whether a saved state is that of this run, just before this epoch."""
        if np.asarray(state["settings"]).tobytes() != self._settings().encode():
            return False
        since = epoch - int(state["epoch"])
        # A backup made within an epoch is followed by the whole of that epoch.
        return since == 1 or (was_loaded and since == 0 and not bool(state["epoch_is_over"]))

    def _resume(self, state: dict[str, Any]) -> None:
        self.frozen = bool(state["frozen"])
        self._first_epoch = int(state["first_epoch"])
        self._steps = self._steps or int(state["steps"]) or None
        if "found_scale" in state:
            found = [float(scale) for scale in np.atleast_1d(state["found_scale"])]
            names = [setpoint.name for setpoint in self._setpoints]
            self.found_scale = (
                dict(zip(names, found, strict=True)) if self.layers is not None else found[0]
            )
        if self.frozen:
            return
        interval, since_check, self._time = map(float, state["pace"])
        self._interval, self._since_check = int(interval), int(since_check)
        for number, setpoint in enumerate(self._setpoints):
            setpoint.resume(state[f"goal_{number}"])
            flags = zip(setpoint.parts(), state[f"empty_{number}"], strict=True)
            setpoint.remembered_empty = frozenset(name for name, is_empty in flags if is_empty)
        self._remembered = [
            (v, ops.convert_to_tensor(state[f"weight_{number}"], dtype=v.dtype))
            for number, v in enumerate(self.model.trainable_variables)
        ]

    def _progress(self) -> float:
        """The fraction of the way to the deadline, 0 to 1."""
        within = self._seen / self._steps if self._steps else 0.0
        epochs = self.by_epochs - self._first_epoch
        return min(1.0, (self._epoch + within - self._first_epoch) / epochs)

    def _check(self) -> None:
        self._sync()
        progress = self._progress()
        elapsed, self._time = progress - self._time, progress
        regular = max(1, self._steps // self.checks_per_epoch)
        self._interval, self._since_check = min(2 * self._interval, regular), 0
        # In batches, up to the deadline.
        left = (1.0 - progress) * (self.by_epochs - self._first_epoch) * self._steps
        for setpoint in self._setpoints:
            setpoint.measure()
        destroyed = [x for x in self._setpoints if x.is_destroyed(progress)]
        if destroyed:
            self._restore()
            for setpoint in destroyed:
                setpoint.roll_back()
            self._interval = 1
            return
        for setpoint in self._setpoints:
            setpoint.keep_pace(progress)
        self._remember()
        for setpoint in self._setpoints:
            setpoint.steer(progress, elapsed)
            # The deadline comes before the next check, or just after it.
            if left <= 2 * max(regular, self._stride) and setpoint.is_above():
                setpoint.set_scale(0.0)

    def _remember(self) -> None:
        """Keep the trainable weights, for `is_destroyed`."""
        self._remembered = [
            (v, ops.copy(ops.convert_to_tensor(v))) for v in self.model.trainable_variables
        ]
        for setpoint in self._setpoints:
            setpoint.remember()

    def _restore(self) -> None:
        for variable, value in self._remembered:
            variable.assign(value)

    def _freeze(self) -> None:
        self._sync()
        self.frozen = True
        began = self._first_epoch < self.by_epochs
        for setpoint in self._setpoints:
            setpoint.measure()
        if began and any(setpoint.is_destroyed(1.0) for setpoint in self._setpoints):
            self._restore()
        before = {id(variable): value for variable, value in self._remembered}
        self._remembered = []
        planned = [pair for setpoint in self._setpoints for pair in setpoint.cut(before)]
        values = {id(variable): value for variable, value in planned}
        for name, variable in counting.kernels(self.model, frozen=False):
            value = values.get(id(variable))
            if value is not None and not value.any() and ops.convert_to_numpy(variable).any():
                report_empty(name, self.empty_layers, "by the cut to the target")
        # Only when every layer has passed: a refused cut changes nothing.
        for variable, value in planned:
            variable.assign(value)
        optimizer = wrapped_optimizer(self.model, Proximal, type(self).__name__)
        optimizer.hold_zeros.assign(1.0)
        if began:
            found = {setpoint.name: setpoint.controller.scale for setpoint in self._setpoints}
            self.found_scale = found if self.layers is not None else found.get("", 0.0)
        for setpoint in self._setpoints:
            setpoint.set_scale(0.0)
            missed = setpoint.missed()
            if missed:
                warnings.warn(missed, TargetWarning, stacklevel=2)

    def _sync(self) -> None:
        """On JAX, weights are elsewhere within an epoch: bring them to the variables."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
