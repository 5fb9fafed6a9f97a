"""One run, from config to report.

    python -m cnn_l1.train --config configs/digits.yaml

Read `run` from top to bottom: it is the whole pipeline, one call a stage.
"""

import dataclasses
import json
import pathlib
import platform
import time
import warnings
from typing import Any

from cnn_l1.config import loading as configs
from cnn_l1.export import formats
from cnn_l1.process import tables
from cnn_l1.process.interrupt import fit_stoppably
from cnn_l1.runs import manifest
from cnn_l1.runs.conclusion import conclusion
from cnn_l1.runs.folders import run_folder
from cnn_l1.train.dense_baseline import dense_baseline


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage of a run needs.

    Attributes:
        config: The `Config`.
        dataset: The `data.Data`.
        task: The `tasks.Task`.
        statistics: The `models.InputStatistics` of the training split.
        logs: Folder of TensorBoard's logs, or `None`.
        watchers: Further Keras callbacks, such as a progress display's.
    """

    config: Any
    dataset: Any
    task: Any
    statistics: Any = None
    logs: Any = None
    watchers: tuple = ()


def run(config, output, overwrite=False, watchers=(), forewarn=True):
    """Run the whole pipeline.

    A format that cannot be written loses its own file alone: the report's `refused` has the
    reason. Whatever else fails once the network is trained, `model.keras`, the config, the
    history and a report with the `error` are kept.

    Args:
        config: A `Config`.
        output: Folder of the run, as a `pathlib.Path`.
        overwrite: Whether a run that is there may be replaced.
        watchers: Keras callbacks that see every epoch, behind all others.
        forewarn: Whether to try each format on the untrained network, and print which
            files cannot be written. Default `True`.

    Returns:
        The report, as written to `report.json`.

    Raises:
        ConfigError: If data, model and settings do not go together.
        DivergedError: If training diverged.
        UnfinishedRunError: If something failed after training.
    """
    from cnn_l1.data import sets, tasks
    from cnn_l1.data.augmentation import with_augmentation
    from cnn_l1.export import tflite
    from cnn_l1.process import processor
    from cnn_l1.process.failures import OUTPUT, UnfinishedRunError, during, known_failure, reason_of
    from cnn_l1.runs import exported_files, report
    from cnn_l1.sparsity import counting

    start = time.monotonic()
    error = None
    formats.check_packages(config)
    processor.warn_of_slow_bfloat16(config.model.dtype_policy)
    with during(OUTPUT), run_folder(output, overwrite) as folder:
        with during(f"data set {config.data.name!r}"):
            dataset = sets.load(config.data, config.seed)
            statistics = dataset.statistics()
        task = tasks.task_of(config.training.loss, dataset.about)
        if forewarn:
            # Before everything is seeded: a trial must not change the run.
            trial = start_model(config, dataset, task, statistics)
            exported_files.check_formats(trial, config.export.formats)
            forewarn_of_formats(trial, config, dataset.train.sample(formats.TRIED_IMAGES))
        # Behind the data: preparing a set draws random numbers, reading it does not.
        seed_everything(config.seed, config.model.dtype_policy)
        network = start_model(config, dataset, task, statistics)
        exported_files.check_formats(network, config.export.formats)
        logs = folder / "tensorboard" if config.tensorboard else None
        this = Run(config, dataset, task, statistics, logs, tuple(watchers))

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
        summary = begin_report(this, counts)
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


def begin_report(this, counts):
    """What a report says of a network that is trained, and of nothing else yet."""
    from cnn_l1.runs import report

    config = this.config
    return {
        "name": config.name,
        "seed": config.seed,
        "error": None,
        "expected_result": config.expected_result,
        "data": describe_data(this.dataset, config.measure.split, None),
        "method": config.training.method,
        "l1_strength": config.penalty.l1_strength,
        "counts": report.counts_as_dict(counts),
        "shrunk_counts": None,
        "features": None,
        "removed_channels": {},
        "constant_output": None,
        "validation": {},
        "files": {},
        "refused": {},
        "encoded": {},
        "micro": {},
        "not_measured": {},
        "seconds": None,
        "versions": versions(),
        "latency": f"CPU time of one input, one thread, files in turn, {platform.machine()}",
    }


def complete(network, sparse, this, history, folder, summary):
    """All that follows the training: smaller network, dense baseline, files, figures.

    Args:
        network: The trained network.
        sparse: Its plain copy.
        this: The `Run`.
        history: Rows of a later fine-tuning are added here.
        folder: Folder of the run.
        summary: The report, which is filled in as things are done.
    """
    from cnn_l1.measure import measurement, on_micro
    from cnn_l1.process.failures import OUTPUT, during
    from cnn_l1.runs import exported_files, report
    from cnn_l1.sparsity import counting

    config, dataset, task = this.config, this.dataset, this.task
    summary["features"] = select_features(sparse, dataset.about, folder)
    networks = {"": sparse}
    shrunk, summary["removed_channels"] = shrink_network(network, sparse, this, history)
    if shrunk is not None:
        networks["shrunk/"] = shrunk
        summary["shrunk_counts"] = report.counts_as_dict(counting.count(shrunk))
    if config.baseline:
        with during("training of the dense baseline"):
            networks["dense/"] = train_dense_baseline(this)
    paths: dict[str, pathlib.Path] = {}
    refused = summary["refused"]
    with during(OUTPUT):
        for prefix, one in networks.items():
            written, not_written = exported_files.export_files(one, folder, config, dataset, prefix)
            paths |= written
            refused.update(not_written)

    seen = dataset.validation
    outputs = {prefix: measurement.predict(n, seen) for prefix, n in networks.items()}
    summary["constant_output"] = measurement.is_constant(outputs[""])
    summary["validation"] = {
        prefix.rstrip("/") or "sparse": measurement.score(given, seen.targets, task.decide)
        for prefix, given in outputs.items()
    }
    split = config.measure.split
    with during(f"data set {config.data.name!r}"):
        examples = dataset.load_test() if split == "test" else seen
    summary["data"] = describe_data(dataset, split, examples)
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


def dry_run(config):
    """Print the resolved config, the model's layers, and files that cannot be written."""
    from cnn_l1.models.untrained import untrained_network
    from cnn_l1.runs import exported_files

    model, about = untrained_network(config)
    exported_files.check_formats(model, config.export.formats)
    print(configs.dump(config))
    model.summary(line_length=80)
    forewarn_of_formats(model, config, formats.made_up_samples(about.input_shape))


