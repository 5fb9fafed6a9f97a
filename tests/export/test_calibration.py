"""Calibration data in the forms that users have them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cnn_l1.export import tflite
from cnn_l1.export.calibration import LIMIT, read_examples

X = np.random.default_rng(0).normal(size=(6, 4, 3)).astype("float32")
A = np.random.default_rng(1).normal(size=(6, 2)).astype("float32")
Y = np.zeros(6)
from_slices = tf.data.Dataset.from_tensor_slices


def one_input():
    inputs = keras.Input((4, 3), name="x")
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs)))


def two_inputs(as_dict=False):
    first, second = keras.Input((4, 3), name="b"), keras.Input((2,), name="a")
    joined = layers.Concatenate()([layers.Flatten()(first), second])
    inputs = {"b": first, "a": second} if as_dict else [first, second]
    return keras.Model(inputs, layers.Dense(2)(joined))


def endless():
    while True:
        yield [X[:1]]


class Batches(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return 3

    def __getitem__(self, number):
        return X[2 * number : 2 * number + 2], Y[:2]


ONE = {
    "array": (lambda: X, 6),
    "tensor": (lambda: tf.constant(X), 6),
    "list of an array": (lambda: [X], 6),
    "list of examples": (lambda: list(X), 6),
    "nested lists": (X.tolist, 6),
    "dict": (lambda: {"x": X}, 6),
    "dataset": (lambda: from_slices(X), 6),
    "batched dataset": (lambda: from_slices(X).batch(4), 6),
    "pairs": (lambda: from_slices((X, Y)), 6),
    "batched pairs": (lambda: from_slices((X, Y)).batch(4), 6),
    "dicts and targets": (lambda: from_slices(({"x": X}, Y)).batch(4), 6),
    "generator": (lambda: (x for x in X), 6),
    "generator of batches": (lambda: (X[k : k + 2] for k in (0, 2, 4)), 6),
    "endless function": (lambda: endless, LIMIT),
    "endless dataset": (lambda: from_slices(X).repeat(), LIMIT),
    "PyDataset": (Batches, 6),
}


@pytest.mark.parametrize("name", ONE)
def test_one_input(name):
    make, count = ONE[name]
    examples = read_examples(make(), one_input())
    assert len(examples) == count
    for number, (example,) in enumerate(examples[:6]):
        expected = X[0] if name == "endless function" else X[number]
        np.testing.assert_array_equal(example, expected)
        assert example.dtype == np.float32


TWO = {
    "dict": lambda pair: {"b": X, "a": A},
    "list": lambda pair: pair,
    "tuple": tuple,
    "dataset": lambda pair: from_slices(tuple(pair)),
    "batched, with targets": lambda pair: from_slices((tuple(pair), Y)).batch(4),
    "dataset of dicts": lambda pair: from_slices(({"b": X, "a": A}, Y)).batch(4),
    "generator": lambda pair: ([pair[0][k], pair[1][k]] for k in range(6)),
}


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("name", TWO)
def test_two_inputs(name, as_dict):
    # Keras flattens a dict by its keys in order.
    pair = [A, X] if as_dict else [X, A]
    examples = read_examples(TWO[name](pair), two_inputs(as_dict))
    assert len(examples) == 6
    for number, example in enumerate(examples):
        for array, column in zip(example, pair, strict=True):
            np.testing.assert_array_equal(array, column[number])


WRONG = {
    "one example": (X[0], r"shape \(count, 4, 3\).*Received: shape \(4, 3\)"),
    "an axis missing": (X[..., 0], r"Received: shape \(6, 4\)"),
    "another size": (X[:, :3], r"Received: shape \(6, 3, 3\)"),
    "none": (X[:0], "at least one example"),
    "empty list": ([], "at least one example"),
    "empty generator": (iter(()), "at least one example"),
    "infinity": (np.where(X > 1, np.inf, X), "finite values for input 'x'.*infinity"),
    "not a number": (X * np.nan, "finite values"),
    "too large for float32": (X.astype("float64") * 1e39, "finite float32"),
    "text": ("folder", "Received: str"),
    "strings": (np.array(["a", "b"]), "values of type <U1"),
    "objects": ([None], "values of type object"),
    "a number": (3.0, "Received: float"),
    "ragged": ([[1.0], [1.0, 2.0]], "Received: shape"),
    "two for one": ({"x": X, "y": X}, "inputs' names as keys: x. Received: x, y"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_are_refused_by_the_arguments_name(name, tmp_path):
    data, message = WRONG[name]
    for argument in ("calibration_data", "calibration_images"):
        if hasattr(data, "__next__"):
            data = iter(())
        with pytest.raises(ValueError, match=f"`{argument}` must .*{message}"):
            tflite.export_tflite(
                one_input(), tmp_path / "m.tflite", kind="int8", **{argument: data}
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([A, X], "for input 'b'. Received: shape"),
        ([X], "each of the model's 2 inputs"),
        (X, "each of the model's 2 inputs"),
        ([X, A[:3]], "as many examples for each input. Received: 6, 3"),
        ({"a": A}, "names as keys: b, a. Received: a"),
    ],
)
def test_wrong_data_of_two_inputs(data, message):
    with pytest.raises(ValueError, match=message):
        read_examples(data, two_inputs())


def test_integers_are_taken_in_their_own_type():
    inputs = keras.Input((4,), dtype="uint8", name="u")
    model = keras.Model(inputs, layers.Rescaling(1 / 255)(inputs))
    (example,) = read_examples(np.arange(8.0).reshape(2, 4), model)[0]
    assert example.dtype == np.uint8
    for wrong in (np.full((2, 4), 300), np.full((2, 4), 0.5)):
        with pytest.raises(ValueError, match="values that are uint8 for input 'u'"):
            read_examples(wrong, model)


def test_both_names_at_once(tmp_path):
    with pytest.raises(ValueError, match="`calibration_data` and its older name"):
        tflite.export_tflite(one_input(), tmp_path / "m.tflite", X, calibration_images=X)
