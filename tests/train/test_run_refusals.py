"""What a user does wrong; nothing is half-written, nothing overwritten unasked."""

import errno
import os

import numpy as np
import pytest
from pipeline_runs import (
    LAYERS,
    QUICK,
    arguments,
    check_refusal,
    contents,
    weights_of,
)

from cnn_l1.config import loading as configs
from cnn_l1.data import sets as data
from cnn_l1.export import tflite as export
from cnn_l1.process import failures
from cnn_l1.train.__main__ import main as train_main


def test_errors_of_the_disk_say_where(config_file, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "/a/shelf")

    monkeypatch.setattr(data, "load", fail)
    flags = arguments(config_file, tmp_path / "run", *QUICK)
    check_refusal(capsys, tmp_path, 1, flags, "data set 'digits'", "/a/shelf", "Permission denied")


def test_dry_run_prints_and_writes_nothing(config_file, tmp_path, capsys):
    flags = arguments(config_file, tmp_path / "run", "seed=7", "export.formats=[]")
    assert train_main([*flags, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert "seed: 7" in printed
    assert all(name in printed for name in LAYERS)


@pytest.mark.slow
def test_a_run_that_is_there_stays_unless_overwritten(config_file, tmp_path, capsys):
    output = tmp_path / "run"
    assert train_main(arguments(config_file, output, *QUICK)) == 0
    before, first = contents(output), weights_of(output)
    assert train_main(arguments(config_file, output, *QUICK, "seed=3")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert contents(output) == before
    assert train_main([*arguments(config_file, output, *QUICK, "seed=3"), "--overwrite"]) == 0
    assert configs.load(output / "config.yaml").seed == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    other = weights_of(output)
    assert np.any(other[0] != first[0])  # another seed, another run
    # A new run that fails leaves the old one.
    before = contents(output)
    failing = arguments(config_file, output, *QUICK, "data.image_size=[2, 2]")
    assert train_main([*failing, "--overwrite"]) == 2
    assert contents(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_no_run_is_never_overwritten(config_file, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    (tmp_path / "file").write_text("text", encoding="utf-8")
    before = contents(tmp_path)
    for name in ("mine", "file"):
        flags = [*arguments(config_file, tmp_path / name, *QUICK), "--overwrite"]
        assert train_main(flags) == 2
        assert name in capsys.readouterr().err
    assert contents(tmp_path) == before


BAD_SETTINGS = {
    "unknown key": (["training.epoch=3"], ["training.epoch", "Did you mean 'epochs'"]),
    "unknown section": (["trainning.epochs=3"], ["trainning", "unknown key"]),
    "wrong type": (["training.epochs=many"], ["training.epochs", "'many'"]),
    "no whole number": (["training.epochs=1.5"], ["training.epochs", "1.5"]),
    "negative": (["penalty.l1_strength=-1"], ["penalty.l1_strength", "-1"]),
    "not finite": (["penalty.l1_strength=.nan"], ["penalty.l1_strength"]),
    "no key": (["=3"], ["--set"]),
    "no value": (["training.epochs"], ["--set", "key=value"]),
    "data set": (["data.name=didgits"], ["data.name", "didgits", "Did you mean 'digits'"]),
    "split": (["data.test_split=tset"], ["data.test_split", "tset"]),
    "too small": (["model.blocks=null", "data.image_size=[3, 3]"], ["model", "3x3x1"]),
    "last block": (["model.blocks.4.units=7"], ["model.blocks", "10"]),
    "slimming without batch-norm": (
        ["penalty.name=slimming", "model.blocks=null"],
        ["penalty.name", "BatchNormalization"],
    ),
    "groups without channels": (
        [
            "penalty.name=group_l1",
            "model.blocks=[{type: flatten}, {type: dense, units: classes, activation: linear}]",
        ],
        ["penalty.name", "channels that can be removed"],
    ),
    "numbers as classes": (
        ["data.name=diabetes", "training.loss=crossentropy", "model={name: linear}"],
        ["training.loss", "'diabetes' are numbers"],
    ),
    "features augmented": (
        ["data={name: diabetes, augmentation: {flip: true}}", "model={name: linear}"],
        ["data.augmentation", "no images"],
    ),
    "features resized": (
        ["data={name: diabetes, image_size: [4, 4]}", "model={name: linear}"],
        ["data.image_size", "rows of features"],
    ),
    "weights that are not there": (
        ["model.initial_weights=nowhere.keras"],
        ["model.initial_weights", "nowhere.keras"],
    ),
    "a fold beyond the last": (["data.fold=[5, 5]"], ["data", "below the number of folds, 5"]),
    "two validations": (
        ["data.fold=[0, 5]", "data.validation_split=train"],
        ["data", "fold must be left out"],
    ),
    "ratio without groups": (["penalty.l1_ratio=0.5"], ["l1_ratio", "group_l1"]),
    "fine-tuning of what is not shrunk": (
        ["shrink={enabled: false, fine_tuning_epochs: 3}"],
        ["shrink", "fine_tuning_epochs must be 0"],
    ),
    "pattern": (["penalty.layers={nowhere*: 0.1}"], ["penalty.layers", "nowhere*"]),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings(config_file, tmp_path, capsys, name):
    overrides, texts = BAD_SETTINGS[name]
    flags = arguments(config_file, tmp_path / "run", *QUICK, *overrides)
    check_refusal(capsys, tmp_path, 2, flags, *texts)


def test_bad_files(tmp_path, capsys):
    missing = tmp_path / "missing.yaml"
    broken, words, binary = (tmp_path / name for name in ("broken.yaml", "words.yaml", "b.yaml"))
    broken.write_text("name: [tiny", encoding="utf-8")
    words.write_text("just words", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (missing, broken, words, binary, tmp_path):
        check_refusal(capsys, tmp_path, 2, arguments(path, tmp_path / "run"), str(path))


def test_a_data_set_without_its_data_is_refused_at_once(config_file, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    overrides = ["data.name=mnist", f"data.data_dir={tmp_path / 'data'}"]
    flags = arguments(config_file, tmp_path / "run", *overrides)
    check_refusal(capsys, tmp_path, 2, flags, "mnist", "data.download=true")
    assert list((tmp_path / "data").rglob("*")) == []


@pytest.mark.parametrize("flags", [["--nonsense"], []])
def test_bad_flags(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_main(flags)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_failures_of_the_disk_leave_nothing(config_file, tmp_path, capsys, monkeypatch, number):
    def fail(model, path):
        path.write_bytes(b"half a file")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(export, "export_keras", fail)
    text = os.strerror(number) if number == errno.EACCES else "no space left"
    flags = arguments(config_file, tmp_path / "run", *QUICK)
    check_refusal(capsys, tmp_path, 1, flags, "--output", text)


def test_a_full_quota_is_a_full_disk():
    assert failures.is_disk_full(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)))
