"""A run's folder: whole, or not there at all."""

import os
import socket
import subprocess
import sys

import pytest

from cnn_l1.config.loading import ConfigError
from cnn_l1.runs.folders import MARK, check_output, run_folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "saved" / "run"


def make_run(output, text):
    with run_folder(output) as folder:
        (folder / MARK).write_text(text)
        (folder / "part").mkdir()


def failing_run(output, error, overwrite=False):
    with run_folder(output, overwrite) as folder:
        (folder / MARK).write_text("half")
        raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_run_is_moved_whole(output):
    with run_folder(output) as folder:
        (folder / MARK).write_text("new")
        assert not output.exists()
        # One step only within one file system: so beside the output.
        assert folder.parent == output.parent
    assert (output / MARK).read_text() == "new"
    assert names(output.parent) == ["run"]


def test_relative_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_folder("run") as folder:
        (folder / MARK).write_text("new")
        monkeypatch.chdir("/")  # a stage that changes the folder must not move the run
    assert (tmp_path / "run" / MARK).read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_nothing(output, error):
    with pytest.raises(error):
        failing_run(output, error)
    assert names(output.parent) == []


def test_failure_keeps_the_old_run(output):
    make_run(output, "old")
    with pytest.raises(RuntimeError):
        failing_run(output, RuntimeError, overwrite=True)
    assert (output / MARK).read_text() == "old"
    assert names(output.parent) == ["run"]


def test_overwrite_replaces(output):
    make_run(output, "old")
    with run_folder(output, overwrite=True) as folder:
        (folder / MARK).write_text("new")
        assert (output / MARK).read_text() == "old"
    assert names(output) == [MARK]  # nothing of the old run stays
    assert (output / MARK).read_text() == "new"
    assert names(output.parent) == ["run"]


def test_failed_move_keeps_the_old_run(output, monkeypatch):
    make_run(output, "old")
    rename = type(output).rename

    def fail_for_partial(path, target):
        if "partial" in path.name:
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(type(output), "rename", fail_for_partial)
    with pytest.raises(OSError, match="no space"), run_folder(output, overwrite=True):
        pass
    assert (output / MARK).read_text() == "old"
    assert names(output.parent) == ["run"]


def test_run_that_is_there_is_refused(output):
    make_run(output, "old")
    with pytest.raises(ConfigError, match=r"--output: .* Received: .* Give --overwrite"):
        run_folder(output).__enter__()
    assert (output / MARK).read_text() == "old"
    assert names(output.parent) == ["run"]


def test_overwrite_leaves_other_folders_alone(output):
    output.mkdir(parents=True)
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"--overwrite: expected the folder of a run"):
        run_folder(output, overwrite=True).__enter__()
    assert (output / "thesis.txt").read_text() == "mine"
    assert names(output.parent) == ["run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_empty_folder_is_taken(output, overwrite):
    output.mkdir(parents=True)
    check_output(output, overwrite)
    with run_folder(output, overwrite) as folder:
        (folder / MARK).write_text("new")
    assert (output / MARK).read_text() == "new"
    assert names(output.parent) == ["run"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_is_a_file(output, overwrite):
    output.parent.mkdir()
    output.write_text("mine")
    with pytest.raises(ConfigError, match=r"--output: expected a folder. Received: the file"):
        run_folder(output, overwrite).__enter__()
    assert output.read_text() == "mine"


def test_run_that_ended_meanwhile_is_not_replaced(output):
    with pytest.raises(ConfigError, match="--output"), run_folder(output):  # noqa: PT012
        output.mkdir()  # as another process would, in one step
        output.joinpath(MARK).write_text("early")
    assert (output / MARK).read_text() == "early"
    assert names(output.parent) == ["run"]


def test_partial_of_a_dead_process_is_removed(output):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()  # reaped: its number belongs to no process now
    abandoned = output.parent / f".run.partial-{socket.gethostname()}-{ended.pid}-x"
    abandoned.mkdir(parents=True)
    (abandoned / "weights").write_text("half")
    make_run(output, "new")
    assert names(output.parent) == ["run"]


def test_partial_of_a_living_process_stays(output):
    living = output.parent / f".run.partial-{socket.gethostname()}-{os.getppid()}-x"
    other = output.parent / ".run.partial-elsewhere-1-x"
    for folder in (living, other):
        folder.mkdir(parents=True)
    make_run(output, "new")
    assert names(output.parent) == sorted([living.name, other.name, "run"])
