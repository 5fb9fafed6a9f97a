"""Runs with a target in bytes: the file that a run writes has them, whatever its settings."""

import json

import pytest
import yaml

from cnn_l1.train.__main__ import main as train_main

RUN = {
    "name": "tiny",
    "data": {"name": "digits", "augmentation": {"shift_pixels": 1}},
    "model": {
        "blocks": [
            {"type": "conv", "filters": 24, "use_bias": False, "activation": "linear"},
            {"type": "batch_norm"},
            {"type": "activation"},
            {"type": "conv", "filters": 32, "padding": "same"},
            {"type": "global_pool"},
            {"type": "dense", "units": "classes", "activation": "linear"},
        ]
    },
    "penalty": {"name": "group_l1", "l1_strength": 1e-4, "channel_cost": "macs"},
    "training": {"epochs": 3},
    "fine_tuning": {"epochs": 0},
    "shrink": {"fine_tuning_epochs": 1},
    "baseline": False,
    "tensorboard": False,
    "export": {"formats": ["int8"]},
    "measure": {"split": "validation", "ram": True},
}


def run(tmp_path, target, **changes):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN | {"target": target | {"by_epochs": 2}} | changes))
    code = train_main(["--config", str(path), "--output", str(tmp_path / "run"), "--overwrite"])
    report = tmp_path / "run" / "report.json"
    return code, json.loads(report.read_text()) if report.exists() else None


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"export": {"formats": ["int8"], "metadata": False, "fold_batch_norm": True}}],
    ids=["with its metadata", "folded, without"],
)
def test_a_runs_file_has_the_bytes_of_its_target(tmp_path, changes):
    code, report = run(tmp_path, {"bytes": 7000}, **changes)
    assert code == 0
    assert 0.97 * 7000 <= report["files"]["shrunk/model_int8.tflite"]["bytes"] <= 7000
    assert report["target"]["bytes"] == 7000


@pytest.mark.slow
def test_channels_by_the_eight_come_no_nearer_and_are_not_above(tmp_path):
    shrink = {"fine_tuning_epochs": 0, "round_to": 8}
    code, report = run(tmp_path, {"bytes": 7000}, shrink=shrink)
    assert code == 0
    assert report["files"]["shrunk/model_int8.tflite"]["bytes"] <= 7000


def test_an_impossible_target_is_one_line(tmp_path, capsys):
    code, report = run(tmp_path, {"bytes": 1000})
    error = capsys.readouterr().err
    assert (code, report) == (1, None)
    assert error.count("error: ") == 1
    assert "error: target.bytes: expected at least" in error
