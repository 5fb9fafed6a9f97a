"""Many runs along the penalty's strength λ, and one choice by validation data.

    python -m cnn_l1.sweep --config configs/sweep_digits.yaml

Read `sweep` from top to bottom. Every point is a whole run of `cnn_l1.train.pipeline`, with its
own folder; the test split is read once, for the chosen one.
"""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.export import formats
from cnn_l1.models.untrained import untrained_network
from cnn_l1.process import tables
from cnn_l1.runs import exported_files, pictures, report
from cnn_l1.runs.folders import is_finished
from cnn_l1.sweep.choice import decide, is_classification, row_of, test_chosen
from cnn_l1.sweep.engines import Event, Job, Plan, failure_file, read_failure, run_locally
from cnn_l1.sweep.folder import read_results
from cnn_l1.sweep.hparams import write_hparams
from cnn_l1.sweep.largest_strength import find_strengths
from cnn_l1.sweep.plan import counted_file, job_name, needs_dense, plan_chains
from cnn_l1.train.dry_run import forewarn_of_formats


def sweep(config: Config, output: pathlib.Path, address: str | None = None) -> dict[str, Any]:
    """Run a whole sweep.

    Args:
        config: A `Config`; its `sweep` section says what to do.
        output: Folder of the sweep, as a `pathlib.Path`, that `open_folder` made.
        address: Address of a Ray cluster, or `None`.

    Returns:
        What is written to `sweep.json`.

    Raises:
        BudgetError: If no model fits the budget.
        NoChoiceError: If no run ended well, or none is good enough for the rule.
    """

    settings = config.sweep
    # An earlier choice's, which may be another one, or none any more.
    shutil.rmtree(output / "chosen", ignore_errors=True)
    strengths = find_strengths(config, output)
    chains = plan_chains(config, strengths)
    events = execute(config, chains, output, address)
    results = read_results(output, chains)
    file = counted_file(config)
    budget = settings.budget
    rows = [row_of(s, chains, results, file, budget) for s in strengths]
    dense = row_of(0.0, chains, results, file, budget) if needs_dense(config) else None
    chosen, error = decide(config, rows, dense)
    rows = [dataclasses.replace(row, chosen=row is chosen) for row in rows]
    table = ([dense] if dense is not None else []) + rows
    classes = is_classification(config)
    tables.print_sweep(table, classes)
    for event in events.values():
        if event.state in ("failed", "stopped"):
            print(f"{event.name}: {event.state}: {event.reason}")
    report.write_rows(output / "sweep.csv", table)
    pictures.draw_sweep(output / "pictures", rows, dense, classes)
    label, paths = read_paths(output, config, strengths)
    if paths:
        pictures.draw_paths(output / "pictures" / "path", strengths, paths, label, chosen)
    if config.tensorboard:
        shutil.rmtree(output / "tensorboard", ignore_errors=True)
        write_hparams(output / "tensorboard", results)
    summary = {
        "name": config.name,
        "expected_result": config.expected_result,
        "rule": settings.rule,
        "budget": None if budget is None else budget.model_dump(),
        "file": file,
        "rows": [dataclasses.asdict(row) for row in table],
        "runs": [{"name": name, **result} for name, result in results.items()],
        "events": [dataclasses.asdict(event) for event in events.values()],
        "error": None,
        "chosen": None,
    }
    if chosen is not None and error is None:
        summary["chosen"], error = test_chosen(config, chosen, chains, results, file, output)
    if error is not None:
        summary["error"] = str(error)
    report.write_json(output / "sweep.json", summary)
    if error is not None:
        raise error
    print(f"Wrote {output}")
    return summary


def check_network(config: Config) -> None:
    """Raise `ConfigError` where data, network and rule do not go together.

    Before anything is made or run, for every point would fail of it.
    """

    network, about = untrained_network(config)
    if about.outputs:
        raise ConfigError(
            "training.outputs: expected a network with one output, for a sweep chooses by one "
            f"score. Received: {', '.join(about.outputs)}"
        )
    if config.sweep.rule == "max_drop" and not is_classification(config):
        raise ConfigError(
            "sweep.rule: expected 'best' or 'one_standard_error', for targets that are numbers. "
            "Received: 'max_drop', which counts points of accuracy"
        )
    exported_files.check_formats(network, config.export.formats)
    forewarn_of_formats(network, config, formats.made_up_samples(about.input_shape))


def execute(
    config: Config,
    chains: list[list[Job]],
    output: pathlib.Path,
    address: str | None = None,
) -> dict[str, Event]:
    """Run what is not there yet, showing progress; returns `{job: Event}`."""

    settings = config.sweep
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    plan = Plan(
        folder=output,
        chains=chains,
        threads=settings.threads,
        workers=settings.workers or max(1, (cores or 1) // settings.threads),
        score="accuracy" if is_classification(config) else "data_loss",
        larger_is_better=is_classification(config),
        epochs=config.training.epochs + config.fine_tuning.epochs,
    )
    _forget_failures(plan, settings.early_stopping is not None)
    events: dict[str, Event] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn()) as progress:
        bar = progress.add_task("runs", total=sum(map(len, chains)))

        def on_event(event: Event) -> None:
            events[event.name] = event
            progress.advance(bar)
            if event.state != "there":
                progress.console.print(f"{event.name}: {event.state} {event.reason}".rstrip())

        if settings.engine == "ray":
            # An extra package, which a local sweep does without.
            from cnn_l1.sweep.ray_engine import run_on_ray

            run_on_ray(plan, on_event, address, settings.early_stopping)
        else:
            run_locally(plan, on_event)
    for chain in chains:
        for job in chain:
            events.setdefault(job.name, Event(job.name, "failed", "it was never run"))
    return events


def _forget_failures(plan: Plan, keep_stopped: bool) -> None:
    """Remove the reasons of an earlier part of the sweep, for its jobs are tried again.

    Not of those that were stopped: without the others beside it nothing would stop it again.
    """
    for job in (job for chain in plan.chains for job in chain):
        event = read_failure(plan.folder, job.name)
        if event is not None and not (keep_stopped and event.state == "stopped"):
            failure_file(plan.folder, job.name).unlink()


def read_paths(
    output: pathlib.Path, config: Config, strengths: Sequence[float]
) -> tuple[str, dict[str, list[float | None]]]:
    """What to draw along the path: weights of a linear model, else sparsity by layer.

    Of the first fold and seed. Returns what it is, and `{name: [value or None, …]}`.
    """
    fold = 0 if config.sweep.folds else None
    seed = (config.sweep.seeds or (config.seed,))[0]
    label = ""
    paths: dict[str, list] = {}
    for position in range(len(strengths)):
        folder = output / "points" / job_name(position, fold, seed)
        if not is_finished(folder):
            continue
        label, values = _values(folder, config)
        for key, value in values.items():
            paths.setdefault(key, [None] * len(strengths))[position] = value
    return label, paths


def _values(folder: pathlib.Path, config: Config) -> tuple[str, dict[str, float]]:
    table = folder / "features.csv"
    if config.model.name == "linear" and table.is_file():
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if "weight" in rows[0]:
            return "weight", {row["feature"]: float(row["weight"]) for row in rows}
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    layers = report["counts"]["layers"]
    return "sparsity of the layer", {layer["layer"]: layer["sparsity"] for layer in layers}
