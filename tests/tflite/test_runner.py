"""Running TFLite files of any inputs and outputs, against Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cnn_l1.export import tflite
from cnn_l1.measure import measurement
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError
from cnn_l1.tflite.runner import TFLiteRunner

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def convert(model, **attributes):
    """The bytes of a model's file, as the converter gives them, names and signature too."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in attributes.items():
        setattr(converter, name, value)
    with silenced():
        return converter.convert()


def convert_function(function, *specs):
    """The bytes of a TensorFlow function's file."""
    with silenced():
        concrete = tf.function(function, input_signature=specs).get_concrete_function()
        return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


def spec(shape, dtype="float32", name=None):
    return tf.TensorSpec(shape, dtype, name)


def image_model(dtype="float32", shape=(8, 8, 3)):
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))
    return keras.Model(inputs, layers.Dense(2)(x))


def test_measure_still_has_the_runner():
    assert measurement.TFLiteRunner is TFLiteRunner


def test_inputs_of_one_shape_are_told_apart():
    """a − 2b: two inputs that nothing but their order or name tells apart."""
    content = convert_function(
        lambda a, b: a - 2 * b, spec((1, 3), name="a"), spec((1, 3), name="b")
    )
    runner = TFLiteRunner(content)
    a, b = normal(3), normal(3)
    values = dict(zip(runner.input_names, (a, b), strict=True))
    assert set(values) == {"a", "b"}
    in_order = [{"a": a, "b": b}[name] for name in runner.input_names]
    np.testing.assert_allclose(runner(*in_order), a - 2 * b, rtol=1e-6)
    np.testing.assert_allclose(runner({"b": b, "a": a}), a - 2 * b, rtol=1e-6)
    with pytest.raises(ValueError, match=r"must be a dict of .*\. Received: a, c"):
        runner({"a": a, "c": b})
    with pytest.raises(ValueError, match=r"must be a dict of .*\. Received: a$"):
        runner({"a": a})


def test_names_of_inputs_are_those_of_the_signature():
    first, second = keras.Input((2,), name="first"), keras.Input((2,), name="second")
    runner = TFLiteRunner(convert(keras.Model([first, second], first - 2 * second)))
    one, two = normal(2), normal(2)
    got = runner({"first": one, "second": two})
    np.testing.assert_allclose(got, one - 2 * two, rtol=1e-6)


def test_several_outputs_come_in_the_order_of_the_file():
    content = convert_function(lambda x: (x + 1, x[:, :2] * 2, x[:, :1]), spec((1, 4)))
    runner = TFLiteRunner(content)
    x = normal(4)
    got = runner(x)
    assert isinstance(got, list)
    shapes = [tuple(detail["shape"][1:]) for detail in runner.outputs]
    assert [one.shape for one in got] == shapes
    by_shape = {one.shape: one for one in got}
    for expected in (x + 1, x[:2] * 2, x[:1]):
        np.testing.assert_allclose(by_shape[expected.shape], expected, rtol=1e-6)
    assert [one.shape for one in runner.stored(x)] == [(1, *shape) for shape in shapes]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_number_of_inputs_is_checked(count):
    runner = TFLiteRunner(convert_function(lambda a, b: a + b, spec((1, 3)), spec((1, 3))))
    with pytest.raises(ValueError, match=rf"expected 2 inputs .*\. Received: {count}$"):
        runner(*[normal(3)] * count)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_integers_without_a_scale_go_in_as_they_are(dtype):
    model = image_model(dtype)
    images = RANDOM.integers(0, 128, (4, 8, 8, 3))
    expected = np.asarray(model(images.astype(dtype)))
    runner = TFLiteRunner(convert(model))
    assert runner.input["dtype"] == np.dtype(dtype)
    for given in (dtype, "float32", "int64", "uint16"):
        got = np.stack([runner(image) for image in images.astype(given)])
        # Both in float32, in another order.
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "reason"),
    [(0.5, "0.5"), (-1, "values from -1 to 0"), (256, "values from 0 to 256"), (np.nan, "NaN")],
)
def test_values_that_an_integer_input_cannot_hold_are_refused(value, reason):
    runner = TFLiteRunner(convert(image_model("uint8")))
    image = np.zeros((8, 8, 3))
    image[1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"^TFLite file: input 0 .*Received: {reason}"):
        runner(image)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_ids_of_an_embedding(dtype):
    inputs = keras.Input((5,), dtype=dtype)
    x = layers.Embedding(300, 4)(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    ids = RANDOM.integers(0, 300, (3, 5))
    runner = TFLiteRunner(convert(model))
    got = np.stack([runner(row) for row in ids])
    np.testing.assert_allclose(got, np.asarray(model(ids.astype(dtype))), atol=1e-5)


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "complex64"])
def test_other_dtypes(dtype):
    def function(x):
        return tf.abs(x) if dtype == "complex64" else tf.cast(x, "float32")

    runner = TFLiteRunner(convert_function(function, spec((1, 4), dtype)))
    assert runner.input["dtype"] == np.dtype(dtype)
    x = np.array([1, 0, 0, 1])
    for given in (x, x.astype(dtype)):
        got = runner(given)
        np.testing.assert_array_equal(got, x)
        assert got.dtype == "float32"


