"""Many runs along the penalty's strength λ, and one choice by validation data.

    python -m cnn_l1.sweep --config configs/sweep_digits.yaml

Read `sweep` from top to bottom. Every point is a whole run of `cnn_l1.train.pipeline`, with its
own folder; the test split is read once, for the chosen one.
"""

import csv
import dataclasses
import importlib.util
import json
import os
import shutil

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.sweep_settings import SweepConfig
from cnn_l1.errors import CnnL1Error
from cnn_l1.export import formats
from cnn_l1.runs.folders import is_finished
from cnn_l1.sweep.engines import (
    Event,
    Job,
    Plan,
    failure_file,
    into,
    read_failure,
    run_job,
    run_locally,
)
from cnn_l1.sweep.selection import BudgetError, choose, excess, exported_file, make_row, score_of
from cnn_l1.sweep.strengths import (
    bracket,
    largest_linear,
    spaced,
    with_settings,
    with_strength,
)
from cnn_l1.train.dense_baseline import dense_baseline

FILES = ("model_int8.tflite", "model_float32.tflite", "model.keras")
DENSE = "dense"


class NoChoiceError(CnnL1Error, RuntimeError):
    """Not one strength can be chosen."""


def sweep(config, output, address=None):
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
    from cnn_l1.process import tables
    from cnn_l1.runs import pictures, report

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
        report.write_hparams(output / "tensorboard", results)
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
    if error is None:
        summary["chosen"], error = test_chosen(config, chosen, chains, results, file, output)
    if error is not None:
        summary["error"] = str(error)
    report.write_json(output / "sweep.json", summary)
    if error is not None:
        raise error
    print(f"Wrote {output}")
    return summary


def check(config, address=None):
    """Raise `ConfigError` where the settings of a sweep do not go together."""
    settings = config.sweep
    if config.penalty.name == "none":
        raise ConfigError("penalty.name: expected a penalty to sweep. Received: 'none'")
    if config.target is not None:
        raise ConfigError(
            "target: expected nothing, for a sweep moves the strength itself. Received: "
            f"{config.target}"
        )
    if address is not None and settings.engine != "ray":
        raise ConfigError(
            f"--address: expected sweep.engine ray. Received: sweep.engine {settings.engine}"
        )
    if not config.penalty.l1_strength and _is_found_by_trying(config):
        raise ConfigError(
            "penalty.l1_strength: expected more than 0, from where the largest strength is "
            "looked for. Received: 0. Or set sweep.max_strength."
        )
    plan_chains(config, settings.strengths or (settings.max_strength or 1.0,))
    written = {"model.keras"} | {f"model_{kind}.tflite" for kind in config.export.formats}
    if settings.file is not None and settings.file not in written:
        raise ConfigError(
            f"sweep.file: expected a file that export.formats writes ({', '.join(sorted(written))})"
            f". Received: {settings.file!r}"
        )
    formats.check_packages(config)
    budget = settings.budget
    micro = counted_file(config).endswith(".tflite")
    if budget is not None and not micro and (budget.max_latency_ms or budget.max_ram_bytes):
        raise ConfigError(
            "sweep.budget: expected a TFLite file in sweep.file, whose latency and RAM can be "
            f"measured. Received: {counted_file(config)!r}"
        )
    if settings.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "sweep.engine: expected Ray to be installed for 'ray' (pip install "
            "'cnn_l1[ray]'). Received: no such package"
        )


def describe_runs(config):
    """One line on how many runs a sweep has, and at which strengths."""
    settings = config.sweep
    largest = settings.max_strength or 1.0
    strengths = settings.strengths or spaced(largest, settings.min_ratio, settings.points)
    count = sum(map(len, plan_chains(config, strengths)))
    shown = ", ".join(f"{strength:.3g}" for strength in sorted(strengths))
    if settings.strengths is None and settings.max_strength is None:
        shown = f"{shown} of the largest, which is found first"
    return f"{count} runs, at strengths {shown}"


def check_network(config):
    """Raise `ConfigError` where data, network and rule do not go together.

    Before anything is made or run, for every point would fail of it.
    """
    from cnn_l1.models.untrained import untrained_network
    from cnn_l1.runs import exported_files
    from cnn_l1.train.dry_run import forewarn_of_formats

    network, about = untrained_network(config)
    if config.sweep.rule == "max_drop" and about.class_names is None:
        raise ConfigError(
            "sweep.rule: expected 'best' or 'one_standard_error', for targets that are numbers. "
            "Received: 'max_drop', which counts points of accuracy"
        )
    exported_files.check_formats(network, config.export.formats)
    forewarn_of_formats(network, config, formats.made_up_samples(about.input_shape))


