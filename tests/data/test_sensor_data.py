"""The example of sensor data: its reader, windows, parts and features; made files, and aeon's."""

import importlib
import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

from cnn_l1.config import loading
from cnn_l1.train.__main__ import main as train_main
from cnn_l1.verify import main as verify_main

ROOT = pathlib.Path(__file__).parents[2]
HEADER = """#A comment: with a colon
@problemName BasicMotions
@classLabel true Running Walking
@data
"""


@pytest.fixture
def sensor_data(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield importlib.import_module("sensor_data")
    sys.modules.pop("sensor_data")


def write_ts(path, series, names):
    lines = [
        ":".join([*(",".join(map(str, channel)) for channel in one.T), name])
        for one, name in zip(series, names, strict=True)
    ]
    path.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Ten recordings of each of two motions, 40 steps of 2 channels, to train and to test on."""
    random = np.random.default_rng(0)
    names = np.repeat(["Running", "Walking"], 10)
    speed = np.where(names == "Running", 1.5, 0.5)[:, None, None]
    for split in ("TRAIN", "TEST"):
        waves = np.sin(speed * np.arange(40)[:, None] + random.uniform(0, 6, (20, 1, 2)))
        series = np.round(waves + 0.1 * random.standard_normal(waves.shape), 4)
        write_ts(tmp_path / f"BasicMotions_{split}.ts", series, names)
    return tmp_path


def test_read_ts_gives_what_was_written(sensor_data, tmp_path):
    given = np.arange(24, dtype="float32").reshape(2, 4, 3) / 8  # exact in text
    write_ts(tmp_path / "a.ts", given, ["one", "two"])
    series, names = sensor_data.read_ts(tmp_path / "a.ts")
    np.testing.assert_array_equal(series, given)
    assert series.dtype == np.float32
    assert list(names) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("@data\n1,2:3,4:a\n1,2:3:b\n", "line 3: expected channels of as many numbers"),
        ("@data\n1,2:3,4:a\n1,2,3:4,5,6:b\n", "line 3: expected channels and steps (2, 2)"),
        ("@data\n1,?:3,4:a\n", "line 2: expected channels of as many numbers"),
        ("@data\n1,nan:3,4:a\n", "line 2: expected finite numbers"),
        ("@data\n1,2\n", "line 2: expected @data, then channels and a class"),
        ("1,2:3,4:a\n", "line 1: expected @data, then channels and a class"),
        ("@data\n", "expected recordings after a line @data"),
    ],
)
def test_read_ts_refuses(sensor_data, tmp_path, text, told):
    path = tmp_path / "a.ts"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.ts") as caught:
        sensor_data.read_ts(path)
    assert told in str(caught.value)


def test_windows_and_where_they_begin(sensor_data):
    series = np.arange(20.0).reshape(2, 10, 1)
    cut, names = sensor_data.windows(series, np.array(["a", "b"]), 4, 3)
    assert list(cut[:, 0, 0]) == [0, 3, 6, 10, 13, 16]
    assert cut.shape == (6, 4, 1)
    assert list(names) == ["a", "a", "a", "b", "b", "b"]
    with pytest.raises(ValueError, match="window_steps must be 1 to 10, not 11"):
        sensor_data.windows(series, np.array(["a", "b"]), 11, 1)


@pytest.mark.parametrize("fold", range(5))
def test_no_recording_is_in_two_parts(sensor_data, folder, fold):
    parts = sensor_data.recordings(fold, folder)
    assert [len(series) for series, _ in parts] == [16, 4, 20]
    seen = [one.tobytes() for series, _ in parts for one in series]
    assert len(set(seen)) == len(seen)
    for _, names in parts:
        assert np.sum(names == "Running") == np.sum(names == "Walking")


def test_folds_hold_each_recording_once(sensor_data, folder):
    held = np.concatenate([sensor_data.recordings(fold, folder)[1][0] for fold in range(5)])
    assert len(np.unique(held, axis=0)) == 20
    with pytest.raises(ValueError, match="fold must be 0 to 4, not 5"):
        sensor_data.recordings(5, folder)


def test_octaves_find_the_frequency(sensor_data):
    steps = np.arange(32)
    waves = np.stack([np.sin(2 * np.pi * k * steps / 32) for k in (1, 2, 4, 7, 12)])[..., None]
    features = sensor_data.octaves(np.concatenate([waves, np.ones((1, 32, 1))]))
    assert features.shape == (6, 5)  # bins 1, 2, 3-4, 5-8 and 9-16
    assert list(features[:5].argmax(axis=1)) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(features[5], np.log(sensor_data.FLOOR))  # at rest


def test_odd_motions_are_scaled_by_what_is_normal(sensor_data, folder):
    train, validation, test = sensor_data.odd_motions(hop_steps=4, folder=folder)
    assert [len(x) for x, _ in (train, validation, test)] == [48, 12, 60]
    x, y = train
    assert set(y) == {"normal", "anomaly"}
    np.testing.assert_allclose(x[y == "normal"].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x[y == "normal"].std(axis=0), 1, atol=1e-5)
    with pytest.raises(ValueError, match="Running, Walking, not 'Sitting'"):
        sensor_data.odd_motions("Sitting", folder=folder)


def test_without_aeon_it_says_what_to_install(sensor_data, monkeypatch):
    monkeypatch.setattr(sensor_data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps aeon==1\.6\.0"):
        sensor_data.basic_motions()


@pytest.mark.skipif(importlib.util.find_spec("aeon") is None, reason="needs the data in aeon")
def test_the_data_in_aeon(sensor_data):
    parts = sensor_data.basic_motions()
    assert [x.shape for x, _ in parts] == [(32, 100, 6), (8, 100, 6), (40, 100, 6)]
    assert "aeon" not in sys.modules
    # The first recording begins so.
    assert sensor_data.recordings(fold=1)[0][0][0, 0, 0] == np.float32(0.079106)


def test_modules_dir_is_relative_to_the_config(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text("name: run\nmodules_dir: ../code\n")
    path = tmp_path / "configs" / "run.yaml"
    assert loading.load(path).modules_dir == str(tmp_path / "code")
    monkeypatch.chdir(tmp_path)  # and one of the command line to where it is called
    assert loading.load(path, ["modules_dir=here"]).modules_dir == str(tmp_path / "here")


@pytest.mark.parametrize("name", ["har", "anomaly"])
def test_a_config_finds_it_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = loading.load(name)
    assert config.modules_dir == str(ROOT / "examples")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("har", "window_steps: 20, hop_steps: 4"),
        ("anomaly", "normal: Walking, window_steps: 32, hop_steps: 4"),
    ],
)
def test_a_config_runs_on_files_of_the_same_format(name, arguments, folder, tmp_path):
    """As with aeon's data, which are not everywhere: from files to TFLite Micro."""
    flags = ["--config", name, "--output", str(tmp_path / "run")]
    settings = {
        "data.arguments": f"{{folder: {folder}, {arguments}}}",
        "training.epochs": 30,
        "target.by_epochs": 20,
        "fine_tuning.epochs": 10,
        "baseline": "false",
        "measure": "{latency_runs: 1, micro_examples: 5}",
    }
    for key, value in settings.items():
        flags += ["--set", f"{key}={value}"]
    assert train_main(flags) == 0
    assert verify_main([str(tmp_path / "run")]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["micro"]["shrunk/model_int8.tflite"]["arena_bytes"] > 0
    assert (tmp_path / "run" / "shrunk" / "model_int8.cc").is_file()
    figures = report["files"]["shrunk/model_int8.tflite"]
    assert (figures["accuracy"] or figures["metrics"]["auc"]) > 0.9
