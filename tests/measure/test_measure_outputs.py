"""Measuring files of several inputs and outputs, of pixels, values and ids."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cnn_l1.export import tflite
from cnn_l1.measure import measurement, scores
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError, float_operators

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def written(model, path):
    """A file of batch 1 with names and signature, as the converter gives it."""
    with silenced():
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


def written_in_order(function, path, *specs):
    """A file whose inputs and outputs are in the order of a function's."""
    with silenced():
        concrete = tf.function(function, input_signature=specs).get_concrete_function()
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


def heads():
    """Two inputs of one shape; a class, a box and a score, by name."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = a - 2 * b
    outputs = {
        "kind": layers.Dense(3)(x),
        "box": layers.Dense(4)(x),
        "score": layers.Dense(1, activation="sigmoid")(x),
    }
    return keras.Model({"a": a, "b": b}, outputs)


FORMATS = ("keras", "saved_model", "tflite")


def write(model, kind, folder):
    path = folder / {"keras": "m.keras", "saved_model": "m", "tflite": "m.tflite"}[kind]
    if kind == "tflite":
        return written(model, path)
    getattr(tflite, f"export_{kind}")(model, path)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_outputs_are_compared_by_name(kind, tmp_path):
    keras.utils.set_random_seed(0)
    model = heads()
    path = write(model, kind, tmp_path)
    a, b = normal(9, 4), normal(9, 4)
    reference = {name: np.asarray(y) for name, y in model({"a": a, "b": b}).items()}
    labels = reference["kind"].argmax(1)
    labels[:3] = (labels[:3] + 1) % 3  # three of nine wrong
    boxes = reference["box"] + 0.5
    targets = {"kind": labels, "box": boxes, "score": np.ones(9)}
    batches = [
        (
            {"b": b[part], "a": a[part]},
            {name: target[part] for name, target in targets.items()},
        )
        for part in (slice(0, 5), slice(5, 9))
    ]
    found = measurement.measure_file(path, batches, reference)
    assert found.examples == 9
    assert found.agreement == 1.0
    assert found.max_difference < 1e-5
    assert found.accuracy is found.r2 is None  # each output has its own
    by_name = {one.name: one for one in found.outputs}
    assert set(by_name) == {"kind", "box", "score"}
    assert by_name["kind"].accuracy == pytest.approx(6 / 9)
    assert by_name["box"].mean_squared_error == pytest.approx(0.25, rel=1e-4)
    assert by_name["box"].accuracy is by_name["score"].accuracy is None
    # One output that is off is seen, whichever it is.
    for name in targets:
        moved = {**reference, name: reference[name] + 7}
        again = measurement.measure_file(path, batches, moved)
        assert again.max_difference == pytest.approx(7, abs=1e-4)
        off = [one.name for one in again.outputs if one.max_difference > 1]
        assert off == [name]


def test_outputs_are_compared_by_place(tmp_path):
    keras.utils.set_random_seed(0)
    path = written_in_order(
        lambda a, b: (a - b, a + 2 * b),
        tmp_path / "m.tflite",
        tf.TensorSpec((1, 3), name="a"),
        tf.TensorSpec((1, 3), name="b"),
    )
    names = measurement.TFLiteRunner(path).input_names
    given = {"a": normal(6, 3), "b": normal(6, 3)}
    a, b = given["a"], given["b"]
    runner = measurement.TFLiteRunner(path)
    in_file = runner({"a": a[0], "b": b[0]})
    reference = [a - b, a + 2 * b]
    if not np.allclose(in_file[0], reference[0][0]):
        reference.reverse()
    for kind in (list, tuple):
        inputs = kind(given[name] for name in names)
        found = measurement.measure_tflite(path, [(inputs, None)], reference)
        assert found.max_difference < 1e-5
        swapped = measurement.measure_tflite(path, [(inputs, None)], reference[::-1])
        assert swapped.max_difference > 0.1
    with pytest.raises(ValueError, match=r"`inputs` must be 2 arrays.*\. Received: ndarray"):
        measurement.measure_tflite(path, [(a, None)], reference)
    with pytest.raises(ValueError, match=r"`reference` must be 2 arrays.*\. Received: list of 1"):
        measurement.measure_tflite(path, [((a, b), None)], reference[:1])
    with pytest.raises(ValueError, match=r"`targets` must be 2 arrays"):
        measurement.measure_tflite(path, [((a, b), np.zeros(6))], reference)
    with pytest.raises(ValueError, match=r"as many examples each\. Received: 5, 6"):
        measurement.measure_tflite(path, [((a, b[:5]), None)], reference)
    with pytest.raises(ValueError, match=r"pairs \(inputs, targets\)\. Received: tuple of 3"):
        measurement.measure_tflite(path, [(a, b, None)], reference)
    with pytest.raises(ValueError, match=r"one batch or more"):
        measurement.measure_tflite(path, [], reference)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integers_are_measured_as_they_are(kind, dtype, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype=dtype)
    x = layers.Flatten()(layers.Embedding(200, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(x))
    ids = RANDOM.integers(0, 200, (8, 6)).astype(dtype)
    reference = model.predict_on_batch(ids)
    path = write(model, kind, tmp_path)
    for given in (ids, ids.astype("float32"), ids.astype("int64")):
        found = measurement.measure_file(path, [(given, reference.argmax(1))], reference)
        assert (found.accuracy, found.agreement) == (1.0, 1.0)
        assert found.max_difference < 1e-5


@pytest.mark.parametrize("kind", FORMATS)
def test_classes_of_pixels(kind, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4, 2))
    model = keras.Model(inputs, layers.Conv2D(3, 3, padding="same")(inputs))
    images = normal(6, 5, 4, 2)
    reference = model.predict_on_batch(images)
    masks = reference.argmax(-1)
    masks[0] = (masks[0] + 1) % 3  # all 20 pixels of one image
    path = write(model, kind, tmp_path)
    batches = [(images[:4], masks[:4]), (images[4:], masks[4:])]
    found = measurement.measure_file(path, batches, reference)
    assert found.examples == 6
    assert found.accuracy == pytest.approx(5 / 6)
    assert found.agreement == 1.0
    # Means of the images 0, 1, 1, 1, 1, 1, of which each is one draw, not each pixel.
    assert found.accuracy_standard_error == pytest.approx(np.sqrt(5 / 6 * 1 / 6 / 6))
    moved = reference.copy()
    moved[1, :2] = np.roll(moved[1, :2], 1, -1)  # 8 of 120 pixels choose another class
    assert measurement.measure_file(path, batches, moved).agreement == pytest.approx(112 / 120)
    with_axis = measurement.measure_file(path, [(images, masks[..., None])], reference)
    assert with_axis.accuracy == pytest.approx(5 / 6)


def test_a_single_logit(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    x = normal(12, 3)
    reference = model.predict_on_batch(x)
    labels = (reference[:, 0] > 0).astype(int)
    labels[0] = 1 - labels[0]
    path = written(model, tmp_path / "m.tflite")
    for targets in (labels, labels[:, None]):
        batches = [(x, targets)]
        found = measurement.measure_tflite(path, batches, reference, measurement.above(0.0))
        assert found.accuracy == pytest.approx(11 / 12)
        assert found.agreement == 1.0
    # Whether 0.3 means yes is not known: no accuracy rather than that of class 0.
    assert measurement.measure_tflite(path, batches, reference).accuracy is None
    # A reference without the axis of one is the same numbers.
    assert measurement.measure_tflite(path, batches, reference[:, 0]).max_difference < 1e-6


def test_values_of_any_shape(tmp_path):
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    x = normal(5, 4, 3)
    reference = model.predict_on_batch(x)
    targets = reference + np.float32([1.0, -1.0])
    found = measurement.measure_tflite(
        written(model, tmp_path / "m.tflite"), [(x, targets)], reference
    )
    assert found.mean_squared_error == pytest.approx(1.0, rel=1e-4)
    assert found.accuracy is None


def test_a_reference_of_another_shape_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    path = written(model, tmp_path / "m.tflite")
    with pytest.raises(
        ValueError, match=r"`reference`.* must have the shape .*\(4, 2\)\. Received"
    ):
        measurement.measure_tflite(path, [(normal(4, 3), None)], normal(5, 2))


def test_labels_of_other_shapes():
    outputs = np.eye(3)[[0, 1, 2, 1]]
    labels = np.array([0, 1, 2, 0])
    for targets in (labels, labels[:, None], np.eye(3)[labels], labels.astype("float32")):
        assert scores.score(outputs, targets)["accuracy"] == 0.75
        assert scores.score(outputs, targets, scores.largest)["accuracy"] == 0.75
    with pytest.raises(ValueError, match=r"labels of shape \(4,\)\. Received: shape \(5,\)"):
        scores.score(outputs, np.zeros(5), scores.largest)
    with pytest.raises(ValueError, match=r"values for outputs of shape \(4, 3\)"):
        scores.score(outputs, np.zeros((4, 2)))


def test_constant_outputs_of_several():
    one, other = np.ones((4, 2)), np.arange(8.0).reshape(4, 2)
    assert scores.is_constant([one, one])
    assert not scores.is_constant([one, other])
    assert not scores.is_constant({"a": other, "b": one})


def test_integer_outputs_do_not_wrap_around(tmp_path):
    path = written_in_order(
        lambda x: tf.cast(x, tf.uint8), tmp_path / "m.tflite", tf.TensorSpec((1, 2))
    )
    x = np.array([[3.0, 5.0]])
    found = measurement.measure_tflite(path, [(x, None)], np.array([[4, 5]], "uint8"))
    assert found.max_difference == 1.0


@pytest.mark.parametrize(("activation", "expected"), [("elu", ("ELU",)), ("relu", ())])
def test_operators_that_an_int8_file_computes_in_float(activation, expected, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Activation(activation)])
    x = normal(32, 4)
    tflite.export_tflite(model, tmp_path / "i.tflite", x)
    found = measurement.measure_tflite(
        tmp_path / "i.tflite", [(x, None)], model.predict_on_batch(x)
    )
    assert found.float_operators == expected
    tflite.export_tflite(model, tmp_path / "f.tflite")
    assert float_operators((tmp_path / "f.tflite").read_bytes()) == ()


def test_a_file_of_strings_is_refused_by_name(tmp_path):
    path = written_in_order(
        lambda s: tf.shape(s), tmp_path / "s.tflite", tf.TensorSpec((1,), tf.string)
    )
    with pytest.raises(ExportError, match=r"^s\.tflite: expected inputs and outputs of numbers"):
        measurement.measure_tflite(path, [], None)
