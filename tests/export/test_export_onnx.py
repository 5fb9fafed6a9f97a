"""ONNX files: loaded and run in ONNX Runtime, as the model is."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.export import tflite
from cnn_l1.tflite.file import ExportError

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")
X = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")


def run(path, *inputs):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [source.name for source in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, inputs, strict=True)))
    return names, [one.name for one in session.get_outputs()], outputs


def adapted():
    layer = layers.Normalization()
    layer.adapt(X * 3 + 1)
    return layer


LAYERS = {
    "gelu": lambda: layers.Activation("gelu"),
    "gelu in a convolution": lambda: layers.Conv2D(3, 3, activation="gelu"),
    "adapted normalization": adapted,
    "given normalization": lambda: layers.Normalization(mean=[1.0, 2.0], variance=[1.0, 4.0]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_file_has_the_models_input_alone_and_its_values(name, tmp_path):
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(LAYERS[name]()(inputs))))
    tflite.export_onnx(model, tmp_path / "m.onnx")
    names, _, (received,) = run(tmp_path / "m.onnx", X)
    assert len(names) == 1
    # float32 sums in another order.
    np.testing.assert_allclose(received, model(X), rtol=1e-4, atol=1e-5)


def test_several_inputs_and_outputs_keep_order_and_names(tmp_path):
    first, second = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    model = keras.Model([first, second], {"z": first - second, "y": second, "x": first * 2})
    tflite.export_onnx(model, tmp_path / "m.onnx")
    one, two = X[:, 0, :2].reshape(3, 4), X[:, 1, :2].reshape(3, 4)
    inputs, outputs, (x, y, z) = run(tmp_path / "m.onnx", one, two)
    assert (inputs, outputs) == (["b", "a"], ["x", "y", "z"])
    for received, expected in ((x, one * 2), (y, two), (z, one - two)):
        np.testing.assert_allclose(received, expected, rtol=1e-6)


def test_open_sizes(tmp_path):
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(inputs)))
    tflite.export_onnx(model, tmp_path / "m.onnx")
    _, _, (received,) = run(tmp_path / "m.onnx", X)
    np.testing.assert_allclose(received, model(X), rtol=1e-4, atol=1e-5)


def test_packages_are_named_only_where_one_is_missing(tmp_path, monkeypatch):
    inputs = keras.Input((4,), dtype="string")
    text = keras.Model(inputs, layers.StringLookup(vocabulary=["a"])(inputs))
    with pytest.raises(ExportError) as caught:
        tflite.export_onnx(text, tmp_path / "m.onnx")
    assert "pip install" not in str(caught.value)
    # As in a process of its own, where the package is not there.
    monkeypatch.delitem(sys.modules, "cnn_l1.export.onnx_conversion")
    monkeypatch.delattr("cnn_l1.export.onnx_conversion")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'cnn_l1\[onnx\]'"):
        tflite.export_onnx(text, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
