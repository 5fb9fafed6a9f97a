"""Layers and models that channel removal does not know: kept as they are, or refused."""

import keras
import numpy as np
import pytest
from keras import layers
from random_models import zero_outputs, zero_reads
from shrink_models import assert_same_outputs, centred, channels, entry, functional, shrink

from cnn_l1.shrink.removal import ShrinkError, apply_shrink, plan_shrink


@keras.saving.register_keras_serializable("test_shrink")
class Mix(layers.Layer):
    """Adds the mean over channels: no channel can go without a change."""

    def call(self, x):
        return x + keras.ops.mean(x, -1, keepdims=True) + 0.3


@keras.saving.register_keras_serializable("test_shrink")
class Reversed(layers.Conv2D):
    """A convolution with its filters in another order: not the rule of its parent."""

    def call(self, x):
        return super().call(x)[..., ::-1]


UNSUPPORTED = {
    "custom": lambda: Mix(name="odd"),
    "subclass": lambda: Reversed(6, 3, name="odd"),
    "attention": lambda: layers.MultiHeadAttention(2, 3, name="odd"),
    "lstm": lambda: layers.LSTM(4, return_sequences=True, name="odd"),
    "wrapper": lambda: layers.TimeDistributed(layers.Dense(6), name="odd"),
    "unit norm": lambda: layers.UnitNormalization(name="odd"),
    "lambda": lambda: layers.Lambda(centred, name="odd"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_layers_keep_their_channels_and_are_named(name):
    sequence = name in ("attention", "lstm", "wrapper")
    conv = layers.Conv1D if sequence else layers.Conv2D
    inputs = keras.Input((8, 3) if sequence else (8, 8, 3))
    first, a, b, c, d = (conv(6, 1, name=n) for n in ("first", *"abcd"))
    odd = UNSUPPORTED[name]()
    x = a(first(inputs))
    x = odd(x, x) if name == "attention" else odd(x)
    model = functional(inputs, d(c(b(x))))
    for layer in (first, a, b, c):
        zero_outputs(layer, [0, 1])
    zero_reads(b, [2])
    plan, small = shrink(model)
    (text,) = plan.unsupported
    assert "odd" in text
    assert type(odd).__name__ in text
    assert text in " ".join(str(plan).split())
    # Before it and after it all goes as ever.
    left = {k: v for k, v in channels(plan).items() if k != "odd"}
    assert left == {"first": 4, "a": 6, "b": 4, "c": 4, "d": 6}
    assert "odd" in entry(plan, "a").held_back
    assert type(small.get_layer("odd")) is type(odd)


def test_operations_that_are_not_supported_keep_channels():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    x = keras.ops.roll(a(inputs), 1, axis=-1)[..., ::-1] ** 2
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(x))
    zero_outputs(a, [0, 1])
    plan, _ = shrink(model)
    assert channels(plan) == {"a": 6, "b": 3}
    assert plan.unsupported


def test_an_array_as_an_operand_keeps_channels_or_is_cut():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    x = a(inputs) * np.linspace(0.5, 2.0, 6, dtype="float32")
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(x))
    zero_outputs(a, [0, 1])
    assert entry(shrink(model)[0], "b").channels_after == 3


def test_layers_that_cannot_be_made_anew_are_refused_by_name():
    """Its config lacks an argument that its constructor must have."""

    class Odd(layers.Layer):
        def __init__(self, amount, **settings):
            super().__init__(**settings)
            self.amount = amount

        def call(self, x):
            return x + self.amount

        def get_config(self):
            return {"name": self.name}

    inputs = keras.Input((8, 8, 3))
    model = functional(inputs, layers.Conv2D(3, 3, name="a")(Odd(0.5, name="odd")(inputs)))
    with pytest.raises(ShrinkError, match="odd"):
        apply_shrink(model, plan_shrink(model))


def test_a_lambda_is_copied_with_its_function():
    """Keras does not read one back from a config; here the function is at hand."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Lambda(lambda x: x + 0.5, name="odd")(inputs)
    model = functional(inputs, layers.Conv2D(3, 3, name="a")(x))
    assert_same_outputs(model, apply_shrink(model, plan_shrink(model)))


def test_models_without_a_graph_are_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.ones((1, 4)))
    with pytest.raises(ShrinkError, match="Own"):
        plan_shrink(own)
    with pytest.raises(ShrinkError, match="built"):
        plan_shrink(keras.Sequential([layers.Dense(3)]))


def test_a_subclassed_model_inside_is_unsupported():
    @keras.saving.register_keras_serializable("test_shrink")
    class Inner(keras.Model):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.dense = layers.Dense(6)

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    model = functional(inputs, layers.Conv2D(3, 3, name="b")(Inner(name="inner")(a(inputs))))
    zero_outputs(a, [0])
    plan = plan_shrink(model)
    assert "inner" in plan.unsupported[0]
    assert entry(plan, "a").channels_after == 6
