"""Runs whose targets are values instead of classes."""

import csv

import keras
import numpy as np
import pytest
from pipeline_runs import (
    QUICK,
    arguments,
    read_history,
    read_report,
)

from cnn_l1.config import loading as configs
from cnn_l1.data import sets as data
from cnn_l1.train.__main__ import main as train_main

VALUE_SCORES = {"mean_squared_error", "mean_squared_error_standard_error", "r2"}


@pytest.mark.slow
def test_report_of_values(regression_run):
    folder, printed = regression_run
    report = read_report(folder)
    assert report["data"] == {
        "name": "diabetes",
        "source": "diabetes",
        "task": "values",
        "targets": "values",
        "outputs": [],
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
    assert "mean squared" in printed
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

    read, original = [], data.read_split

    def recording(*settings):
        read.append(settings[-1])
        return original(*settings)

    monkeypatch.setattr(data, "read_split", recording)
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
