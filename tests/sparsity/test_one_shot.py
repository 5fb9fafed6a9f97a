"""Channels zeroed in one go: their importance by hand, and what is left."""

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.graph.coupling import channel_spaces
from cnn_l1.graph.macs import count_macs
from cnn_l1.shrink.planning import plan_shrink
from cnn_l1.sparsity.one_shot import measure_batch_norm, measure_importance, zero_channels


def two_layers():
    """Linear: 2 inputs, 3 hidden units, 1 output, no biases."""
    inputs = keras.Input((2,))
    x = layers.Dense(3, use_bias=False, name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False, name="out")(x))
    model.get_layer("hidden").kernel.assign([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]])
    model.get_layer("out").kernel.assign([[2.0], [1.0], [0.25]])
    return model


@pytest.mark.parametrize("single", [True, False])
def test_importance_of_a_linear_network(single):
    """With h = x·W, y = h·v and the loss (y − t)²: Σ w g of unit j is 2 (y − t) h_j v_j."""
    model = two_layers()
    x = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [-2.0, 1.0]], "float32")
    targets = np.array([[1.0], [0.0], [2.0], [-1.0]], "float32")
    w, v = (np.array(layer.kernel) for layer in model.layers[1:])
    hidden = x @ w
    each = 2 * (hidden @ v - targets) * hidden * v[:, 0]
    rows = each if single else each.reshape(2, 2, 3).mean(axis=1)
    batches = [(x[:2], targets[:2]), (x[2:], targets[2:])]
    (found,) = measure_importance(
        model, batches, keras.losses.MeanSquaredError(), channel_spaces(model), single
    )
    np.testing.assert_allclose(found, np.square(rows).mean(axis=0), rtol=1e-5)  # float32


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.ReLU()(x + layers.Conv2D(16, 3, padding="same")(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("criterion", ["second_order", "taylor", "magnitude"])
def test_what_is_left(criterion):
    model = network()
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(8, 8, 8, 2)).astype("float32"), np.arange(8) % 3)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole = sum(count_macs(model).values())
    missed = zero_channels(model, batches, loss, {"macs": 0.5}, criterion)
    left = plan_shrink(model).macs_after
    assert left <= 0.5 * whole
    # Whole channels come within 3% of it, or it is told.
    assert bool(missed) == (left < 0.97 * 0.5 * whole)


def test_a_wrong_criterion():
    with pytest.raises(ValueError, match="`criterion` must be one of"):
        zero_channels(network(), [], None, {"macs": 0.5}, "weight")


def test_batch_norm_is_measured_on_the_examples():
    """Moving statistics are the mean over the batches; a frozen layer keeps its own."""
    inputs = keras.Input((3,))
    x = layers.BatchNormalization(name="norm", momentum=0.9)(inputs)
    model = keras.Model(inputs, layers.BatchNormalization(name="frozen", trainable=False)(x))
    rows = np.random.default_rng(0).normal(2.0, 3.0, (40, 3)).astype("float32")
    batches = [(rows[start : start + 10], None) for start in range(0, 40, 10)]
    measure_batch_norm(model, batches)
    norm = model.get_layer("norm")
    parts = rows.reshape(4, 10, 3)
    np.testing.assert_allclose(norm.moving_mean, parts.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, parts.var(axis=1).mean(axis=0), rtol=1e-4)
    assert norm.momentum == 0.9
    np.testing.assert_array_equal(model.get_layer("frozen").moving_mean, np.zeros(3))