def test_integer_and_bool_outputs_come_as_they_are():
    runner = TFLiteRunner(convert_function(lambda x: (tf.argmax(x, 1), x > 0), spec((1, 4))))
    x = np.array([-1.0, 3.0, 2.0, -4.0], "float32")
    found = {one.dtype: one for one in runner(x)}
    assert found[np.dtype("int64")] == 1
    assert found[np.dtype("bool")].tolist() == [False, True, True, False]


def test_bool_inputs_take_zero_and_one_alone():
    runner = TFLiteRunner(convert_function(lambda x: tf.cast(x, "float32"), spec((1, 3), "bool")))
    assert runner([1.0, 0.0, 1.0]).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"expected bools, or 0 and 1\. Received: values from 0"):
        runner([2, 0, 1])


@pytest.mark.parametrize("value", ["a", None, [[1.0], [1.0, 2.0]]])
def test_what_is_no_array_of_numbers_is_refused(value):
    runner = TFLiteRunner(convert_function(lambda x: x + 1, spec((1, 1))))
    with pytest.raises(ValueError, match="expected an array of numbers"):
        runner(value)


def test_complex_numbers_are_refused_for_real_ones():
    runner = TFLiteRunner(convert_function(lambda x: x + 1, spec((1, 1))))
    with pytest.raises(ValueError, match=r"expected real numbers\. Received: complex"):
        runner([1j])


def test_nan_is_refused_by_a_quantized_input(tmp_path):
    images = RANDOM.uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    tflite.export_tflite(image_model(), tmp_path / "m.tflite", images)
    with pytest.raises(ValueError, match=r"^m\.tflite: input 0.*Received: NaN"):
        TFLiteRunner(tmp_path / "m.tflite")(np.full((8, 8, 3), np.nan))


OPEN = {
    "rows and columns": ((None, None, 3), [(12, 12, 3), (9, 15, 3), (12, 12, 3)]),
    "columns": ((10, None, 3), [(10, 7, 3), (10, 30, 3)]),
    "rows": ((None, 5, 3), [(7, 5, 3), (3, 5, 3)]),
}


@pytest.mark.parametrize("name", OPEN)
def test_open_sizes_are_those_of_the_example(name):
    shape, given = OPEN[name]
    model = image_model(shape=shape)
    runner = TFLiteRunner(convert(model))
    for one in given:
        image = normal(*one)
        expected = np.asarray(model(image[None]))[0]
        np.testing.assert_allclose(runner(image), expected, atol=1e-6)


def test_open_steps_and_an_output_of_their_size():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.Conv1D(5, 3, padding="same")(inputs))
    runner = TFLiteRunner(convert(model))
    for steps in (9, 4):
        x = normal(steps, 3)
        np.testing.assert_allclose(runner(x), np.asarray(model(x[None]))[0], atol=1e-6)


