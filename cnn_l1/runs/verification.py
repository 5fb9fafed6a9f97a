"""Check a run from its files alone.

    python -m cnn_l1.verify saved_models/digits

Every file is what the manifest says, loads in its runtime, gives finite outputs, and is
as accurate, as equal to its Keras model and as sparse as `report.json` says. Exit code 0
if so; 1, with a line for each mismatch; 2 if the folder is no run.
"""

import dataclasses
import json
import math
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import yaml

from cnn_l1.config import loading as configs
from cnn_l1.config.formats import chosen, source_of
from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.config.own_code import OwnCodeError
from cnn_l1.data.own_sets import OwnSet
from cnn_l1.data.splits import Split
from cnn_l1.export import firmware
from cnn_l1.export import tflite as export
from cnn_l1.graph import macs
from cnn_l1.measure import measurement
from cnn_l1.models.setup import load_examples
from cnn_l1.runs import manifest
from cnn_l1.runs import report as reports
from cnn_l1.runs.exported_files import measure_one
from cnn_l1.shrink import removal
from cnn_l1.sparsity import counting
from cnn_l1.tflite import encoding, metadata
from cnn_l1.tflite import file as tflite_file

# A score may move by this much, for another CPU sums in another order: of a class, one
# example in 500, at least one; of values, one part in a thousand.
EXAMPLES = 0.002
VALUES = 1e-3
# A largest difference from Keras may, for the same reason, by half of it and this.
DIFFERENCE = 1e-4
# Folders of networks in a run's; "" is the run's own.
PREFIXES = ("shrunk/", "dense/", "given/", "")


@dataclasses.dataclass(frozen=True)
class Verification:
    """What a check of a run found.

    Attributes:
        mismatches: Lines, one a mismatch; empty if all is well.
        unchecked: What could not be checked, and why; empty if all was.
    """

    mismatches: list[str]
    unchecked: str = ""


def verification(
    folder: pathlib.Path,
    with_data: bool = True,
    given: OwnSet | None = None,
    data_path: str | None = None,
) -> Verification:
    """Check a run's folder, and say what was left unchecked: see `verify`."""
    unchecked = "" if with_data else "scores unchecked"
    if with_data and given is None:
        try:
            name = configs.load(folder / "config.yaml").data.name
        except (ConfigError, OSError):  # `verify` says so
            name = ""
        if name == "given":
            with_data = False
            unchecked = (
                "scores unchecked: the run's data were given in Python; "
                "cnn_l1.verify(folder, data=(x, y)) checks them"
            )
    return Verification(verify(folder, with_data, given, data_path), unchecked)


def verify(
    folder: pathlib.Path,
    with_data: bool = True,
    given: OwnSet | None = None,
    data_path: str | None = None,
) -> list[str]:
    """Check a run's folder.

    Args:
        folder: A `pathlib.Path`.
        with_data: Whether to load the data set and measure every file again.
        given: The examples to measure on, in place of those that the config names.
        data_path: Where the config's own data are now.

    Returns:
        A list of lines, one a mismatch; empty if all is well.
    """
    found = check_manifest(folder)
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        config = configs.load(folder / "config.yaml")
        files = report["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [*found, f"report.json, config.yaml: expected to be read. Received: {_short(error)}"]
    if report.get("error"):
        ended = report["error"]
        return [*found, f"report.json: expected a run that ended well. Received: {ended}"]
    found += check_config(config, report)
    found += check_formats(folder, files, config, report.get("refused", {}))
    networks, broken = load_networks(folder, files)
    found += broken
    measured = None
    if with_data and "" in networks:
        try:
            measured = load_examples(_at(config, data_path), networks[""], given)
        except (ConfigError, OwnCodeError) as error:
            found.append(f"data: {error} (or give --no-data)")
    for prefix, key in (("", "counts"), ("shrunk/", "shrunk_counts")):
        if prefix in networks:
            found += check_counts(prefix, networks[prefix], report.get(key), config)
    found += check_shrunk(networks, config)
    for name, figures in files.items():
        path = folder / name
        if not path.exists():
            found.append(f"{name}: expected a file. Received: nothing there")
            continue
        try:
            found += check_file(name, path, figures, networks, config, measured)
            if name.endswith(".tflite") and config.export.metadata:
                found += check_metadata(folder, name, report)
        except (KeyError, TypeError) as error:  # of a report that lacks or garbles a figure
            found.append(f"report.json: expected figures of {name}. Received: {_short(error)}")
    for source in sorted(folder.rglob("*.cc")):
        found += check_source(folder, source)
    for encoded in sorted(folder.rglob("*_encoded.tflite")):
        found += check_encoded(folder, encoded)
    return found


def _at(config: Config, data_path: str | None) -> Config:
    """The config with its own data at another place."""
    if data_path is None:
        return config
    if config.data.path is None:
        raise ConfigError(
            "--data: expected a run on data of a path: folder, arrays, series or table. "
            f"Received: one on {config.data.name}"
        )
    path = str(pathlib.Path(data_path).resolve())
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path})})


