"""Whole runs on networks and data of the user's own, from a config and from one call."""

import json

import keras
import numpy as np
import pytest
import yaml
from keras import layers
from own_data import digits, trained_network, write_folder
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

import cnn_l1
from cnn_l1.sweep.__main__ import main as sweep_main
from cnn_l1.train.__main__ import main as train_main
from cnn_l1.train.api import ArgumentError
from cnn_l1.verify import main as verify_main

HALF = {
    "penalty": {"name": "group_l1", "l1_strength": 1e-4, "channel_cost": "macs"},
    "target": {"macs": 0.5, "by_epochs": 5},
    "training": {"epochs": 6, "batch_size": 64},
    "fine_tuning": {"epochs": 4},
    "optimizer": {"learning_rate": 1e-3},
}
SHORT = {
    "penalty": {"name": "group_l1", "l1_strength": 1e-4, "channel_cost": "macs"},
    "target": {"macs": 0.6, "by_epochs": 2},
    "training": {"epochs": 2, "batch_size": 32},
    "fine_tuning": {"epochs": 1},
}
FILES = {
    "export": {"formats": ["float32", "int8"], "calibration_images": 100},
    "measure": {"latency_runs": 1, "micro_examples": 3},
    "tensorboard": False,
}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "mine.keras"
    trained_network().save(path)
    return path


def run(folder, settings, code=0):
    """A run by the command, its config in the folder; returns the report."""
    config = folder / "mine.yaml"
    config.write_text(yaml.safe_dump({"name": "mine", **FILES, **settings}), encoding="utf-8")
    output = folder / "run"
    assert train_main(["--config", str(config), "--output", str(output)]) == code
    if code:
        assert not output.exists()
        return None
    assert verify_main([str(output)]) == 0
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def int8_figures(report):
    return report["files"]["shrunk/model_int8.tflite"]


def check_half(report):
    """Half the multiply-adds, at most 1 point below the given model, in the int8 file."""
    figures, given = int8_figures(report), report["files"]["given/model_int8.tflite"]
    assert figures["macs"] <= 0.5 * given["macs"]
    assert figures["accuracy"] >= given["accuracy"] - 0.01
    assert figures["bytes"] < given["bytes"]
    # Of images that were enlarged and made small again it is 92%, of the digits themselves 97%.
    assert report["files"]["given/model.keras"]["accuracy"] > 0.85


@pytest.mark.slow
def test_a_folder_and_a_trained_model_by_one_command(photos, mine, tmp_path):
    data = {"name": "folder", "path": str(photos), "image_size": [8, 8], "color_mode": "grayscale"}
    model = {"name": "file", "path": str(mine)}
    report = run(tmp_path, {"data": data, "model": model, **HALF})
    check_half(report)
    assert report["data"]["task"] == "classes"
    assert "dense/model.keras" not in report["files"]  # nothing is trained for the baseline


