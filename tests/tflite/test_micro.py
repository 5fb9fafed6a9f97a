"""TFLite Micro's own interpreter on this host."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnn_l1.export import tflite
from cnn_l1.process.silence import silenced
from cnn_l1.tflite import micro
from cnn_l1.tflite.micro import MicroError, arena_bytes


def network(filters):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(filters, 3, activation="relu", padding="same")(inputs)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`{(filters, kind): file}`."""
    folder = tmp_path_factory.mktemp("micro")
    samples = np.random.default_rng(0).uniform(0, 255, (20, 8, 8, 1)).astype("float32")
    written = {}
    for filters in (2, 16):
        keras.utils.set_random_seed(0)
        model = network(filters)
        for kind, given in (("int8", samples), ("float32", None)):
            path = folder / f"{filters}_{kind}.tflite"
            tflite.export_tflite(model, path, given)
            written[filters, kind] = path
    return written


@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_arena_repeats_and_grows_with_the_network(files, kind):
    small = arena_bytes(files[2, kind])
    assert arena_bytes(str(files[2, kind])) == small
    wide = arena_bytes(files[16, kind])
    # What the convolution makes must be held whole, 8 x 8 values a filter.
    size = {"int8": 1, "float32": 4}[kind]
    assert small >= 64 * 2 * size
    assert wide >= small + 64 * (16 - 2) * size


def test_persistent_part_is_that_of_structures(files):
    """More filters make tensors larger; operators and tensors stay as many."""
    runs = [
        micro.run(files[filters, "float32"], [np.zeros((1, 1, 8, 8, 1), "float32")])
        for filters in (2, 16)
    ]
    small, wide = (run.persistent_bytes for run in runs)
    assert 0 < small < runs[0].arena_bytes
    # A bias' or filter's scale is 4 bytes; nothing else of a convolution is per filter.
    assert 0 <= wide - small <= 16 * (16 - 2)
    # The tensors: 8 x 8 values a filter at least.
    assert runs[1].arena_bytes - wide >= 64 * 16 * 4


def test_int8_takes_less_than_float32(files):
    assert arena_bytes(files[16, "int8"]) < arena_bytes(files[16, "float32"])


def check_refused(path):
    with pytest.raises(MicroError) as caught:
        arena_bytes(path)
    text = str(caught.value)
    assert text.startswith(f"{path.name}: expected a file that TFLite Micro runs. Received: ")
    assert "\n" not in text
    assert len(text) > len(f"{path.name}: expected a file that TFLite Micro runs. Received: ")
    return text


@pytest.mark.parametrize("content", [b"", b"no model at all" * 50])
def test_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    check_refused(path)


def test_truncated_file_is_refused(tmp_path, files):
    path = tmp_path / "half.tflite"
    whole = files[2, "int8"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    check_refused(path)


def test_file_that_is_not_there_is_refused(tmp_path):
    check_refused(tmp_path / "missing.tflite")


def convert(model, path, types=(), optimizations=()):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.target_spec.supported_types = list(types)
    converter.optimizations = list(optimizations)
    with silenced():
        path.write_bytes(converter.convert())


def test_float16_weights_are_refused_by_the_operator_that_would_read_them(tmp_path):
    path = tmp_path / "half_precision.tflite"
    convert(network(16), path, [tf.float16], [tf.lite.Optimize.DEFAULT])
    assert "DEQUANTIZE" in check_refused(path)


def test_operator_that_micro_lacks_is_named(tmp_path):
    path = tmp_path / "unsupported.tflite"
    inputs = keras.Input((8, 8, 2))
    outputs = keras.layers.Lambda(lambda x: tf.math.segment_sum(x, [0]))(inputs)
    convert(keras.Model(inputs, outputs), path)
    assert "SEGMENT_SUM" in check_refused(path)


# Files of any inputs and outputs.


def from_function(function, path, *specs):
    with silenced():
        concrete = tf.function(function, input_signature=specs).get_concrete_function()
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


def test_a_file_without_inputs(tmp_path):
    path = from_function(lambda: tf.constant([[1.0, 2.0]]), tmp_path / "constant.tflite")
    done = micro.run(path, [])
    assert done.outputs[0].tolist() == [[[1.0, 2.0]]]
