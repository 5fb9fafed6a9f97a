"""Callbacks in short runs of `fit`: what they write, what they do to the weights."""

import csv

import keras
import numpy as np
import pytest

from cnn_l1.sparsity.callbacks import (
    BestWeights,
    DivergedError,
    EmptyLayerError,
    EmptyLayerWarning,
    LogLayers,
    LogValue,
    Reweight,
    SparsityMonitor,
    StopOnNaN,
    StrengthRamp,
    Threshold,
    apply_threshold,
)
from cnn_l1.sparsity.counting import count, penalty_value
from cnn_l1.sparsity.optimizers import HoldZeros, Proximal
from cnn_l1.sparsity.penalties import L1, Concave, ReweightedL1, attach

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4)).astype("float32")
Y = RNG.normal(size=(16, 1)).astype("float32")


def make_model(optimizer=None, strength=0.0):
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(5, name="first", kernel_regularizer=L1(strength)),
            keras.layers.Dense(1, name="second", kernel_regularizer=L1(strength)),
        ]
    )
    model.compile(optimizer or Proximal(keras.optimizers.SGD(0.05)), loss="mse")
    return model


def fit(model, *callbacks_, epochs=2, **settings):
    return model.fit(
        X, Y, 8, epochs, verbose=0, shuffle=False, callbacks=list(callbacks_), **settings
    )


class Recorder(keras.callbacks.Callback):
    """The weights at the start and the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.starts, self.ends = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.starts.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.model.get_weights())


def kernels_of(weights):
    return [w for w in weights if w.ndim == 2]


# --- Reweight --------------------------------------------------------------------


def make_reweighted(optimizer, strength=0.1, epsilon=0.2):
    model = make_model(optimizer)
    attach(model, ReweightedL1(strength, epsilon))  # one for both kernels
    return model


def test_reweighting_is_by_hand():
    """An epoch of plain L1, then one of strengths that follow the weights at its start."""
    rate, strength, epsilon = 0.05, 0.4, 0.2
    model = make_reweighted(Proximal(keras.optimizers.SGD(rate)), strength, epsilon)
    plain = make_model()
    attach(plain, L1(strength))
    model.fit(X, Y, 16, epochs=1, verbose=0, shuffle=False, callbacks=[Reweight()])
    plain.fit(X, Y, 16, epochs=1, verbose=0, shuffle=False)
    for got, expected in zip(model.get_weights(), plain.get_weights(), strict=True):
        # float32: the penalty's gradient is in the loss and taken out again.
        np.testing.assert_allclose(got, expected, atol=1e-6)

    before = model.get_weights()
    free = make_model(keras.optimizers.SGD(rate))
    free.set_weights(before)
    free.fit(X, Y, 16, epochs=1, verbose=0, shuffle=False)
    settings = {"initial_epoch": 1, "epochs": 2, "callbacks": [Reweight()]}
    model.fit(X, Y, 16, verbose=0, shuffle=False, **settings)
    for old, moved, got in zip(before, free.get_weights(), model.get_weights(), strict=True):
        if old.ndim == 2:
            threshold = rate * strength * epsilon / (epsilon + np.abs(old))
            moved = np.sign(moved) * np.maximum(np.abs(moved) - threshold, 0.0)
        np.testing.assert_allclose(got, moved, atol=1e-6)  # as above


@pytest.mark.slow
def test_reweighting_rests_where_the_log_sum_does():
    """At rest the loss's gradient and the log-sum's cancel; its zeros are exact."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])

    def train(penalty, epochs):
        attach(model, penalty)
        model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
        model.fit(X, Y, 16, epochs, verbose=0, shuffle=False, callbacks=[reweight])
        return model.get_weights()

    reweight = Reweight()
    rested = train(ReweightedL1(0.4, 0.2), 400)
    assert 0 < np.count_nonzero(rested[0]) < 4
    reweight = keras.callbacks.Callback()
    for before, after in zip(rested, train(Concave(0.4, "log", 0.2), 5), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5)  # what 400 steps leave
        np.testing.assert_array_equal(after == 0.0, before == 0.0)
    moved = [np.abs(a - b).max() for a, b in zip(rested, train(L1(0.4), 5), strict=True)]
    assert max(moved) > 0.01  # and not where L1 does