def check_folder(output, config, overwrite=False, resume=False):
    """Raise `ConfigError` where something is in the way, or is another sweep."""
    mark = output / "config.yaml"
    there = _is_there(output)
    if there and not output.is_dir():
        raise ConfigError(f"--output: expected a folder. Received: the file {output}")
    if there and (resume or overwrite) and not (mark.is_file() and (output / "points").is_dir()):
        flag = "--resume" if resume else "--overwrite"
        raise ConfigError(
            f"{flag}: expected the folder of a sweep. Received: {output}, which holds something "
            "else and is left alone."
        )
    if there and resume:
        if same_results(configs.load(mark), config):
            return
        raise ConfigError(
            f"--resume: expected the config that the sweep in {output} began with. Received: "
            f"another one; see {mark}"
        )
    if there and not overwrite:
        raise ConfigError(
            f"--output: expected a folder that does not exist yet. Received: {output}, which "
            "does. Give --resume to go on, --overwrite to replace it, or another --output."
        )


def _is_there(output):
    return os.path.lexists(output) and (not output.is_dir() or any(output.iterdir()))


def open_folder(output, config, overwrite=False, resume=False):
    """Make the folder of a sweep, or find the one to go on with.

    Raises:
        ConfigError: If something is in the way, or what is there is another sweep.
    """
    check_folder(output, config, overwrite, resume)
    if _is_there(output):
        if resume:
            return
        shutil.rmtree(output)
    (output / "points").mkdir(parents=True)
    (output / "config.yaml").write_text(configs.dump(config), encoding="utf-8")


# What may differ between the beginning of a sweep and its end: no point depends on it.
FREE = ("workers", "engine", "early_stopping", "rule", "max_drop", "budget", "file")


def same_results(one, other):
    """Whether the points of two sweeps are the same, so that one can go on with another's."""
    return _what_counts(one) == _what_counts(other)


def _what_counts(config):
    free = {name: SweepConfig.model_fields[name].default for name in FREE}
    update = {
        "expected_result": "",
        "measure": base_of(config).measure,
        "sweep": config.sweep.model_copy(update=free),
    }
    return config.model_copy(update=update)


def find_strengths(config, output):
    """The path's strengths, ascending; found once, and kept for a resumed sweep."""
    settings = config.sweep
    if settings.strengths is not None:
        return tuple(sorted(settings.strengths))
    largest = settings.max_strength
    if largest is None:
        kept = output / "max_strength.json"
        if kept.is_file():
            largest = json.loads(kept.read_text(encoding="utf-8"))["max_strength"]
        else:
            largest = find_largest(config, output)
            written = output / ".max_strength.json"
            written.write_text(json.dumps({"max_strength": largest}) + "\n", encoding="utf-8")
            written.replace(kept)  # in one step: half a file could not be gone on with
    return spaced(largest, settings.min_ratio, settings.points)


def find_largest(config, output):
    """The smallest strength that leaves nothing: computed, or found by trying."""
    if _is_in_closed_form(config):
        largest = largest_linear(config)
        print(f"Largest strength: {largest:.6g}, at which every weight is zero")
        return largest

    def is_constant(strength):
        point = with_strength(base_of(config), strength)
        quick: dict = {
            "fine_tuning.epochs": 0,
            "export.formats": [],
            "shrink.enabled": False,
            "training.empty_layers": "warn",  # what is looked for is an empty network
            "tensorboard": False,
        }
        point = with_settings(point, quick)
        folder = output / "bracket"
        job = Job(f"{strength:.6g}", point.model_dump(mode="json"), strength)
        event = run_job(folder, job)
        if event.state == "failed":
            raise NoChoiceError(f"strength {strength:.3g}: {event.reason}")
        text = (folder / "points" / job.name / "report.json").read_text(encoding="utf-8")
        constant = json.loads(text)["constant_output"]
        print(f"Strength {strength:.3g}: {'nothing' if constant else 'something'} is left")
        return constant

    return bracket(config.penalty.l1_strength, is_constant)


def _is_in_closed_form(config):
    # Under a concave shape, weights that are large resist strengths that keep zeros at 0.
    is_convex = config.penalty.name in ("l1", "l1l2") and config.penalty.shape == "l1"
    return config.model.name == "linear" and is_convex


def _is_found_by_trying(config):
    settings = config.sweep
    given = settings.strengths is not None or settings.max_strength is not None
    return not given and not _is_in_closed_form(config)


def base_of(config):
    """What all points of a sweep have in common."""
    budget = config.sweep.budget
    settings: dict = {
        "baseline": False,
        "measure.split": "validation",
        "measure.ram": config.measure.ram or bool(budget is not None and budget.max_ram_bytes),
        "sweep": {},
    }
    return with_settings(config, settings)


def needs_dense(config):
    """Whether the dense baseline is trained as well."""
    return config.baseline or config.sweep.rule == "max_drop"


