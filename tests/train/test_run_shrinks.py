"""Runs that take out channels."""

import json

import keras
import numpy as np
import pytest
from pipeline_runs import (
    QUICK,
    arguments,
    read_history,
    read_report,
    weights_of,
)

from cnn_l1.config import loading as configs
from cnn_l1.sparsity import counting
from cnn_l1.train.__main__ import main as train_main

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