def test_factors_stay_out_of_saved_models_and_copies(tmp_path):
    model = make_reweighted(Proximal(keras.optimizers.SGD(0.05)))
    fit(model, Reweight())
    path = tmp_path / "model.keras"
    assert len(keras.models.clone_model(model).weights) == len(model.weights)
    model.save(path)
    again = keras.models.load_model(path, compile=False)
    assert [v.shape for v in again.weights] == [v.shape for v in model.weights]
    for got, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_reweight_says_what_it_needs():
    with pytest.raises(ValueError, match=r"Reweight expects an optimizer wrapped in .*Proximal"):
        fit(make_reweighted(keras.optimizers.SGD(0.05)), Reweight())
    with pytest.raises(ValueError, match="Reweight expects a model with variables under Rewei"):
        fit(make_model(), Reweight())


# --- SparsityMonitor -------------------------------------------------------------


def test_monitor_writes_into_history_and_csv(tmp_path):
    model = make_model(strength=1.0)
    path = tmp_path / "log.csv"
    history = fit(model, SparsityMonitor(), keras.callbacks.CSVLogger(path), epochs=4).history
    keys = {"sparsity", "nonzero", "penalty", "sparsity/first", "sparsity/second"}
    assert keys <= set(history)
    counts = count(model)
    assert history["sparsity"][-1] == counts.sparsity
    assert counts.zeros > 0
    assert history["nonzero"][-1] == counts.nonzero
    assert history["penalty"][-1] == penalty_value(model)
    assert history["sparsity/first"][-1] == counts.layers[0].sparsity
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert float(rows[-1]["sparsity"]) == counts.sparsity
    assert int(rows[-1]["nonzero"]) == counts.nonzero


def test_monitor_without_layers():
    history = fit(make_model(), SparsityMonitor(per_layer=False)).history
    assert not [key for key in history if key.startswith("sparsity/")]
    assert "sparsity" in history


def empty_first(model):
    model.get_layer("first").kernel.assign(np.zeros((4, 5)))
    return model


def test_monitor_warns_once_a_layer():
    model = empty_first(make_model(HoldZeros(keras.optimizers.SGD(0.05))))
    with pytest.warns(EmptyLayerWarning, match=r"'first' is all zero after epoch 1") as caught:
        fit(model, SparsityMonitor(), epochs=3)
    assert len([w for w in caught if w.category is EmptyLayerWarning]) == 1


def test_monitor_forbids_empty_layers():
    model = empty_first(make_model(HoldZeros(keras.optimizers.SGD(0.05))))
    with pytest.raises(EmptyLayerError, match=r"'first' is all zero after epoch 1.*l1_strength"):
        fit(model, SparsityMonitor(empty_layers="forbid"))


def test_log_layers_writes_what_the_monitor_counted():
    model = make_model(HoldZeros(keras.optimizers.SGD(0.05)))
    monitor = SparsityMonitor(per_layer=False)
    history = fit(model, monitor, LogLayers(monitor)).history
    together = fit(model, SparsityMonitor()).history
    per_layer = [key for key in together if key.startswith("sparsity/")]
    assert per_layer
    assert set(per_layer) < set(history)
    for layer in monitor.counts.layers:
        assert history[f"sparsity/{layer.layer}"][-1] == layer.sparsity


@pytest.mark.parametrize("make", [SparsityMonitor, lambda **s: Threshold(0.1, **s)])
def test_empty_layers_values(make):
    with pytest.raises(ValueError, match=r"`empty_layers` must be .*'maybe'"):
        make(empty_layers="maybe")


