"""Models taken out of packages, and the table of what becomes of them."""

import io
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks import third_party


def made_wheel(folder, name="some_package-1.0"):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("net.h5", b"h5")
        archive.writestr("net.py", b"")
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_package-1.0.dist-info/METADATA", "Name: some-package\nLicense: MIT\n")
        wheel.writestr("models/a.tflite", b"tflite")
        wheel.writestr("models/kws.zip", inner.getvalue())
        wheel.writestr("models/saved/saved_model.pb", b"pb")
        wheel.writestr("models/saved/variables/variables.index", b"index")
        wheel.writestr("models/code.py", b"")


def test_models_are_found_in_archives_and_folders(tmp_path):
    (tmp_path / "wheels").mkdir()
    made_wheel(tmp_path / "wheels")
    models = third_party.fetch("some-package==1.0", tmp_path)
    assert [(third_party.short(m), m.kind) for m in models] == [
        ("a.tflite", "tflite"), ("kws/net.h5", "h5"), ("saved", "SavedModel"),
    ]  # fmt: skip
    assert {(m.package, m.version, m.licence) for m in models} == {("some-package", "1.0", "MIT")}
    assert models[1].path.read_bytes() == b"h5"
    assert (models[2].path / "variables" / "variables.index").read_bytes() == b"index"


def test_the_page_has_a_cell_for_each_step(tmp_path):
    (tmp_path / "wheels").mkdir()
    made_wheel(tmp_path / "wheels")
    models = third_party.fetch("some-package==1.0", tmp_path)
    key = f"some-package/{models[1].name}"
    cells = {(key, step): ["yes", ""] for step in third_party.KERAS_STEPS}
    cells[key, "int8"] = ["refused", "the reason"]
    page = third_party.page(models, cells)
    (row,) = [line for line in page.splitlines() if line.startswith("| kws/net.h5 |")]
    shown = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(shown) == len(third_party.KERAS_STEPS) + 4
    assert shown[4 + third_party.KERAS_STEPS.index("int8")] == "refused [1](#notes)"
    assert "1. the reason" in page


def small(path=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    if path is not None:
        model.save(path)
    return model


def test_a_quarter_of_the_channels_is_planted_zero():
    model = third_party.planted(small())
    for layer in model.layers[1:3]:
        zero = ~np.any(layer.kernel, axis=(0, 1, 2))
        assert list(np.flatnonzero(zero)) == [0, 4]
    assert np.all(np.any(model.layers[-1].kernel, axis=0))


@pytest.mark.slow
def test_steps_on_a_small_model(tmp_path):
    small(tmp_path / "m.keras")
    for step in ("load", "count", "shrink", "fold", "copy", "float32"):
        result = third_party.perform(["m", step, str(tmp_path / "m.keras")])
        assert result == {"cell": ["yes", ""]}, step
    (tmp_path / "broken.keras").write_bytes(b"")
    verdict, reason = third_party.perform(["m", "load", str(tmp_path / "broken.keras")])["cell"]
    assert verdict == "refused"
    assert "broken.keras: expected a .keras or .h5 file" in reason