def forewarn_of_formats(network, config, samples):
    """Print which files cannot be written of a network, before it is trained."""
    for name, reason in formats.try_formats(network, config, samples).items():
        print(f"Will not be written: {name}: {reason.removeprefix(f'{name}: ')}")


def start_model(config, dataset, task, statistics):
    """The network as training finds it: of random weights, or of those that are given."""
    from cnn_l1.models import builders
    from cnn_l1.models.untrained import new_network

    model = new_network(config, dataset.about.input_shape, task.outputs, statistics)
    if config.model.initial_weights is not None:
        builders.load_weights(model, config.model.initial_weights)
    return model


def seed_everything(seed, dtype_policy):
    """Seed Python, NumPy and Keras, and set the dtype policy for new layers."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(dtype_policy)


def sparsify(model, this):
    """The stage under the penalty; returns its history, one dict an epoch."""
    from cnn_l1.sparsity import callbacks, penalties, targets

    config = this.config
    training, thresholding = config.training, config.thresholding
    steps = steps_per_epoch(this) * training.epochs
    scheduled = thresholding is not None and thresholding.start_epochs is not None
    optimizer = make_optimizer(config.optimizer, config.optimizer.learning_rate, steps)
    strength = [callbacks.LogValue("l1_strength", config.penalty.l1_strength)]
    if config.penalty.name == "none":
        strength = [callbacks.LogValue("l1_strength", 0.0)]
    elif training.method == "proximal":
        penalties.detach(model)
        optimizer = callbacks.Proximal(
            optimizer,
            threshold=training.proximal_threshold,
            include=held_variables(config.penalty),
            variable_scales=config.target is not None and config.target.layers is not None,
        )
        mover = callbacks.StrengthRamp(training.ramp_epochs)
        if config.target is not None:
            mover = targets.TargetSparsity(
                **config.target.model_dump(), empty_layers=training.empty_layers
            )
        strength = [mover, *strength]
        if config.penalty.shape == "reweighted":
            strength = [callbacks.Reweight(), *strength]
    if scheduled and not isinstance(optimizer, callbacks.HoldZeros):
        optimizer = callbacks.HoldZeros(
            optimizer, hold_zeros=False, include=held_variables(config.penalty)
        )
    steering = strength
    if scheduled:
        steering += [
            callbacks.Threshold(
                thresholding.threshold,
                thresholding.relative_threshold,
                thresholding.start_epochs,
                thresholding.every_epochs,
                training.empty_layers,
                kind,
            )
            for kind in config.penalty.zeroes
        ]
    if training.early_stopping_epochs:
        patience = training.early_stopping_epochs
        start = training.ramp_epochs if config.target is None else config.target.by_epochs
        steering.append(_early_stopping("val_loss", patience, False, start))
    return fit(model, optimizer, this, training.epochs, steering)


def threshold_at_the_end(model, config):
    """The thresholding that is due after the stage under the penalty."""
    from cnn_l1.sparsity import callbacks

    thresholding = config.thresholding
    if thresholding is None:
        if config.penalty.name == "slimming":
            callbacks.zero_shifts_without_scale(model)
        return
    for kind in config.penalty.zeroes:
        callbacks.apply_threshold(
            model,
            thresholding.threshold,
            thresholding.relative_threshold,
            config.training.empty_layers,
            kind,
        )


def fine_tune(model, this):
    """The stage without the penalty, zeros held exactly; keeps the best epoch."""
    return tune(model, this, this.config.fine_tuning.epochs, this.config.training.epochs)


def tune(model, this, epochs, first_epoch):
    """Train without penalty, zeros held exactly, and keep the best epoch."""
    from cnn_l1.sparsity import callbacks, penalties

    config, task = this.config, this.task

    if not epochs:
        return []
    tuning = config.fine_tuning
    penalties.attach(model, None, kernels_only=False)
    rate = tuning.learning_rate or config.optimizer.learning_rate
    steps = steps_per_epoch(this) * epochs
    optimizer = make_optimizer(config.optimizer, rate, steps)
    if config.penalty.name != "none" or config.thresholding is not None:
        optimizer = callbacks.HoldZeros(optimizer, include=held_variables(config.penalty))
    score, larger = f"val_{task.score}", task.larger_is_better
    steering = [callbacks.LogValue("l1_strength", 0.0), callbacks.BestWeights(score, larger)]
    if tuning.early_stopping_epochs:
        steering.append(_early_stopping(score, tuning.early_stopping_epochs, larger))
    return fit(model, optimizer, this, epochs, steering, first_epoch)


def steps_per_epoch(this):
    """Training steps in an epoch."""
    training = this.config.training
    return training.steps_per_epoch or this.dataset.train.batches_per_epoch(training.batch_size)


def steps_per_execution(training):
    """Steps in one call of the compiled function, at most as many as are configured.

    Where an epoch's steps are counted, Keras makes whole calls only: they must come out
    even, or the epoch would be longer than asked for, and longer than its schedule.
    """
    most, steps = training.steps_per_execution, training.steps_per_epoch
    if steps is None:
        return most
    return max(n for n in range(1, min(most, steps) + 1) if steps % n == 0)


def held_variables(penalty):
    """Where zeros are held: wherever the penalty can make some."""
    everywhere = penalty.biases or penalty.batch_norm or penalty.zeroes != ("weights",)
    return "all" if everywhere else "kernels"


def select_features(sparse, about, folder):
    """Which inputs are still read, as a table, a picture and a line; `None` if all are."""
    from cnn_l1.graph import features
    from cnn_l1.runs import pictures

    found = features.read_features(sparse)
    if found is None:
        return None
    names = found.names(about.feature_names)
    features.write_features(folder / "features.csv", found, about.feature_names)
    pictures.draw_features(folder / "features", found, about.feature_names)
    chosen = [name for name, taken in zip(names, found.selected, strict=True) if taken]
    listed = " ".join(chosen[:40]) + (" …" if len(chosen) > 40 else "")
    print(f"{len(chosen)} of {len(names)} features have a weight left: {listed}")
    summary = {"features": len(names), "selected": chosen}
    if about.true_coefficients is not None:
        summary["support"] = support = features.support_recovery(found, about.true_coefficients)
        print(
            f"Of {support['true']} features that truly count, {support['found']} are found, "
            f"and {support['false']} others"
        )
    return summary


NAMED_CHANNELS = 32  # dead ones are named on the console up to here; report.json has all


def shrink_network(network, sparse, this, history):
    """The network without its empty channels, and which channels those are.

    Where `shrink.fine_tuning_epochs` asks for fine-tuning and no channel can go, the network
    as it is is fine-tuned.

    Args:
        network: The trained network.
        sparse: Its plain copy, which the smaller one must equal.
        this: The `Run`.
        history: Rows of a fine-tuning behind it are added here.

    Returns:
        The network, or `None` where nothing can go and nothing is fine-tuned, and
        `{layer: channel numbers}`.
    """
    from cnn_l1.data.augmentation import with_augmentation
    from cnn_l1.export import tflite
    from cnn_l1.process.failures import during
    from cnn_l1.shrink import removal

    config = this.config
    epochs = config.shrink.fine_tuning_epochs
    if not config.shrink.enabled:
        return None, {}
    plan = removal.plan_shrink(network, config.shrink.round_to, config.shrink.allow_empty)
    print(plan)
    removed = {p.name: list(p.removed_channels) for p in plan.layers if p.removed_channels}
    if sum(map(len, removed.values())) <= NAMED_CHANNELS:
        for name, channels in removed.items():
            print(f"Dead in {name}: {', '.join(map(str, channels))}")
    if plan.removes_anything:
        small = removal.apply_shrink(network, plan)
        shrunk = tflite.plain_copy(small)
        removal.check_same_output(sparse, shrunk, this.dataset.validation.sample(256))
    elif epochs:
        print("No channel can go: shrunk/ is the network as it is, fine-tuned")
        small = network
    else:
        return None, {}
    if epochs:
        first = config.training.epochs + config.fine_tuning.epochs
        with during("fine-tuning of the shrunk network"):
            trained = with_augmentation(small, config.data.augmentation, config.seed)
            history += tune(trained, this, epochs, first)
        shrunk = tflite.plain_copy(small)
    return shrunk, removed


def train_dense_baseline(this):
    """The same network on the same data for the same stages and epochs, without penalty."""
    from cnn_l1.data.augmentation import with_augmentation
    from cnn_l1.export import tflite

    print("Dense baseline: the same run without penalty")
    config = dense_baseline(this.config)
    seed_everything(config.seed, config.model.dtype_policy)
    network = start_model(config, this.dataset, this.task, this.statistics)
    alone = dataclasses.replace(this, config=config, logs=None, watchers=())
    trained = with_augmentation(network, config.data.augmentation, config.seed)
    sparsify(trained, alone)
    fine_tune(trained, alone)
    if config.shrink.fine_tuning_epochs:
        # As it is trained behind shrinking: its augmentation starts anew.
        trained = with_augmentation(network, config.data.augmentation, config.seed)
        first = config.training.epochs + config.fine_tuning.epochs
        tune(trained, alone, config.shrink.fine_tuning_epochs, first)
    return tflite.plain_copy(network)


def fit(model, optimizer, this, epochs, steering, first_epoch=0):
    """Compile and fit one stage; returns its history, one dict an epoch."""
    import keras

    from cnn_l1.models import fused
    from cnn_l1.sparsity import callbacks, misuse

    config, dataset, task = this.config, this.dataset, this.task
    training = config.training
    # Totals before the progress bar, so that it shows them; layers behind it.
    monitor = callbacks.SparsityMonitor(per_layer=False, empty_layers=training.empty_layers)
    watching = [
        callbacks.StopOnNaN(),
        monitor,
        keras.callbacks.ProgbarLogger(),
        callbacks.LogLayers(monitor),
    ]
    if this.logs is not None:
        watching.append(
            keras.callbacks.TensorBoard(str(this.logs), histogram_freq=1, write_graph=False)
        )
    batches = task.encode(dataset.train.training_batches(training.batch_size, config.seed))
    if training.steps_per_epoch is not None:
        batches = batches.repeat()
    with warnings.catch_warnings(), fused.fused_batch_norm(model):
        # Keras warns that a shuffled tf.data.Dataset is not shuffled again.
        warnings.filterwarnings("ignore", message=".*shuffle=True.*")
        warnings.simplefilter("always", callbacks.EmptyLayerWarning)
        if training.method == "subgradient":  # asked for, to see what it does
            warnings.simplefilter("ignore", misuse.MisuseWarning)
        model.compile(
            optimizer=optimizer,
            loss=task.keras_loss(),
            metrics=task.keras_metrics(),
            steps_per_execution=steps_per_execution(training),
            jit_compile=training.jit_compile,
        )
        fitted = fit_stoppably(
            model,
            batches,
            steps_per_epoch=training.steps_per_epoch,
            validation_data=task.encode(dataset.validation.evaluation_batches()),
            epochs=first_epoch + epochs,
            initial_epoch=first_epoch,
            callbacks=[*steering, *watching, *this.watchers],
        )
    columns = fitted.history
    rows = []
    for position, epoch in enumerate(fitted.epoch):
        row = {"epoch": epoch + 1}
        row.update({name: float(values[position]) for name, values in columns.items()})
        rows.append(row)
    return rows


def make_optimizer(config, learning_rate, steps):
    """A Keras optimizer with its schedule over `steps` updates."""
    import keras

    # Keras hands a schedule the count of micro-steps, so accumulation changes nothing.
    updates = max(1, steps)
    schedules, schedule = keras.optimizers.schedules, config.schedule
    rate = learning_rate
    if schedule.name == "cosine":
        rate = schedules.CosineDecay(learning_rate, updates, alpha=schedule.final_fraction)
    elif schedule.name == "linear":
        rate = schedules.PolynomialDecay(
            learning_rate, updates, learning_rate * schedule.final_fraction
        )
    elif schedule.name == "exponential":
        rate = schedules.ExponentialDecay(learning_rate, updates, schedule.final_fraction)
    given = config.model_dump(exclude={"name", "learning_rate", "schedule"}, exclude_none=True)
    return optimizer_class(config.name)(learning_rate=rate, **given)


def optimizer_class(name):
    """The Keras class behind a config's `optimizer.name`."""
    import keras

    # By class name: `keras.optimizers.get` does not know all of its optimizers.
    return next(cls for key, cls in vars(keras.optimizers).items() if key.lower() == name)