# --- Threshold -------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["sgd", "adam"])
def test_absolute_threshold_zeroes_at_the_start_and_holds(inner):
    settings = {"sgd": {"momentum": 0.9}, "adam": {}}[inner]
    optimizer = HoldZeros(
        {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[inner](0.01, **settings),
        hold_zeros=False,
    )
    model = make_model(optimizer)
    expected = [np.abs(w) < np.float32(0.3) for w in kernels_of(model.get_weights())]
    kept = kernels_of(model.get_weights())
    recorder = Recorder()
    fit(model, Threshold(0.3), recorder, epochs=3)
    assert 0 < sum(mask.sum() for mask in expected) < 25
    for weights in (recorder.starts[0], recorder.ends[0], recorder.ends[-1]):
        for mask, kernel in zip(expected, kernels_of(weights), strict=True):
            np.testing.assert_array_equal(kernel == 0.0, mask)
    for mask, old, new in zip(expected, kept, kernels_of(recorder.starts[0]), strict=True):
        np.testing.assert_array_equal(new[~mask], old[~mask])
    assert float(optimizer.hold_zeros.numpy()) == 1.0


def test_relative_threshold_is_in_standard_deviations_of_each_kernel():
    model = make_model()
    before = kernels_of(model.get_weights())
    changed = apply_threshold(model, relative_threshold=0.5)
    masks = [np.abs(w) < 0.5 * w.std() for w in before]
    for mask, kernel in zip(masks, kernels_of(model.get_weights()), strict=True):
        np.testing.assert_array_equal(kernel == 0.0, mask)
    assert changed == sum(mask.sum() for mask in masks) > 0
    assert apply_threshold(model, threshold=0.0) == 0  # `<`, so 0 zeroes nothing


def test_a_weight_at_the_threshold_stays():
    model = make_model()
    model.get_layer("second").kernel.assign([[0.25], [-0.25], [0.125], [-0.125], [1.0]])
    apply_threshold(model, threshold=0.25)
    np.testing.assert_array_equal(
        model.get_layer("second").kernel.numpy()[:, 0], [0.25, -0.25, 0.0, 0.0, 1.0]
    )


def test_biases_are_not_thresholded():
    model = make_model()
    model.get_layer("first").bias.assign(np.full(5, 0.01))
    apply_threshold(model, threshold=0.1)
    assert model.get_layer("first").bias.numpy().all()


@pytest.mark.parametrize(
    ("start", "every", "due"),
    [(0, 0, [0]), (2, 0, [2]), (1, 2, [1, 3, 5]), (0, 3, [0, 3])],
)
def test_schedule(start, every, due, monkeypatch):
    epochs = []
    callback = Threshold(0.1, start_epochs=start, every_epochs=every)
    monkeypatch.setattr(
        "cnn_l1.sparsity.thresholding.apply_threshold", lambda *_: epochs.append(epoch)
    )
    callback.set_model(make_model())
    for epoch in range(6):
        callback.on_epoch_begin(epoch)
    assert epochs == due


def test_repeated_thresholds_in_fit_only_gain_zeros():
    model = make_model()
    recorder = Recorder()
    fit(model, Threshold(0.3, start_epochs=1, every_epochs=1), recorder, epochs=4)
    zeros = [sum((k == 0).sum() for k in kernels_of(w)) for w in recorder.ends]
    assert zeros[0] == 0
    assert zeros[1] > 0
    assert zeros == sorted(zeros)


def test_forbid_leaves_all_weights_as_they_were():
    model = make_model()
    # The first layer would only thin out, the second become empty.
    model.get_layer("second").kernel.assign(np.full((5, 1), 0.01))
    before = model.get_weights()
    with pytest.raises(EmptyLayerError, match="'second' is all zero by the threshold"):
        fit(model, Threshold(0.3, empty_layers="forbid"))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(model.optimizer.hold_zeros.numpy()) == 0.0


def test_warn_empties_the_layer():
    model = make_model()
    with pytest.warns(EmptyLayerWarning, match="all zero by the threshold"):
        assert apply_threshold(model, threshold=100.0) == 25
    assert count(model).sparsity == 1.0


def test_threshold_needs_a_wrapped_optimizer():
    model = make_model(keras.optimizers.Adam())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Threshold expects .*cnn_l1\.HoldZeros.*=Adam"):
        fit(model, Threshold(0.3))
    np.testing.assert_array_equal(before[0], model.get_weights()[0])


def test_threshold_reaches_through_loss_scaling():
    optimizer = keras.optimizers.LossScaleOptimizer(HoldZeros(keras.optimizers.SGD(), False))
    fit(make_model(optimizer), Threshold(0.3), epochs=1)
    assert float(optimizer.inner_optimizer.hold_zeros.numpy()) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of"),
        ({"threshold": 0.1, "relative_threshold": 0.1}, "exactly one of"),
        ({"threshold": -0.1}, "`threshold` must be 0 or more.*-0.1"),
        ({"relative_threshold": float("nan")}, "`relative_threshold` must be 0 or more.*nan"),
        ({"threshold": 0.1, "start_epochs": -1}, "`start_epochs` must be 0 or more"),
        ({"threshold": 0.1, "every_epochs": -1}, "`every_epochs` must be 0 or more"),
    ],
)
def test_threshold_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        Threshold(**settings)


