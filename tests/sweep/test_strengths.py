"""The strengths of a path, and where it ends."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from sklearn.preprocessing import StandardScaler

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.data import sets
from cnn_l1.data.task_choice import task_of
from cnn_l1.models import builders
from cnn_l1.sweep.largest_strength import BRACKET_FACTOR, BRACKET_STEPS, bracket, largest_linear
from cnn_l1.sweep.strengths import spaced, with_settings, with_strength
from cnn_l1.train import pipeline


def make(**settings):
    return configs.validate({"name": "test", **settings})


@pytest.mark.parametrize(("largest", "ratio", "points"), [(2.0, 0.01, 5), (91.15, 0.3, 2)])
def test_spaced_runs_up_to_the_largest_in_equal_ratios(largest, ratio, points):
    found = spaced(largest, ratio, points)
    assert len(found) == points
    assert found[-1] == largest
    # Ten digits are kept of each.
    assert found[0] == pytest.approx(largest * ratio, rel=1e-9)
    ratios = np.divide(found[1:], found[:-1])
    np.testing.assert_allclose(ratios, ratio ** (-1 / (points - 1)), rtol=1e-9)


def test_one_point_is_the_largest():
    assert spaced(3.0, 0.01, 1) == (3.0,)


def test_with_settings_changes_what_is_named_and_checks_it():
    config = make(seed=3)
    changed = with_settings(config, {"training.epochs": 7, "seed": 4})
    assert (changed.training.epochs, changed.seed, config.seed) == (7, 4, 3)
    assert with_settings(changed, {"training.epochs": 30, "seed": 3}) == config
    with pytest.raises(ConfigError, match=r"test: training\.epochs: expected .* Received: -1"):
        with_settings(config, {"training.epochs": -1})


def test_layers_keep_their_proportion_to_the_strength():
    penalty = {"l1_strength": 2e-3, "layers": {"conv*": 1e-3, "dense": 8e-3, "last": 0.0}}
    changed = with_strength(make(penalty=penalty), 1e-2).penalty
    assert changed.l1_strength == 1e-2
    assert changed.layers == pytest.approx({"conv*": 5e-3, "dense": 4e-2, "last": 0.0})


def test_layers_cannot_keep_a_proportion_to_nothing():
    config = make(penalty={"l1_strength": 0.0, "layers": {"conv*": 1e-3}})
    with pytest.raises(ConfigError, match=r"penalty\.l1_strength: expected more .* Received: 0"):
        with_strength(config, 0.1)
    assert with_strength(make(penalty={"l1_strength": 0.0}), 0.1).penalty.l1_strength == 0.1


REACH = BRACKET_FACTOR**BRACKET_STEPS


@given(st.floats(1e-6, 1e3), st.floats(-BRACKET_STEPS, BRACKET_STEPS))
def test_bracket_ends_at_most_twice_beyond_the_smallest_that_leaves_nothing(start, power):
    smallest = start * BRACKET_FACTOR**power
    tried = {}

    def is_constant(strength):
        assert strength not in tried  # each is a whole training
        tried[strength] = strength >= smallest
        return tried[strength]

    # A hair off, for products of roundings may miss a limit that they meet exactly.
    if BRACKET_STEPS - abs(power) < 1e-9:
        return
    found = bracket(start, is_constant)
    assert tried[found]  # it has been seen to leave nothing
    assert smallest <= found <= 2 * smallest * (1 + 1e-12)
    assert len(tried) <= BRACKET_STEPS + 2


@pytest.mark.parametrize(("constant", "left"), [(True, "nothing"), (False, "something")])
def test_bracket_gives_up_after_twelve_steps(constant, left):
    tried = []

    def is_constant(strength):
        tried.append(strength)
        return constant

    message = rf"penalty\.l1_strength: expected a start .* Received: 0\.1, and .* leaves {left}\. "
    with pytest.raises(ConfigError, match=message):
        bracket(0.1, is_constant)
    assert len(tried) == BRACKET_STEPS + 1
    assert max(tried) / min(tried) == pytest.approx(REACH)


DIABETES = {
    "data": {"name": "diabetes"},
    "model": {"name": "linear"},
    "optimizer": {
        "name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "schedule": {"name": "constant"},
    },
    "training": {
        "epochs": 1, "batch_size": 10_000, "steps_per_epoch": 500, "steps_per_execution": 500,
    },
    "fine_tuning": {"epochs": 0},
    "baseline": False,
    "tensorboard": False,
    "export": {"formats": []},
}  # fmt: skip


def test_largest_linear_is_where_scikit_learns_lasso_ends():
    train_rows = sets.load(make(**DIABETES).data, 0).train
    inputs = StandardScaler().fit_transform(train_rows.inputs.astype("float64"))
    targets = train_rows.targets.astype("float64")
    alpha = np.abs(inputs.T @ (targets - targets.mean())).max() / len(targets)
    assert np.count_nonzero(Lasso(alpha=1.0001 * alpha, tol=1e-10).fit(inputs, targets).coef_) == 0
    assert np.count_nonzero(Lasso(alpha=0.9999 * alpha, tol=1e-10).fit(inputs, targets).coef_) == 1
    # Its loss has a factor 1/2 that ours lacks. Ours standardises in float32, to 6e-8 of
    # values up to ten deviations from 0, and sums 318 products of them.
    assert largest_linear(make(**DIABETES)) == pytest.approx(2 * alpha, rel=1e-5)


def test_layer_with_a_strength_of_its_own_is_brought_to_the_same_end():
    penalty = {"l1_strength": 1e-3, "layers": {"den*": 4e-3}}
    config = make(**DIABETES, penalty=penalty)
    plain = largest_linear(make(**DIABETES))
    assert largest_linear(config) == pytest.approx(plain / 4)
    assert with_strength(config, plain / 4).penalty.layers["den*"] == pytest.approx(plain)
    with pytest.raises(ConfigError, match=r"penalty\.layers: expected .* Received: 0"):
        largest_linear(make(**DIABETES, penalty={"l1_strength": 1e-3, "layers": {"dense": 0.0}}))


@pytest.mark.slow
def test_training_leaves_nothing_just_above_and_something_below(tmp_path):
    largest = largest_linear(make(**DIABETES))
    kept = {}
    for factor in (0.98, 1.001):
        config = with_strength(make(**DIABETES), factor * largest)
        pipeline.run(config, tmp_path / str(factor))
        report = json.loads((tmp_path / str(factor) / "report.json").read_text())
        kept[factor] = report["counts"]["nonzero"]
        assert report["constant_output"] == (factor > 1)
    # One feature has the largest gradient; the next largest is 0.979 of it.
    assert kept == {0.98: 1, 1.001: 0}


def gradient_at_zero(config, intercepts):
    """The largest gradient of the data's loss in a kernel of zeros, by TensorFlow."""
    dataset = sets.load(config.data, config.seed)
    task = task_of(config.training, dataset.about)
    model = builders.build(config, dataset.about.input_shape, task.outputs, dataset.statistics())
    dense = model.get_layer("dense")
    dense.kernel.assign(tf.zeros_like(dense.kernel))
    dense.bias.assign(intercepts)
    batch = tf.data.Dataset.from_tensor_slices((dataset.train.inputs, dataset.train.targets))
    inputs, targets = next(iter(task.encode(batch.batch(dataset.train.size))))
    with tf.GradientTape() as tape:
        loss = task.keras_loss()(targets, model(tf.cast(inputs, tf.float32)))
    gradients = tape.gradient(loss, [dense.kernel.value, dense.bias.value])
    return [float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients]


