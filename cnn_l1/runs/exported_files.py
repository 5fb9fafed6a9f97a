"""The files of a run: written in every configured format, described, encoded, measured.

A format that fails loses its own file alone: the reason is told, and the others stand.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from cnn_l1.config import loading as configs
from cnn_l1.config.formats import FORMATS, chosen, format_of, format_of_file, source_of
from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.config.settings import ExportConfig, MeasureConfig
from cnn_l1.data.splits import Data, InputScaling, Split
from cnn_l1.data.splits import Description as DataDescription
from cnn_l1.data.tasks import SeveralTasks, Task
from cnn_l1.export import sparse_file, tflite
from cnn_l1.export.formats import SPARSE_IMAGES, print_refused, write_format
from cnn_l1.graph import macs
from cnn_l1.measure import measurement, on_micro
from cnn_l1.measure.figures import Measurement
from cnn_l1.process.failures import is_of_the_disk, reason_of, remove
from cnn_l1.runs.folders import UNFOLDED
from cnn_l1.shrink import fold
from cnn_l1.tflite import encoding, metadata, micro

# `{name in the run's folder: path}`, and `{name: why not}`.
Files = dict[str, pathlib.Path]
Reasons = dict[str, str]


def check_formats(model: keras.Model, formats: Iterable[str]) -> None:
    """Raise `ConfigError` for formats that the network, whatever its weights, can not have.

    Args:
        model: The Keras model before training.
        formats: `export.formats`.
    """
    if not any(one.sparse for one in chosen(formats)):
        return
    # Zeros, and so sparse storage, come in training.
    found = [f for f in sparse_file.lint(model) if f.rule not in ("zeros", "storage")]
    if found:
        raise ConfigError(
            "export.formats: expected a network for XNNPACK's sparse path, such as the builder "
            f"pointwise on images of 3 channels. Received: {'; '.join(map(str, found))}"
        )


def export_files(
    model: keras.Model,
    folder: pathlib.Path,
    config: Config,
    dataset: Data,
    task: Any,
    prefix: str = "",
) -> tuple[Files, Reasons]:
    """Write the configured formats.

    Args:
        model: A plain `keras.Model`.
        folder: Folder of the run.
        config: The `Config`.
        dataset: The `data.Data` whose training examples calibrate.
        task: The `tasks.Task`, for what the files say of their output.
        prefix: Folder inside it, with a slash at its end. Default: none.

    Returns:
        `{name: path}` of the files that are measured, and `{name: reason}` of those that
        would not run, or not rightly, and so were not written.
    """
    folder, settings = folder / prefix, config.export
    folder.mkdir(exist_ok=True)
    # First, as it is: whatever fails later, the trained network is there.
    tflite.export_keras(model, folder / "model.keras")
    if settings.fold_batch_norm:
        if not prefix:
            (folder / "model.keras").replace(folder / UNFOLDED)
        model = fold.fold_batch_norm(model)
        tflite.export_keras(model, folder / "model.keras")
    files = {f"{prefix}model.keras": folder / "model.keras"}
    refused: dict[str, str] = {}
    samples = None
    formats = chosen(settings.formats)
    if any(one.calibrated for one in formats):
        samples = dataset.train.sample(settings.calibration_images)
    for one in formats:
        if one.made_of:
            continue
        name = one.file_name
        path = folder / name
        images = dataset.validation.sample(SPARSE_IMAGES) if one.sparse else None
        try:
            told = description_of(config, dataset, task) if settings.metadata else None
            write_format(model, one.name, path, config, samples, images, told)
        except Exception as error:
            remove(path)
            if is_of_the_disk(error):
                raise
            refused[prefix + name] = reason_of(error)
        else:
            if one.measure is not None:
                files[prefix + name] = path
    for one in (one for one in formats if one.made_of):
        path = folder / source_of(one, settings.formats).file_name
        target = path.with_suffix(one.suffixes[0])
        header = f"{prefix}{target.name}"
        if f"{prefix}{path.name}" in refused:
            refused[header] = f"it is made of {path.name}, which is not written"
        else:
            try:
                one.write(path, target)
            except Exception as error:
                remove_source(path)
                if is_of_the_disk(error):
                    raise
                refused[header] = reason_of(error)
    print_refused(refused)
    return files, refused


def remove_source(path: pathlib.Path) -> None:
    """Remove the C source of a file, if there is one."""
    for suffix in (suffix for one in FORMATS for suffix in one.suffixes):
        remove(path.with_suffix(suffix))


def remove_wrong(files: Files, failed: Reasons, refused: Reasons) -> None:
    """Remove exported files that do not run, or not rightly, once they were measured.

    `model.keras` stays in any case.

    Args:
        files: `{name: path}`; what is removed leaves it.
        failed: `{name: reason}`, as `measure_files` gives it; those files leave it too.
        refused: `{name: reason}`; they come here.
    """
    for name in [n for n in failed if n in files and not n.endswith("model.keras")]:
        path, reason = files.pop(name), failed.pop(name)
        remove(path)
        refused[name] = reason
        for one in (one for one in FORMATS if one.made_of):
            made = path.with_suffix(one.suffixes[0])
            if made.is_file() and any(path.name == format_of(n).file_name for n in one.made_of):
                remove_source(path)
                refused[name.replace(path.name, made.name)] = f"it is made of {path.name}"
        print_refused({name: reason})


def description_of(config: Config, dataset: Data, task: Any) -> metadata.Description:
    """What a run's TFLite files say of themselves: labels, the input's meaning, the config."""
    about = dataset.about
    return metadata.Description(
        name=config.name,
        input_meaning=input_meaning(config, about, dataset.train.scaling),
        output_meaning=output_meanings(task),
        class_names=about.class_names,
        config=configs.dump(config, folders=False),
    )


def input_meaning(
    config: Config, about: DataDescription, scaling: InputScaling | None = None
) -> str:
    """What a file's input is, in words."""
    if scaling is not None:
        return scaling.meaning
    scaled = config.model.normalization != "none"
    if about.is_image:
        return f"pixels from 0 to 255; {'scaling is in the model' if scaled else 'not scaled'}"
    names = ", ".join(about.feature_names or ())
    if len(about.input_shape) == 2:
        rate = about.sampling_rate_hz
        sampled = "" if rate is None else f", {rate:g} samples a second"
        steps, channels = about.input_shape
        named = f" ({names})" if names else ""
        return f"{steps} steps of {channels} channels{named} in their own units{sampled}"
    return f"features in their own units: {names}"


