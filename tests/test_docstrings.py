"""The examples in docstrings run, and give what they show."""

import doctest
import importlib
import pathlib
import pkgutil

import keras
import numpy as np
import pytest

import cnn_l1

# Of optional packages.
SKIPPED = ("cnn_l1.sweep.ray_engine", "cnn_l1.export.onnx_file", "cnn_l1.export.onnx_conversion")


def examples():
    """The docstrings of the package that have examples, each as `doctest` reads it."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for module in pkgutil.walk_packages(cnn_l1.__path__, "cnn_l1."):
        path = pathlib.Path(cnn_l1.__path__[0]).parent / (module.name.replace(".", "/") + ".py")
        if module.name in SKIPPED or not path.is_file() or ">>>" not in path.read_text("utf-8"):
            continue
        tests = finder.find(importlib.import_module(module.name), module.name)
        found += [one for one in tests if one.examples]
    return found


class _Checker(doctest.OutputChecker):
    """What an example does not show is not compared."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture
def names():
    """What an example may use without saying so: a small model and its data."""
    keras.backend.clear_session()  # layers are numbered from the start
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 8, 8, 1)).astype("float32"), random.integers(0, 3, 64)
    return {"cnn_l1": cnn_l1, "keras": keras, "np": np, "model": model, "x": x, "y": y}


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_an_example_gives_what_it_shows(example, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names["model"].save("mine.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save("old.h5")
    cnn_l1.export_tflite(names["model"], "model.tflite")
    cnn_l1.export_tflite(names["model"], "model_int8.tflite", names["x"])
    keras.backend.clear_session()
    example.globs = {**example.globs, **names}
    printed = []
    runner = doctest.DocTestRunner(
        checker=_Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    failed = runner.run(example, out=printed.append, clear_globs=False).failed
    assert not failed, "".join(printed)
