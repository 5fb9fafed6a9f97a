"""`cnn-l1 init`: a config that loads, for each kind of data, or one line."""

import keras
import numpy as np
import pytest
import yaml
from keras import layers
from own_data import write_folder

from cnn_l1.config import loading as configs
from cnn_l1.init import main


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", count=200, classes=3)
    return tmp_path


def test_a_folder_a_model_and_a_board(place, capsys):
    hidden = layers.Conv2D(4, 3, activation="relu")
    top = [layers.GlobalAveragePooling2D(), layers.Dense(3)]
    keras.Sequential([keras.Input((10, 12, 1)), hidden, *top]).save("a.keras")
    flags = ["--data", "photos", "--model", "a.keras", "--board", "raspberry_pi_pico"]
    assert main(flags) == 0
    assert "cnn-l1 train --config photos.yaml" in capsys.readouterr().out
    text = (place / "photos.yaml").read_text()
    assert "3 classes (0, 1, 2)" in text
    data = yaml.safe_load(text)
    assert data["data"] == {
        "name": "folder", "path": "photos", "image_size": [10, 12], "color_mode": "grayscale"
    }  # fmt: skip
    assert data["model"] == {"name": "file", "path": "a.keras"}
    config = configs.load(place / "photos.yaml")
    assert config.target.board == "raspberry_pi_pico"
    assert config.target.by_epochs < config.training.epochs


@pytest.mark.parametrize(
    ("arrays", "name", "model"),
    [
        ({"x": np.random.rand(90, 20, 3), "y": np.arange(90) % 3}, "series", "cnn"),
        ({"x": np.random.rand(90, 5), "y": np.random.rand(90)}, "arrays", "cnn"),
        ({"x": np.random.rand(90, 5).astype("float32")}, "arrays", "autoencoder"),
    ],
)
def test_arrays_and_a_new_network(place, arrays, name, model):
    np.savez("set.npz", **arrays)
    assert main(["--data", "set.npz", "--bytes", "9000", "--output", "new.yaml"]) == 0
    config = configs.load(place / "new.yaml")
    assert (config.data.name, config.model.name) == (name, model)
    assert config.target.bytes == 9000


def test_a_table(place):
    rows = ["size,colour,price"] + [
        f"{i % 7 * 1.5},{'red' if i % 3 else 'blue'},{i * 0.7}" for i in range(60)
    ]
    (place / "cars.csv").write_text("\n".join(rows))
    assert main(["--data", "cars.csv", "--target", "price"]) == 0
    config = configs.load(place / "cars.yaml")
    assert config.data.target == "price"
    assert config.model.input_range == "standardized"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--data", "photos", "--board", "arduino"], "--board"),
        (["--data", "pictures"], "data.name"),
        (["--data", "photos", "--model", "none.keras"], "none.keras"),
        (["--data", "photos/0/0000.png"], "--data"),
        (["--data", "photos", "--output", "photos"], "--output"),
    ],
)
def test_one_line(place, capsys, flags, part):
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line
    assert not list(place.glob("*.yaml"))