def test_arrays_and_a_trained_model_in_one_call(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs, labels = digits()
    x, x_test, y, y_test = train_test_split(inputs, labels, test_size=0.2, random_state=0)
    model = keras.models.load_model(mine)
    before = [np.array(weight) for weight in model.weights]
    result = cnn_l1.sparsify(
        model, train=(x, y), validation=0.1, test=(x_test, y_test),
        target={"macs": 0.5}, epochs=10, batch_size=64,
        output="saved_models/mine", formats=["float32", "int8"],
    )  # fmt: skip
    check_half(result.report)
    assert result.files["int8"] == result.folder / "shrunk" / "model_int8.tflite"
    assert cnn_l1.count_macs(result.model).keys() == cnn_l1.count_macs(model).keys()
    assert cnn_l1.verify("saved_models/mine") == []
    assert cnn_l1.verify("saved_models/mine", (x_test, y_test)) == []
    assert cnn_l1.verify("saved_models/mine", (x_test, (y_test + 1) % 10)) != []
    for weight, value in zip(model.weights, before, strict=True):  # it stays as it is
        np.testing.assert_array_equal(weight, value)
    outputs = result.model.predict(x_test, verbose=0)
    accuracy = np.mean(outputs.argmax(axis=1) == y_test)
    told = result.report["files"]["shrunk/model.keras"]["accuracy"]
    assert accuracy == pytest.approx(told, abs=1e-9)


@pytest.mark.slow
def test_a_model_that_takes_minus_one_to_one(photos, tmp_path, capsys):
    """Warned of as the data are; with `input_range` as accurate, and files take raw pixels."""
    trained_network(scaled=False).save(tmp_path / "unscaled.keras")
    data = {"name": "folder", "path": str(photos), "image_size": [8, 8], "color_mode": "grayscale"}
    model = {"name": "file", "path": "unscaled.keras"}
    short = {**HALF, "training": {"epochs": 0}, "target": None, "fine_tuning": {"epochs": 0}}
    (tmp_path / "raw").mkdir()
    run(tmp_path / "raw", {"data": data, "model": {**model, "path": "../unscaled.keras"}, **short})
    assert "set model.input_range: -1-1" in capsys.readouterr().out
    accuracies = {}
    for normalization in ("auto", "none"):
        folder = tmp_path / normalization
        folder.mkdir()
        settings = {"path": "../unscaled.keras", "input_range": "-1-1"}
        settings |= {"name": "file", "normalization": normalization}
        report = run(folder, {"data": data, "model": settings, **short})
        assert "Warning" not in capsys.readouterr().out
        accuracies[normalization] = report["files"]["model_int8.tflite"]["accuracy"]
        metadata = (folder / "run" / "model_int8.tflite").read_bytes()
        assert (b"pixels from -1 to 1" in metadata) == (normalization == "none")
    assert min(accuracies.values()) > 0.85


@pytest.mark.slow
def test_mobilenet_of_keras_applications_on_a_folder(tmp_path):
    photos = write_folder(tmp_path / "photos", count=160, classes=4)
    data = {"name": "folder", "path": "photos", "image_size": [96, 96], "color_mode": "rgb"}
    model = {"name": "application", "application": "MobileNetV2", "arguments": {"alpha": 0.35}}
    settings = {**SHORT, "baseline": False, "training": {"epochs": 2, "batch_size": 16}}
    # Most of the time is tracing and conversion, of which there is one for each format.
    settings |= {"fine_tuning": {"epochs": 0}, "export": {"formats": ["int8"]}}
    report = run(tmp_path, {"data": data, "model": model, **settings})
    assert photos.is_dir()
    assert int8_figures(report)["macs"] <= 0.6 * report["files"]["model_int8.tflite"]["macs"]


MODULE = """
import keras, numpy as np
from keras import layers

def build(input_shape, outputs, width):
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(width, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.Dense(outputs)(layers.Flatten()(x)))

def two_outputs(input_shape, outputs):
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(12, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    x = layers.Dense(24, activation="relu")(layers.Flatten()(x))
    named = {name: layers.Dense(count, name=name)(x) for name, count in outputs.items()}
    return keras.Model(inputs, named)

def load(path):
    with np.load(path) as arrays:
        x, y = arrays["x"], arrays["y"]
    return (x[:1200], y[:1200]), None, (x[1200:], y[1200:])
"""


@pytest.mark.slow
def test_functions_for_model_and_data(tmp_path):
    (tmp_path / "my_code_of_a_test.py").write_text(MODULE)
    inputs, labels = digits()
    np.savez(tmp_path / "set.npz", x=inputs, y=labels)
    data = {"name": "function", "function": "my_code_of_a_test:load"}
    data["arguments"] = {"path": str(tmp_path / "set.npz")}
    model = {"name": "function", "function": "my_code_of_a_test:build", "arguments": {"width": 16}}
    report = run(tmp_path, {"data": data, "model": model, **SHORT})
    assert int8_figures(report)["accuracy"] > 0.7
    assert report["data"]["measured_examples"] == 597


@pytest.mark.slow
def test_a_table(tmp_path):
    wine = load_wine(as_frame=True)
    frame = wine.frame.assign(colour=np.where(wine.target == 1, "white", "red"))
    frame.to_csv(tmp_path / "wine.csv", index=False)
    data = {"name": "table", "path": "wine.csv", "target": "target"}
    blocks = [
        {"type": "dense", "units": 24},
        {"type": "dense", "units": 16},
        {"type": "dense", "units": "outputs", "activation": "linear"},
    ]
    settings = {**SHORT, "training": {"epochs": 30, "batch_size": 16}}
    settings["target"] = {"macs": 0.5, "by_epochs": 20}
    # Standardized before the network: int8 has one step for all features.
    model = {"blocks": blocks, "normalization": "none", "input_range": "standardized"}
    report = run(tmp_path, {"data": data, "model": model, **settings})
    assert int8_figures(report)["accuracy"] > 0.85
    metadata = (tmp_path / "run" / "model_int8.tflite").read_bytes()
    assert b"features, each of mean 0 and variance 1" in metadata


@pytest.mark.slow
def test_series(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    steps = np.arange(64)[None, :, None]
    waves = np.sin(steps * (0.2 + 0.2 * labels[:, None, None]) + random.uniform(0, 6, (600, 1, 2)))
    x = (waves + 0.3 * random.standard_normal(waves.shape)).astype("float32")
    np.savez(tmp_path / "set.npz", x=x, y=labels)
    data = {"name": "series", "path": "set.npz", "sampling_rate_hz": 50}
    blocks = [
        {"type": "conv1d", "filters": 12, "kernel_size": 5, "strides": 2},
        {"type": "conv1d", "filters": 16, "kernel_size": 5, "strides": 2},
        {"type": "global_pool"},
        {"type": "dense", "units": "outputs", "activation": "linear"},
    ]
    settings = {**SHORT, "training": {"epochs": 10, "batch_size": 32}}
    settings["target"] = {"macs": 0.5, "by_epochs": 7}
    report = run(tmp_path, {"data": data, "model": {"blocks": blocks}, **settings})
    assert int8_figures(report)["accuracy"] > 0.8
    content = (tmp_path / "run" / "shrunk" / "model_int8.tflite").read_bytes()
    assert b"64 steps of 2 channels" in content
    assert b"50 samples a second" in content


@pytest.mark.slow
def test_anomalies_by_an_autoencoder(tmp_path):
    """Zeros are normal, other digits are not: the error of what was learnt tells them apart."""
    inputs, labels = digits()
    inputs = inputs.reshape(len(inputs), -1).astype("float32")
    rows = np.flatnonzero((labels == 0) | (np.arange(len(labels)) % 9 == 0))
    np.savez(
        tmp_path / "set.npz",
        x=inputs[rows],
        y=(labels[rows] != 0).astype("int64"),
        class_names=["normal", "anomaly"],
    )
    settings = {
        "data": {"name": "arrays", "path": "set.npz"},
        "model": {"name": "autoencoder"},
        "penalty": SHORT["penalty"],
        "training": {"epochs": 30, "batch_size": 16, "task": "autoencoder"},
        "target": {"macs": 0.5, "by_epochs": 20},
        "fine_tuning": {"epochs": 10},
        "baseline": False,
    }
    report = run(tmp_path, settings)
    assert int8_figures(report)["metrics"]["auc"] > 0.9
    assert report["validation"]["sparse"]["mean_squared_error"] > 0


@pytest.mark.slow
def test_a_label_for_each_pixel(tmp_path):
    inputs, _ = digits(600)
    np.savez(tmp_path / "set.npz", x=inputs, y=(inputs[..., 0] > 120).astype("int64"))
    settings = {**SHORT, "training": {"epochs": 2, "batch_size": 32, "metrics": ["MeanIoU"]}}
    model = {"name": "unet_small", "width": 0.5}
    data = {"name": "arrays", "path": "set.npz"}
    report = run(tmp_path, {"data": data, "model": model, "baseline": False, **settings})
    assert report["data"]["task"] == "segmentation"
    figures = int8_figures(report)
    assert figures["accuracy"] > 0.6
    assert 0 < figures["metrics"]["mean_io_u"] < 1


@pytest.mark.slow
def test_several_labels_at_once(tmp_path):
    inputs, labels = digits()
    several = np.stack([labels % 2 == 0, labels > 4, labels % 3 == 0], axis=1).astype("int64")
    np.savez(tmp_path / "set.npz", x=inputs, y=several, class_names=["even", "large", "of three"])
    settings = {**SHORT, "training": {"epochs": 3, "batch_size": 32, "metrics": ["AUC"]}}
    data = {"name": "arrays", "path": "set.npz"}
    report = run(tmp_path, {"data": data, "baseline": False, **settings})
    assert report["data"]["task"] == "multilabel"
    assert int8_figures(report)["accuracy"] > 0.7
    assert int8_figures(report)["metrics"]["auc"] > 0.8


@pytest.mark.slow
def test_two_outputs_by_name(tmp_path):
    (tmp_path / "my_networks_of_a_test.py").write_text(MODULE)
    inputs, labels = digits()
    bright = inputs.mean(axis=(1, 2, 3)).astype("float32") / 255
    np.savez(tmp_path / "set.npz", x=inputs, y_digit=labels, y_bright=bright)
    data = {"name": "arrays", "path": "set.npz"}
    model = {"name": "function", "function": "my_networks_of_a_test:two_outputs"}
    outputs = {"bright": {"loss": "huber", "loss_weight": 2.0}, "digit": {"metrics": ["F1Score"]}}
    training = {"epochs": 6, "batch_size": 32, "outputs": outputs}
    settings = {**SHORT, "training": training, "target": {"macs": 0.6, "by_epochs": 4}}
    report = run(tmp_path, {"data": data, "model": model, **settings})
    figures = int8_figures(report)
    each = {one["name"]: one for one in figures["outputs"]}
    assert each["digit"]["accuracy"] > 0.7
    assert each["bright"]["mean_squared_error"] < 0.01
    assert figures["metrics"]["digit_f1_score"] > 0.6
    # The data were moved since: found by --data.
    (tmp_path / "set.npz").rename(tmp_path / "moved.npz")
    assert verify_main([str(tmp_path / "run")]) == 1
    assert verify_main([str(tmp_path / "run"), "--data", str(tmp_path / "moved.npz")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["second_order", "taylor", "magnitude"])
def test_prune_without_training(mine, tmp_path, criterion):
    inputs, labels = digits()
    model = keras.models.load_model(mine)
    result = cnn_l1.prune(
        model, (inputs, labels), {"macs": 0.7}, criterion=criterion, output=tmp_path / "run"
    )
    figures = int8_figures(result.report)
    given = result.report["files"]["given/model_int8.tflite"]
    assert 0.97 * 0.7 * given["macs"] <= figures["macs"] <= 0.7 * given["macs"]
    assert figures["accuracy"] > 0.9
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) <= 1  # no epoch


def test_what_sparsify_does_not_take(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    data = np.random.default_rng(0).random((60, 4), "float32"), np.arange(60) % 3
    wrong = [
        ({}, "expected one of `target`"),
        ({"target": {"macs": 0.5}, "sparsity": 0.5}, "Received: target and sparsity"),
        ({"sparsity": 1.5}, "above 0 and below 1"),
        ({"sparsity": 0.5, "epochs": 1}, "`epochs` must be a whole number from 2"),
        ({"sparsity": 0.5, "validation": 1.5}, "`validation` must be a part between 0 and 1"),
        ({"target": {"mac": 0.5}}, "mac: unknown key"),
        ({"sparsity": 0.5, "formats": ["int9"]}, "export.formats"),
        ({"sparsity": 0.5, "settings": {"optimizer.rate": 1}}, "optimizer.rate: unknown key"),
        ({"sparsity": 0.5, "train": (data[0], data[1][:5])}, "as many targets"),
        ({"sparsity": 0.5, "train": (data[0][:, :3], data[1])}, "(3,), as the data have"),
        ({"sparsity": 0.5, "train": (data[0], data[1] + 5)}, "class numbers 0 to K"),
    ]
    for settings, part in wrong:
        settings = {"train": data, **settings}
        with pytest.raises(cnn_l1.CnnL1Error) as caught:
            cnn_l1.sparsify(model, output=tmp_path / "run", **settings)
        assert part in str(caught.value), settings
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
    for call in (cnn_l1.sparsify, cnn_l1.prune):
        with pytest.raises(ArgumentError, match=r"`model` must be a keras\.Model.*Received: str"):
            call("mine.keras", data[0], target={"macs": 0.5}, output=tmp_path / "run")
    with pytest.raises(ArgumentError, match="sparsity"):
        cnn_l1.prune(model, data, {"sparsity": 0.5}, output=tmp_path / "run")


@pytest.mark.slow
def test_a_sweep_over_a_folder_and_a_trained_model(photos, mine, tmp_path):
    settings = {
        "name": "sweep",
        "data": {"name": "folder", "path": str(photos), "image_size": [8, 8]},
        "model": {"name": "file", "path": str(mine)},
        "training": {"epochs": 1},
        "thresholding": {"threshold": 1e-3},
        "fine_tuning": {"epochs": 0},
        "export": {"formats": ["int8"]},
        "measure": {"latency_runs": 1},
        "sweep": {"strengths": [1e-3], "rule": "max_drop", "max_drop": 50.0},
    }
    settings["data"]["color_mode"] = "grayscale"
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    flags = ["--config", str(tmp_path / "sweep.yaml"), "--output", str(tmp_path / "sweep")]
    assert sweep_main(flags) == 0
    summary = json.loads((tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    dense, row = summary["rows"]
    assert dense["sparsity"] == 0.0  # the given model, as it is
    assert dense["score"] > 0.85
    assert row["chosen"]
