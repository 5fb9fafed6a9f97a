"""One run, from config to report.

    python -m cnn_l1.train --config configs/digits.yaml

Read `run` from top to bottom: it is the whole pipeline, one call a stage.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import keras

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import Config
from cnn_l1.config.packages import check_packages
from cnn_l1.data.augmentation import with_augmentation
from cnn_l1.data.tasks import SeveralTasks
from cnn_l1.export import formats, tflite
from cnn_l1.measure import measurement, on_micro
from cnn_l1.models.setup import Setup, configured
from cnn_l1.process import processor, tables
from cnn_l1.process.failures import OUTPUT, UnfinishedRunError, during, known_failure, reason_of
from cnn_l1.runs import exported_files, manifest, report
from cnn_l1.runs.conclusion import conclusion
from cnn_l1.runs.folders import run_folder
from cnn_l1.sparsity import counting
from cnn_l1.train.dry_run import forewarn_of_formats, forewarn_of_range
from cnn_l1.train.shrinking import shrink_network
from cnn_l1.train.stages import (
    History,
    Run,
    fine_tune,
    seed_everything,
    sparsify,
    start_model,
    threshold_at_the_end,
    train_dense_baseline,
)
from cnn_l1.train.summary import begin_report, describe_data, select_features


def run(
    config: Config,
    output: pathlib.Path,
    overwrite: bool = False,
    watchers: Iterable[keras.callbacks.Callback] = (),
    forewarn: bool = True,
) -> dict[str, Any]:
    """Run the whole pipeline from a config.

    A format that cannot be written loses its own file alone: the report's `refused` has the
    reason. Whatever else fails once the network is trained, `model.keras`, the config, the
    history and a report with the `error` are kept.

    Args:
        config: A `Config`.
        output: Folder of the run, as a `pathlib.Path`.
        overwrite: Whether a run that is there may be replaced.
        watchers: Keras callbacks that see every epoch, after all others.
        forewarn: Whether to try each format on the untrained network, and print which
            files cannot be written. Default `True`.

    Returns:
        The report, as written to `report.json`.

    Raises:
        ConfigError: If data, model and settings do not go together.
        DivergedError: If training diverged.
        UnfinishedRunError: If something failed after training.
    """
    check_packages(config)
    return run_setup(lambda: configured(config), config, output, overwrite, watchers, forewarn)


def run_setup(
    make_setup: Callable[[], Setup],
    config: Config,
    output: pathlib.Path,
    overwrite: bool = False,
    watchers: Iterable[keras.callbacks.Callback] = (),
    forewarn: bool = True,
) -> dict[str, Any]:
    """Run the whole pipeline on a network, data and a task; see `run`.

    Args:
        make_setup: Gives the `Setup`. It is called once the output is known to be free.
        config: The `Config`, which the setup has too.
        output: Folder of the run.
        overwrite: Whether a run that is there may be replaced.
        watchers: Keras callbacks that see every epoch, after all others.
        forewarn: Whether to try each format on the untrained network.
    """
    start = time.monotonic()
    error: Exception | None = None
    processor.warn_of_slow_bfloat16(config.model.dtype_policy)
    with during(OUTPUT), run_folder(output, overwrite) as folder:
        with during(f"data set {config.data.name!r}"):
            setup = make_setup()
        forewarn_of_range(setup)
        if forewarn:
            # Before everything is seeded: a trial must not change the run.
            trial = start_model(setup) if setup.given is None else setup.given
            exported_files.check_formats(trial, config.export.formats)
            samples = setup.dataset.train.sample(formats.TRIED_IMAGES)
            forewarn_of_formats(trial, config, samples)
        # After the data: preparing a set draws random numbers, reading it does not.
        seed_everything(config.seed, config.model.dtype_policy)
        network = start_model(setup)
        exported_files.check_formats(network, config.export.formats)
        logs = folder / "tensorboard" if config.tensorboard else None
        this = Run(setup, logs, tuple(watchers))

        with during("training"):
            trained = with_augmentation(network, config.data.augmentation, config.seed)
            history = sparsify(trained, this)
            threshold_at_the_end(trained, config)
            history += fine_tune(trained, this)
        sparse = tflite.plain_copy(network)
        counts = counting.count(sparse)
        tables.print_layers(counts)

        # From here on the trained network is on the disk.
        tflite.export_keras(sparse, folder / "model.keras")
        (folder / "config.yaml").write_text(configs.dump(config), encoding="utf-8")
        summary = begin_report(this, counts, history)
        try:
            complete(network, sparse, this, history, folder, summary)
        except Exception as failed:
            error = failed
            summary["error"] = known_failure(failed) or reason_of(failed)
        report.write_history(folder / "history.csv", history)
        summary["seconds"] = round(time.monotonic() - start, 1)
        report.write_json(folder / "report.json", summary)
        manifest.write_manifest(folder)
    if error is not None:
        raise UnfinishedRunError(
            f"{summary['error']}. What was trained is kept in {output}"
        ) from error
    print(f"Wrote {output} in {summary['seconds']:.0f} s")
    for line in conclusion(summary, output):
        print(line)
    return summary


def complete(
    network: keras.Model,
    sparse: keras.Model,
    this: Run,
    history: History,
    folder: pathlib.Path,
    summary: dict[str, Any],
) -> None:
    """All that follows the training: smaller network, dense baseline, files, figures.

    Args:
        network: The trained network.
        sparse: Its plain copy.
        this: The `Run`.
        history: Rows of a later fine-tuning are added here.
        folder: Folder of the run.
        summary: The report, which is filled in as things are done.
    """
    config, dataset, task = this.config, this.dataset, this.task
    summary["features"] = select_features(sparse, dataset.about, folder)
    networks = {"": sparse}
    shrunk, summary["removed_channels"] = shrink_network(network, sparse, this, history)
    if shrunk is not None:
        networks["shrunk/"] = shrunk
        summary["shrunk_counts"] = report.counts_as_dict(counting.count(shrunk))
    if config.baseline and this.setup.given is not None:
        networks["given/"] = tflite.plain_copy(this.setup.given)
    elif config.baseline:
        with during("training of the dense baseline"):
            networks["dense/"] = train_dense_baseline(this)
    paths: dict[str, pathlib.Path] = {}
    refused = summary["refused"]
    with during(OUTPUT):
        for prefix, one in networks.items():
            written, not_written = exported_files.export_files(
                one, folder, config, dataset, task, prefix
            )
            paths |= written
            refused.update(not_written)

    seen = dataset.validation
    outputs = {prefix: measurement.predict(n, seen) for prefix, n in networks.items()}
    summary["constant_output"] = measurement.is_constant(outputs[""])
    summary["validation"] = {
        prefix.rstrip("/") or "sparse": scores_of(given, this, seen)
        for prefix, given in outputs.items()
    }
    split = config.measure.split
    with during(f"data set {config.data.name!r}"):
        examples = this.setup.examples()
    summary["data"] = describe_data(this.setup, examples)
    failed = summary["not_measured"]
    measured = exported_files.measure_files(paths, examples, networks, task, config.measure, failed)
    exported_files.remove_wrong(paths, failed, refused)
    summary["files"] = {name: dataclasses.asdict(figures) for name, figures in measured.items()}
    tables.print_files(measured, split=split)
    encoded = exported_files.encode_files(paths, config.export, failed)
    summary["encoded"] = {name: path.stat().st_size for name, path in encoded.items()}
    micro_facts = exported_files.measure_on_micro(
        paths | encoded, examples, task, config.measure, failed
    )
    summary["micro"] = {name: dataclasses.asdict(facts) for name, facts in micro_facts.items()}
    on_micro.print_micro(micro_facts, paths | encoded)


def scores_of(outputs: Any, this: Run, split: Any) -> Any:
    """A network's scores on a split, with the configured metrics; by name for several outputs."""
    task, targets = this.task, this.task.measuring_targets(split)
    if isinstance(task, SeveralTasks):
        each = task.by_output(outputs, targets, task.decide)
        found = {name: measurement.score(*one) for name, one in each.items()}
    else:
        found = measurement.score(outputs, targets, task.decide)
    metrics = task.figures(outputs, split)
    return found | ({"metrics": metrics} if metrics else {})
