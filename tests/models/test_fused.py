"""Batch normalization by TensorFlow's kernel against Keras' own."""

import keras
import numpy as np
import pytest

from cnn_l1.models.fused import fused_batch_norm

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the kernel is TensorFlow's"
)


def network(dtype="float32", **settings):
    keras.utils.set_random_seed(0)
    policy = keras.DTypePolicy(dtype)
    inputs = keras.Input((6, 5, 3))
    x = keras.layers.Conv2D(4, 3, dtype=policy)(inputs)
    x = keras.layers.BatchNormalization(name="norm", dtype=policy, **settings)(x)
    x = keras.layers.Activation("relu", dtype=policy)(x)
    inner = keras.Sequential(
        [keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization(name="inner_norm", **settings)]
    )
    x = inner(keras.layers.Activation("linear", dtype="float32")(x))
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs)


def fit(model, steps=3, **settings):
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (8 * steps, 6, 5, 3)).astype("float32")
    y = rng.normal(size=(8 * steps, 2)).astype("float32")
    model.compile(keras.optimizers.SGD(0.05), "mse", **settings)
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return history.history["loss"], model.get_weights(), model.predict(x, verbose=0)


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, {}),
        ({"center": False, "momentum": 0.9}, {}),
        ({"scale": False, "epsilon": 0.1}, {}),
        ({}, {"steps_per_execution": 3}),
        ({}, {"jit_compile": True}),
    ],
    ids=["plain", "no_center", "no_scale", "several_steps", "jit"],
)
def test_training_is_that_of_keras(settings, more):
    """Loss, every weight and moving statistic, and outputs, after six steps."""
    loss, weights, outputs = fit(network(**settings), **more)
    model = network(**settings)
    with fused_batch_norm(model) as names:
        fused_loss, fused_weights, fused_outputs = fit(model, **more)
    assert names == ["norm", "inner_norm"]
    # Two orders of summing in float32, carried through six steps.
    np.testing.assert_allclose(fused_loss, loss, rtol=1e-4)
    for fused, plain in zip(fused_weights, weights, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fused_outputs, outputs, rtol=1e-3, atol=1e-4)


def step_types(model):
    """The operations of the model's outputs in training, as text."""
    import tensorflow as tf

    traced = tf.function(lambda x: model(x, training=True))
    return str(traced.get_concrete_function(tf.zeros((8, 6, 5, 3))).graph.as_graph_def())


def test_kernel_is_used_within_and_only_within():
    model = network()
    with fused_batch_norm(model):
        assert step_types(model).count('op: "FusedBatchNormV3"') == 2
    assert "FusedBatchNorm" not in step_types(model)
    assert "call" not in vars(model.get_layer("norm"))


def test_bfloat16_keeps_float32_statistics():
    """A mean of 100 with a spread of 2: sums in bfloat16 could not tell them apart."""
    moved = []
    for fuse in (False, True):
        layer = keras.layers.BatchNormalization(momentum=0.0, dtype="mixed_bfloat16")
        model = keras.Sequential([keras.Input((4, 4, 2)), layer])
        x = keras.ops.cast(np.random.default_rng(0).normal(100.0, 2.0, (16, 4, 4, 2)), "bfloat16")
        if fuse:
            with fused_batch_norm(model):
                layer(x, training=True)
        else:
            layer(x, training=True)
        moved.append([np.asarray(v) for v in (layer.moving_mean, layer.moving_variance)])
    plain, fused = moved
    # bfloat16 has 8 bits: sums in it would be off by percents.
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-4)
    np.testing.assert_allclose(fused[1], plain[1], rtol=1e-2)


class OwnCall(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


@pytest.mark.parametrize(
    "layer",
    [
        OwnCall(),
        keras.layers.BatchNormalization(renorm=True),
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.BatchNormalization(dtype="float64"),
    ],
    ids=["subclass", "renorm", "synchronized", "float64"],
)
def test_what_the_kernel_has_no_answer_for_is_left_alone(layer):
    model = keras.Sequential([keras.Input((4, 4, 2)), layer])
    with fused_batch_norm(model) as names:
        assert names == []
        assert "call" not in vars(layer)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5,), -1), ((4, 4, 3), 1), ((4, 4, 3), 3)], ids=["rows", "first", "last"]
)
def test_other_shapes_and_frozen_layers_give_what_keras_gives(shape, axis):
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype("float32")
    for trainable in (True, False):
        layer = keras.layers.BatchNormalization(axis=axis, trainable=trainable)
        twin = keras.layers.BatchNormalization(axis=axis, trainable=trainable)
        model = keras.Sequential([keras.Input(shape), layer])
        with fused_batch_norm(model):
            fused = layer(x, training=True)
        np.testing.assert_allclose(fused, twin(x, training=True), atol=1e-5)  # rounding
        for moved, expected in zip(layer.weights, twin.weights, strict=True):
            np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_layers_are_given_back_where_training_fails():
    model = network()
    with pytest.raises(RuntimeError, match="stopped"), fused_batch_norm(model):
        raise RuntimeError("stopped")
    assert "call" not in vars(model.get_layer("norm"))
    assert (
        type(keras.models.clone_model(model).get_layer("norm")) is keras.layers.BatchNormalization
    )


def test_nested_contexts_hold_until_the_last_is_left():
    model = network()
    (inner,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    with fused_batch_norm(model) as outer_names:
        with fused_batch_norm(inner) as inner_names, fused_batch_norm(model):
            assert step_types(model).count('op: "FusedBatchNormV3"') == 2
        assert step_types(model).count('op: "FusedBatchNormV3"') == 2
    assert (outer_names, inner_names) == (["norm", "inner_norm"], ["inner_norm"])
    assert "FusedBatchNorm" not in step_types(model)


def test_contexts_may_end_in_any_order():
    model = network()
    first, second = fused_batch_norm(model), fused_batch_norm(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert step_types(model).count('op: "FusedBatchNormV3"') == 2
    second.__exit__(None, None, None)
    assert "FusedBatchNorm" not in step_types(model)


def test_an_error_inside_gives_the_layers_back():
    model = network()
    with pytest.raises(KeyError), fused_batch_norm(model), fused_batch_norm(model):
        raise KeyError
    assert "call" not in vars(model.get_layer("norm"))


def test_a_call_of_the_layers_own_is_left_alone():
    model = network()
    layer = model.get_layer("norm")

    def own(inputs, training=None, mask=None):
        return inputs

    layer.call = own
    with fused_batch_norm(model) as names:
        assert names == ["inner_norm"]
        assert layer.call is own
    assert layer.call is own
