"""What files do in TFLite Micro, beside LiteRT."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnn_l1.export import tflite
from cnn_l1.measure import on_micro
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.micro import MicroError, arena_bytes


def from_function(function, path, *specs):
    with silenced():
        concrete = tf.function(function, input_signature=specs).get_concrete_function()
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


def test_operator_without_a_reference_kernel_is_compared_all_the_same(tmp_path):
    """LiteRT's reference kernels lack ELU; TFLite Micro has one."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="elu")])
    tflite.export_tflite(model, tmp_path / "elu.tflite")
    x = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    labels = model.predict_on_batch(x).argmax(1)
    facts = on_micro.measure_micro(tmp_path / "elu.tflite", x, labels)
    assert (facts.examples, facts.accuracy) == (7, 1.0)
    assert "ELU" in facts.operators
    # Two implementations of an exponential in float32.
    assert facts.largest_difference < 1e-5


def test_several_inputs_and_outputs(tmp_path):
    path = from_function(
        lambda a, b: (a - 2 * b, tf.nn.relu(a)),
        tmp_path / "two.tflite",
        tf.TensorSpec((1, 3), name="a"),
        tf.TensorSpec((1, 3), name="b"),
    )
    random = np.random.default_rng(0)
    inputs = {name: random.normal(size=(5, 3)).astype("float32") for name in "ab"}
    facts = on_micro.measure_micro(path, inputs, None)
    assert facts.examples == 5
    assert facts.largest_difference < 1e-6
    assert facts.accuracy is None
    assert arena_bytes(path) == facts.arena_bytes
    with pytest.raises(MicroError, match=r"two\.tflite: expected a file and inputs .* 2 arrays"):
        on_micro.measure_micro(path, inputs["a"], None)


def test_ids_are_inputs_as_they_are(tmp_path):
    table = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    path = from_function(
        lambda ids: tf.gather(table, ids), tmp_path / "ids.tflite", tf.TensorSpec((1, 6), "int32")
    )
    ids = np.random.default_rng(0).integers(0, 200, (6, 6))
    facts = on_micro.measure_micro(path, ids, table[ids])
    assert facts.mean_squared_error == facts.largest_difference == 0.0
    with pytest.raises(MicroError, match=r"^ids\.tflite: .*whole numbers of int32"):
        on_micro.measure_micro(path, ids + 0.5, None)


def test_a_file_that_litert_does_not_run_is_an_error_of_ours(tmp_path):
    (tmp_path / "no.tflite").write_bytes(b"no file")
    with pytest.raises(MicroError, match=r"^no\.tflite: expected a file and inputs that LiteRT"):
        on_micro.measure_micro(tmp_path / "no.tflite", np.zeros((1, 2)), np.zeros(1))
