"""Whether a loss fits the last layer."""

import functools
import warnings

import keras
import numpy as np
import pytest

from cnn_l1 import SparsityMonitor
from cnn_l1.graph.loss_check import LossWarning, check_loss, gives_logits

layers, losses = keras.layers, keras.losses
INPUT = (6,)


def ending(*end):
    return keras.Sequential([keras.Input(INPUT), layers.Dense(4), *end])


def nested(activation):
    inputs = keras.Input(INPUT)
    return keras.Model(inputs, ending(layers.Dense(3, activation=activation))(inputs))


def by_operation(operation):
    inputs = keras.Input(INPUT)
    return keras.Model(inputs, operation(layers.Dense(3)(inputs)))


LOGITS = {
    "dense": lambda: ending(layers.Dense(3)),
    "linear activation": lambda: ending(layers.Dense(3), layers.Activation("linear")),
    "dropout": lambda: ending(layers.Dense(3), layers.Dropout(0.1)),
    "nested": lambda: nested("linear"),
    "reshape": lambda: ending(layers.Dense(6), layers.Reshape((2, 3))),
}
SOFTMAX = {
    "dense": lambda: ending(layers.Dense(3, activation="softmax")),
    "layer": lambda: ending(layers.Dense(3), layers.Softmax()),
    "activation": lambda: ending(layers.Dense(3), layers.Activation("softmax")),
    "activation in float32": lambda: ending(
        layers.Dense(3, activation="softmax"), layers.Activation("linear", dtype="float32")
    ),
    "nested": lambda: nested("softmax"),
    "operation": lambda: by_operation(keras.ops.softmax),
    "sigmoid": lambda: by_operation(keras.ops.sigmoid),
}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_told(name):
    assert gives_logits(LOGITS[name]()) is True


@pytest.mark.parametrize("name", SOFTMAX)
def test_probabilities_are_told(name):
    assert gives_logits(SOFTMAX[name]()) is False


@pytest.mark.parametrize(
    "make", [lambda: by_operation(lambda x: 2 * x), lambda: ending(layers.ReLU())]
)
def test_what_is_not_known_is_refused(make):
    with pytest.raises(ValueError, match="Give `from_logits` yourself"):
        gives_logits(make())


PROBABILITY_LOSSES = [
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
    losses.SparseCategoricalCrossentropy(),
    losses.CategoricalFocalCrossentropy(),
    losses.BinaryCrossentropy(),
    losses.categorical_crossentropy,
]
LOGITS_LOSSES = [
    losses.SparseCategoricalCrossentropy(from_logits=True),
    losses.BinaryCrossentropy(from_logits=True),
    functools.partial(losses.categorical_crossentropy, from_logits=True),
]
OTHERS = ["mse", losses.KLDivergence(), lambda y, p: keras.ops.mean(p)]


def warned(model, loss):
    model.compile("sgd", loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_loss(model)
        check_loss(model)  # once is enough
    return [str(w.message) for w in caught if w.category is LossWarning]


@pytest.mark.parametrize("loss", PROBABILITY_LOSSES)
def test_logits_under_a_loss_of_probabilities(loss):
    (message,) = warned(LOGITS["dense"](), loss)
    assert "expects probabilities" in message
    assert "from_logits=True" in message
    assert warned(SOFTMAX["dense"](), loss) == []


@pytest.mark.parametrize("loss", LOGITS_LOSSES)
def test_probabilities_under_a_loss_of_logits(loss):
    (message,) = warned(SOFTMAX["dense"](), loss)
    assert "from_logits=False" in message
    assert warned(LOGITS["dense"](), loss) == []


@pytest.mark.parametrize("loss", OTHERS)
def test_other_losses_are_right(loss):
    assert warned(LOGITS["dense"](), loss) == []
    assert warned(SOFTMAX["dense"](), loss) == []


@pytest.mark.parametrize("structure", [dict, list])
def test_several_outputs_are_told_by_name(structure):
    inputs = keras.Input(INPUT)
    one = layers.Dense(3, name="one")(inputs)
    two = layers.Dense(3, activation="softmax", name="two")(inputs)
    outputs = {"b": one, "a": two} if structure is dict else [one, two]
    names = ("b", "a") if structure is dict else ("one", "two")
    model = keras.Model(inputs, outputs)
    (message,) = warned(model, dict.fromkeys(names, "sparse_categorical_crossentropy"))
    assert repr(names[0]) in message


def test_subclassed_models_are_not_judged():
    class Own(keras.Model):
        def call(self, x):
            return x

    assert warned(Own(), "sparse_categorical_crossentropy") == []


def test_callbacks_warn():
    model = LOGITS["dense"]()
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = np.zeros((4, 6), "float32"), np.zeros(4)
    with pytest.warns(LossWarning, match="expects probabilities"):
        model.fit(x, y, verbose=0, callbacks=[SparsityMonitor()])
