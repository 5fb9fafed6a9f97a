"""The whole pipeline through `main`, and what a user does wrong."""

import contextlib
import csv
import dataclasses
import errno
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import yaml

from cnn_l1.config import loading as configs
from cnn_l1.config.training_settings import TrainingConfig
from cnn_l1.data import sets as data
from cnn_l1.export import tflite as export
from cnn_l1.measure import measurement, on_micro
from cnn_l1.runs import exported_files as files
from cnn_l1.runs import verification
from cnn_l1.sparsity import counting
from cnn_l1.tflite import encoding, metadata
from cnn_l1.train import measure_again as measuring_again
from cnn_l1.train import stages
from cnn_l1.train.__main__ import main as train_main

BLOCKS = [
    {"type": "conv", "filters": 4, "strides": 2},
    {"type": "batch_norm"},
    {"type": "flatten"},
    {"type": "dense", "units": 16},
    {"type": "dense", "units": "classes", "activation": "linear"},
]
LAYERS = ("conv_1", "dense_1", "dense_2")
TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {"blocks": BLOCKS},
    "penalty": {"l1_strength": 0.01},
    "optimizer": {"learning_rate": 0.01},
    "training": {"epochs": 3},
    "fine_tuning": {"epochs": 2},
    "shrink": {"enabled": False},
    "export": {"calibration_images": 50},
    "measure": {"latency_runs": 1},
}
QUICK = (
    "training.epochs=1",
    "fine_tuning.epochs=0",
    "baseline=false",
    "tensorboard=false",
    "export.formats=[]",
)


@pytest.fixture(autouse=True)
def _float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return path


def arguments(config_file, output, *overrides):
    sets = [part for override in overrides for part in ("--set", override)]
    return ["--config", str(config_file), "--output", str(output), *sets]


def read_history(folder):
    """Columns of history.csv, as floats; an empty field is NaN."""
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}


