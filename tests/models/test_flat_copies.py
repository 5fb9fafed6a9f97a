"""Subclassed, nested and open models become one graph that gives the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from user_models import MODELS

from cnn_l1.graph.layer_kinds import kind_of
from cnn_l1.graph.reading import read_graph
from cnn_l1.models.flat_copies import FlatError, flat_copy
from cnn_l1.shrink.removal import plan_shrink


class Residual(layers.Layer):
    """A block of layers, without weights of its own."""

    def __init__(self, filters, **settings):
        super().__init__(**settings)
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x, training=None):
        return ops.relu(self.norm(self.conv(x), training=training)) + x


class Scaled(layers.Layer):
    """A layer with a weight of its own, which stays whole."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="normal", name="factor")

    def call(self, x):
        return x * self.factor


class Head(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop, self.dense = layers.Dropout(0.5), layers.Dense(4)

    def call(self, x, training=False):
        return self.dense(self.drop(x, training=training))


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.scaled = Residual(3), Residual(3), Scaled()
        self.head = Head()

    def call(self, x, training=None):
        x = self.second(self.first(x / 255.0, training=training), training=training)
        return self.head(ops.mean(self.scaled(x), axis=(1, 2)), training=training)


def images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


def unlike(model):
    """All weights anew, so that none is as it was made."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 1.0, w.shape) for w in model.get_weights()])
    return model


def test_a_subclassed_model_is_opened_to_its_layers():
    model = Network()
    pixels = images((3, 8, 8, 3))
    model(pixels)
    unlike(model)
    flat = flat_copy(model, (8, 8, 3))
    # The same operations on the same numbers.
    np.testing.assert_array_equal(flat(pixels), model(pixels))
    assert type(flat) is keras.Model or type(flat).__name__ == "Functional"
    kinds = [type(layer).__name__ for layer in flat.layers]
    assert kinds.count("Conv2D") == kinds.count("BatchNormalization") == 2
    assert not {"Residual", "Head"} & set(kinds)
    assert "Scaled" in kinds  # and no more is known of it
    assert kind_of(flat.get_layer("scaled")) is None


def test_the_copy_trains_as_the_model():
    def trained(model):
        keras.utils.set_random_seed(3)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(images((16, 8, 8, 3)), np.ones((16, 4)), 8, verbose=0, shuffle=False)
        return model(images((2, 8, 8, 3), 5)).numpy()

    class Plain(Network):
        def __init__(self):
            super().__init__()
            self.head.drop = layers.Dropout(0.0)

    model = Plain()
    model(images((1, 8, 8, 3)))
    flat = flat_copy(model, (8, 8, 3))
    np.testing.assert_allclose(trained(flat), trained(model), rtol=1e-5)


def test_a_model_that_was_never_called_is_built():
    flat = flat_copy(Network(), (8, 8, 3))
    assert flat.output_shape == (None, 4)
    flat = flat_copy(keras.Sequential([layers.Dense(2), layers.Dense(3)]), (5,))
    assert flat.count_params() == 12 + 9


def test_nested_models_are_opened_and_shared_layers_stay_one():
    shared = layers.Dense(6, name="shared")
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="dense")], name="inner")
    inputs = keras.Input((6,), name="mine")
    x = shared(inner(shared(inputs)))
    model = unlike(keras.Model(inputs, layers.Dense(6, name="dense")(x)))
    flat = flat_copy(model, (6,))
    rows = np.random.default_rng(2).normal(size=(4, 6))
    np.testing.assert_array_equal(flat(rows), model(rows))
    # As `read_graph` names them: the first keeps its name.
    assert {layer.name for layer in flat.layers} == {"mine", "shared", "dense", "dense_2"}
    assert flat.count_params() == model.count_params() == 3 * 42
    assert not {id(v) for v in flat.weights} & {id(v) for v in model.weights}


def test_open_sizes_are_fixed():
    inputs = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    model = unlike(keras.Model(inputs, layers.Dense(2)(x)))
    flat = flat_copy(model, (9, 7, 3))
    assert flat.input_shape == (None, 9, 7, 3)
    assert plan_shrink(flat).macs_before > 0
    pixels = images((2, 9, 7, 3))
    np.testing.assert_array_equal(flat(pixels), model(pixels))


def test_frozen_layers_stay_frozen():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a"), layers.Dense(2)])
    model.get_layer("a").trainable = False
    assert len(flat_copy(model, (3,)).trainable_variables) == 2


def test_what_comes_before_takes_no_name_of_the_model():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="input_range")])
    before = layers.Rescaling(2.0, name="input_range")
    flat = flat_copy(model, (3,), before)
    assert [layer.name for layer in flat.layers[1:]] == ["input_range", "input_range_2"]
    rows = np.float32([[1, 2, 3]])
    np.testing.assert_array_equal(flat(rows), model(2 * rows))


class Branching(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x) if ops.sum(x) > 0 else x


class OfTensorFlow(Branching):
    def call(self, x):
        return tf.nn.relu(self.dense(x))


class Decorated(Branching):
    @tf.function
    def call(self, x):
        return self.dense(x)


class NoisyInTraining(Branching):
    def call(self, x, training=None):
        return self.dense(x) * 2 if training else self.dense(x)


class WithLoss(Branching):
    def call(self, x):
        self.add_loss(ops.sum(x))
        return self.dense(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "raises TypeError: A symbolic KerasTensor cannot be used as a boolean"),
        (OfTensorFlow, "raises ValueError: A KerasTensor cannot be used as input to a Tensor"),
        (Decorated, "raises "),
        (NoisyInTraining, "does other things with training=True"),
        (WithLoss, "calls add_loss"),
    ],
)
def test_what_cannot_be_traced_says_what_to_do(kind, reason):
    model = kind()
    model(np.ones((1, 2), "float32"))
    with pytest.raises(FlatError) as caught:
        flat_copy(model, (2,))
    message = str(caught.value)
    assert "\n" not in message
    assert "write it so, or as keras.Model(inputs, outputs)" in message
    assert f"Received: {kind.__name__}, whose call {reason}" in message


def test_two_inputs_are_refused():
    a, b = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(FlatError, match=r"one input\. Received: 2"):
        flat_copy(keras.Model([a, b], layers.Add()([a, b])), (2,))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("siamese", "table")])
def test_models_of_users(name):
    """All that have one input: recurrent, shared and nested layers, operations, lambdas."""
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    (value,) = read_graph(model).inputs
    shape = tuple(size or 12 for size in value.shape[1:])
    flat = flat_copy(model, shape)
    assert flat.input_shape == (None, *shape)
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 5, (2, *shape)).astype(value.tensor.dtype)
    for ours, theirs in zip(*(keras.tree.flatten(m(inputs)) for m in (flat, model)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(flat.trainable_weights) == len(model.trainable_weights)


def test_a_fixed_batch_is_opened():
    inputs = keras.Input(batch_shape=(1, 3))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert flat_copy(model, (3,)).input_shape == (None, 3)
