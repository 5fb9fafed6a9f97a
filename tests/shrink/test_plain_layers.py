"""Channel removal in chains of plain layers: convolutions, dense layers, reshapes, pooling."""

import keras
import numpy as np
import pytest
from keras import layers
from random_models import zero_outputs, zero_reads
from shrink_models import (
    add,
    channels,
    check_channels_left,
    dead_outputs_stay,
    dense,
    entry,
    flatten,
    functional,
    groups_go_whole,
    line,
    nothing_to_remove,
    same,
    sandwich,
    shrink,
    softmax_keeps_all,
)

from cnn_l1.shrink.removal import plan_shrink


def conv1d():
    a = layers.Conv1D(6, 3, padding="causal", activation="relu", name="a")
    b = layers.Conv1D(5, 3, padding="causal", dilation_rate=2, name="b")
    model = line((12, 2), a, b, layers.MaxPooling1D(2), layers.Conv1D(3, 2, name="c"))
    zero_outputs(a, [0, 3])
    zero_outputs(b, [1], 0.4)
    return model, {"a": 4, "b": 4, "c": 3}


def conv1d_causal_pads():
    a = layers.Conv1D(6, 3, name="a")
    model = line((12, 2), a, layers.Conv1D(5, 3, padding="causal", name="b"))
    zero_outputs(a, [0, 3], 0.4)
    return model, {"a": 6, "b": 5}


def conv3d():
    a = layers.Conv3D(5, 2, activation="relu", name="a")
    b = layers.Conv3D(4, 2, padding="same", strides=2, name="b")
    model = line(
        (6, 6, 6, 2),
        a,
        layers.MaxPooling3D(2, strides=1),
        b,
        layers.GlobalAveragePooling3D(),
        layers.Dense(2, name="c"),
    )
    zero_outputs(a, [1, 2])
    zero_outputs(b, [3], -0.2)
    return model, {"a": 3, "b": 3, "c": 2}


def strides_and_dilation():
    a = layers.Conv2D(6, 3, strides=2, activation="elu", name="a")
    b = layers.Conv2D(5, 2, dilation_rate=2, padding="same", name="b")
    model = line((13, 13, 3), a, b, layers.Conv2D(4, 3, strides=3, name="c"))
    zero_outputs(a, [0])
    zero_outputs(b, [2, 3], 0.7)
    return model, {"a": 5, "b": 3, "c": 4}


def dense_chain():
    a, b = (layers.Dense(8, activation="relu", name=name) for name in "ab")
    model = line((10,), a, layers.Dropout(0.2), b, layers.Dense(3, name="c"))
    zero_outputs(a, [0, 1, 2])
    zero_outputs(b, [5, 7], 0.5)
    return model, {"a": 5, "b": 6, "c": 3}


def dense_over_images():
    a = layers.Dense(6, activation="relu", name="a")
    model = line((4, 5, 3), a, layers.Dense(4, name="b"))
    zero_outputs(a, [0, 1], 0.5)
    return model, {"a": 4, "b": 4}


def unread_channels():
    """Nobody reads 0 and 3; then nobody who is left reads channel 2 of the layer before."""
    first = layers.Conv2D(4, 1, name="first")
    a, b = layers.Conv2D(6, 3, activation="sigmoid", name="a"), same()
    model = line(
        (8, 8, 3), first, a, layers.BatchNormalization(name="bn"), layers.MaxPooling2D(), b
    )
    zero_reads(b, [0, 3])
    kernel = np.array(a.kernel)
    kernel[:, :, 2, [1, 2, 4, 5]] = 0.0
    a.kernel.assign(kernel)
    return model, {"first": 3, "a": 4, "bn": 4, "b": 3}


def zeros_go_forward():
    """A filter that reads nothing but a channel of zeros is a constant too."""
    a, b = layers.Conv2D(4, 3, name="a"), layers.Conv2D(5, 3, padding="same", name="b")
    model = line((9, 9, 3), a, layers.ReLU(), b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(a, [1])
    kernel = np.array(b.kernel)
    kernel[:, :, [0, 2, 3], 4] = 0.0
    b.kernel.assign(kernel)
    return model, {"a": 3, "b": 4, "c": 3}


def kernel_that_adds_up_to_zero():
    """Weights that cancel still read: their sum alone must not say that they do not."""
    a, b = layers.Conv2D(4, 3, name="a"), layers.Conv2D(3, 2, name="b")
    model = line((8, 8, 3), a, b)
    kernel = np.array(b.kernel)
    kernel[:, :, 1] = np.array([[1.0, -1.0], [-1.0, 1.0]])[:, :, None]
    b.kernel.assign(kernel)
    return model, {"a": 4, "b": 3}


def transposed():
    a = layers.Conv2D(5, 3, activation="relu", name="a")
    b = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="b")
    model = line((7, 7, 3), a, b, layers.Conv2D(3, 3, name="c"))
    zero_outputs(a, [0, 1])
    zero_outputs(b, [2, 5], 0.5)
    return model, {"a": 3, "b": 4, "c": 3}


def transposed_1d_and_unread():
    b = layers.Conv1DTranspose(6, 3, strides=2, name="b")
    model = line((7, 3), layers.Conv1D(5, 2, name="a"), b, layers.Conv1D(3, 3, name="c"))
    zero_reads(b, [3])
    return model, {"a": 4, "b": 6, "c": 3}


def transposed_3d():
    a = layers.Conv3D(4, 2, name="a")
    model = line((4, 4, 4, 2), a, layers.Conv3DTranspose(3, 2, strides=2, name="b"))
    zero_outputs(a, [3])
    return model, {"a": 3, "b": 3}