def contents(folder):
    """Every file below a folder, with its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def full_run(config_file, tmp_path_factory):
    """The folder of one whole run: three epochs, two of fine-tuning, dense twin."""
    output = tmp_path_factory.mktemp("runs") / "deep" / "full"
    assert train_main(arguments(config_file, output)) == 0
    return output


# The whole run.


def test_files_of_a_run(full_run):
    exported = {"model.keras", "saved_model", "model_float32.tflite", "model_int8.tflite"}
    others = {"config.yaml", "report.json", "manifest.json", "history.csv", "tensorboard", "dense"}
    assert {path.name for path in full_run.iterdir()} == exported | others
    assert {path.name for path in (full_run / "dense").iterdir()} == exported
    assert [path.name for path in full_run.parent.iterdir()] == ["full"]


def test_config_reloads_to_the_same(full_run, config_file):
    assert configs.load(full_run / "config.yaml") == configs.load(config_file)


def test_reported_counts_are_the_files(full_run):
    report = json.loads((full_run / "report.json").read_text(encoding="utf-8"))
    counts = counting.count(keras.models.load_model(full_run / "model.keras"))
    told = report["counts"]
    assert told["zeros"] > 0
    for key in ("weights", "zeros", "nonzero", "sparsity", "parameters", "nonzero_parameters"):
        assert told[key] == getattr(counts, key), key
    pairs = [(layer["layer"], layer["zeros"]) for layer in told["layers"]]
    assert pairs == [(layer.layer, layer.zeros) for layer in counts.layers]
    for name, least in (("model_float32.tflite", True), ("model_int8.tflite", False)):
        tflite = export.read_tflite((full_run / name).read_bytes())
        figures = report["files"][name]
        assert (figures["weights"], figures["zeros"]) == (tflite.weight_count, tflite.zeros)
        assert tflite.weight_count == counts.weights
        # int8 may round further weights to zero.
        assert tflite.zeros == counts.zeros if least else tflite.zeros >= counts.zeros
    dense = export.read_tflite((full_run / "dense" / "model_float32.tflite").read_bytes())
    assert dense.zeros == 0


def test_report_says_what_was_measured(full_run):
    report = json.loads((full_run / "report.json").read_text(encoding="utf-8"))
    assert report["data"]["input_shape"] == [8, 8, 1]
    assert report["data"]["measured_split"] == "test"
    assert report["data"]["measured_examples"] == 360
    assert len(report["files"]) == 8
    for name, figures in report["files"].items():
        path = full_run / name
        assert path.exists(), name
        if path.is_file():
            assert figures["bytes"] == path.stat().st_size, name
        assert figures["examples"] == 360
        assert (figures["latency_median_ms"] is not None) == name.endswith(".tflite")
        # Only int8 may decide otherwise than Keras.
        if "int8" not in name:
            assert figures["agreement"] == 1.0, name


def test_history(full_run):
    history = read_history(full_run)
    base = {"loss", "data_loss", "accuracy"}
    columns = base | {f"val_{key}" for key in base} | {"epoch", "penalty", "l1_strength"}
    columns |= {"sparsity", "nonzero"} | {f"sparsity/{name}" for name in LAYERS}
    assert columns <= set(history)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["l1_strength"].tolist() == [0.01, 0.01, 0.01, 0.0, 0.0]
    # Under the penalty the loss holds it. `penalty` is the value at the epoch's
    # end, the loss its mean over the epoch: hence the validation loss, which is
    # taken at the end too. float32 sums.
    gap = (history["val_loss"] - history["val_data_loss"])[:3]
    np.testing.assert_allclose(gap, history["penalty"][:3], rtol=1e-4)
    assert np.all(history["loss"][:3] > history["data_loss"][:3])
    assert np.all(history["penalty"][:3] > 0)
    # Without it there is none.
    np.testing.assert_allclose(history["loss"][3:], history["data_loss"][3:], rtol=1e-6)
    assert history["penalty"][3:].tolist() == [0, 0]


def test_zeros_are_held_in_fine_tuning(full_run):
    history = read_history(full_run)
    for key in ("sparsity", *(f"sparsity/{name}" for name in LAYERS)):
        assert np.all(np.diff(history[key][2:]) >= 0), key
    assert history["sparsity"][2] > 0
    report = json.loads((full_run / "report.json").read_text(encoding="utf-8"))
    assert report["counts"]["sparsity"] >= history["sparsity"][2]


def test_tensorboard_has_the_figures(full_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars, tensors, histograms = {}, set(), set()
    for path in (full_run / "tensorboard").rglob("events.*"):
        events = EventAccumulator(str(path), size_guidance={"tensors": 0}).Reload()
        for tag in events.Tags()["tensors"]:
            tensors.add(tag)
            plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
            if plugin == "histograms":
                histograms.add(tag)
            else:
                scalars[tag] = scalars.get(tag, 0) + len(events.Tensors(tag))
    expected = {"loss", "data_loss", "penalty", "l1_strength", "sparsity"}
    expected |= {f"sparsity/{name}" for name in LAYERS}
    for key in expected:
        assert max(scalars.get(f"epoch_{key}", 0), scalars.get(key, 0)) >= 5, key
    for name in LAYERS:
        assert any(tag.startswith(name) and "kernel" in tag for tag in histograms), histograms


def weights_of(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


@pytest.mark.slow
def test_same_seed_gives_the_same_weights(config_file, tmp_path):
    for name in ("one", "two"):
        assert train_main(arguments(config_file, tmp_path / name, *QUICK, "seed=5")) == 0
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_preparing_data_changes_no_weights(config_file, tmp_path, monkeypatch):
    def load(*arguments):
        random.random()  # as TFDS does where it prepares a set
        return read(*arguments)

    read = data.load
    kernels = []
    for number, function in enumerate((read, load)):
        monkeypatch.setattr(data, "load", function)
        output = tmp_path / str(number)
        assert train_main(arguments(config_file, output, *QUICK)) == 0
        kernels.append(keras.models.load_model(output / "model.keras").get_weights()[0])
    np.testing.assert_array_equal(*kernels)


@pytest.mark.slow
def test_only_the_proximal_method_makes_exact_zeros(config_file, tmp_path):
    zeros = {}
    for method in ("proximal", "subgradient"):
        flags = arguments(config_file, tmp_path / method, *QUICK, f"training.method={method}")
        assert train_main(flags) == 0
        report = json.loads((tmp_path / method / "report.json").read_text(encoding="utf-8"))
        assert report["method"] == method
        zeros[method] = report["counts"]["zeros"]
    assert zeros["subgradient"] == 0
    assert zeros["proximal"] > 0


# Settings, each in a run of an epoch or two.

COMBINATIONS = {
    "scheduled thresholding": (
        "training.epochs=2",
        "thresholding={threshold: 0.02, start_epochs: 1}",
        "fine_tuning.epochs=1",
    ),
    "subgradient, thresholding at the end, held": (
        "training.method=subgradient",
        "thresholding={relative_threshold: 0.5}",
        "fine_tuning.epochs=1",
        "fine_tuning.early_stopping_epochs=1",
    ),
    "thresholding without a penalty, held": (
        "penalty.name=none",
        "thresholding={relative_threshold: 0.5}",
        "fine_tuning.epochs=1",
    ),
    "accumulation, early stopping, biases and batch-norm": (
        "training.epochs=2",
        "training.early_stopping_epochs=1",
        "training.ramp_epochs=1",
        "optimizer.gradient_accumulation_steps=2",
        "penalty.biases=true",
        "penalty.batch_norm=true",
        "penalty.l1_strength=0.05",
        "fine_tuning.epochs=1",
        "fine_tuning.learning_rate=1e-3",
    ),
    "mixed_bfloat16, augmentation": (
        "model.dtype_policy=mixed_bfloat16",
        "data.augmentation={shift_pixels: 1, flip: true}",
        "export.formats=[float32]",
    ),
    "elastic net, standardized, only saved_model": (
        "penalty={name: l1l2, l1_strength: 0.01, l2_strength: 0.001}",
        "model.normalization=standardize",
        "export.formats=[saved_model]",
    ),
    "reweighted, steered to a target": (
        "training.epochs=2",
        "penalty={shape: reweighted, scale: 0.2}",
        "target={sparsity: 0.5, by_epochs: 1}",
        "fine_tuning.epochs=1",
        "export.formats=[float32]",
    ),
    "crops": ("data.augmentation={crop_pixels: 1}",),
    "batch-norm folded": ("export.fold_batch_norm=true", "export.formats=[float32]"),
}


@pytest.mark.slow
def test_weights_are_refreshed_under_reweighting_alone(config_file, tmp_path, monkeypatch):
    refreshed = []
    monkeypatch.setattr(
        "cnn_l1.sparsity.optimizers.Proximal.reweight", lambda self: refreshed.append(self) or 1
    )
    for number, shape in enumerate(("log", "reweighted")):
        overrides = (*QUICK, "training.epochs=3", f"penalty.shape={shape}", "export.formats=[]")
        assert train_main(arguments(config_file, tmp_path / str(number), *overrides)) == 0
        assert len(refreshed) == (2 if shape == "reweighted" else 0)


IN_THE_FAST_SUITE = ("mixed_bfloat16, augmentation",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in IN_THE_FAST_SUITE else pytest.mark.slow)
        for name in COMBINATIONS
    ],
)
def test_settings_together(config_file, tmp_path, name):
    overrides = [*QUICK, *COMBINATIONS[name]]
    assert train_main(arguments(config_file, tmp_path / "run", *overrides)) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    resolved = configs.load(tmp_path / "run" / "config.yaml")
    files = {"saved_model": "saved_model"}
    files |= {kind: f"model_{kind}.tflite" for kind in ("float32", "int8")}
    expected = {"model.keras"} | {files[kind] for kind in resolved.export.formats}
    assert set(report["files"]) == expected
    others = {"config.yaml", "report.json", "manifest.json", "history.csv"}
    if resolved.export.fold_batch_norm:
        others.add("model_unfolded.keras")
    assert {path.name for path in (tmp_path / "run").iterdir()} == expected | others
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"}
    assert not [layer for layer in model.layers if "Random" in type(layer).__name__]
    history = read_history(tmp_path / "run")
    zeros = counting.count(model)
    assert zeros.zeros > 0
    thresholding = resolved.thresholding
    if thresholding is not None and thresholding.relative_threshold:
        # Half a deviation is some 38% of a normal kernel, and fine-tuning keeps it.
        assert zeros.sparsity > 0.2
        assert history["sparsity"][0] < 0.05
    if resolved.penalty.biases:
        # Proximal steps reach beyond the kernels, and fine-tuning holds those zeros.
        assert zeros.other_zeros > 0
    if thresholding is not None and thresholding.start_epochs:
        assert history["sparsity"][1] > history["sparsity"][0]


# Values instead of classes.

REGRESSION = {
    "name": "regression",
    "data": {"name": "diabetes"},
    "model": {"name": "linear"},
    "penalty": {"l1_strength": 20.0},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "training": {"epochs": 3, "batch_size": 64, "steps_per_epoch": 30},
    "fine_tuning": {"epochs": 2},
    # One int8 scale for features in units of their own loses the small ones: that file's outputs
    # are another network's, and it is refused.
    "export": {"formats": ["saved_model", "float32"]},
    "measure": {"latency_runs": 1},
    "tensorboard": False,
}


@pytest.fixture(scope="module")
def regression_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "regression.yaml"
    path.write_text(yaml.safe_dump(REGRESSION), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def regression_run(regression_file, tmp_path_factory):
    """The folder of one whole run of `diabetes`, and what it printed."""
    output = tmp_path_factory.mktemp("runs") / "regression"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert train_main(arguments(regression_file, output)) == 0
    return output, printed.getvalue()


def read_report(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


VALUE_SCORES = {"mean_squared_error", "mean_squared_error_standard_error", "r2"}


@pytest.mark.slow
def test_report_of_values(regression_run):
    folder, printed = regression_run
    report = read_report(folder)
    assert report["data"] == {
        "name": "diabetes",
        "input_shape": [10],
        "class_names": None,
        "train_examples": 318,
        "validation_examples": 36,
        "measured_split": "test",
        "measured_examples": 88,
    }
    assert set(report["validation"]) == {"sparse", "dense"}
    for scores in report["validation"].values():
        assert set(scores) == VALUE_SCORES
    names = {"model.keras", "saved_model", "model_float32.tflite"}
    assert set(report["files"]) == names | {f"dense/{name}" for name in names}
    for name, figures in report["files"].items():
        assert figures["accuracy"] is figures["accuracy_standard_error"] is None, name
        assert figures["agreement"] is None
        assert figures["examples"] == 88
        assert figures["mean_squared_error"] > 0
        # A linear model explains some 0.3 to 0.5 of it; the mean alone 0. int8 has one
        # step, of more than 1, for all ten features, and cannot tell a sex of 1 from 2.
        assert 0.2 < figures["r2"] < 0.7 or "int8" in name, name
    assert "MSE" in printed
    assert "accuracy" not in printed


@pytest.mark.slow
def test_features_of_a_run(regression_run):
    folder, printed = regression_run
    told = read_report(folder)["features"]
    kernel = keras.models.load_model(folder / "model.keras").get_layer("dense").kernel.numpy()
    with (folder / "features.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal([float(row["weight"]) for row in rows], kernel[:, 0])
    taken = [row["feature"] for row in rows if row["selected"] == "1"]
    assert told == {"features": 10, "selected": taken}
    assert 0 < len(taken) == np.count_nonzero(kernel) < 10
    assert f"{len(taken)} of 10 features have a weight left: {' '.join(taken)}" in printed
    for name in ("features.png", "features.svg"):
        assert (folder / name).stat().st_size > 1000


@pytest.mark.slow
def test_reported_scores_are_the_files(regression_run):
    from sklearn import metrics

    from cnn_l1.data import sets as data

    folder, _ = regression_run
    report = read_report(folder)
    held = data.load(configs.load(folder / "config.yaml").data, seed=0)
    test = held.load_test()
    for prefix, name in (("", "sparse"), ("dense/", "dense")):
        model = keras.models.load_model(folder / prefix / "model.keras")
        for split, told in (
            (test, report["files"][f"{prefix}model.keras"]),
            (held.validation, report["validation"][name]),
        ):
            outputs = model.predict_on_batch(split.inputs)[:, 0]
            # float32 outputs, the same ones; float64 sums in another order.
            expected = metrics.mean_squared_error(split.targets, outputs)
            assert told["mean_squared_error"] == pytest.approx(expected, rel=1e-5)
            assert told["r2"] == pytest.approx(metrics.r2_score(split.targets, outputs), rel=1e-5)


@pytest.mark.slow
def test_fine_tuning_keeps_the_epoch_of_least_error(regression_run):
    folder, _ = regression_run
    history = read_history(folder)
    assert "accuracy" not in history
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    told = read_report(folder)["validation"]["sparse"]["mean_squared_error"]
    # Keras' mean of float32 batches, against one in float64.
    assert told == pytest.approx(min(history["val_data_loss"][3:]), rel=1e-5)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_test_split_stays_unread_where_validation_is_measured(
    regression_file, tmp_path, monkeypatch, split
):
    from cnn_l1.data import sets as data

    read, original = [], data._read

    def recording(*settings):
        read.append(settings[-1])
        return original(*settings)

    monkeypatch.setattr(data, "_read", recording)
    flags = arguments(regression_file, tmp_path / "run", *QUICK, f"measure.split={split}")
    assert train_main(flags) == 0
    assert read == (["train", "test"] if split == "test" else ["train"])
    report = read_report(tmp_path / "run")
    assert report["data"]["measured_split"] == split
    measured = report["files"]["model.keras"]
    assert measured["examples"] == (88 if split == "test" else 36)
    if split == "validation":
        expected = report["validation"]["sparse"]["mean_squared_error"]
        assert measured["mean_squared_error"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_streamed_data_set(config_file, tmp_path):
    """Read anew each epoch; nothing is taken from the test split but what is measured."""
    flags = arguments(config_file, tmp_path / "run", *QUICK[:-1], "data.in_memory=false")
    assert train_main([*flags, "--set", "export.formats=[float32, int8]"]) == 0
    report = read_report(tmp_path / "run")
    assert report["files"]["model_int8.tflite"]["examples"] == 360
    assert report["micro"] == {}


@pytest.mark.slow
def test_measured_again_is_of_the_other_split(config_file, tmp_path):
    settings = ("measure.split=validation", "measure.micro_examples=7")
    flags = arguments(config_file, tmp_path / "run", *QUICK[:-1], *settings)
    assert train_main([*flags, "--set", "export.formats=[int8]"]) == 0
    first = read_report(tmp_path / "run")
    again = measuring_again.measure_again(tmp_path / "run", tmp_path / "again", "test")
    assert json.loads(json.dumps(again)) == read_report(tmp_path / "again")
    assert again["data"]["measured_split"] == "test"
    settings = configs.load(tmp_path / "again" / "config.yaml")
    dataset = data.load(settings.data, settings.seed)
    facts = again["micro"]["model_int8.tflite"]
    assert facts["examples"] == 7
    assert facts["arena_bytes"] == first["micro"]["model_int8.tflite"]["arena_bytes"]
    path = tmp_path / "again" / "model_int8.tflite"
    examples = dataset.load_test()
    expected = on_micro.measure_micro(
        path, examples.sample(7), examples.targets[:7], measurement.largest
    )
    assert facts["accuracy"] == expected.accuracy


def colour(load):
    """A loader of data whose images have three channels."""

    def loaded(*arguments):
        dataset = load(*arguments)
        about = dataclasses.replace(dataset.about, input_shape=(8, 8, 3))

        def split(part):
            return dataclasses.replace(part, inputs=np.repeat(part.inputs, 3, axis=-1))

        return dataclasses.replace(
            dataset,
            about=about,
            train=split(dataset.train),
            validation=split(dataset.validation),
            load_test=lambda: split(dataset.load_test()),
        )

    return loaded


POINTWISE = (
    "model={name: pointwise, pointwise: {width: 16, halvings: 1, repeats: 1}}",
    "training.epochs=2",
    "export.formats=[float32, sparse_float32]",
)


@pytest.mark.slow
@pytest.mark.parametrize(("strength", "is_written"), [(0.05, True), (0.0, False)])
def test_sparse_files(config_file, tmp_path, monkeypatch, capsys, strength, is_written):
    monkeypatch.setattr(data, "load", colour(data.load))
    flags = arguments(
        config_file, tmp_path / "run", *QUICK[1:-1], *POINTWISE, f"penalty.l1_strength={strength}"
    )
    assert train_main(flags) == 0
    report = read_report(tmp_path / "run")
    name = "model_sparse_float32.tflite"
    assert (tmp_path / "run" / name).exists() == is_written
    if is_written:
        assert report["refused"] == {}
        sparse, dense = report["files"][name], report["files"]["model_float32.tflite"]
        for key in ("accuracy", "weights", "zeros", "macs"):
            assert sparse[key] == dense[key], key
    else:
        assert name not in report["files"]
        assert "zeros in more than 66.7%" in report["refused"][name]
        assert f"Not written: {name}: expected" in capsys.readouterr().out
    assert (
        verification.check_formats(
            tmp_path / "run",
            report["files"],
            configs.load(tmp_path / "run" / "config.yaml"),
            report["refused"],
        )
        == []
    )


def test_sparse_files_of_another_network_are_refused_before_training(config_file, tmp_path, capsys):
    flags = arguments(config_file, tmp_path / "run", "export.formats=[sparse_float16]")
    check_refusal(
        capsys, tmp_path, 2, flags, "export.formats", "XNNPACK's sparse path", "3 channels"
    )


@pytest.mark.parametrize(
    ("steps", "execution", "made"), [(5, 10, 5), (15, 10, 5), (7, 3, 1), (24, 12, 12), (3, 3, 3)]
)
def test_steps_per_execution_come_out_even(steps, execution, made):
    training = TrainingConfig(steps_per_epoch=steps, steps_per_execution=execution)
    assert stages.steps_per_execution(training) == made
    assert stages.steps_per_execution(TrainingConfig(steps_per_execution=execution)) == (execution)


@pytest.mark.parametrize(("steps", "execution"), [(5, 10), (15, 10)])
def test_steps_per_epoch(steps, execution):
    """As many as are asked for, in fewer passes over the data or in several."""
    from cnn_l1.data import sets as data
    from cnn_l1.data import tasks
    from cnn_l1.models import builders

    training = {"epochs": 2, "batch_size": 64, "steps_per_epoch": steps}
    training["steps_per_execution"] = execution
    resolved = configs.validate({**REGRESSION, "training": training})
    held = data.load(resolved.data, 0)
    assert held.train.batches_per_epoch(64) == 4
    task = tasks.task_of("auto", held.about)
    model = builders.build(resolved, (10,), 1, held.statistics())
    rows = stages.sparsify(model, stages.Run(resolved, held, task))
    assert [row["epoch"] for row in rows] == [1, 2]
    assert int(model.optimizer.iterations) == 2 * steps
    # The cosine schedule ends with the training.
    rate = float(model.optimizer.inner_optimizer.learning_rate)
    assert rate == pytest.approx(0.01 * 0.05, rel=1e-5)


@pytest.mark.slow
def test_initial_weights(regression_file, regression_run, tmp_path):
    """Both networks start there: after a step of no size, they are there still."""
    start, _ = regression_run
    overrides = [
        *QUICK,
        "baseline=true",
        "seed=9",
        "penalty.l1_strength=0",
        "optimizer.learning_rate=1e-30",
        "export.formats=[float32]",
        f"model.initial_weights={start / 'model.keras'}",
    ]
    assert train_main(arguments(regression_file, tmp_path / "run", *overrides)) == 0
    for folder in ("", "dense"):
        found = weights_of(tmp_path / "run" / folder)
        for one, other in zip(found, weights_of(start), strict=True):
            # Exact zeros too, but for those steps.
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-20)
    # The exported file goes elsewhere, and says nothing of this machine's folders.
    run, name = tmp_path / "run", "model_float32.tflite"
    content = (run / name).read_bytes()
    assert str(tmp_path.parent).encode() not in content
    told = yaml.safe_load(metadata.read_files(content)["config.yaml"])
    assert told["model"]["initial_weights"] == f"{start.name}/model.keras"
    assert verification.check_metadata(run, name, read_report(run)) == []


@pytest.mark.slow
def test_classes_by_squared_error(tmp_path):
    """Exclusive or of 0 and 1 by one output, decided at ½, in the files too."""
    path = tmp_path / "xor.yaml"
    blocks = [
        {"type": "dense", "units": 8, "activation": "tanh"},
        {"type": "dense", "units": "outputs", "activation": "linear"},
    ]
    xor = {
        "name": "xor",
        "data": {"name": "xor", "validation_split": "validation"},
        "model": {"blocks": blocks, "normalization": "none"},
        "penalty": {"l1_strength": 1e-4},
        "optimizer": {"learning_rate": 0.05},
        "training": {"loss": "squared_error", "epochs": 2, "steps_per_epoch": 200},
        "fine_tuning": {"epochs": 1},
        "baseline": False,
        "tensorboard": False,
        "export": {"formats": ["float32", "int8"]},
        "measure": {"latency_runs": 1},
    }
    path.write_text(yaml.safe_dump(xor), encoding="utf-8")
    assert train_main(arguments(path, tmp_path / "run")) == 0
    report = read_report(tmp_path / "run")
    assert report["data"]["class_names"] == ["false", "true"]
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert model.output_shape == (None, 1)
    outputs = model.predict_on_batch(np.float32([[0, 0], [0, 1], [1, 0], [1, 1]]))[:, 0]
    # Learnt: every output well on its side of ½. It comes to 0.01 or closer.
    np.testing.assert_allclose(outputs, [0, 1, 1, 0], atol=0.2)
    for figures in report["files"].values():
        assert (figures["accuracy"], figures["agreement"]) == (1.0, 1.0)
        assert figures["mean_squared_error"] is figures["r2"] is None
    assert report["features"]["selected"] == ["a", "b"]
    history = read_history(tmp_path / "run")
    assert history["val_accuracy"][-1] == 1.0
    # The loss is the squared error, not a logarithm.
    assert history["val_data_loss"][-1] == pytest.approx(
        np.mean((outputs - [0, 1, 1, 0]) ** 2), abs=1e-6
    )


def test_support_of_a_run(tmp_path, capsys):
    path = tmp_path / "sparse.yaml"
    sparse = {**REGRESSION, "data": {"name": "sparse_regression"}, "penalty": {"l1_strength": 0.6}}
    path.write_text(yaml.safe_dump(sparse), encoding="utf-8")
    flags = arguments(path, tmp_path / "run", *QUICK, "training.epochs=3")
    assert train_main(flags) == 0
    told = read_report(tmp_path / "run")["features"]
    assert (told["support"]["true"], told["support"]["found"]) == (10, 10)
    assert len(told["selected"]) == 10 + told["support"]["false"]
    assert "Of 10 features that truly count, 10 are found" in capsys.readouterr().out


# Channels that go.

CHANNELS = {
    "groups": ("penalty={name: group_l1, l1_strength: 0.05}",),
    "sparse groups, mixed_bfloat16": (
        "penalty={name: group_l1, l1_strength: 0.05, l1_ratio: 0.3}",
        "model.dtype_policy=mixed_bfloat16",
        "data.augmentation={shift_pixels: 1}",
    ),
    "scheduled channels, fine-tuned when shrunk": (
        "penalty={name: group_l1, l1_strength: 0.001}",
        "thresholding={relative_threshold: 0.95, start_epochs: 1}",
        "shrink={fine_tuning_epochs: 1, round_to: 2}",
    ),
    "slimming": (
        "penalty={name: slimming, l1_strength: 0.01}",
        "thresholding={threshold: 0.97}",
        "penalty.layers={}",
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "groups" else pytest.mark.slow) for name in CHANNELS],
)
def test_channels_are_zeroed_and_taken_out(config_file, tmp_path, capsys, name):
    quick = [setting for setting in QUICK if not setting.startswith(("training", "export"))]
    settings = ["training.epochs=2", "export.formats=[float32]", "shrink.enabled=true"]
    overrides = [*quick, *settings, *CHANNELS[name]]
    assert train_main(arguments(config_file, tmp_path / "run", *overrides)) == 0
    assert "→" in capsys.readouterr().out  # the plan
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    zeroed = report["files"]["model_float32.tflite"]
    shrunk = report["files"]["shrunk/model_float32.tflite"]
    assert set(report["validation"]) == {"sparse", "shrunk"}
    assert shrunk["macs"] < zeroed["macs"]
    assert shrunk["bytes"] < zeroed["bytes"]
    resolved = configs.load(tmp_path / "run" / "config.yaml")
    large, small = (
        keras.models.load_model(tmp_path / "run" / folder / "model.keras")
        for folder in ("", "shrunk")
    )
    assert counting.count(small).weights < counting.count(large).weights
    x = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 1)).astype("float32")
    expected, received = (np.asarray(m(x, training=False)) for m in (large, small))
    if resolved.shrink.fine_tuning_epochs:
        history = read_history(tmp_path / "run")
        assert history["epoch"].tolist() == [1, 2, 3]
        assert np.abs(expected - received).max() > 1e-3
        assert small.get_layer("dense_1").units % 2 == 0
    else:
        # Sums of some tens of float32 terms in another order.
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance)
        assert zeroed["accuracy"] == shrunk["accuracy"]


@pytest.mark.slow
def test_nothing_to_take_out_leaves_no_folder(config_file, tmp_path):
    overrides = [*QUICK, "penalty.l1_strength=0", "shrink.enabled=true"]
    assert train_main(arguments(config_file, tmp_path / "run", *overrides)) == 0
    assert not (tmp_path / "run" / "shrunk").exists()


@pytest.mark.slow
def test_fine_tuning_is_done_where_nothing_can_go(config_file, tmp_path, capsys):
    settings = ("penalty.l1_strength=0", "shrink={fine_tuning_epochs: 2}", "baseline=true")
    assert train_main(arguments(config_file, tmp_path / "run", *QUICK, *settings)) == 0
    assert "No channel can go" in capsys.readouterr().out
    report = read_report(tmp_path / "run")
    assert read_history(tmp_path / "run")["epoch"].tolist() == [1, 2, 3]
    assert report["removed_channels"] == {}
    assert report["shrunk_counts"]["weights"] == report["counts"]["weights"]
    sparse, shrunk, dense = (weights_of(tmp_path / "run" / n) for n in ("", "shrunk", "dense"))
    assert np.any(sparse[0] != shrunk[0])
    # Without penalty the dense baseline is the same run: as many epochs, of the same stages.
    for one, other in zip(shrunk, dense, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_blocks_may_be_named_as_augmentation_is(config_file, tmp_path):
    blocks = [{"type": "conv", "filters": 3, "name": n} for n in ("flip", "crop", "shift")]
    blocks += BLOCKS[2:]
    settings = (
        f"model.blocks={json.dumps(blocks)}",
        "data.augmentation={shift_pixels: 1, crop_pixels: 1, flip: true}",
        "export.formats=[float32]",
    )
    assert train_main(arguments(config_file, tmp_path / "run", *QUICK, *settings)) == 0
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert {"flip", "crop", "shift"} <= {layer.name for layer in model.layers}
    told = read_report(tmp_path / "run")
    assert [layer["layer"] for layer in told["counts"]["layers"]][:3] == ["flip", "crop", "shift"]
    assert told["files"]["model_float32.tflite"]["weights"] == told["counts"]["weights"]


# What fails behind the training loses itself alone.


def test_a_format_that_fails_loses_its_file_alone(config_file, tmp_path, capsys):
    settings = ("model.blocks.3.activation=elu", "export.formats=[float32, int8, int16x8, c]")
    output = tmp_path / "run"
    assert train_main(arguments(config_file, output, *QUICK, *settings)) == 0
    report, printed = read_report(output), capsys.readouterr().out
    assert set(report["files"]) == {"model.keras", "model_float32.tflite"}
    lost = {"model_int8.tflite", "model_int16x8.tflite", "model_int8.h"}
    assert set(report["refused"]) == lost
    assert "ELU in float" in report["refused"]["model_int8.tflite"]
    for name in ("model_int8.tflite", "model_int16x8.tflite"):
        # Before the training too.
        assert printed.index(f"Will not be written: {name}") < printed.index("Exact zeros")
        assert f"Not written: {name}" in printed
    assert not [path for path in output.iterdir() if "int" in path.name]
    assert verification.verify(output, with_data=False) == []


def test_dry_run_names_what_cannot_be_written(config_file, tmp_path, capsys):
    settings = ("model.blocks.3.activation=elu", "export.formats=[float32, int8]")
    flags = [*arguments(config_file, tmp_path / "run", *settings), "--dry-run"]
    assert train_main(flags) == 0
    printed = capsys.readouterr().out
    assert "Will not be written: model_int8.tflite: expected every operator in int" in printed
    assert "Will not be written: model_float32" not in printed


@pytest.mark.parametrize("flag", [(), ("--dry-run",)])
def test_packages_are_looked_for_before_the_training(
    config_file, tmp_path, capsys, monkeypatch, flag
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "tf2onnx" else found(name, *a)
    )
    flags = [*arguments(config_file, tmp_path / "run", "export.formats=[onnx]"), *flag]
    check_refusal(capsys, tmp_path, 2, flags, "export.formats", "cnn_l1[onnx]", "no tf2onnx")


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[] if place == "export" else pytest.mark.slow)
        for place in ("export", "measure", "micro", "encode", "time")
    ],
)
def test_any_error_of_one_file_is_told(config_file, tmp_path, capsys, monkeypatch, place):
    def fail(*arguments, **settings):
        raise IndexError("out of luck")

    where = {
        "export": (export, "export_saved_model"),
        "measure": (measurement, "measure_saved_model"),
        "micro": (on_micro, "measure_micro"),
        "encode": (encoding, "encode_zeros"),
        "time": (measurement, "time_files"),
    }
    monkeypatch.setattr(*where[place], fail)
    settings = ("export.formats=[float32, saved_model]", "measure.micro_examples=2")
    output = tmp_path / "run"
    more = ("export.encode_zeros=true",)
    assert train_main(arguments(config_file, output, *QUICK, *settings, *more)) == 0
    report = read_report(output)
    assert "model_float32.tflite" in report["files"]
    told = report["refused"] | report["not_measured"]
    assert list(told.values()) == ["IndexError: out of luck"]
    assert (output / "saved_model").exists() == ("saved_model" not in report["refused"])
    assert ("saved_model" in report["refused"]) == (place in ("export", "measure"))
    assert "IndexError: out of luck" in capsys.readouterr().out or place == "time"


@pytest.mark.slow
def test_what_was_trained_is_kept(config_file, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise IndexError("out of luck")

    monkeypatch.setattr(measurement, "predict", fail)
    output = tmp_path / "run"
    assert train_main(arguments(config_file, output, *QUICK)) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert f"error: IndexError: out of luck. What was trained is kept in {output}" in error
    report = read_report(output)
    assert report["error"] == "IndexError: out of luck"
    assert report["counts"]["weights"] > 0
    assert {"model.keras", "config.yaml", "history.csv"} <= {p.name for p in output.iterdir()}
    keras.models.load_model(output / "model.keras")
    (line,) = verification.verify(output, with_data=False)
    assert "expected a run that ended well" in line
    # Such a run can be replaced.
    monkeypatch.undo()
    assert train_main([*arguments(config_file, output, *QUICK), "--overwrite"]) == 0
    assert read_report(output)["error"] is None


def test_errors_of_the_disk_say_where(config_file, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "/a/shelf")

    monkeypatch.setattr(data, "load", fail)
    flags = arguments(config_file, tmp_path / "run", *QUICK)
    check_refusal(capsys, tmp_path, 1, flags, "data set 'digits'", "/a/shelf", "Permission denied")


def test_meanings_are_those_of_the_network(config_file, tmp_path):
    about = data.describe(configs.load(config_file).data)
    for normalization, text in (("auto", "scaling is in the model"), ("none", "not scaled")):
        resolved = configs.load(config_file, [f"model.normalization={normalization}"])
        assert text in files.input_meaning(resolved, about)
    assert files.output_meaning(resolved, about) == "logits, one a class"
    squared = configs.load(config_file, ["training.loss=squared_error"])
    assert files.output_meaning(squared, about) == "values, one a class"


# Nothing half-written, nothing overwritten unasked.


def test_dry_run_prints_and_writes_nothing(config_file, tmp_path, capsys):
    flags = arguments(config_file, tmp_path / "run", "seed=7")
    assert train_main([*flags, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert "seed: 7" in printed
    assert all(name in printed for name in LAYERS)


@pytest.mark.slow
def test_a_run_that_is_there_stays_unless_overwritten(config_file, tmp_path, capsys):
    output = tmp_path / "run"
    assert train_main(arguments(config_file, output, *QUICK)) == 0
    before, first = contents(output), weights_of(output)
    assert train_main(arguments(config_file, output, *QUICK, "seed=3")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert contents(output) == before
    assert train_main([*arguments(config_file, output, *QUICK, "seed=3"), "--overwrite"]) == 0
    assert configs.load(output / "config.yaml").seed == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    other = weights_of(output)
    assert np.any(other[0] != first[0])  # another seed, another run
    # A new run that fails leaves the old one.
    before = contents(output)
    failing = arguments(config_file, output, *QUICK, "data.image_size=[2, 2]")
    assert train_main([*failing, "--overwrite"]) == 2
    assert contents(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_no_run_is_never_overwritten(config_file, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    (tmp_path / "file").write_text("text", encoding="utf-8")
    before = contents(tmp_path)
    for name in ("mine", "file"):
        flags = [*arguments(config_file, tmp_path / name, *QUICK), "--overwrite"]
        assert train_main(flags) == 2
        assert name in capsys.readouterr().err
    assert contents(tmp_path) == before


# What a user does wrong.


def check_refusal(capsys, parent, code, flags, *texts):
    """`main` gives `code` and one message that has `texts`, and leaves nothing behind."""
    before = contents(parent)
    capsys.readouterr()
    assert train_main(flags) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("error: ") == 1
    for text in texts:
        assert text in error
    assert contents(parent) == before
    assert not [path for path in parent.iterdir() if path.name.startswith(".")]


BAD_SETTINGS = {
    "unknown key": (["training.epoch=3"], ["training.epoch", "Did you mean 'epochs'"]),
    "unknown section": (["trainning.epochs=3"], ["trainning", "unknown key"]),
    "wrong type": (["training.epochs=many"], ["training.epochs", "'many'"]),
    "no whole number": (["training.epochs=1.5"], ["training.epochs", "1.5"]),
    "negative": (["penalty.l1_strength=-1"], ["penalty.l1_strength", "-1"]),
    "not finite": (["penalty.l1_strength=.nan"], ["penalty.l1_strength"]),
    "no key": (["=3"], ["--set"]),
    "no value": (["training.epochs"], ["--set", "key=value"]),
    "data set": (["data.name=didgits"], ["data.name", "didgits", "Did you mean 'digits'"]),
    "split": (["data.test_split=tset"], ["data.test_split", "tset"]),
    "too small": (["model.blocks=null", "data.image_size=[3, 3]"], ["model", "3x3x1"]),
    "last block": (["model.blocks.4.units=7"], ["model.blocks", "10"]),
    "slimming without batch-norm": (
        ["penalty.name=slimming", "model.blocks=null"],
        ["penalty.name", "BatchNormalization"],
    ),
    "groups without channels": (
        [
            "penalty.name=group_l1",
            "model.blocks=[{type: flatten}, {type: dense, units: classes, activation: linear}]",
        ],
        ["penalty.name", "channels that can be removed"],
    ),
    "numbers as classes": (
        ["data.name=diabetes", "training.loss=crossentropy", "model={name: linear}"],
        ["training.loss", "'diabetes' are numbers"],
    ),
    "features augmented": (
        ["data={name: diabetes, augmentation: {flip: true}}", "model={name: linear}"],
        ["data.augmentation", "no images"],
    ),
    "features resized": (
        ["data={name: diabetes, image_size: [4, 4]}", "model={name: linear}"],
        ["data.image_size", "rows of features"],
    ),
    "weights that are not there": (
        ["model.initial_weights=nowhere.keras"],
        ["model.initial_weights", "nowhere.keras"],
    ),
    "a fold beyond the last": (["data.fold=[5, 5]"], ["data", "below the number of folds, 5"]),
    "two validations": (
        ["data.fold=[0, 5]", "data.validation_split=train"],
        ["data", "fold must be left out"],
    ),
    "ratio without groups": (["penalty.l1_ratio=0.5"], ["l1_ratio", "group_l1"]),
    "fine-tuning of what is not shrunk": (
        ["shrink={enabled: false, fine_tuning_epochs: 3}"],
        ["shrink", "fine_tuning_epochs must be 0"],
    ),
    "pattern": (["penalty.layers={nowhere*: 0.1}"], ["penalty.layers", "nowhere*"]),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings(config_file, tmp_path, capsys, name):
    overrides, texts = BAD_SETTINGS[name]
    flags = arguments(config_file, tmp_path / "run", *QUICK, *overrides)
    check_refusal(capsys, tmp_path, 2, flags, *texts)


def test_bad_files(tmp_path, capsys):
    missing = tmp_path / "missing.yaml"
    broken, words, binary = (tmp_path / name for name in ("broken.yaml", "words.yaml", "b.yaml"))
    broken.write_text("name: [tiny", encoding="utf-8")
    words.write_text("just words", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (missing, broken, words, binary, tmp_path):
        check_refusal(capsys, tmp_path, 2, arguments(path, tmp_path / "run"), str(path))


def test_a_data_set_without_its_data_is_refused_at_once(config_file, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    overrides = ["data.name=mnist", f"data.data_dir={tmp_path / 'data'}"]
    flags = arguments(config_file, tmp_path / "run", *overrides)
    check_refusal(capsys, tmp_path, 2, flags, "mnist", "data.download=true")
    assert list((tmp_path / "data").rglob("*")) == []


@pytest.mark.parametrize("flags", [["--nonsense"], []])
def test_bad_flags(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_main(flags)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_divergence_is_told(config_file, tmp_path, capsys):
    overrides = ["optimizer.name=sgd", "optimizer.learning_rate=1e30"]
    flags = arguments(config_file, tmp_path / "run", *QUICK, *overrides)
    check_refusal(capsys, tmp_path, 1, flags, "diverged", "optimizer.learning_rate")


def test_empty_layers_can_be_forbidden(config_file, tmp_path, capsys):
    overrides = ["training.empty_layers=forbid", "penalty.l1_strength=1e4"]
    flags = arguments(config_file, tmp_path / "run", *QUICK, *overrides)
    check_refusal(capsys, tmp_path, 1, flags, "all zero", "empty_layers")


@pytest.mark.slow
def test_empty_layers_are_warned_of_and_exported(config_file, tmp_path):
    overrides = [*QUICK, "penalty.l1_strength=1e4", "export.formats=[float32, int8]"]
    with pytest.warns(UserWarning, match="all zero"):
        assert train_main(arguments(config_file, tmp_path / "run", *overrides)) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_failures_of_the_disk_leave_nothing(config_file, tmp_path, capsys, monkeypatch, number):
    def fail(model, path):
        path.write_bytes(b"half a file")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(export, "export_keras", fail)
    text = os.strerror(number) if number == errno.EACCES else "no space left"
    flags = arguments(config_file, tmp_path / "run", *QUICK)
    check_refusal(capsys, tmp_path, 1, flags, "--output", text)


# In a process of its own: signals, limits, imports.

CHILD = """
import signal, sys
# A test runner in the background may have handed SIGINT down ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[1] != "0":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from cnn_l1.train.__main__ import main
sys.exit(train.main(sys.argv[2:]))
"""


def start(flags, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(limit), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("full_run")  # which has prepared the data set
def test_a_full_disk(config_file, tmp_path):
    flags = arguments(config_file, tmp_path / "runs" / "run", *QUICK)
    process = start(flags, limit=8192)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1, error
    assert "no space left on the disk" in error
    assert "Traceback" not in error
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("full_run")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_leaves_nothing(config_file, tmp_path, number):
    flags = arguments(config_file, tmp_path / "runs" / "run", *QUICK, "training.epochs=100000")
    process = start(flags)
    try:
        for line in process.stdout:
            if "Epoch 2" in line:
                break
        process.send_signal(number)
        _, error = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "interrupted; nothing was written" in error
    assert "Traceback" not in error
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("full_run")
def test_two_fresh_runs_give_the_same_numbers(config_file, tmp_path):
    """In processes of their own, and trained in bfloat16, by several threads, to zeros."""
    formats = "export.formats=[float32,int8]"
    settings = ("model.dtype_policy=mixed_bfloat16", "data.augmentation.shift_pixels=1", formats)
    for name in ("first", "second"):
        process = start(arguments(config_file, tmp_path / name, *settings, "tensorboard=false"))
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    same = [name for name in first if name.endswith((".tflite", ".csv"))]
    assert len(same) >= 5  # two files of two networks, and the history
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    reports = [without_times(json.loads(files["report.json"])) for files in (first, second)]
    assert reports[0] == reports[1]


def without_times(report):
    """A report without what a clock has measured, or left: a .keras file tells its hour."""
    for file, figures in report["files"].items():
        for name in [name for name in figures if name.endswith("_ms")]:
            del figures[name]
        if file.endswith(".keras"):
            del figures["xz_bytes"], figures["deflated_bytes"]
    return {key: value for key, value in report.items() if key != "seconds"}


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "tensorflow_datasets"):
    sys.modules[name] = None  # importing it fails now
from cnn_l1.train.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_settings_are_checked_before_tensorflow_is_imported(config_file, tmp_path):
    flags = arguments(config_file, tmp_path / "run", "training.epochs=0")
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "training.epochs" in done.stderr
    # So is the output.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}", encoding="utf-8")
    flags = arguments(config_file, tmp_path / "run")
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "--overwrite" in done.stderr