def output_meanings(task: Any) -> str | list[str]:
    """What a file's output is, in words; of several outputs each one, in the file's order."""
    if not isinstance(task, SeveralTasks):
        return output_meaning(task)
    # Outputs of a dict are in the order of their names.
    names = sorted(task.tasks) if task.by_name else list(task.tasks)
    return [f"{name}: {output_meaning(task.tasks[name])}" for name in names]


def output_meaning(task: Task) -> str:
    """What one output is, in words."""
    if task.kind == "values":
        return "values"
    if task.kind == "autoencoder":
        return "the input again; a large mean squared difference is a sign of an anomaly"
    if task.loss == "squared_error":
        return "one value, 0 or 1" if task.outputs == 1 else "values, one a class"
    what = "logits" if task.from_logits else "probabilities"
    if task.kind == "binary":
        return f"one {'logit' if task.from_logits else 'probability'}, of the second class"
    ends = {"multilabel": "label", "segmentation": "class, for each pixel"}
    return f"{what}, one a {ends.get(task.kind, 'class')}"


def measure_files(
    files: Files,
    examples: Split,
    networks: Mapping[str, keras.Model],
    task: Any,
    config: MeasureConfig,
    failed: Reasons | None = None,
) -> dict[str, Measurement]:
    """Measure every exported file in the runtime of its kind, and time them side by side.

    Args:
        files: `{name: path}`, as `export_files` gives them.
        examples: The `data.Split` to measure on.
        networks: `{prefix: Keras model}` that the files were made of.
        task: The `tasks.Task`.
        config: The `measure` section of the settings.
        failed: A dict that takes `{name: reason}` of files that cannot be measured, and
            `{"name: what": reason}` of single figures. Default: such an error is raised.

    Returns:
        `{name: Measurement}`.
    """
    outputs = {
        prefix: measurement.predict(network, examples) for prefix, network in networks.items()
    }
    costs = {prefix: sum(macs.count_macs(n).values()) for prefix, n in networks.items()}
    measured = {}
    for name, path in files.items():
        prefix = next(p for p in sorted(networks, reverse=True) if name.startswith(p))
        with _told(failed, name):
            figures = measure_one(path, examples, outputs[prefix], task)
            measured[name] = dataclasses.replace(figures, macs=costs[prefix])
    timed = [name for name in measured if name.endswith(".tflite")]
    latencies = {}
    with _told(failed, "latency"):
        latencies = _time(files, timed, examples.sample(1)[0], config)
    for name in timed:
        median, p90 = latencies.get(name, (None, None))
        measured[name] = dataclasses.replace(
            measured[name], latency_median_ms=median, latency_p90_ms=p90
        )
        if config.ram:
            with _told({} if failed is None else failed, f"{name}: RAM", say=True):
                measured[name] = dataclasses.replace(
                    measured[name], ram_bytes=micro.arena_bytes(files[name])
                )
    return measured


