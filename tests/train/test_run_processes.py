"""Runs in a process of their own: signals, limits, imports."""

import json
import signal
import subprocess
import sys

import pytest
from pipeline_runs import (
    QUICK,
    TINY,
    arguments,
    contents,
)

from cnn_l1.config import loading as configs
from cnn_l1.data import sets as data


@pytest.fixture(scope="module")
def prepared():
    """The data set, which the first to load it prepares."""
    data.load(configs.validate(TINY).data, 0)


CHILD = """
import signal, sys
# A test runner in the background may have handed SIGINT down ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[1] != "0":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from cnn_l1.train.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def start(flags, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(limit), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("prepared")
def test_a_full_disk(config_file, tmp_path):
    flags = arguments(config_file, tmp_path / "runs" / "run", *QUICK)
    process = start(flags, limit=8192)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1, error
    assert "no space left on the disk" in error
    assert "Traceback" not in error
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("prepared")
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
@pytest.mark.usefixtures("prepared")
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
    flags = arguments(config_file, tmp_path / "run", "training.epochs=-1")
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
