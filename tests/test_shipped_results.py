"""A shipped config gives what its header says: long runs, marked slow."""

import json
import pathlib

import pytest

from cnn_l1 import train

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


@pytest.mark.slow
def test_digits_gives_its_expected_result(tmp_path):
    """97.4% ± 0.2 over three seeds; more than four deviations below, for any CPU."""
    arguments = ["--config", str(CONFIGS / "digits.yaml"), "--output", str(tmp_path / "run")]
    arguments += ["--set", "baseline=false", "--set", "tensorboard=false"]
    assert train.main(arguments) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["counts"]["sparsity"] >= 0.90
    assert report["files"]["model_int8.tflite"]["accuracy"] >= 0.96
    assert report["files"]["model_int8.tflite"]["zeros"] >= report["counts"]["zeros"]
