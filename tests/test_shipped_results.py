"""A shipped config gives what its header says: long runs, marked slow."""

import csv
import json
import pathlib

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, Ridge
from sklearn.preprocessing import StandardScaler

from cnn_l1.config import loading as configs
from cnn_l1.data import sets
from cnn_l1.train.__main__ import main as train_main

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


@pytest.mark.slow
def test_digits_gives_its_expected_result(tmp_path):
    """99.3% ± 0.3 over five seeds; more than four deviations below, for any CPU."""
    arguments = ["--config", str(CONFIGS / "digits.yaml"), "--output", str(tmp_path / "run")]
    arguments += ["--set", "baseline=false", "--set", "tensorboard=false"]
    assert train_main(arguments) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["counts"]["sparsity"] >= 0.90
    assert report["files"]["model_int8.tflite"]["accuracy"] >= 0.98
    assert report["files"]["model_int8.tflite"]["zeros"] >= report["counts"]["zeros"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_xor_learns_all_points_with_dead_units(seed, tmp_path, capsys):
    report = run_config("xor.yaml", tmp_path, f"seed={seed}")
    assert report["files"]["shrunk/model_int8.tflite"]["accuracy"] == 1.0
    assert report["removed_channels"]["dense_1"]
    assert "Dead in dense_1: " in capsys.readouterr().out


@pytest.mark.slow
def test_linear_finds_the_true_features(tmp_path):
    overrides = ["data.name=sparse_regression", "penalty.l1_strength=0.32"]
    support = run_config("linear.yaml", tmp_path, *overrides)["features"]["support"]
    assert (support["true"], support["found"]) == (10, 10)
    assert support["false"] <= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("l1_strength", "l2_strength", "make"),
    [
        (4.0, 0.0, lambda rows: Lasso(alpha=2.0, tol=1e-10)),
        (0.0, 0.1, lambda rows: Ridge(alpha=0.1 * rows)),
        (4.0, 0.1, lambda rows: ElasticNet(alpha=2.1, l1_ratio=2.0 / 2.1, tol=1e-10)),
    ],
    ids=["lasso", "ridge", "elastic net"],
)
def test_linear_is_scikit_learns(l1_strength, l2_strength, make, tmp_path):
    penalty = f"penalty.l1_strength={l1_strength}", f"penalty.l2_strength={l2_strength}"
    run_config("linear.yaml", tmp_path, *penalty)
    with (tmp_path / "run" / "features.csv").open(encoding="utf-8") as file:
        weights = np.array([float(row["weight"]) for row in csv.DictReader(file)])
    train_rows = sets.load(configs.load(CONFIGS / "linear.yaml").data, seed=0).train
    inputs = StandardScaler().fit_transform(train_rows.inputs.astype("float64"))
    other = make(train_rows.size).fit(inputs, train_rows.targets).coef_
    np.testing.assert_allclose(weights, other, atol=0.02)
    np.testing.assert_array_equal(weights == 0, other == 0)


def run_config(name, folder, *overrides):
    """The report of a shipped config's run."""
    arguments = ["--config", str(CONFIGS / name), "--output", str(folder / "run")]
    for override in ("baseline=false", "tensorboard=false", *overrides):
        arguments += ["--set", override]
    assert train_main(arguments) == 0
    return json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
