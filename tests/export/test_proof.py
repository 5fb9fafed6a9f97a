"""The proof of a file: what it lets pass, and what it does not."""

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.export import conversion, proof, tflite
from cnn_l1.tflite.file import ExportError

RANDOM = np.random.default_rng(0)
KINDS = ("float32", "float16", "dynamic_int8", "int8", "int16x8")


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def network(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))


def content(model, kind, examples):
    return conversion.convert_model(tflite.plain_copy(model, batch_size=1), kind, examples)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_another_network_is_refused(kind):
    model, other = network(), network(seed=1)
    examples = [[x] for x in normal(12, 8, 8, 2)]
    whole = content(model, kind, examples)
    proof.prove_tflite(whole, model, kind, examples)
    with pytest.raises(ExportError, match=rf"{kind}\): expected Keras' outputs. Received: a"):
        proof.prove_tflite(whole, other, kind, examples)


def outputs(count=1000, classes=10):
    return RANDOM.normal(size=(count, classes)).astype("float32")


def test_float_bound():
    truth = outputs()
    largest = np.abs(truth).max()
    near, far = truth + 0.9e-3 * largest, truth + 1.1e-3 * largest
    assert not proof.compare([near], [truth], "float32", ["y"])
    assert "difference" in proof.compare([far], [truth], "float32", ["y"])
    assert not proof.compare([far], [truth], "float16", ["y"])


def test_integer_bound_on_peaked_outputs():
    """Most of a softmax is 0: a mean of the differences would not see a permutation."""
    truth = np.eye(1000, dtype="float32")[:8]
    moved = np.roll(truth, 1, axis=1)
    assert not proof.compare([truth], [truth], "int8", ["y"], [1 / 256])
    assert "steps" in proof.compare([moved], [truth], "int8", ["y"], [1 / 256])


def test_outputs_below_a_step_of_the_file_are_right():
    """A softmax of 1000 equal classes is 0.001, a quarter of a step of an int8 file."""
    truth = np.full((8, 1000), 1e-3, "float32")
    zeros = np.zeros_like(truth)
    assert not proof.compare([zeros], [truth], "int8", ["y"], [1 / 256])
    assert proof.compare([zeros], [truth], "int8", ["y"], [1e-6])


def test_two_classes_that_changed_places_are_seen():
    """The whole output has half of its spread as difference: below the bound of the whole."""
    truth = outputs(8, classes=20) * 100
    swapped = truth.copy()
    swapped[:, [3, 7]] = truth[:, [7, 3]]
    assert np.sqrt(np.mean((swapped - truth) ** 2)) < 0.6 * truth.std()
    assert "in channel " in proof.compare([swapped], [truth], "int8", ["y"], [0.01])
    noisy = truth + 0.3 * outputs(8, classes=20) * truth.std()
    assert not proof.compare([noisy], [truth], "int8", ["y"], [0.01])


def test_classes_of_an_integer_file():
    truth = np.arange(8) % 5
    few = np.where(np.arange(8) < 3, (truth + 1) % 5, truth)
    assert not proof.compare([few], [truth], "int8", ["class"])
    assert "100% other values" in proof.compare([(truth + 1) % 5], [truth], "int8", ["class"])
    assert "38% other values" in proof.compare([few], [truth], "float32", ["class"])


def test_small_outputs_are_compared_and_rounding_is_not():
    """Outputs in millionths are right or wrong as others are; a sum that cancels is rounding."""
    model, other = network(), network(seed=1)
    for one in (model, other):
        one.layers[-1].kernel.assign(one.layers[-1].kernel * 1e-6)
    examples = [[x] for x in normal(8, 8, 8, 2)]
    for kind in ("float32", "int8"):
        whole = content(model, kind, examples)
        proof.prove_tflite(whole, model, kind, examples)
        with pytest.raises(ExportError, match="Received: a"):
            proof.prove_tflite(whole, other, kind, examples)
    inputs = keras.Input((300,))
    total = keras.ops.sum(inputs * 1.0, axis=-1, keepdims=True)
    again = keras.ops.sum(keras.ops.reshape(inputs, (-1, 30, 10)) * 3.0, axis=(1, 2))
    cancelled = keras.Model(inputs, total * 3.0 - keras.ops.expand_dims(again, -1))
    examples = [[x] for x in 100 * normal(8, 300)]
    proof.prove_tflite(content(cancelled, "float32", examples), cancelled, "float32", examples)


@pytest.mark.parametrize(
    ("received", "message"),
    [
        ([outputs()], "1 outputs instead of 2"),
        ([outputs()[:, :5], outputs()], "shape"),
        ([outputs().astype("int32"), outputs()], "int32 instead of float32"),
        ([np.full((1000, 10), np.nan, "float32"), outputs()], "NaN or infinity"),
    ],
    ids=["count", "shape", "dtype", "nan"],
)
def test_what_is_wrong_is_said(received, message):
    truth = [outputs(), outputs()]
    assert message in proof.compare(received, truth, "int8", ["a", "b"])


def test_outputs_in_another_order_are_refused():
    truth = [outputs(), outputs()]
    assert "output 0 ('a')" in proof.compare(truth[::-1], truth, "int8", ["a", "b"])


def test_nothing_is_written_over_a_file_when_the_proof_fails(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"before")
    other = network(seed=1)
    right = conversion.convert_tables

    def wrong(model, *arguments, **settings):
        return right(tflite.plain_copy(other, batch_size=1), *arguments, **settings)

    monkeypatch.setattr(tflite, "convert_tables", wrong)
    with pytest.raises(ExportError, match=r"m.tflite \(float32\): expected Keras' outputs"):
        tflite.export_tflite(network(), path)
    assert [one.name for one in tmp_path.iterdir()] == ["m.tflite"]
    assert path.read_bytes() == b"before"
    assert tflite.export_tflite(network(), path, check=False) == path.stat().st_size


def drawn(layer, shape=(500,), dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    return np.concatenate([x for (x,) in proof.invented_examples(model, "f", None)])


def test_invented_inputs_are_in_the_range_of_the_first_layer():
    pixels = drawn(layers.Rescaling(1 / 255))
    assert 0 <= pixels.min() < 5
    assert 250 < pixels.max() <= 255
    signed = drawn(layers.Rescaling(1 / 127.5, offset=-1))
    assert 0 <= signed.min() < 5
    assert 250 < signed.max() <= 255
    ids = drawn(layers.Embedding(7, 2), dtype="int32")
    assert set(ids.tolist()) == set(range(7))
    normalised = drawn(layers.Normalization(mean=50.0, variance=4.0))
    assert 49 < normalised.mean() < 51
    assert 1.8 < normalised.std() < 2.2
    assert set(np.unique(drawn(layers.Rescaling(1.0), dtype="uint8"))) <= set(range(256))


def test_a_model_that_mixes_a_batch_is_no_excuse():
    """Its outputs for a batch and for one example differ; that is not rounding."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, inputs - keras.ops.mean(inputs, axis=0, keepdims=True))
    examples = [[x] for x in normal(8, 3)]
    whole = proof.predict(model, examples, "f")
    single = [np.zeros((8, 3), "float32")]
    assert not proof.failure_of(whole, model, examples, "float32", "f")
    assert not proof.failure_of(single, model, examples, "float32", "f")
    wrong = [np.full((8, 3), 0.5, "float32")]
    assert "a difference" in proof.failure_of(wrong, model, examples, "float32", "f")