def _early_stopping(monitor, patience, larger_is_better, start=0):
    import keras

    mode = "max" if larger_is_better else "min"
    return keras.callbacks.EarlyStopping(
        monitor=monitor, patience=patience, mode=mode, start_from_epoch=start
    )


def measure_again(source, output, split):
    """Copy a finished run and measure its files on another split.

    Args:
        source: Folder of the run.
        output: Where to copy it; must not be there.
        split: `"test"` or `"validation"`.

    Returns:
        The report of the copy, as written to its `report.json`.
    """
    import shutil

    import keras

    from cnn_l1.data import sets, tasks
    from cnn_l1.measure import on_micro
    from cnn_l1.runs import exported_files, report

    summary = json.loads((source / "report.json").read_text(encoding="utf-8"))
    config = configs.load(source / "config.yaml")
    measuring = config.measure.model_copy(update={"split": split})
    dataset = sets.load(config.data, config.seed)
    task = tasks.task_of(config.training.loss, dataset.about)
    examples = dataset.load_test() if split == "test" else dataset.validation
    failed: dict[str, str] = {}
    with run_folder(output) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        paths = {name: folder / name for name in summary["files"]}
        networks = {
            name.removesuffix("model.keras"): keras.models.load_model(path)
            for name, path in paths.items()
            if path.suffix == ".keras"
        }
        measured = exported_files.measure_files(paths, examples, networks, task, measuring, failed)
        tables.print_files(measured, split=split)
        paths |= {name: folder / name for name in summary["encoded"]}
        micro_facts = exported_files.measure_on_micro(paths, examples, task, measuring, failed)
        on_micro.print_micro(micro_facts, paths)
        summary["data"] = describe_data(dataset, split, examples)
        summary["files"] = {n: dataclasses.asdict(figures) for n, figures in measured.items()}
        summary["micro"] = {n: dataclasses.asdict(facts) for n, facts in micro_facts.items()}
        summary["not_measured"] = failed
        report.write_json(folder / "report.json", summary)
        copied = config.model_copy(update={"measure": measuring})
        (folder / "config.yaml").write_text(configs.dump(copied), encoding="utf-8")
        manifest.write_manifest(folder)
    return summary


def describe_data(dataset, split, measured):
    """What a report says of its data."""
    about = dataset.about
    return {
        "name": about.name,
        "input_shape": list(about.input_shape),
        "class_names": None if about.class_names is None else list(about.class_names),
        "train_examples": dataset.train.size,
        "validation_examples": dataset.validation.size,
        "measured_split": split,
        "measured_examples": None if measured is None else measured.size,
    }


def versions():
    """The versions that a figure depends on."""
    from importlib import metadata

    names = "tensorflow", "keras", "ai-edge-litert", "numpy"
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}
