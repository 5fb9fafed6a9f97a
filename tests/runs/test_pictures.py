"""Pictures are whole files, equal for equal data, and need no screen."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from cnn_l1.graph.features import Features
from cnn_l1.runs import pictures

RANDOM = np.random.default_rng(0)


def sparse(features, units):
    weights = RANDOM.normal(size=(features, units)).astype("float32")
    weights[RANDOM.permutation(features)[: features // 2]] = 0.0
    return weights


CASES = {
    "bars": Features((10,), "dense", sparse(10, 1)),
    "bars of several units": Features((10,), "dense", sparse(10, 3)),
    "points": Features((100,), "dense", sparse(100, 1)),
    "image": Features((8, 8, 1), "dense", sparse(64, 10)),
    "coloured image": Features((4, 5, 3), "dense", sparse(60, 10)),
    "nothing left": Features((8, 8, 1), "dense", np.zeros((64, 10), "float32")),
    "no bars": Features((10,), "dense", np.zeros((10, 1), "float32")),
}


@pytest.mark.parametrize("name", CASES)
def test_files_are_a_picture(name, tmp_path):
    pictures.draw_features(tmp_path / "features", CASES[name])
    assert {path.name for path in tmp_path.iterdir()} == {"features.png", "features.svg"}
    png = (tmp_path / "features.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(b"IEND\xaeB`\x82")
    root = ElementTree.parse(tmp_path / "features.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("name", ["bars", "points", "image"])
def test_equal_data_give_equal_bytes(name, tmp_path):
    files = {}
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        pictures.draw_features(tmp_path / folder / "features", CASES[name])
        files[folder] = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
    assert files["one"] == files["two"]
    weights = CASES[name].weights.copy()
    weights[np.flatnonzero(weights[:, 0])[0]] *= 2.0
    other = Features(CASES[name].input_shape, "dense", weights)
    pictures.draw_features(tmp_path / "one" / "features", other)
    assert (tmp_path / "one" / "features.svg").read_bytes() != files["two"]["features.svg"]


def test_a_folder_with_a_dot_in_its_name(tmp_path):
    pictures.draw_features(tmp_path / "run.1", CASES["bars"])
    assert {path.name for path in tmp_path.iterdir()} == {"run.1.png", "run.1.svg"}


WITHOUT_A_SCREEN = """
import pathlib, sys
import numpy as np
from cnn_l1.runs import pictures
figure, axes = pictures.new_figure()
axes.plot([1, 2, 3])
pictures.save(figure, pathlib.Path(sys.argv[1]) / "line")
assert "matplotlib.pyplot" not in sys.modules, "a figure of pyplot's stays open"
"""


def test_no_screen_is_needed(tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLBACKEND", "tkagg")
    command = [sys.executable, "-c", WITHOUT_A_SCREEN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "line.png").stat().st_size > 1000
