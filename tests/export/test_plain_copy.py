"""Copies of models as users write them: operations, shared layers, functions of their own."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from cnn_l1.export.copying import plain_copy
from cnn_l1.tflite.file import ExportError

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


class Unnamed(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x):
        return x * self.scale + self.shift


class TakesFunction(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def leaky(x):
    return ops.maximum(x, 0.1 * x)


GRAPHS = {
    "plus": lambda t: layers.Dense(6)(t) + t,
    "minus from one": lambda t: 1.0 - t,
    "slice": lambda t: t[:, 1:4],
    "keras.ops": lambda t: ops.mean(ops.concatenate([ops.relu(t), t], axis=-1), axis=-1),
    "cast to int32": lambda t: ops.cast(ops.cast(t * 5, "int32"), "float32"),
    "cast to bool": lambda t: ops.cast(ops.cast(ops.relu(t), "bool"), "float32"),
    "unnamed weights": lambda t: Unnamed()(layers.Dense(4)(t)),
    "function of one's own": lambda t: layers.Dense(3, activation=leaky)(t),
    "lambda": lambda t: layers.Dense(3, activation=lambda v: ops.tanh(v) * 2)(t),
    "Lambda layer": lambda t: layers.Lambda(leaky)(t),
    "array in the graph": lambda t: t + np.arange(6, dtype="float32"),
    "input passed on": lambda t: [t, layers.Dense(2)(t)],
    "dict": lambda t: {"b": layers.Dense(2)(t), "a": t * 2},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_copy_gives_the_same_values(name):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, GRAPHS[name](inputs))
    copy = plain_copy(model)
    x = normal(4, 6)
    expected, received = model(x), copy(x)
    keras.tree.assert_same_structure(expected, received)
    for one, other in zip(keras.tree.flatten(expected), keras.tree.flatten(received), strict=True):
        # The very same operations on the very same weights.
        np.testing.assert_array_equal(other, one)
        assert other.dtype == one.dtype
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    fixed = plain_copy(model, batch_size=1)
    assert [tensor.shape for tensor in fixed.inputs] == [(1, 6)]


def test_a_layer_inside_and_outside_a_nested_model_is_one_layer():
    shared = layers.Dense(6)
    inputs = keras.Input((6,))
    nested = keras.Sequential([keras.Input((6,)), shared, layers.ReLU()])
    model = keras.Model(inputs, nested(shared(nested(inputs))))
    copy = plain_copy(model)
    assert copy.count_params() == model.count_params() == 42
    x = normal(3, 6)
    np.testing.assert_array_equal(copy(x), model(x))


def test_several_inputs_keep_names_and_structure():
    first, second = keras.Input((3,), name="b"), keras.Input((3,), name="a")
    model = keras.Model({"b": first, "a": second}, first - second)
    copy = plain_copy(model, batch_size=1)
    values = {"b": normal(1, 3), "a": normal(1, 3)}
    np.testing.assert_array_equal(copy(values), values["b"] - values["a"])


def test_masks_are_copied():
    inputs = keras.Input((10,), dtype="int32")
    embedded = layers.Embedding(20, 6, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.LSTM(5)(embedded))
    copy = plain_copy(model)
    ids = RANDOM.integers(1, 20, (4, 10))
    ids[:, 6:] = 0
    assert copy.inputs[0].dtype == "int32"
    np.testing.assert_array_equal(copy(ids), model(ids))


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantized_layers_keep_their_weights(mode):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(4)(inputs))
    model.quantize(mode)
    x = normal(3, 6)
    np.testing.assert_array_equal(plain_copy(model)(x), model(x))


def test_low_rank_weights_are_copied():
    dense = layers.Dense(4)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, dense(inputs))
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(normal(2, 4))
    x = normal(3, 6)
    np.testing.assert_array_equal(plain_copy(model)(x), model(x))


def test_layers_inside_a_wrapper_are_float32_too():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((5, 3))
        model = keras.Model(inputs, layers.Bidirectional(layers.GRU(2))(inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    found = {layer.compute_dtype for layer in plain_copy(model)._flatten_layers()}
    assert found == {"float32"}


def test_input_shape_fixes_open_sizes():
    inputs = keras.Input((None, None, 3), name="frame")
    model = keras.Model(inputs, layers.GlobalMaxPooling2D()(layers.Conv2D(2, 3)(inputs)))
    copy = plain_copy(model, batch_size=1, input_shape=(9, 8, 3))
    assert copy.inputs[0].shape == (1, 9, 8, 3)
    by_name = plain_copy(model, input_shape={"frame": (9, 8, 3)})
    assert by_name.inputs[0].shape == (None, 9, 8, 3)


@pytest.mark.parametrize("shape", [(9, 8, 4), (9, 8), 9, "ab", {"other": (9, 8, 3)}, (0, 8, 3)])
def test_wrong_input_shape(shape):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 3)(inputs))
    with pytest.raises(ValueError, match=r"`input_shape` must .* Received: "):
        plain_copy(model, input_shape=shape)


def test_a_layer_that_cannot_be_copied_is_named():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, TakesFunction(leaky, name="own")(inputs))
    with pytest.raises(ExportError, match=r"Layer 'own' \(TakesFunction\): expected .*Received"):
        plain_copy(model)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("make", [Subclassed, lambda: keras.Sequential([layers.Dense(2)])])
def test_a_model_without_a_graph_is_refused(make):
    with pytest.raises(ExportError, match="expected a built Functional or Sequential"):
        plain_copy(make())
