"""Wrong data and models of one's own, through the command: one line each, nothing written."""

import keras
import numpy as np
import pytest
import yaml
from keras import layers
from own_data import write_folder
from PIL import Image

from cnn_l1.train.__main__ import main as train_main

FOLDER = {"name": "folder", "path": "photos", "image_size": [8, 8]}


@pytest.fixture
def place(tmp_path):
    write_folder(tmp_path / "photos", count=200, classes=3)
    keras.Sequential([keras.Input((9, 9, 1)), layers.Flatten(), layers.Dense(3)]).save(
        tmp_path / "mine.keras"
    )
    return tmp_path


def refusal(place, capsys, **settings):
    """The one line that a run ends with."""
    config = place / "mine.yaml"
    config.write_text(yaml.safe_dump({"name": "mine", **settings}), encoding="utf-8")
    code = train_main(["--config", str(config), "--output", str(place / "run")])
    printed = capsys.readouterr()
    assert code == 2, printed
    assert not (place / "run").exists()
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("error: ")
    assert "expected" in line or "must" in line, line
    assert "Traceback" not in printed.err
    return line


def broken(photos):
    (photos / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return "broken.png"


def empty_class(photos):
    (photos / "9").mkdir()
    return "9"


def lonely_class(photos):
    (photos / "9").mkdir()
    Image.new("L", (8, 8), 7).save(photos / "9" / "alone.png")
    return "9"


def folder_of_folders(photos):
    (photos / "0" / "inner").mkdir()
    Image.new("L", (8, 8), 7).save(photos / "0" / "inner" / "a.png")
    return "inner"


def two_classes(photos):
    image = Image.fromarray(np.arange(64, dtype="uint8").reshape(8, 8))
    image.save(photos / "0" / "same.png")
    image.save(photos / "1" / "same.png")
    return "same.png"


@pytest.mark.parametrize(
    "spoil", [broken, empty_class, lonely_class, folder_of_folders, two_classes]
)
def test_folders(place, capsys, spoil):
    named = spoil(place / "photos")
    assert named in refusal(place, capsys, data=FOLDER)


def test_what_is_broken_is_left_out_if_asked(place, capsys):
    broken(place / "photos")
    config = {"name": "mine", "data": {**FOLDER, "skip_broken": True}}
    (place / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert train_main(["--config", str(place / "mine.yaml"), "--dry-run"]) == 0
    assert "Left out: 1 of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"data": {**FOLDER, "path": "pictures"}}, "pictures"),
        ({"data": {"name": "folder", "path": "photos"}}, "image_size"),
        ({"data": {"name": "imgs"}}, "or data of your own: folder, arrays"),
        ({"data": {**FOLDER, "target": "x"}}, "target must be left out"),
        ({"data": FOLDER, "model": {"name": "file", "path": "none.keras"}}, "none.keras"),
        ({"data": FOLDER, "model": {"name": "file", "path": "mine.keras"}}, "(9, 9, 1)"),
        ({"data": FOLDER, "model": {"name": "function", "function": "none:x"}}, "none"),
        (
            {"data": FOLDER, "model": {"name": "application", "application": "MobilNet"}},
            "MobileNet",
        ),
        ({"data": FOLDER, "model": {"name": "given"}}, "model.name"),
        ({"data": {"name": "given"}}, "data.name"),
        ({"data": FOLDER, "training": {"loss": "hubber"}}, "Did you mean"),
        ({"data": FOLDER, "training": {"metrics": ["AUK"]}}, "training.metrics"),
        ({"data": FOLDER, "training": {"task": "values", "loss": "crossentropy"}}, "training.loss"),
        ({"data": FOLDER, "training": {"task": "multilabel"}}, "training.task"),
        ({"data": FOLDER, "training": {"task": "binary"}}, "two classes"),
        ({"data": FOLDER, "training": {"outputs": {"a": {}}}}, "training.outputs"),
    ],
)
def test_settings(place, capsys, settings, part):
    assert part in refusal(place, capsys, **settings)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"x": np.zeros((0, 8, 8, 1), "uint8"), "y": np.zeros(0, int)}, "x"),
        ({"x": np.full((60, 4), np.nan), "y": np.arange(60) % 3}, "finite"),
        ({"x": np.random.rand(60, 4), "y": np.arange(59) % 3}, "60"),
        ({"x": np.random.rand(60, 4), "y": 2 + np.arange(60) % 3}, "class numbers"),
        ({"images": np.random.rand(60, 4)}, "x"),
        ({"x_train": np.random.rand(60, 4), "y_train": np.arange(60) % 3,
          "x_test": np.random.rand(60, 5), "y_test": np.arange(60) % 3}, "one shape"),
    ],
)  # fmt: skip
def test_arrays(place, capsys, arrays, part):
    np.savez(place / "set.npz", **arrays)
    assert part in refusal(place, capsys, data={"name": "arrays", "path": "set.npz"})


def test_a_table(place, capsys):
    rows = [f"{i},2020-01-{1 + i % 28:02d},{i * 0.5},{i % 2}" for i in range(60)]
    (place / "m.csv").write_text("\n".join(["id,day,size,label", *rows]))
    table = {"name": "table", "path": "m.csv", "target": "label"}
    line = refusal(place, capsys, data=table)
    assert "id" in line
    assert "ignore" in line
    assert "day" in refusal(place, capsys, data={**table, "ignore": ["id"]})
    assert "lable" in refusal(place, capsys, data={**table, "target": "lable"})