def check_manifest(folder: pathlib.Path) -> list[str]:
    """Files that are missing, altered or not listed."""
    try:
        text = (folder / manifest.NAME).read_text(encoding="utf-8")
        expected = json.loads(text)["files"]
        pairs = {name: (entry["bytes"], entry["sha256"]) for name, entry in expected.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{manifest.NAME}: expected to be read. Received: {_short(error)}"]
    found, there = [], manifest.listed(folder)
    for name, (size, digest) in pairs.items():
        if name not in there:
            found.append(f"{name}: expected a file. Received: nothing there")
        elif there[name].stat().st_size != size:
            found.append(f"{name}: expected {size} bytes. Received: {there[name].stat().st_size}")
        elif manifest.sha256(there[name]) != digest:
            found.append(f"{name}: expected SHA-256 {digest[:16]}…. Received: another")
    for name in there:
        if name not in pairs:
            found.append(f"{name}: expected only files that the manifest lists. Received: this")
    return found


def check_config(config: Config, report: Mapping[str, Any]) -> list[str]:
    """What the report tells of the config, against the config."""
    pairs = {
        "name": (report.get("name"), config.name),
        "seed": (report.get("seed"), config.seed),
        "method": (report.get("method"), config.training.method),
        "l1_strength": (report.get("l1_strength"), config.penalty.l1_strength),
    }
    data = report.get("data")
    data = data if isinstance(data, dict) else {}
    pairs["data.name"] = data.get("name"), config.data.name
    pairs["measure.split"] = data.get("measured_split"), config.measure.split
    return [
        f"config.yaml: expected {key} {told}, as in report.json. Received: {received}"
        for key, (told, received) in pairs.items()
        if told != received
    ]


def check_formats(
    folder: pathlib.Path, files: Mapping[str, Any], config: Config, refused: Mapping[str, str]
) -> list[str]:
    """Files that the config asks for and the report, or the folder, lacks."""
    prefixes = {name.removesuffix("model.keras") for name in files if name.endswith("model.keras")}
    baseline = "given/" if config.model.has_weights else "dense/"
    prefixes |= {"", baseline} if config.baseline else {""}
    found = []
    for prefix in sorted(prefixes):
        for one in chosen(("keras", *config.export.formats)):
            if one.made_of or one.measure is None:
                names = [f"{prefix}{one.file_name}"]
                if one.made_of:
                    source = pathlib.Path(source_of(one, config.export.formats).file_name)
                    names = [f"{prefix}{source.with_suffix(suffix)}" for suffix in one.suffixes]
                found += [
                    f"{name}: expected a file, for format {one.name}. Received: nothing there"
                    for name in names
                    if not (folder / name).exists() and names[0] not in refused
                ]
            else:
                name = prefix + one.file_name
                if name not in files and name not in refused:
                    found.append(f"report.json: expected figures of {name}. Received: none")
    return found


def load_networks(
    folder: pathlib.Path, files: Mapping[str, Any]
) -> tuple[dict[str, keras.Model], list[str]]:
    """`{prefix: Keras model}` of the `.keras` files, and lines for those that do not load."""
    networks, found = {}, []
    for name in files:
        if not name.endswith("model.keras") or not (folder / name).is_file():
            continue
        try:
            networks[name.removesuffix("model.keras")] = keras.models.load_model(folder / name)
        except Exception as error:
            found.append(f"{name}: expected to load in Keras. Received: {_short(error)}")
    return networks, found


def check_counts(prefix: str, model: keras.Model, told: Any, config: Config) -> list[str]:
    """Zeros of the Keras model against the report's counts.

    A report counts before batch-norms are folded, which takes parameters away and can only
    add zeros, where a scale is zero.
    """
    counted = json.loads(json.dumps(reports.counts_as_dict(counting.count(model))))
    found = []
    for key in ("weights", "zeros", "parameters", "nonzero_parameters"):
        expected = (told or {}).get(key)
        if config.export.fold_batch_norm and key != "weights":
            continue
        if expected != counted[key]:
            found.append(
                f"{prefix}model.keras: expected {key} {expected}. Received: {counted[key]}"
            )
    return found


def check_shrunk(networks: Mapping[str, keras.Model], config: Config) -> list[str]:
    """The shrunk network against the one it was made from, on random inputs."""
    if not {"", "shrunk/"} <= networks.keys() or config.shrink.fine_tuning_epochs:
        return []
    shape = networks[""].input_shape[1:]
    samples = np.random.default_rng(0).uniform(0, 255, (64, *shape)).astype("float32")
    try:
        removal.check_same_output(networks[""], networks["shrunk/"], samples)
    except (ValueError, RuntimeError) as error:
        return [f"shrunk/model.keras: {_short(error)}"]
    return []


def check_file(
    name: str,
    path: pathlib.Path,
    figures: Mapping[str, Any],
    networks: Mapping[str, keras.Model],
    config: Config,
    measured: tuple[Split, Any] | None,
) -> list[str]:
    """One exported file against its figures."""
    found = []
    model = networks.get(next(p for p in PREFIXES if name.startswith(p)))
    size = sum(len(content) for content in measurement.contents(path))
    if size != figures["bytes"]:
        found.append(f"{name}: expected {figures['bytes']} bytes. Received: {size}")
    if model is not None:
        counted = sum(macs.count_macs(model).values())
        if counted != figures["macs"]:
            found.append(f"{name}: expected {figures['macs']} multiply-adds. Received: {counted}")
    if name.endswith(".tflite"):
        try:
            tflite = export.read_tflite(path.read_bytes())
            if model is not None:
                export.check_tflite(tflite, export.plain_copy(model))
        except Exception as error:  # whatever broken bytes make a reader raise
            return [
                *found,
                f"{name}: expected the network's TFLite file. Received: {_short(error)}",
            ]
        for key, value in (("weights", tflite.weight_count), ("zeros", tflite.zeros)):
            if value != figures[key]:
                found.append(f"{name}: expected {key} {figures[key]}. Received: {value}")
        operators = list(dict.fromkeys(tflite.operators))
        if operators != figures["operators"]:
            found.append(
                f"{name}: expected operators {', '.join(figures['operators'])}. "
                f"Received: {', '.join(operators)}"
            )
        if not tflite.is_finite:
            found.append(f"{name}: expected finite weights. Received: NaN or infinity")
    if measured is None or model is None:
        return found + check_loads(name, path)
    return found + check_scores(name, path, figures, model, *measured)


def check_metadata(folder: pathlib.Path, name: str, report: Mapping[str, Any]) -> list[str]:
    """Labels and config in a TFLite file against the run's."""
    try:
        appended = metadata.read_files((folder / name).read_bytes())
        told = yaml.safe_load(appended.get(metadata.CONFIG, ""))
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except Exception as error:  # whatever a broken archive makes its reader raise
        return [f"{name}: expected metadata to be read. Received: {_short(error)}"]
    found = []
    names = report["data"]["class_names"]
    labels = None if names is None else "".join(f"{label}\n" for label in names)
    if appended.get(metadata.LABELS) != labels:
        found.append(f"{name}: expected the labels of report.json. Received: others")
    if _comparable(told) != _comparable(config):
        found.append(f"{name}: expected the config of config.yaml. Received: another")
    return found


def _comparable(config: Any) -> Any:
    """A config without what may differ between a file and the run that it came from."""
    try:
        config = configs.without_folders(config)
    except (KeyError, TypeError):  # not a whole config
        return config
    # Files can be measured on another split later.
    return {key: value for key, value in config.items() if key != "measure"}


def check_source(folder: pathlib.Path, source: pathlib.Path) -> list[str]:
    """A C source and its header against the TFLite file they were made of."""
    made_of = source.with_suffix(".tflite")
    name = source.relative_to(folder).as_posix()
    found = []
    with tempfile.TemporaryDirectory() as again:
        header = pathlib.Path(again) / source.with_suffix(".h").name
        try:
            firmware.write_c_source(made_of, header)
        except Exception as error:
            return [f"{name}: expected {made_of.name} beside it. Received: {_short(error)}"]
        for path in (source, source.with_suffix(".h")):
            expected = header.with_suffix(path.suffix).read_bytes()
            if not path.is_file() or path.read_bytes() != expected:
                found.append(
                    f"{path.relative_to(folder).as_posix()}: expected what {made_of.name} gives. "
                    "Received: something else"
                )
    return found


def check_encoded(folder: pathlib.Path, encoded: pathlib.Path) -> list[str]:
    """A file with encoded zeros, decoded again, against the plain one."""
    name = encoded.relative_to(folder).as_posix()
    plain = encoded.with_name(encoded.name.replace("_encoded", ""))
    try:
        decoded = tflite_file.read_tflite(encoding.decode_zeros(encoded.read_bytes()))
        expected = tflite_file.read_tflite(plain.read_bytes())
    except Exception as error:
        return [f"{name}: expected to be decoded to {plain.name}. Received: {_short(error)}"]
    pairs = zip(decoded.weights, expected.weights, strict=False)
    same = len(decoded.weights) == len(expected.weights) and all(
        np.array_equal(one, other) for one, other in pairs
    )
    if decoded.operators != expected.operators or not same:
        return [f"{name}: expected the weights of {plain.name}. Received: others"]
    return []


def check_loads(name: str, path: pathlib.Path) -> list[str]:
    """Whether a file loads in its runtime."""
    try:
        if name.endswith(".tflite"):
            measurement.TFLiteRunner(path)
        elif path.is_dir():
            tf.saved_model.load(str(path))
        elif name.endswith(".onnx"):
            measurement.onnx_session(path)
    except Exception as error:
        return [f"{name}: expected to load in its runtime. Received: {_short(error)}"]
    return []


def check_scores(
    name: str,
    path: pathlib.Path,
    figures: Mapping[str, Any],
    model: keras.Model,
    examples: Split,
    task: Any,
) -> list[str]:
    """Accuracy and parity of one file, measured again."""
    try:
        reference = measurement.predict(model, examples)
        again = measure_one(path, examples, reference, task)
    except Exception as error:
        return [f"{name}: expected to run on the data. Received: {_short(error)}"]
    found = []
    if again.examples != figures["examples"]:
        found.append(f"{name}: expected {figures['examples']} examples. Received: {again.examples}")
    slack = max(EXAMPLES, 1.5 / again.examples)
    for key in ("accuracy", "agreement"):
        told, received = figures[key], getattr(again, key)
        if told is not None and not abs(told - received) <= slack:
            found.append(f"{name}: expected {key} {told:.4%}. Received: {received:.4%}")
    told = figures["mean_squared_error"]
    squared: Any = again.mean_squared_error
    if told is not None and not math.isclose(told, squared, rel_tol=VALUES):
        found.append(f"{name}: expected mean_squared_error {told:.6g}. Received: {squared:.6g}")
    for told, one in zip(figures.get("outputs", ()), again.outputs, strict=True):
        for key in ("accuracy", "mean_squared_error"):
            value, received = told[key], getattr(one, key)
            near = value is None or math.isclose(value, received, rel_tol=VALUES, abs_tol=slack)
            if not near:
                found.append(
                    f"{name}: output {one.name}: expected {key} {value:.6g}. "
                    f"Received: {received:.6g}"
                )
    for key, value in figures.get("metrics", {}).items():
        received = again.metrics.get(key, math.nan)
        if not math.isclose(value, received, rel_tol=VALUES, abs_tol=2 * slack):
            found.append(f"{name}: expected {key} {value:.6g}. Received: {received:.6g}")
    largest = max(float(np.abs(one).max(initial=1.0)) for one in tf.nest.flatten(reference))
    limit = 1.5 * figures["max_difference"] + DIFFERENCE * largest
    if not again.max_difference <= limit:
        found.append(
            f"{name}: expected max_difference {figures['max_difference']:.3g}. "
            f"Received: {again.max_difference:.3g}"
        )
    return found


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
