"""Settings of a sweep: strengths, rule, budget, engine."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from cnn_l1.config.section import COUNT, POSITIVE, Section


class BudgetConfig(Section):
    """What a device has room for; the exported file must fit all that is given."""

    max_bytes: POSITIVE | None = None
    """Size of the file."""
    max_macs: POSITIVE | None = None
    """Multiply-adds of one example."""
    max_ram_bytes: POSITIVE | None = None
    """The arena that TFLite Micro needs, measured on this host."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Median CPU time of one example on this host, one thread."""

    @pydantic.model_validator(mode="after")
    def _limits_something(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError("at least one of its limits must be set")
        return self


class EarlyStoppingConfig(Section):
    """Stopping hopeless points: asynchronous successive halving, by Ray Tune."""

    grace_epochs: POSITIVE = 5
    """Epochs that every point may have."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of the points that come to a rung, one in this many goes on."""


class SweepConfig(Section):
    """Many runs along the penalty's strength, one choice: `python -m cnn_l1.sweep`."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """The strengths themselves. Default: `points` of them, spaced evenly in their logarithm."""
    points: POSITIVE = 8
    """Number of strengths."""
    max_strength: Annotated[float, Field(gt=0)] | None = None
    """The largest. Default: found, where the network's output is constant."""
    min_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """The smallest, as a part of the largest."""
    path: Literal["independent", "dense_to_sparse", "sparse_to_dense"] = "independent"
    """Each point from random weights, or each from the one before it along the path."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Seeded cross-validation with this many folds. Default: one validation part."""
    seeds: tuple[COUNT, ...] | None = None
    """Seeds to repeat each point with. Default: the config's `seed`."""
    file: Literal["model_int8.tflite", "model_float32.tflite", "model.keras"] | None = None
    """The exported file that counts, shrunk where channels went. Default: the first of
    these that `export.formats` writes."""
    rule: Literal["best", "one_standard_error", "max_drop"] = "best"
    """The best score on validation data; or the sparsest within one standard error of it,
    or within `max_drop` of the dense baseline."""
    max_drop: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Points of accuracy that may be lost against the dense baseline."""
    budget: BudgetConfig | None = None
    """Choose among files that fit a device."""
    engine: Literal["local", "ray"] = "local"
    """Processes on this machine, or Ray Tune, here or on the cluster at `--address`."""
    workers: POSITIVE | None = None
    """Runs at once. Default: as many as there are cores for `threads`."""
    threads: POSITIVE = 1
    """Threads of each run; figures repeat with the same number only."""
    early_stopping: EarlyStoppingConfig | None = None
    """For engine `ray`."""

    @pydantic.model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.early_stopping is not None:
            if self.engine != "ray":
                raise ValueError(f"early_stopping needs engine 'ray', not {self.engine!r}")
            if self.path != "independent":
                raise ValueError(f"early_stopping needs path 'independent', not {self.path!r}")
        if self.strengths is not None:
            if self.max_strength is not None:
                raise ValueError("max_strength must be left out where strengths are given")
            if len(set(self.strengths)) != len(self.strengths) or not self.strengths:
                raise ValueError("strengths must be one or more, each once")
        if self.seeds is not None and (len(set(self.seeds)) != len(self.seeds) or not self.seeds):
            raise ValueError("seeds must be one or more, each once")
        return self