def measure_one(path: pathlib.Path, examples: Split, reference: Any, task: Any) -> Measurement:
    """Measure one exported file as a task scores it: see `measurement.measure_file`."""
    return measurement.measure_file(
        path,
        task.measuring_batches(examples),
        reference,
        task.decide,
        lambda outputs: task.figures(outputs, examples),
    )


def _time(
    files: Files, names: Sequence[str], example: Any, config: MeasureConfig
) -> dict[str, tuple[float, float]]:
    paths = [files[name] for name in names]
    times = measurement.time_files(paths, [example] * len(paths), config.latency_runs)
    return dict(zip(names, times, strict=True))


@contextlib.contextmanager
def _told(failed: Reasons | None, name: str, say: bool = False) -> Iterator[None]:
    """Put an error that leaves the block into `failed`, and go on; but the disk's are raised."""
    try:
        yield
    except Exception as error:
        if failed is None or is_of_the_disk(error):
            raise
        failed[name] = reason_of(error)
        if say:
            print(f"Not measured: {name}: {failed[name]}")


def encode_files(files: Files, settings: ExportConfig, failed: Reasons | None = None) -> Files:
    """Write files with encoded zeros; returns `{name: path}` of those that became smaller.

    Args:
        files: `{name: path}` of the plain files.
        settings: The `export` section of the settings.
        failed: A dict that takes the reasons of those that cannot be encoded. Default:
            such an error is raised.
    """
    written = {}
    for name, path in files.items() if settings.encode_zeros else ():
        form = format_of_file(path)
        if form is None or not form.encoded:
            continue
        target = path.with_name(f"{path.stem}_encoded.tflite")
        encoded = name.replace(path.name, target.name)
        with _told(failed, encoded, say=True):
            content = metadata.remove_metadata(path.read_bytes())
            small, _ = encoding.encode_zeros(content, run=False)
            if small != content:
                target.write_bytes(small)
                written[encoded] = target
    return written


def measure_on_micro(
    files: Files,
    examples: Split,
    task: Any,
    config: MeasureConfig,
    failed: Reasons | None = None,
) -> dict[str, on_micro.MicroFacts]:
    """`{name: MicroFacts}` of the files that TFLite Micro runs; the others are told.

    Args:
        files: `{name: path}`, those with encoded zeros too.
        examples: The `data.Split` to measure on.
        task: The `tasks.Task`.
        config: The `measure` section of the settings.
        failed: A dict that takes the reasons of those that it does not run.
    """
    facts: dict[str, on_micro.MicroFacts] = {}
    failed = {} if failed is None else failed
    count = config.micro_examples
    if not count:
        return facts
    inputs, targets = examples.sample(count), task.measuring_targets(examples, count)
    for name, path in files.items():
        plain = path.with_stem(path.stem.removesuffix("_encoded"))
        form = format_of_file(plain)
        if form is None or "tflite_micro" not in form.runtimes:
            continue
        with _told(failed, f"{name}: TFLite Micro", say=True):
            facts[name] = on_micro.measure_micro(path, inputs, targets, task.decide, plain)
    return facts