def test_a_size_that_is_not_open_is_an_error_with_both_shapes():
    runner = TFLiteRunner(convert(image_model(shape=(10, None, 3))))
    with pytest.raises(
        ValueError, match=r"expected an example of shape \(10, any, 3\)\. Received: \(9, 7, 3\)"
    ):
        runner(normal(9, 7, 3))
    runner = TFLiteRunner(convert(image_model()))
    for shape in ((8, 8), (8, 8, 1), (9, 8, 3), (1, 8, 8, 3)):
        with pytest.raises(ValueError, match=r"expected an example of shape \(8, 8, 3\)\. Rec"):
            runner(normal(*shape))


def test_a_size_on_which_the_file_fails_is_an_error_and_the_next_runs():
    """A 3 × 3 convolution of valid padding has no output on one row."""
    model = image_model(shape=(None, None, 3))
    runner = TFLiteRunner(convert(model))
    image = normal(6, 6, 3)
    expected = np.asarray(model(image[None]))[0]
    with pytest.raises(ExportError, match="expected a file that LiteRT runs on this example"):
        runner(normal(1, 1, 3))
    np.testing.assert_allclose(runner(image), expected, atol=1e-6)


def test_a_file_without_inputs():
    content = convert_function(lambda: tf.constant([[1.0, 2.0]]) * 3)
    assert TFLiteRunner(content)().tolist() == [[3.0, 6.0]]


def test_a_file_without_a_batch_axis():
    runner = TFLiteRunner(convert_function(lambda x: x * 2, spec((4, 3))))
    x = normal(4, 3)
    np.testing.assert_array_equal(runner(x), x * 2)
    with pytest.raises(ValueError, match=r"\(4, 3\), for the file has no batch axis of 1 but 4"):
        runner(x[0])


def test_a_scalar_beside_a_batch():
    runner = TFLiteRunner(convert_function(lambda x, s: x * s, spec((1, 3)), spec(())))
    values = [np.float32(2) if not len(d["shape"]) else np.ones(3) for d in runner.inputs]
    assert runner(*values).tolist() == [2, 2, 2]


def test_an_output_whose_size_only_the_run_tells():
    runner = TFLiteRunner(convert_function(lambda x: tf.boolean_mask(x[0], x[0] > 0), spec((1, 5))))
    assert runner(np.array([1.0, -1.0, 2.0, 3.0, -4.0])).tolist() == [1, 2, 3]
    assert runner(np.full(5, -1.0)).tolist() == []


def test_an_input_that_is_passed_through():
    inputs = keras.Input((3,))
    runner = TFLiteRunner(convert(keras.Model(inputs, [inputs, layers.Dense(2)(inputs)])))
    x = normal(3)
    assert sorted(one.shape for one in runner(x)) == [(2,), (3,)]
    assert any(np.array_equal(one, x) for one in runner(x))


def test_strings_are_refused():
    content = convert_function(lambda s: tf.shape(s), spec((1,), tf.string))
    with pytest.raises(ExportError, match=r"expected inputs and outputs of numbers. .* strings"):
        TFLiteRunner(content)


def test_quantized_inputs_and_outputs_are_real_numbers_to_the_caller():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], [layers.Dense(3)(a - b), layers.Dense(2)(a)])
    samples = [normal(1, 4) for _ in range(64)]
    content = convert(
        model,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ({"a": s, "b": -s} for s in samples),
        target_spec=tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
        inference_input_type=tf.int8,
        inference_output_type=tf.uint8,
    )
    runner = TFLiteRunner(content)
    x = {"a": samples[0][0], "b": -samples[0][0]}
    expected = {one.shape[1:]: np.asarray(one)[0] for one in model([x["a"][None], x["b"][None]])}
    for one in runner(x):
        assert one.dtype == np.float32
        # Some 1/255 of ranges of about 10, rounded a few times.
        np.testing.assert_allclose(one, expected[one.shape], atol=0.2)
    assert {one.dtype for one in runner.stored(x)} == {np.dtype("uint8")}


@pytest.mark.parametrize("content", [b"", b"no model at all" * 50])
def test_bytes_that_are_no_file(content):
    with pytest.raises(ExportError, match="expected a file that LiteRT runs"):
        TFLiteRunner(content)