# --- StrengthRamp ----------------------------------------------------------------


def test_ramp_values_reach_the_optimizer_and_the_logs():
    model = make_model(strength=0.1)
    seen = []
    spy = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            float(model.optimizer.strength_scale.numpy())
        )
    )
    history = fit(model, StrengthRamp(3), LogValue("l1_strength", 0.1), spy, epochs=5).history
    expected = [0.25, 0.5, 0.75, 1.0, 1.0]
    assert history["strength_scale"] == expected
    assert seen == [value for value in expected for _ in range(2)]  # two batches an epoch
    assert history["l1_strength"] == [0.1 * value for value in expected]


def test_ramp_zero_is_full_strength_at_once():
    assert [StrengthRamp(0).scale(epoch) for epoch in range(2)] == [1.0, 1.0]


def test_ramp_scales_the_shrinking_of_a_compiled_step():
    model = make_model(Proximal(keras.optimizers.SGD(0.5)), strength=0.1)
    model.get_layer("first").kernel.assign(np.ones((4, 5)))
    model.get_layer("second").kernel.assign(np.ones((5, 1)))
    # No input and no target: the only gradient is the penalty's.
    zeros = np.zeros((8, 4), "float32"), np.zeros((8, 1), "float32")
    model.fit(*zeros, 8, 2, verbose=0, callbacks=[StrengthRamp(1)])
    expected = 1.0 - 0.5 * 0.1 * (0.5 + 1.0)
    np.testing.assert_allclose(model.get_layer("first").kernel.numpy(), expected, rtol=1e-6)  # f32


def test_ramp_errors():
    with pytest.raises(ValueError, match=r"`ramp_epochs` must be 0 or more.*-1"):
        StrengthRamp(-1)
    with pytest.raises(ValueError, match=r"StrengthRamp expects .*cnn_l1\.Proximal.*=HoldZeros"):
        fit(make_model(HoldZeros(keras.optimizers.SGD())), StrengthRamp(2))


def test_log_value_without_a_ramp():
    assert fit(make_model(), LogValue("l1_strength", 0.5)).history["l1_strength"] == [0.5, 0.5]


# --- StopOnNaN and BestWeights -----------------------------------------------------


def test_stop_on_nan():
    model = make_model(keras.optimizers.SGD(1e30))
    with pytest.raises(DivergedError, match=r"expected a finite loss.*learning_rate"):
        fit(model, StopOnNaN(), epochs=3)
    fit(make_model(), StopOnNaN())  # a finite loss passes