def flatten_between_dense_layers():
    a = layers.Dense(6, name="a")
    model = line((5,), a, layers.Flatten(), dense())
    zero_outputs(a, [3])
    return model, {"a": 5, "b": 3}


def reshape_to_a_sequence():
    a = layers.Conv2D(5, 3, name="a")
    model = line((6, 6, 3), a, layers.Reshape((16, 5)), layers.Conv1D(4, 3, name="b"))
    zero_outputs(a, [3], 0.4)
    return model, {"a": 4, "b": 4}


def reshape_between_global_pooling_and_1x1():
    """MobileNet's ending."""
    a = layers.Conv2D(5, 3, name="a")
    model = line(
        (6, 6, 3),
        a,
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Reshape((1, 1, 5)),
        layers.Conv2D(4, 1, padding="same", name="b"),
        layers.Reshape((4,)),
    )
    zero_outputs(a, [3], 0.4)
    return model, {"a": 4, "b": 4}


def reshape_from_features_to_images():
    """A channel of the images is four features: it stays while one of them is not zero."""
    a = layers.Dense(16, activation="relu", name="a")
    model = line((5,), a, layers.Reshape((2, 2, 4)), same())
    zero_outputs(a, [0, 4, 8, 12, 1, 5, 9])
    return model, {"a": 16, "b": 3}


def permute_to_channels_first():
    """Flattened with the channels first: blocks of neighbours."""
    a = layers.Conv2D(4, 3, name="a")
    model = line((5, 5, 3), a, layers.Permute((3, 1, 2)), layers.Flatten(), dense())
    zero_outputs(a, [1], 0.3)
    zero_reads(model.get_layer("b"), range(18, 27))
    return model, {"a": 2, "b": 3}


def permute_and_read_another_axis():
    a = layers.Conv2D(4, 3, name="a")
    model = line((5, 5, 3), a, layers.Permute((3, 1, 2)), dense())
    zero_outputs(a, [1])
    return model, {"a": 4, "b": 3}


def global_max_pooling():
    a = layers.Conv2D(5, 3, name="a")
    model = line((6, 6, 3), a, layers.GlobalMaxPooling2D(), dense())
    zero_outputs(a, [0, 3], -0.4)
    return model, {"a": 3, "b": 3}


def global_pooling_1d():
    a = layers.Conv1D(5, 3, name="a")
    model = line((6, 3), a, layers.GlobalAveragePooling1D(), dense())
    zero_outputs(a, [0, 3], -0.4)
    return model, {"a": 3, "b": 3}


def global_pooling_of_another_axis():
    """Told that channels come first, it pools the channels away."""
    a = layers.Conv2D(5, 3, name="a")
    pool = layers.GlobalAveragePooling2D(data_format="channels_first")
    model = line((6, 6, 3), a, pool, dense())
    zero_outputs(a, [0, 3])
    return model, {"a": 5, "b": 3}


def inner_tensor_as_an_output():
    inputs = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(6, 3, name="a"), layers.Conv2D(5, 3, name="b")
    x = a(inputs)
    y = b(x)
    model = functional(inputs, [x, layers.Conv2D(3, 3, name="c")(y)])
    zero_outputs(a, [0, 1])
    zero_outputs(b, [0, 1])
    return model, {"a": 6, "b": 3, "c": 3}


CASES = (
    conv1d,
    conv1d_causal_pads,
    conv3d,
    strides_and_dilation,
    dense_chain,
    dense_over_images,
    unread_channels,
    zeros_go_forward,
    kernel_that_adds_up_to_zero,
    transposed,
    transposed_1d_and_unread,
    transposed_3d,
    flatten_between_dense_layers,
    reshape_to_a_sequence,
    reshape_between_global_pooling_and_1x1,
    reshape_from_features_to_images,
    permute_to_channels_first,
    permute_and_read_another_axis,
    global_max_pooling,
    global_pooling_1d,
    global_pooling_of_another_axis,
    inner_tensor_as_an_output,
    flatten,
    dead_outputs_stay,
    nothing_to_remove,
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_channels_left_are_those_that_carry_something(make):
    check_channels_left(*make())


def test_a_shared_reshape():
    """The layer is told one shape, and its two tensors could lose unequally many channels."""
    inputs = keras.Input((6, 6, 3))
    a, b = (layers.Conv2D(5, 3, name=name) for name in "ab")
    reshape = layers.Reshape((16, 5))
    x = layers.Concatenate()([reshape(a(inputs)), reshape(b(inputs))])
    model = functional(inputs, layers.Conv1D(3, 3, name="c")(x))
    zero_outputs(a, [0], 0.3)
    zero_outputs(b, [0, 1, 2], 0.3)
    shrink(model)


def test_why_channels_stay():
    """A channel of zeros that stays has a reason; one with weights needs none."""
    for model, name, reason in (
        (softmax_keeps_all()[0], "a", "softmax"),
        (dead_outputs_stay()[0], "a", "output"),
        (add()[0], "a", ""),
        (groups_go_whole()[0], "b", ""),
        (sandwich(bias=0.4, reader=same()), "a", "b"),
        (sandwich(dead=range(6)), "a", "last"),
    ):
        held_back = entry(plan_shrink(model), name).held_back
        assert held_back
        assert reason in held_back
        assert held_back.split()[0] in " ".join(str(plan_shrink(model)).split())
    plan = plan_shrink(nothing_to_remove()[0])
    assert {layer.held_back for layer in plan.layers} == {""}


def test_a_layer_is_never_emptied():
    plan, _ = shrink(sandwich(layers.ReLU(), dead=range(6)), alive=False)
    assert channels(plan) == {"a": 1, "b": 3}
    assert "last" in entry(plan, "a").held_back