DIGITS = {"data": {"name": "digits"}, "model": {"name": "linear"}}


@pytest.fixture(scope="module")
def shares():
    """Each class's part of the training rows of digits."""
    targets = sets.load(make(**DIGITS).data, 0).train.targets
    return np.bincount(targets) / len(targets)


@pytest.mark.parametrize("loss", ["crossentropy", "squared_error"])
def test_largest_linear_of_classes_is_the_gradient_at_zero_weights(loss, shares):
    config = make(**DIGITS, training={"loss": loss})
    fitted = np.log(shares) if loss == "crossentropy" else shares
    kernel, bias = gradient_at_zero(config, fitted)
    assert bias < 1e-6  # the intercepts are indeed those that fit
    # 1617 float32 terms of one sign each: roundings of 6e-8 add up to some 1e-6.
    assert largest_linear(config) == pytest.approx(kernel, rel=1e-5)


@pytest.mark.parametrize("loss", ["crossentropy", "squared_error"])
def test_penalised_intercepts_may_be_anywhere_up_to_the_fitted(loss, shares):
    config = make(**DIGITS, training={"loss": loss}, penalty={"biases": True})
    fitted = np.log(shares) if loss == "crossentropy" else shares
    at_both = [gradient_at_zero(config, value)[0] for value in (fitted, 0.0 * fitted)]
    assert largest_linear(config) == pytest.approx(max(at_both), rel=1e-5)


def test_streamed_data_has_no_closed_form():
    config = make(data={"name": "digits", "in_memory": False}, model={"name": "linear"})
    with pytest.raises(ConfigError, match=r"sweep\.max_strength: expected a number, .* streamed"):
        largest_linear(config)


def test_elastic_net_ends_where_l1_does():
    config = make(**DIABETES, penalty={"name": "l1l2", "l2_strength": 10.0})
    assert largest_linear(config) == largest_linear(make(**DIABETES))
    assert math.isfinite(largest_linear(config))


@pytest.fixture(autouse=True)
def _float32_policy():
    yield
    keras.config.set_dtype_policy("float32")
