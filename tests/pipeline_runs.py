"""Small configs of whole runs, and how tests start and read them."""

import csv
import json

import keras
import numpy as np

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


def arguments(config_file, output, *overrides):
    sets = [part for override in overrides for part in ("--set", override)]
    return ["--config", str(config_file), "--output", str(output), *sets]


def read_history(folder):
    """Columns of history.csv, as floats; an empty field is NaN."""
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}


def read_report(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def contents(folder):
    """Every file below a folder, with its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def weights_of(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


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
