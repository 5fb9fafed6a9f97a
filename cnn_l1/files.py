"""The files of a run: written in every configured format, described, encoded, measured."""

import dataclasses

from cnn_l1 import config as configs
from cnn_l1 import encode, export, firmware, fold, macs, measure, metadata, micro, sparse_tflite
from cnn_l1.config import ConfigError
from cnn_l1.tflite_file import ExportError

# What TFLite Micro has kernels for.
MICRO_KINDS = ("float32", "int8", "int16x8")
# Formats that store zeros as sparse tensors, and what they compute in.
SPARSE = {"sparse_float32": "float32", "sparse_float16": "float16"}
SPARSE_IMAGES = 8  # on which a sparse file must equal the dense one


def check_formats(model, formats):
    """Raise `ConfigError` for formats that the network, whatever its weights, can not have.

    Args:
        model: The Keras model before training.
        formats: `export.formats`.
    """
    if not any(kind in SPARSE for kind in formats):
        return
    # Zeros, and so sparse storage, come in training.
    found = [f for f in sparse_tflite.lint(model) if f.rule not in ("zeros", "storage")]
    if found:
        raise ConfigError(
            "export.formats: expected a network for XNNPACK's sparse path, such as the builder "
            f"pointwise on images of 3 channels. Received: {'; '.join(map(str, found))}"
        )


def export_files(model, folder, config, dataset, prefix=""):
    """Write the configured formats.

    Args:
        model: A plain `keras.Model`.
        folder: Folder of the run.
        config: The `Config`.
        dataset: The `data.Data` whose training examples calibrate.
        prefix: Folder inside it, with a slash at its end. Default: none.

    Returns:
        `{name: path}` of the files that are measured, and `{name: reason}` of those that
        would not run, or not rightly, and so were not written.
    """
    folder, settings = folder / prefix, config.export
    folder.mkdir(exist_ok=True)
    if settings.fold_batch_norm:
        model = fold.fold_batch_norm(model)
    files = {f"{prefix}model.keras": folder / "model.keras"}
    refused = {}
    export.export_keras(model, folder / "model.keras")
    samples = None
    if set(export.CALIBRATED) & set(settings.formats):
        samples = dataset.train.sample(settings.calibration_images)
    for kind in settings.formats:
        if kind == "c":
            continue
        name = export.file_name(kind)
        path = folder / name
        if kind == "saved_model":
            export.export_saved_model(model, path)
        elif kind == "onnx":
            export.export_onnx(model, path)
        elif kind in SPARSE:
            try:
                images = dataset.validation.sample(SPARSE_IMAGES)
                sparse_tflite.export_sparse_tflite(model, path, SPARSE[kind], images)
            except ExportError as error:
                refused[prefix + name] = str(error)
                print(f"Not written: {prefix}{error}")
                continue
        else:
            images = samples if kind in export.CALIBRATED else None
            export.export_tflite(model, path, images, kind, settings.io_type)
        if settings.metadata and path.suffix == ".tflite":
            describe_file(path, config, dataset.about)
        files[prefix + name] = path
    if "c" in settings.formats:
        source = "int8" if "int8" in settings.formats else "float32"
        path = folder / f"model_{source}.tflite"
        firmware.write_c_source(path, path.with_suffix(".h"))
    return files, refused


def describe_file(path, config, about):
    """Put labels, the input's meaning and the config into a TFLite file."""
    meaning = "features in their own units: " + ", ".join(about.feature_names or ())
    if len(about.input_shape) == 3:
        meaning = "pixels from 0 to 255; scaling is in the model"
    output = "values" if about.class_names is None else "logits, one a class"
    told = configs.dump(config, folders=False)
    content = metadata.add_metadata(
        path.read_bytes(), config.name, meaning, output, about.class_names, told
    )
    path.write_bytes(content)


def measure_files(files, examples, networks, task, config):
    """Measure every exported file in the runtime of its kind, and time them side by side.

    Args:
        files: `{name: path}`, as `export_files` gives them.
        examples: The `data.Split` to measure on.
        networks: `{prefix: Keras model}` that the files were made of.
        task: The `tasks.Task`.
        config: The `measure` section of the settings.

    Returns:
        `{name: Measurement}`.
    """
    outputs = {prefix: measure.predict(network, examples) for prefix, network in networks.items()}
    costs = {prefix: sum(macs.count_macs(n).values()) for prefix, n in networks.items()}
    measured = {}
    for name, path in files.items():
        prefix = next(p for p in sorted(networks, reverse=True) if name.startswith(p))
        batches = examples.evaluation_batches()
        figures = measure.measure_file(path, batches, outputs[prefix], task.decide)
        measured[name] = dataclasses.replace(figures, macs=costs[prefix])
    timed = [name for name in files if name.endswith(".tflite")]
    inputs = [examples.sample(1)[0]] * len(timed)
    latencies = measure.time_files([files[n] for n in timed], inputs, config.latency_runs)
    for name, (median, p90) in zip(timed, latencies, strict=True):
        measured[name] = dataclasses.replace(
            measured[name],
            latency_median_ms=median,
            latency_p90_ms=p90,
            ram_bytes=micro_ram(files[name]) if config.ram else None,
        )
    return measured


def micro_ram(path):
    """The arena that TFLite Micro needs for a file, or `None`, said so, if it runs none such."""
    try:
        return micro.arena_bytes(path)
    except micro.MicroError as error:
        print(error)
        return None


def encode_files(files, settings):
    """Write files with encoded zeros; returns `{name: path}` of those that became smaller."""
    written = {}
    for name, path in files.items() if settings.encode_zeros else ():
        if path.stem not in ("model_int8", "model_float32"):
            continue
        content = metadata.remove_metadata(path.read_bytes())
        small, _ = encode.encode_zeros(content, run=False)
        if small != content:
            target = path.with_name(f"{path.stem}_encoded.tflite")
            target.write_bytes(small)
            written[name.replace(path.name, target.name)] = target
    return written


def measure_on_micro(files, examples, task, config):
    """`{name: MicroFacts}` of the files that TFLite Micro runs."""
    facts: dict[str, micro.MicroFacts] = {}
    count = config.micro_examples
    if not count:
        return facts
    inputs, targets = examples.sample(count), examples.targets[:count]
    for name, path in files.items():
        stem = path.stem.removesuffix("_encoded")
        if path.suffix != ".tflite" or stem.removeprefix("model_") not in MICRO_KINDS:
            continue
        plain = path.with_name(f"{stem}.tflite")
        try:
            facts[name] = micro.measure_micro(path, inputs, targets, task.decide, plain)
        except micro.MicroError as error:
            print(error)
    return facts
