"""What is alive at once, operator by operator, counted by hand."""

import keras
import pytest
from keras import layers

from cnn_l1.graph import coupling
from cnn_l1.graph.liveness import Liveness
from cnn_l1.graph.working_memory import OpenSizeError, WorkingMemory


def sums_of(inputs, outputs):
    analysis = coupling.analyse(keras.Model(inputs, outputs), with_constants=False)
    found = Liveness(analysis)
    found.settle(1, False)
    return WorkingMemory(analysis).sums(found.live).tolist()


def test_inputs_and_outputs_of_each_operator():
    x = images = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3)(x)  # 6x6
    x = layers.MaxPooling2D(2)(x)  # 3x3
    x = layers.Dense(5)(layers.Flatten()(x))
    assert sums_of(images, x) == [128 + 216, 216 + 54, 54 + 5]


def test_what_is_read_later_stays_alive():
    images = keras.Input((4, 4, 3))
    first = layers.Conv2D(3, 1)(images)
    second = layers.Conv2D(5, 1)(first)
    third = layers.Conv2D(3, 1)(second)
    found = sums_of(images, layers.Add()([first, third]))
    assert found == [48 + 48, 48 + 80, 48 + 80 + 48, 48 + 48 + 48]


def test_what_an_operator_does_by_the_way_has_no_value():
    x = images = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 1, use_bias=False)(x)
    x = layers.Dropout(0.5)(layers.ReLU()(layers.BatchNormalization()(x)))
    assert sums_of(images, layers.Conv2D(2, 1)(x)) == [48 + 80, 80 + 32]
    # A value that another reads too has its own, and so has another activation.
    x = layers.Conv2D(5, 1)(images)
    apart = layers.Add()([x, layers.ReLU()(x)])
    assert sums_of(images, apart) == [48 + 80, 80 + 80, 80 + 80 + 80]
    assert sums_of(images, layers.Activation("gelu")(x)) == [48 + 80, 80 + 80]


def test_outputs_stay_alive():
    images = keras.Input((4, 4, 3))
    first = layers.Conv2D(5, 1)(images)
    assert sums_of(images, [first, layers.Conv2D(2, 1)(first)])[-1] == 80 + 32


def test_an_open_size_is_an_error():
    images = keras.Input((None, None, 3))
    with pytest.raises(OpenSizeError):
        sums_of(images, layers.Conv2D(5, 1)(images))
