"""One choice by validation data, and one look at the test split."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnn_l1.config.loading import Config, with_settings
from cnn_l1.config.sweep_settings import BudgetConfig
from cnn_l1.data import sets
from cnn_l1.data.task_choice import is_decided
from cnn_l1.process.failures import known_failure
from cnn_l1.sweep.engines import Job, into
from cnn_l1.sweep.plan import base_of
from cnn_l1.sweep.selection import (
    BudgetError,
    NoChoiceError,
    Row,
    choose,
    excess,
    exported_file,
    make_row,
    score_of,
)
from cnn_l1.sweep.strengths import with_strength
from cnn_l1.train import measure_again as measuring_again
from cnn_l1.train import pipeline


def names_at(chains: Iterable[Sequence[Job]], strength: float) -> list[str]:
    """The jobs of one strength, sorted."""
    return sorted(job.name for chain in chains for job in chain if job.strength == strength)


def row_of(
    strength: float,
    chains: Sequence[Sequence[Job]],
    results: Mapping[str, Any],
    file: str,
    budget: BudgetConfig | None,
) -> Row:
    """The `Row` of one strength."""
    names = names_at(chains, strength)
    reports = [results[name] for name in names if name in results]
    return make_row(strength, reports, len(names) - len(reports), file, budget)


def decide(
    config: Config, rows: Sequence[Row], dense: Row | None
) -> tuple[Row | None, Exception | None]:
    """The chosen `Row` and `None`, or `None` and why there is none."""
    settings = config.sweep
    larger = is_classification(config)
    if settings.rule == "max_drop" and (dense is None or dense.score is None):
        return None, NoChoiceError(
            "sweep.rule: expected a dense baseline that ended well, for 'max_drop'. Received: none"
        )
    try:
        chosen = choose(rows, settings.rule, larger, settings.max_drop, dense, settings.budget)
    except BudgetError as error:
        return None, error
    except ValueError as error:
        return None, NoChoiceError(str(error))
    return chosen, None


def test_chosen(
    config: Config,
    row: Row,
    chains: Sequence[Sequence[Job]],
    results: Mapping[str, Any],
    file: str,
    output: pathlib.Path,
) -> tuple[dict[str, Any] | None, Exception | None]:
    """Measure the chosen model on the test split, once.

    With one validation part the model is the run whose own validation score is best.
    Cross-validation chooses a strength; a network is then trained at it on the whole
    training split, parted as a single run does.

    Returns:
        What was measured and `None`, or `None` and why it could not be.
    """
    folder = output / "chosen"
    source = None
    try:
        if config.sweep.folds:
            final = with_strength(base_of(config), row.l1_strength)
            final = with_settings(final, {"measure.split": "test", "name": "chosen"})
            with (output / "logs" / "chosen.txt").open("w", encoding="utf-8") as log, into(log):
                report = pipeline.run(final, folder, forewarn=False)
        else:
            sign = 1.0 if is_classification(config) else -1.0
            source = max(
                (name for name in names_at(chains, row.l1_strength) if name in results),
                key=lambda name: sign * score_of(exported_file(results[name], file)[1])[0],
            )
            report = measuring_again.measure_again(output / "points" / source, folder, "test")
    except Exception as error:
        message = known_failure(error)
        if message is None:
            raise
        return None, NoChoiceError(f"chosen strength {row.l1_strength:.3g}: {message}")
    name, figures = exported_file(report, file)
    budget = config.sweep.budget
    fits = None if budget is None else excess(figures, budget) <= 1
    score, deviation = score_of(figures)
    shown = f"mean squared error {score:.5g} ± {deviation:.3g}"
    if figures["accuracy"] is not None:
        shown = f"accuracy {score:.2%} ± {deviation:.2%}"
    print(
        f"Chosen: strength {row.l1_strength:.3g}, test {shown}, "
        f"{figures['bytes']:,} bytes, chosen/{name}"
    )
    if fits is False:
        # Its folds' files did; this one was trained on more data, or timed at another moment.
        print("This file is beyond sweep.budget, though those that it was chosen by are not")
    chosen = {"l1_strength": row.l1_strength, "run": source, "file": f"chosen/{name}"}
    return chosen | {"fits": fits, **figures}, None


def is_classification(config: Config) -> bool:
    """Whether files are scored by accuracy, else by their mean squared error."""
    return is_decided(config.training, sets.describe(config.data))