def plan_chains(config, strengths):
    """Chains of `Job`s: one job each, or one chain for each fold and seed along the path."""
    settings = config.sweep
    base = base_of(config)
    seeds = settings.seeds if settings.seeds is not None else (config.seed,)
    folds = range(settings.folds) if settings.folds else (None,)
    chains = []
    for seed in seeds:
        for fold in folds:
            repeat: dict = {"seed": seed}
            if fold is not None:
                repeat["data.fold"] = [fold, settings.folds]
            here = with_settings(base, repeat)
            jobs = []
            for number, strength in enumerate(strengths):
                point = with_strength(here, strength)
                name = job_name(number, fold, seed)
                jobs.append(Job(name, named(point, name), strength))
            if settings.path == "independent":
                chains += [[job] for job in jobs]
            else:
                ordered = jobs if settings.path == "dense_to_sparse" else jobs[::-1]
                warm = [dataclasses.replace(job, warm=True) for job in ordered[1:]]
                chains.append([ordered[0], *warm])
            if needs_dense(config):
                name = job_name(DENSE, fold, seed)
                chains.append([Job(name, named(dense_baseline(here), name))])
    return chains


def job_name(number, fold, seed):
    """The folder of a point's run."""
    point = number if number == DENSE else f"point_{number:03d}"
    return point + ("" if fold is None else f"_fold_{fold}") + f"_seed_{seed}"


def named(config, name):
    data = config.model_dump(mode="json")
    data["name"] = name
    return data


def execute(config, chains, output, address=None):
    """Run what is not there yet, showing progress; returns `{job: Event}`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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

        def on_event(event):
            events[event.name] = event
            progress.advance(bar)
            if event.state != "there":
                progress.console.print(f"{event.name}: {event.state} {event.reason}".rstrip())

        if settings.engine == "ray":
            from cnn_l1.sweep.ray_engine import run_on_ray

            run_on_ray(plan, on_event, address, settings.early_stopping)
        else:
            run_locally(plan, on_event)
    for chain in chains:
        for job in chain:
            events.setdefault(job.name, Event(job.name, "failed", "it was never run"))
    return events


def _forget_failures(plan, keep_stopped):
    """Remove the reasons of an earlier part of the sweep, for its jobs are tried again.

    Not of those that were stopped: without the others beside it nothing would stop it again.
    """
    for job in (job for chain in plan.chains for job in chain):
        event = read_failure(plan.folder, job.name)
        if event is not None and not (keep_stopped and event.state == "stopped"):
            failure_file(plan.folder, job.name).unlink()


def is_classification(config):
    """Whether the data's targets are classes."""
    from cnn_l1.data import sets as data

    return data.describe(config.data).class_names is not None


def counted_file(config):
    """The exported file by which a sweep chooses."""
    if config.sweep.file is not None:
        return config.sweep.file
    written = [f"model_{kind}.tflite" for kind in config.export.formats]
    return next((file for file in FILES if file in written), "model.keras")


def read_results(output, chains):
    """`{job: its report}` of the runs that are done, in the order of the names."""
    results = {}
    for job in sorted((job for chain in chains for job in chain), key=lambda job: job.name):
        path = output / "points" / job.name / "report.json"
        if is_finished(path.parent):
            report = json.loads(path.read_text(encoding="utf-8"))
            node = output / "nodes" / f"{job.name}.txt"
            report["node"] = node.read_text(encoding="utf-8").strip() if node.is_file() else None
            results[job.name] = report
    return results


def names_at(chains, strength):
    """The jobs of one strength, sorted."""
    return sorted(job.name for chain in chains for job in chain if job.strength == strength)


def row_of(strength, chains, results, file, budget):
    """The `Row` of one strength."""
    names = names_at(chains, strength)
    reports = [results[name] for name in names if name in results]
    return make_row(strength, reports, len(names) - len(reports), file, budget)


def decide(config, rows, dense):
    """The chosen `Row` and `None`, or `None` and why there is none."""
    settings = config.sweep
    larger = is_classification(config)
    if settings.rule == "max_drop" and dense.score is None:
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


def test_chosen(config, row, chains, results, file, output):
    """Measure the chosen model on the test split, once.

    With one validation part the model is the run whose own validation score is best.
    Cross-validation chooses a strength; a network is then trained at it on the whole
    training split, parted as a single run does.

    Returns:
        What was measured and `None`, or `None` and why it could not be.
    """
    from cnn_l1.process.failures import known_failure
    from cnn_l1.train import measure_again as measuring_again
    from cnn_l1.train import pipeline

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


def read_paths(output, config, strengths):
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


def _values(folder, config):
    table = folder / "features.csv"
    if config.model.name == "linear" and table.is_file():
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if "weight" in rows[0]:
            return "weight", {row["feature"]: float(row["weight"]) for row in rows}
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    layers = report["counts"]["layers"]
    return "sparsity of the layer", {layer["layer"]: layer["sparsity"] for layer in layers}
