"""Whole runs of `python -m cnn_l1.train`: their files, reports and histories."""

import json
import random

import keras
import numpy as np
import pytest
import yaml
from pipeline_runs import (
    LAYERS,
    QUICK,
    REGRESSION,
    arguments,
    read_history,
    read_report,
    weights_of,
)

from cnn_l1.config import loading as configs
from cnn_l1.data import sets as data
from cnn_l1.data.task_choice import task_of
from cnn_l1.data.tasks import Task
from cnn_l1.export import tflite as export
from cnn_l1.measure import measurement, on_micro
from cnn_l1.runs import exported_files as files
from cnn_l1.runs import verification
from cnn_l1.sparsity import counting
from cnn_l1.tflite import metadata
from cnn_l1.train import measure_again as measuring_again
from cnn_l1.train.__main__ import main as train_main


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


@pytest.mark.slow
def test_same_seed_gives_the_same_weights_whatever_preparing_data_draws(
    config_file, tmp_path, monkeypatch
):
    def load(*arguments):
        random.random()  # as TFDS does where it prepares a set
        return read(*arguments)

    read = data.load
    weights = []
    for name, function in (("one", read), ("two", load)):
        monkeypatch.setattr(data, "load", function)
        assert train_main(arguments(config_file, tmp_path / name, *QUICK, "seed=5")) == 0
        weights.append(weights_of(tmp_path / name))
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_streamed_data_set(config_file, tmp_path):
    """Read anew each epoch; nothing is taken from the test split but what is measured."""
    flags = arguments(config_file, tmp_path / "run", *QUICK[:-1], "data.in_memory=false")
    assert train_main([*flags, "--set", "export.formats=[int8]"]) == 0
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


def test_meanings_are_those_of_the_network(config_file, tmp_path):
    about = data.describe(configs.load(config_file).data)
    for normalization, text in (("auto", "scaling is in the model"), ("none", "not scaled")):
        resolved = configs.load(config_file, [f"model.normalization={normalization}"])
        assert text in files.input_meaning(resolved, about)
    for loss, meaning in (
        ("auto", "logits, one a class"),
        ("squared_error", "values, one a class"),
    ):
        resolved = configs.load(config_file, [f"training.loss={loss}"])
        assert files.output_meaning(task_of(resolved.training, about)) == meaning


@pytest.mark.parametrize(
    ("task", "meaning"),
    [
        (Task("binary", "crossentropy", 1), "one logit, of the second class"),
        (Task("binary", "crossentropy", 1, False), "one probability, of the second class"),
        (Task("multilabel", "crossentropy", 3), "logits, one a label"),
        (
            Task("segmentation", "crossentropy", 3, False),
            "probabilities, one a class, for each pixel",
        ),
        (Task("values", "huber", 2), "values"),
    ],
)
def test_meaning_of_each_task(task, meaning):
    assert files.output_meaning(task) == meaning
