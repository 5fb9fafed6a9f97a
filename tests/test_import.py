"""`import cnn_l1` is light, and enough for Keras to load what was saved with its classes."""

import pathlib
import subprocess
import sys

import pytest

SAVED = pathlib.Path(__file__).parent / "saved" / "l1.keras"


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_neither_keras_nor_tensorflow_is_imported():
    code = "import sys, cnn_l1; print(*[m for m in ('keras', 'tensorflow') if m in sys.modules])"
    assert run(code) == []


@pytest.mark.parametrize(
    "imports",
    [
        "import cnn_l1, keras",
        "import keras, cnn_l1",
        pytest.param("from cnn_l1 import L1\nimport keras", marks=pytest.mark.slow),
        "import cnn_l1\ncnn_l1.plan_shrink\nimport keras",
    ],
)
def test_a_saved_model_loads(imports):
    code = f"{imports}\nmodel = keras.models.load_model({str(SAVED)!r})\n"
    code += (
        "print(type(model.optimizer).__name__, type(model.layers[0].kernel.regularizer).__name__)"
    )
    assert run(code) == ["Proximal", "L1"]