def run_best(callback, values):
    """Run a callback over epochs whose model is just their number."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, name="d")])
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        model.get_layer("d").bias.assign([float(epoch)])
        callback.on_epoch_end(epoch, {"val_accuracy": value})
    callback.on_train_end()
    return int(model.get_layer("d").bias.numpy()[0])


@pytest.mark.parametrize(
    ("values", "best"),
    [([0.1, 0.9, 0.5], 1), ([0.5, 0.9, 0.9, 0.2], 2), ([0.7], 0), ([0.1, 0.2, 0.3], 2)],
)
def test_best_weights(values, best):
    callback = BestWeights()
    assert run_best(callback, values) == best == callback.best_epoch
    assert callback.best == max(values)
    assert run_best(callback, [0.0, -1.0]) == 0  # a second training starts afresh


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.5, 0.1, 0.9], 1),
        ([0.9, 0.1, 0.1, 0.2], 2),  # of equal epochs the later one
        ([0.7], 0),
        ([0.3, 0.2, -0.1], 2),
        ([float("nan"), 5.0, 7.0], 1),  # any number takes the place of a NaN
    ],
)
def test_best_weights_where_smaller_is_better(values, best):
    callback = BestWeights(larger_is_better=False)
    assert run_best(callback, values) == best == callback.best_epoch
    assert callback.best == np.nanmin(values)
    assert run_best(callback, [100.0, 200.0]) == 0  # a second training starts afresh


def test_best_weights_by_the_loss_of_a_fit():
    """A rate that first learns and then destroys: the best epoch is in the middle."""
    model = make_model(Proximal(keras.optimizers.SGD(0.05)))
    recorder = Recorder()

    def rate(epoch, _):
        return 0.05 if epoch < 3 else 0.5

    best = BestWeights("val_loss", larger_is_better=False)
    schedule = keras.callbacks.LearningRateScheduler(rate)
    history = fit(model, schedule, recorder, best, epochs=5, validation_data=(X, Y)).history
    assert best.best_epoch == int(np.argmin(history["val_loss"])) not in (0, 4)
    for expected, got in zip(recorder.ends[best.best_epoch], model.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, got)


def test_best_weights_in_fit_restores_the_epoch():
    model = make_model()
    recorder = Recorder()
    best = BestWeights("score")
    scores = iter([0.2, 0.8, 0.1])
    score = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(score=next(scores))
    )
    fit(model, score, recorder, best, epochs=3)
    for expected, got in zip(recorder.ends[1], model.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, got)


def test_best_weights_names_the_missing_key():
    with pytest.raises(ValueError, match=r"BestWeights expects 'val_accuracy'.*loss"):
        fit(make_model(), BestWeights())


# --- Channels and scales ---------------------------------------------------------


def channel_model():
    """Two convolutions with a batch-norm between, a pooled head; known magnitudes."""
    keras.utils.set_random_seed(0)
    images = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(3, 3, name="conv")(images)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(2, 3, name="last")(keras.layers.Activation("relu")(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def test_channels_go_by_their_root_mean_square_and_whole():
    model = channel_model()
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    # Nine weights, a bias, a scale and a shift each: 12 values of one size.
    sizes = np.array([0.5, 0.1, 0.09], "float32")
    conv.kernel.assign(np.broadcast_to(sizes, conv.kernel.shape))
    for variable in (conv.bias, norm.gamma, norm.beta):
        variable.assign(sizes)
    last = np.array(model.get_layer("last").kernel)
    assert apply_threshold(model, threshold=0.095, of="channels") == 1
    for variable in (conv.kernel, conv.bias, norm.gamma, norm.beta):
        gone = np.asarray(variable) == 0
        assert np.array_equal(gone.reshape(-1, 3).all(axis=0), [False, False, True])
        assert gone.reshape(-1, 3).sum() == gone.reshape(-1, 3)[:, 2].sum()
    assert np.array_equal(last, model.get_layer("last").kernel)  # its channels are outputs
    # Half of √((0.5² + 0.1²)/3) = 0.147 over the space: the second goes, the first stays.
    assert apply_threshold(model, relative_threshold=0.5, of="channels") == 1
    assert apply_threshold(model, threshold=0.095, of="channels") == 0


def test_scales_take_their_shifts_with_them():
    model = channel_model()
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    norm.gamma.assign([0.5, -0.01, 0.02])
    norm.beta.assign([1.0, 2.0, 3.0])
    kernel = np.array(conv.kernel)
    assert apply_threshold(model, threshold=0.015, of="scales") == 1
    assert np.asarray(norm.gamma).tolist() == pytest.approx([0.5, 0.0, 0.02])
    assert np.asarray(norm.beta).tolist() == [1.0, 0.0, 3.0]
    assert np.array_equal(kernel, conv.kernel)


@pytest.mark.parametrize("of", ["weights", "channels", "scales"])
def test_forbidden_emptying_changes_nothing(of):
    model = channel_model()
    before = model.get_weights()
    with pytest.raises(EmptyLayerError, match="is all zero by the threshold"):
        apply_threshold(model, threshold=100.0, empty_layers="forbid", of=of)
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_threshold_of_something_unknown():
    with pytest.raises(ValueError, match=r"`of` must be one of weights, channels.*'layers'"):
        Threshold(0.1, of="layers")
