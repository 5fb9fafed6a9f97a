"""TFLite files run on what Keras models take: several inputs, integers, open sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cnn_l1.runner import TFLiteRunner
from cnn_l1.silence import silenced
from cnn_l1.tflite_file import ExportError


def converted(model):
    with silenced():
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def subtract():
    """`a - b` of two inputs of one shape: the order shows."""
    a, b = keras.Input((3,), batch_size=1, name="a"), keras.Input((3,), batch_size=1, name="b")
    return keras.Model([a, b], layers.Subtract()([a, b]))


def test_several_inputs_by_position_and_by_name():
    runner = TFLiteRunner(converted(subtract()))
    order = [details["name"] for details in runner.inputs]
    values = {"a": np.array([5.0, 6, 7]), "b": np.array([1.0, 1, 1])}
    by_tensor = {n: values["a" if "_a" in n or n.endswith("a:0") else "b"] for n in order}
    expected = values["a"] - values["b"]
    given = [by_tensor[name] for name in order]
    np.testing.assert_array_equal(runner(*given), expected)
    np.testing.assert_array_equal(runner(given), expected)
    np.testing.assert_array_equal(runner(tuple(given)), expected)
    np.testing.assert_array_equal(runner(values), expected)  # names of the signature
    np.testing.assert_array_equal(runner(by_tensor), expected)


def test_a_wrong_number_of_inputs_or_names_is_refused():
    runner = TFLiteRunner(converted(subtract()))
    with pytest.raises(ValueError, match=r"expected 2 inputs.*Received: 1"):
        runner(np.zeros(3))
    with pytest.raises(ValueError, match=r"inputs named [ab], [ab].*Received: a, c"):
        runner({"a": np.zeros(3), "c": np.zeros(3)})


def test_several_outputs_are_a_list():
    x = keras.Input((3,), batch_size=1)
    model = keras.Model(x, [layers.Identity()(x) * 2, layers.Identity()(x) * 3])
    outputs = TFLiteRunner(converted(model))(np.ones(3))
    assert sorted(float(output[0]) for output in outputs) == [2.0, 3.0]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
def test_integers_without_a_scale_go_in_as_they_are(dtype):
    x = keras.Input((4,), batch_size=1, dtype=dtype)
    model = keras.Model(x, layers.Rescaling(0.5, offset=1.0)(x))
    runner = TFLiteRunner(converted(model))
    values = np.array([0, 1, 2, 127], dtype)
    np.testing.assert_array_equal(runner(values), values * 0.5 + 1.0)
    np.testing.assert_array_equal(runner(values.astype("float64")), values * 0.5 + 1.0)
    with pytest.raises(ValueError, match=f"values of type {dtype}"):
        runner(np.array([0.5, 1, 2, 3]))
    if dtype != "int32":
        with pytest.raises(ValueError, match="from 0 to 100000"):
            runner(np.array([0, 1, 2, 100_000]))


def test_integer_outputs_keep_their_type():
    x = keras.Input((4,), batch_size=1)
    runner = TFLiteRunner(converted(keras.Model(x, keras.ops.cast(x > 2.5, "int32"))))
    output = runner(np.array([1.0, 9.0, 3.0, 2.0]))
    assert output.dtype == np.int32
    assert output.tolist() == [0, 1, 1, 0]


def test_open_sizes_follow_the_example():
    x = keras.Input((None, None, 2), batch_size=1)
    model = keras.Model(x, layers.GlobalAveragePooling2D()(x))
    runner = TFLiteRunner(converted(model))
    for rows, cols in ((3, 4), (5, 2), (5, 2)):
        image = np.random.default_rng(rows).normal(size=(rows, cols, 2)).astype("float32")
        # Means of some twenty float32 values in another order.
        np.testing.assert_allclose(runner(image), image.mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(-1, -1, 2\).*Received: shape \(3, 4, 1\)"):
        runner(np.zeros((3, 4, 1)))


def test_fixed_sizes_do_not():
    x = keras.Input((3, 2), batch_size=1)
    runner = TFLiteRunner(converted(keras.Model(x, layers.ReLU()(x))))
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*Received: shape \(4, 2\)"):
        runner(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*Received: shape \(2,\)"):
        runner(np.zeros(2))


def test_files_and_bytes_that_are_none_are_refused_by_name(tmp_path):
    with pytest.raises(ExportError, match=r"^The file: expected a file that LiteRT runs"):
        TFLiteRunner(b"no model")
    with pytest.raises(ExportError, match=r"^gone\.tflite"):
        TFLiteRunner(tmp_path / "gone.tflite")
    (tmp_path / "empty.tflite").write_bytes(b"")
    with pytest.raises(ExportError, match=r"^empty\.tflite"):
        TFLiteRunner(tmp_path / "empty.tflite")
