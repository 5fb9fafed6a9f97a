"""Weights are matched by their place, settings follow the channels, plans know their model."""

import keras
import numpy as np
import pytest
from keras import initializers, layers, ops
from random_models import randomize, zero_outputs

from cnn_l1.shrink.removal import ShrinkError, apply_shrink, check_same_output, plan_shrink

# float32 sums of some tens of terms near 1, in another order.
ROUNDING = 1e-5
RANDOM = np.random.default_rng(0)


class Unnamed(layers.Layer):
    """Weights whose names Keras makes up, and which differ in each object."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x):
        return x * self.scale + self.shift


class Plain(layers.Layer):
    def build(self, shape):
        self.factor = keras.Variable(RANDOM.normal(size=(shape[-1],)).astype("float32"))

    def call(self, x):
        return x * self.factor


def noise(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def chain(*middle, shape=(8, 8, 3), bias=0.0, zeros=(1, 4)):
    """Convolution or dense layer `a` of 6 channels, `middle`, then a dense head."""
    inputs = x = keras.Input(shape)
    producer = layers.Conv2D(6, 3, name="a") if len(shape) == 3 else layers.Dense(6, name="a")
    for layer in (producer, *middle, layers.Flatten(), layers.Dense(2)):
        x = layer(x)
    model = randomize(keras.Model(inputs, x))
    zero_outputs(producer, zeros, bias)
    return model


def assert_equal(model, other, shape=(8, 8, 3), rounding=ROUNDING):
    x = noise(3, *shape)
    expected = ops.convert_to_numpy(model(x, training=False))
    received = ops.convert_to_numpy(other(x, training=False))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(received, expected, rtol=0, atol=rounding * abs(expected).max())


def shrunk(model):
    return apply_shrink(model, plan_shrink(model))


@pytest.mark.parametrize("kind", [Unnamed, Plain])
def test_custom_layers_with_generated_names(kind):
    model = chain(layers.Conv2D(6, 3), kind())
    small = shrunk(model)
    assert small.get_layer("a").filters == 4
    assert_equal(model, small)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
        lambda: layers.TimeDistributed(layers.Dense(4)),
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], return_sequences=True),
        lambda: layers.EinsumDense("abc,cd->abd", output_shape=(6, 4), bias_axes="d"),
    ],
    ids=["Bidirectional", "TimeDistributed", "stacked cells", "EinsumDense"],
)
def test_layers_of_layers(layer):
    model = chain(layer(), shape=(6, 3))
    assert_equal(model, shrunk(model), (6, 3))


def test_added_bias_leaves_other_weights_in_their_places():
    reader = layers.SeparableConv2D(5, 3, depth_multiplier=2, use_bias=False, name="b")
    model = chain(reader, bias=0.7)
    small = shrunk(model)
    assert small.get_layer("b").use_bias
    assert_equal(model, small)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_layers_keep_their_weights(mode):
    model = chain(layers.Flatten(), layers.Dense(8))
    model.quantize(mode)
    assert_equal(model, shrunk(model))


def test_random_states_are_copied():
    model = chain(layers.Dropout(0.5, seed=7, name="drop"))
    states = [m.get_layer("drop").seed_generator.state for m in (model, shrunk(model))]
    assert np.array_equal(*(ops.convert_to_numpy(state) for state in states))


@pytest.mark.parametrize(
    "shape", [(None, 1, 1, 6), (None, 1, 6, 6), (1, 1, 6), (None, 1, 1, 1), (None, 1, 1, None)]
)
@pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
def test_noise_shape_follows_the_channels(kind, shape):
    model = chain(kind(0.5, noise_shape=shape, name="drop"))
    small = shrunk(model)
    assert small.get_layer("a").filters == 4
    kept = tuple(4 if i == len(shape) - 1 and n == 6 else n for i, n in enumerate(shape))
    assert tuple(small.get_layer("drop").noise_shape) == kept
    assert_equal(model, small)
    small.compile("sgd", "mse")
    small.fit(noise(4, 8, 8, 3), noise(4, 2), verbose=0)


def test_initializers_that_hold_arrays():
    kernel = initializers.Constant(np.ones((3, 3, 6, 4), "float32"))
    model = chain(layers.Conv2D(4, 3, kernel_initializer=kernel))
    small = shrunk(model)
    assert small.get_layer("a").filters == 4
    assert_equal(model, small)


def test_augmentation_holds_no_channels():
    model = chain(layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomBrightness(0.1))
    plan = plan_shrink(model)
    assert not plan.unsupported
    small = apply_shrink(model, plan)
    assert small.get_layer("a").filters == 4
    assert_equal(model, small)


OPERATIONS = {
    "mean": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "max": lambda x: ops.max(x, axis=1),
    "sum": lambda x: ops.sum(x, axis=(1, 2), keepdims=True),
    "clip": lambda x: ops.clip(x, 0.5, 2.0),
    "power": lambda x: x**2,
    "divide": lambda x: 2.0 / (1.0 + ops.absolute(x)),
    "by a numpy number": lambda x: x * np.float32(3.0),
    "negative": lambda x: -x,
    "slice of rows": lambda x: x[:, 1:4],
    "new axis": lambda x: ops.mean(x, axis=(1, 2))[:, None, None, :],
    "expand": lambda x: ops.expand_dims(ops.mean(x, axis=(1, 2)), 1),
    "squeeze": lambda x: ops.squeeze(ops.mean(x, axis=(1, 2), keepdims=True), (1, 2)),
    "transpose": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "pad with ones": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0),
    "concatenate": lambda x: ops.concatenate([x, 2 * x], axis=-1),
    "half and back": lambda x: ops.cast(ops.cast(x, "float16"), "float32"),
}


@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_let_channels_go(name, bias):
    model = chain(OPERATIONS[name], bias=bias)
    plan = plan_shrink(model)
    assert not plan.unsupported
    small = apply_shrink(model, plan)
    if bias == 0.0 and name != "pad with ones":
        assert small.get_layer("a").filters == 4
    assert_equal(model, small, rounding=1e-3 if name == "half and back" else ROUNDING)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x[..., :3],
        lambda x: ops.reshape(x, (-1, 6, 6, 2, 3)),
        lambda x: ops.concatenate(ops.split(x, 2, axis=-1)[::-1], axis=-1),
        lambda x: x * np.arange(1.0, 7.0, dtype="float32"),
        lambda x: ops.mean(x, axis=-1),
        lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2))),
    ],
    ids=["slice", "reshape", "split", "array", "mean", "pad"],
)
def test_operations_with_written_shapes_hold_their_channels(operation):
    model = chain(operation, bias=0.7)
    small = shrunk(model)
    assert small.get_layer("a").filters == 6
    assert_equal(model, small)


def test_unregistered_functions_are_kept():
    def relu(x):  # of the name of Keras' own
        return ops.tanh(x) * 3

    model = chain(layers.Conv2D(4, 3, activation=relu), layers.Activation(lambda x: x * 2))
    assert_equal(model, shrunk(model))


# --- a plan holds for its model ----------------------------------------------------


def _activation(model):
    model.get_layer("b").activation = keras.activations.tanh


def _strides(model):
    model.get_layer("b").strides = (2, 2)


def _padding(model):
    model.get_layer("b").padding = "same"


def _weight(model):
    model.get_layer("b").bias.assign_add(np.ones(4, "float32"))


def _frozen(model):
    model.get_layer("b").trainable = False


@pytest.mark.parametrize("change", [_activation, _strides, _padding, _weight, _frozen])
def test_changed_models_are_refused(change):
    model = chain(layers.Conv2D(4, 3, name="b"))
    plan = plan_shrink(model)
    change(model)
    with pytest.raises(ShrinkError, match="of b differ"):
        apply_shrink(model, plan)


@pytest.mark.parametrize(
    "other",
    [
        lambda: (layers.Conv2D(4, 3, name="b"), layers.ReLU()),
        lambda: (layers.DepthwiseConv2D(3, name="b"),),
        lambda: (lambda x: layers.Dropout(0.0, name="b")(x, training=True),),
    ],
    ids=["added layer", "other class", "told training"],
)
def test_plans_of_other_models_are_refused(other):
    plan = plan_shrink(chain(layers.Conv2D(4, 3, name="b")))
    with pytest.raises(ShrinkError, match="that was planned"):
        apply_shrink(chain(*other()), plan)


def test_functions_of_one_name_are_told_apart():
    def build(factor):
        return chain(layers.Activation(lambda x: x * factor, name="f"))

    one, two = build(2.0), build(3.0)
    two.set_weights(one.get_weights())
    plan = plan_shrink(one)
    with pytest.raises(ShrinkError, match="settings of f"):
        apply_shrink(two, plan)


# --- comparing outputs -------------------------------------------------------------


def test_outputs_are_compared_one_by_one():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="b")
    shift = ops.cast(b, "float32")
    x = layers.Dense(3, name="d")(a)
    model = keras.Model({"a": a, "b": b}, {"large": 1e6 * x, "small": x + shift})
    samples = {"a": noise(5, 4), "b": np.arange(15).reshape(5, 3)}
    check_same_output(model, shrunk(model), samples)
    other = keras.Model({"a": a, "b": b}, {"large": 1e6 * x, "small": x + shift + 0.1})
    with pytest.raises(ShrinkError, match="output 2"):
        check_same_output(model, other, samples)
