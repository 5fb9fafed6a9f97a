"""Settings that train and do not do what they say: one warning each, which says what to do."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import cnn_l1

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.zeros((16, 2), "float32")


def network(**settings):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, activation="relu", name="first", **settings),
            layers.Dense(2, name="second"),
        ]
    )


def trained(model, optimizer):
    """The warnings of ours while a model trains for an epoch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.compile(optimizer, "mse")
        model.fit(X, Y, epochs=2, verbose=0)
    return [str(w.message) for w in caught if issubclass(w.category, cnn_l1.MisuseWarning)]


def attached(model):
    cnn_l1.attach(model, cnn_l1.L1(1e-3))
    return model


def proximal(inner=None):
    return cnn_l1.Proximal(inner or keras.optimizers.Adam(1e-3))


def test_no_warning_where_all_is_right():
    assert trained(attached(network()), proximal()) == []
    assert trained(network(kernel_regularizer=cnn_l1.L1(1e-3)), proximal()) == []
    assert trained(network(), keras.optimizers.Adam()) == []
    assert trained(network(), cnn_l1.HoldZeros(keras.optimizers.Adam())) == []


def test_a_penalty_under_a_plain_optimizer():
    (message,) = trained(attached(network()), keras.optimizers.Adam())
    assert "no exact zeros" in message
    assert "Proximal" in message
    grouped = network()
    cnn_l1.attach_groups(grouped, 1e-3)
    (message,) = trained(grouped, keras.optimizers.SGD())
    assert "zeroes no channel" in message


def test_proximal_without_a_penalty():
    (message,) = trained(network(), proximal())
    assert "cnn_l1.attach" in message


def test_keras_own_l1_under_proximal():
    messages = trained(network(kernel_regularizer="l1"), proximal())
    assert any("Keras' own L1" in message and "first" in message for message in messages)


def test_layers_unfrozen_after_attach():
    model = network()
    model.get_layer("first").trainable = False
    attached(model)
    model.get_layer("first").trainable = True
    (message,) = trained(model, proximal())
    assert "first" in message
    assert "attach` again" in message


@pytest.mark.parametrize("name", ["Lion", "Adadelta", "Ftrl"])
def test_an_optimizer_whose_step_is_not_known(name):
    with pytest.warns(cnn_l1.MisuseWarning, match=name):
        cnn_l1.Proximal(getattr(keras.optimizers, name)(1e-3))


@pytest.mark.parametrize(
    "penalty", [0.1, "l1", keras.regularizers.L1(0.1), cnn_l1.L1, lambda variable: 0.1]
)
def test_what_is_no_penalty_explains_itself(penalty):
    model = network()
    with pytest.raises(ValueError, match=r"must be a cnn_l1 penalty, e\.g\. cnn_l1\.L1\(1e-3\)"):
        cnn_l1.attach(model, penalty)
    assert all(v.regularizer is None for v in model.variables)


def test_an_l2_of_the_users_stays_beside_the_penalty():
    """The reported loss has both, and the L2's gradient alone reaches the optimizer."""
    model = attached(network(kernel_regularizer=keras.regularizers.L2(0.5)))
    kernel = np.array(model.get_layer("first").kernel)
    l2 = 0.5 * np.square(kernel).sum()
    l1 = sum(1e-3 * np.abs(np.array(layer.kernel)).sum() for layer in model.layers)
    # Sums of some thirty float32 values.
    assert float(sum(model.losses)) == pytest.approx(l1 + l2, rel=1e-5)
    cnn_l1.attach(model, None)
    assert float(sum(model.losses)) == pytest.approx(l2, rel=1e-5)


def test_no_kernel_at_all_and_layers_of_unknown_kind():
    with pytest.warns(cnn_l1.MisuseWarning, match="without"):
        cnn_l1.attach(keras.Sequential([keras.Input((3,)), layers.BatchNormalization()]), L1)

    class Own(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 2), name="w")

        def call(self, x):
            return x @ self.w

    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), Own(name="mine")])
    with pytest.warns(cnn_l1.MisuseWarning, match=r"mine \(Own\)"):
        assert len(cnn_l1.attach(model, L1)) == 1


L1 = cnn_l1.L1(1e-3)


def test_another_strength_acts_from_the_next_step_on():
    """With a step compiled before: all weights go, which they would not under the old one."""
    model = network()
    cnn_l1.attach(model, cnn_l1.L1(1e-6))
    model.compile(proximal(keras.optimizers.SGD(0.1)), "mse")
    model.fit(X, Y, epochs=1, verbose=0)
    assert cnn_l1.count(model).zeros == 0
    cnn_l1.attach(model, cnn_l1.L1(100.0))
    model.fit(X, Y, epochs=1, verbose=0)
    assert cnn_l1.count(model).sparsity == 1.0


def test_attach_groups_names_what_it_skips():
    inputs = keras.Input((6,))
    x = layers.Dense(4, name="first")(inputs)
    x = layers.Dense(5, name="free")(layers.Lambda(lambda t: t * 2, name="odd")(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.warns(cnn_l1.MisuseWarning, match=r"skips.*odd \(Lambda\)"):
        assert cnn_l1.attach_groups(model, 1e-3) == ["free/kernel", "free/bias"]
