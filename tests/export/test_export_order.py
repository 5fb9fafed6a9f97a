"""Inputs and outputs of TFLite files: the model's order, its names, and their types."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from cnn_l1.export import tflite
from cnn_l1.tflite.file import ExportError, read_tflite
from cnn_l1.tflite.runner import TFLiteRunner

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def written(model, path, *arguments, **settings):
    tflite.export_tflite(model, path, *arguments, **settings)
    return TFLiteRunner(path)


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("names", [("b", "a"), ("a", "b"), (None, None)])
def test_a_difference_keeps_its_sign(names, kind, tmp_path):
    first, second = (keras.Input((4,), name=name) for name in names)
    model = keras.Model([first, second], layers.Subtract()([first, second]))
    data = [normal(20, 4), normal(20, 4)]
    runner = written(model, tmp_path / "m.tflite", data, kind=kind)
    received = runner(data[0][0], data[1][0])
    # Both inputs are rounded to steps of some 6/255, and so is the output.
    tolerance = 1e-6 if kind == "float32" else 0.1
    np.testing.assert_allclose(received, data[0][0] - data[1][0], atol=tolerance)


def test_heads_come_in_the_models_order_with_their_names(tmp_path):
    inputs = keras.Input((4,), name="x")
    heads = [inputs * (number + 1.0) for number in range(12)]
    model = keras.Model(inputs, {f"head_{number}": head for number, head in enumerate(heads)})
    runner = written(model, tmp_path / "m.tflite")
    x = normal(4)
    expected = [np.asarray(one)[0] for one in keras.tree.flatten(model(x[None]))]
    for one, other in zip(runner(x), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    (signature,) = runner.interpreter.get_signature_list().values()
    assert signature["inputs"] == ["x"]
    assert sorted(signature["outputs"]) == sorted(f"head_{number}" for number in range(12))
    named = runner.interpreter.get_signature_runner()(x=x[None])
    for number in range(12):
        np.testing.assert_allclose(named[f"head_{number}"][0], x * (number + 1), rtol=1e-6)


def test_inputs_passed_on_and_outputs_given_twice(tmp_path):
    first, second = keras.Input((4,)), keras.Input((3,))
    head = layers.Dense(2)(first)
    model = keras.Model([first, second], [head, second, head])
    x, y = normal(4), normal(3)
    runner = written(model, tmp_path / "m.tflite")
    expected = np.asarray(model([x[None], y[None]])[0])[0]
    once, passed, twice = runner(x, y)
    np.testing.assert_allclose(once, expected, rtol=1e-5)
    np.testing.assert_array_equal(passed, y)
    np.testing.assert_array_equal(twice, once)


NAMES = ["con v1", "größe", "stage:00", "class", "1st", "_x"]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names_of_any_letters(number, tmp_path):
    """Each of an input, of a layer and of a model, three in one file."""
    of_input, of_layer, of_model = (NAMES[(number + i) % len(NAMES)] for i in range(3))
    inputs = keras.Input((4,), name=of_input)
    outputs = layers.Dense(2, name=of_layer)(inputs)
    model = keras.Model(inputs, outputs, name=of_model)
    assert tflite.export_tflite(model, tmp_path / "m.tflite") > 0
    assert [layer.name for layer in model.layers] == [of_input, of_layer]


def test_names_of_any_letters_are_kept_in_a_file_of_two_inputs(tmp_path):
    first, second = keras.Input((2,), name="größe"), keras.Input((2,), name="in put")
    model = keras.Model([first, second], first - second)
    runner = written(model, tmp_path / "m.tflite")
    (signature,) = runner.interpreter.get_signature_list().values()
    assert sorted(signature["inputs"]) == ["größe", "in put"]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_integer_inputs_keep_their_type(dtype, kind, tmp_path):
    inputs = keras.Input((6, 6, 1), dtype=dtype)
    x = layers.Conv2D(3, 3)(layers.Rescaling(1 / 127)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    frames = RANDOM.integers(0, 127, (20, 6, 6, 1)).astype(dtype)
    runner = written(model, tmp_path / "m.tflite", frames, kind=kind)
    assert runner.inputs[0]["dtype"] in (np.dtype(dtype), np.int8)
    expected = np.asarray(model(frames))
    received = np.stack([runner(frame) for frame in frames])
    # An int8 file is off by a few of its 255 steps.
    bound = (1e-5 if kind == "float32" else 0.06) * np.abs(expected).max()
    np.testing.assert_allclose(received, expected, atol=bound)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_ids(dtype, kind, tmp_path):
    inputs = keras.Input((8,), dtype=dtype)
    x = layers.GlobalMaxPooling1D()(layers.Embedding(300, 4)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    ids = RANDOM.integers(0, 300, (20, 8)).astype(dtype)
    runner = written(model, tmp_path / "m.tflite", ids, kind=kind)
    # Ids above 127 have no place in an int8 input.
    assert runner.inputs[0]["dtype"] is not np.int8
    expected = np.asarray(model(ids))
    received = np.stack([runner(one) for one in ids])
    bound = (1e-5 if kind == "float32" else 0.06) * np.abs(expected).max()
    np.testing.assert_allclose(received, expected, atol=bound)


@pytest.mark.parametrize("shape", [(None, None, 3), (12, None, 3)])
def test_open_sizes(shape, tmp_path):
    inputs = keras.Input(shape)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    x = normal(12, 9, 3)
    expected = np.asarray(model(x[None]))[0]
    runner = written(model, tmp_path / "open.tflite")
    np.testing.assert_allclose(runner(x), expected, rtol=1e-4, atol=1e-6)
    fixed = written(model, tmp_path / "fixed.tflite", input_shape=(12, 9, 3))
    assert tuple(fixed.inputs[0]["shape_signature"]) == (1, 12, 9, 3)
    np.testing.assert_allclose(fixed(x), expected, rtol=1e-4, atol=1e-6)
    data = [normal(1, 12, 9, 3)[0], normal(1, 12, 12, 3)[0]]
    with pytest.raises(ValueError, match="Calibration data must have one size"):
        tflite.export_tflite(model, tmp_path / "mixed.tflite", data)


def test_operators_that_lite_lacks_are_refused_by_name(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, ops.erfinv(ops.tanh(inputs)), name="net")
    with pytest.raises(ExportError, match=r"Model 'net' .*Received: .*(Erfinv|erfinv|Ndtri)"):
        tflite.export_tflite(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_crash_of_the_converter_is_an_error(tmp_path):
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, layers.Dense(2)(layers.LSTM(5, name="memory")(inputs)))
    with pytest.raises(ExportError, match=r"LSTM.*`unroll=True`: memory"):
        tflite.export_tflite(model, tmp_path / "m.tflite", normal(10, 6, 4))
    assert not list(tmp_path.iterdir())


def test_unrolled_recurrent_layers_convert(tmp_path):
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.GRU(3, unroll=True)(inputs)))
    assert tflite.export_tflite(model, tmp_path / "m.tflite", normal(10, 4, 3)) > 0
    assert "WHILE" not in read_tflite((tmp_path / "m.tflite").read_bytes()).operators
