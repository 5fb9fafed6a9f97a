"""From the reports of many runs to one row a strength, and to one choice."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_l1.config.sweep_settings import BudgetConfig
from cnn_l1.errors import CnnL1Error


class BudgetError(CnnL1Error, ValueError):
    """No model fits the device's budget."""


class NoChoiceError(CnnL1Error, RuntimeError):
    """Not one strength can be chosen."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One strength of a path: means over its folds and seeds.

    Attributes:
        l1_strength: The strength; 0 for the dense baseline.
        runs: Number of runs that ended well.
        failed: Number of runs that did not, or were stopped.
        score: Mean on validation data, of the exported file: accuracy, 0 to 1, or
            mean squared error. `None` if every run failed.
        standard_error: Of that mean: over runs where there are several, else over
            the examples of the one.
        sparsity: Mean fraction of kernel weights that are zero.
        nonzero_parameters: Mean count of trainable values that are not zero.
        bytes, macs, ram_bytes, latency_median_ms: Means of the exported file.
        fits: Whether every run's file is within the budget; `None` without one.
        excess: The largest figure / limit of any run; `None` if one is unknown.
        furthest: The figures and limits of that run.
        chosen: Whether this is the choice.
    """

    l1_strength: float
    runs: int
    failed: int
    score: float | None = None
    standard_error: float | None = None
    sparsity: float | None = None
    nonzero_parameters: float | None = None
    bytes: float | None = None
    macs: float | None = None
    ram_bytes: float | None = None
    latency_median_ms: float | None = None
    fits: bool | None = None
    excess: float | None = None
    furthest: str = ""
    chosen: bool = False


MEASURES = {
    "max_bytes": "bytes",
    "max_macs": "macs",
    "max_ram_bytes": "ram_bytes",
    "max_latency_ms": "latency_median_ms",
}


def exported_file(report: Mapping[str, Any], file: str) -> tuple[str, dict[str, Any]]:
    """The name and figures of the file that counts: the shrunk one where there is one."""
    shrunk = f"shrunk/{file}"
    name = shrunk if shrunk in report["files"] else file
    return name, report["files"][name]


def score_of(figures: Mapping[str, Any]) -> tuple[float, float]:
    """A file's score and its standard error: accuracy, or mean squared error."""
    name = "mean_squared_error" if figures["accuracy"] is None else "accuracy"
    return figures[name], figures[f"{name}_standard_error"]


def excess(figures: Mapping[str, Any], budget: BudgetConfig) -> float:
    """How far a file is beyond its budget: the largest of figure / limit.

    A figure that could not be measured, for the runtime takes no such file, is
    infinitely far.
    """
    ratios = []
    for limit, figure in MEASURES.items():
        allowed = getattr(budget, limit)
        if allowed is not None:
            value = figures[figure]
            ratios.append(math.inf if value is None else value / allowed)
    return max(ratios)


def make_row(
    l1_strength: float,
    reports: Sequence[Mapping[str, Any]],
    failed: int,
    file: str,
    budget: BudgetConfig | None = None,
) -> Row:
    """One `Row` from the reports of a strength's runs."""
    if not reports:
        return Row(l1_strength, 0, failed)
    chosen = [exported_file(report, file)[1] for report in reports]
    scores = [score_of(figures) for figures in chosen]
    values = [score for score, _ in scores]
    error = scores[0][1]
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))

    def mean(key: str) -> float | None:
        found = [figures[key] for figures in chosen]
        return None if any(value is None for value in found) else statistics.fmean(found)

    worst, furthest = None, ""
    if budget is not None:
        run = max(chosen, key=lambda figures: excess(figures, budget))
        worst, furthest = excess(run, budget), _against(run, budget)
    return Row(
        l1_strength=l1_strength,
        runs=len(reports),
        failed=failed,
        score=statistics.fmean(values),
        standard_error=error,
        sparsity=statistics.fmean(r["counts"]["sparsity"] for r in reports),
        nonzero_parameters=statistics.fmean(r["counts"]["nonzero_parameters"] for r in reports),
        bytes=mean("bytes"),
        macs=mean("macs"),
        ram_bytes=mean("ram_bytes"),
        latency_median_ms=mean("latency_median_ms"),
        fits=None if worst is None else worst <= 1,
        excess=worst if worst is not None and math.isfinite(worst) else None,
        furthest=furthest,
    )


def _against(figures: Mapping[str, Any], budget: BudgetConfig) -> str:
    """The figures of a file that a budget limits, as text."""
    parts = []
    for limit, figure in MEASURES.items():
        allowed = getattr(budget, limit)
        if allowed is not None:
            value = figures[figure]
            shown = "unknown" if value is None else f"{value:,.6g}"
            parts.append(f"{figure} {shown} of {allowed:,.6g}")
    return ", ".join(parts)


def choose(
    rows: Sequence[Row],
    rule: str,
    larger_is_better: bool,
    max_drop: float = 0.5,
    dense: Row | None = None,
    budget: BudgetConfig | None = None,
) -> Row:
    """The row that a rule chooses, by validation scores alone.

    Args:
        rows: `Row`s of a path.
        rule: `"best"`: the best score, of equal ones the sparsest. `"one_standard_error"`:
            the sparsest whose score is within one standard error of the best, the
            best's own (Breiman et al., 1984, section 3.4.3). `"max_drop"`: the sparsest
            that loses at most `max_drop` points against the dense baseline.
        larger_is_better: Whether the score is an accuracy.
        max_drop: Points of accuracy, for the rule of that name.
        dense: The dense baseline's `Row`, for the rule of that name.
        budget: A `BudgetConfig`; only rows that fit are looked at.

    Returns:
        One of `rows`.

    Raises:
        BudgetError: If no row fits, naming the nearest.
        ValueError: If no run ended well, or none is within `max_drop`.
    """
    usable = [row for row in rows if row.score is not None]
    if not usable:
        raise ValueError("Expected at least one run that ended well. Received: none")
    if budget is not None:
        fitting = [row for row in usable if row.fits]
        if not fitting:
            raise BudgetError(_nearest(usable))
        usable = fitting
    sign = 1.0 if larger_is_better else -1.0
    best = max(usable, key=lambda row: (sign * _score(row), *_sparser(row)))
    if rule == "best":
        return best
    if rule == "one_standard_error":
        assert best.standard_error is not None
        limit = sign * _score(best) - best.standard_error
    else:
        limit = _score(dense) - max_drop / 100.0
    # A rounding in the mean of equal scores must not decide.
    within = [row for row in usable if sign * _score(row) >= limit - 1e-12]
    if not within:
        raise ValueError(
            f"Expected a strength that loses at most {max_drop} points against the dense "
            f"baseline's {_score(dense):.2%}. Received: {best.score:.2%} at best, at strength "
            f"{best.l1_strength:.3g}. Allow more in sweep.max_drop, or lower sweep.min_ratio."
        )
    return max(within, key=_sparser)


def _score(row: Row | None) -> float:
    assert row is not None
    assert row.score is not None  # of runs that ended well
    return row.score


def _sparser(row: Row) -> tuple[float, float]:
    return row.sparsity or 0.0, row.l1_strength


def _nearest(rows: Sequence[Row]) -> str:
    nearest = min(rows, key=lambda row: math.inf if row.excess is None else row.excess)
    return (
        "sweep.budget: expected a strength whose file fits. Received: none; the nearest is "
        f"strength {nearest.l1_strength:.3g} with {nearest.furthest}. Raise the largest "
        "strength, or choose a smaller network."
    )
