"""SavedModels: Keras' outputs in inference, whatever the model has inside."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cnn_l1.export import saved_model_file, tflite
from cnn_l1.tflite.file import ExportError

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def noisy_model():
    inputs = keras.Input((8, 8, 1), name="a picture")
    x = layers.RandomFlip(name="flip")(inputs)
    x = layers.RandomTranslation(0.3, 0.3)(x)
    x = layers.GaussianNoise(1.0, name="é : noise")(x)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Dropout(0.5)(x))))


def test_augmentation_and_noise_are_off(tmp_path):
    """`model.export` leaves them on; the difference is as large as the outputs."""
    model, images = noisy_model(), normal(6, 8, 8, 1)
    tflite.export_saved_model(model, tmp_path / "new" / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "new" / "saved"))
    expected = model(images, training=False)
    # The same operations, compiled anew.
    np.testing.assert_allclose(loaded.serve(images), expected, rtol=1e-5, atol=1e-6)
    (served,) = loaded.signatures["serving_default"](tf.constant(images)).values()
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-6)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["saved"]


def test_several_inputs_and_outputs_keep_their_structure(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model({"b": b, "a": a}, {"minus": a - 2.0 * b, "same": a})
    tflite.export_saved_model(model, tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    given = {"a": normal(5, 3), "b": normal(5, 3)}
    served = loaded.serve({name: tf.constant(array) for name, array in given.items()})
    np.testing.assert_allclose(served["minus"], given["a"] - 2 * given["b"], rtol=1e-6)
    np.testing.assert_array_equal(served["same"], given["a"])


def test_a_wrong_one_is_refused_and_what_was_there_stays(tmp_path, monkeypatch):
    path = tmp_path / "saved"
    tflite.export_saved_model(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), path)
    before = sorted(file.name for file in path.iterdir())
    write = saved_model_file._write

    def wrong(model, folder):
        other = tflite.plain_copy(model)
        other.layers[-1].kernel.assign(other.layers[-1].kernel * 2.0)
        write(other, folder)

    monkeypatch.setattr(saved_model_file, "_write", wrong)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ExportError, match=r"saved: expected Keras' outputs\. Received: a diff"):
        tflite.export_saved_model(model, path)
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    assert sorted(file.name for file in path.iterdir()) == before
    assert tf.saved_model.load(str(path)).serve(normal(1, 4)).shape == (1, 2)
    tflite.export_saved_model(model, path, check=False)
    assert tf.saved_model.load(str(path)).serve(normal(1, 4)).shape == (1, 3)


def test_what_is_no_graph_of_layers_is_refused(tmp_path):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ExportError, match="expected a built Functional or Sequential"):
        tflite.export_saved_model(Own(), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
