"""Channel removal in layers that are called twice, and in models in models."""

import keras
import pytest
from keras import layers
from random_models import zero_outputs
from shrink_models import (
    check_channels_left,
    dense,
    functional,
    nested,
    shared_in_a_row,
    shared_on_two_tensors,
)


def shared_with_other_constants():
    """One bias cannot take in 0.3 for the first call and 0.5 for the second."""
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    shared = layers.Conv2D(6, 3, name="shared")
    x = layers.Subtract()([shared(a(inputs)), shared(b(inputs))])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1], 0.3)
    zero_outputs(b, [0], 0.3)
    zero_outputs(b, [1], 0.5)
    return model, {"a": 4, "b": 4, "shared": 6, "c": 3}


def shared_batch_norm():
    inputs = keras.Input((8, 8, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    bn = layers.BatchNormalization(name="bn")
    x = layers.Concatenate()([bn(a(inputs)), bn(b(inputs))])
    model = functional(inputs, layers.Conv2D(3, 3, name="c")(x))
    zero_outputs(a, [0, 1])
    zero_outputs(b, [0, 2], 0.7)
    return model, {"a": 4, "b": 4, "bn": 4, "c": 3}


def nested_called_twice():
    """Siamese towers."""
    tower = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="a"), layers.Flatten()], name="tower"
    )
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.Subtract()([tower(left), tower(right)])
    model = functional([left, right], dense()(x))
    zero_outputs(tower.get_layer("a"), [1, 2], 0.5)
    return model, {"a": 4, "b": 3}


CASES = (
    shared_with_other_constants,
    shared_batch_norm,
    nested_called_twice,
    shared_on_two_tensors,
    shared_in_a_row,
    nested,
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_channels_left_are_those_that_carry_something(make):
    check_channels_left(*make())
