"""A format is added by one line: here one of weights alone, that nothing measures."""

import keras
import numpy as np
import pytest

from cnn_l1.config import formats
from cnn_l1.config.formats import Format
from cnn_l1.config.loading import validate
from cnn_l1.data import sets
from cnn_l1.data.tasks import Task
from cnn_l1.runs import exported_files, verification

WEIGHTS = Format("weights", "model.weights.h5", f"{__name__}:write_weights", None)


def write_weights(model, path, form, inputs):
    """The writer of the format."""
    model.save_weights(path)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(formats._BY_NAME, "weights", WEIGHTS)
    config = validate({"name": "a", "baseline": False})
    return config.model_copy(
        update={"export": config.export.model_copy(update={"formats": ("weights",)})}
    )


def test_its_file_is_written_and_not_measured(config, tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    dataset = sets.load(config.data, config.seed)
    files, refused = exported_files.export_files(
        model, tmp_path, config, dataset, Task("classes", "crossentropy", 3)
    )
    assert refused == {}
    assert set(files) == {"model.keras"}
    kernel = np.array(model.layers[-1].kernel)
    model.layers[-1].kernel.assign(0 * kernel)
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model.layers[-1].kernel, kernel)
    told = {"model.keras": {}}
    assert verification.check_formats(tmp_path, told, config, {}) == []
    (tmp_path / "model.weights.h5").unlink()
    (line,) = verification.check_formats(tmp_path, told, config, {})
    assert line.startswith("model.weights.h5: expected a file, for format weights")
