"""A saved training goes on as if it had not been interrupted, bit by bit."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import cnn_l1

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(64, 8, 8, 2)).astype("float32")
Y = GENERATOR.normal(size=(64, 3)).astype("float32")
EPOCHS, CUT = 6, 3


def network(**first):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv", **first),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(6, 3, activation="relu", name="conv_2"),
            layers.Flatten(),
            layers.Dense(3, name="dense"),
        ]
    )


def compiled(model, rate=1e-2, **settings):
    model.compile(cnn_l1.Proximal(keras.optimizers.Adam(rate), **settings), "mse")
    return model


def plain():
    model = network()
    cnn_l1.attach(model, cnn_l1.L1(3e-2))
    return compiled(model)


def accumulated():
    model = network()
    cnn_l1.attach(model, cnn_l1.L1L2(3e-2, 1e-3))
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 30)
    inner = keras.optimizers.SGD(schedule, momentum=0.9, gradient_accumulation_steps=2)
    model.compile(cnn_l1.Proximal(inner), "mse")
    return model


def in_the_layers():
    return compiled(network(kernel_regularizer=cnn_l1.L1(3e-2)))


def off_in_the_layers():
    """A penalty of a layer's config that was taken off stays off."""
    model = network(kernel_regularizer=cnn_l1.L1(3e-2))
    cnn_l1.attach(model, None)
    cnn_l1.attach(model, lambda v: cnn_l1.L1(3e-2) if "dense" in v.path else None)
    return compiled(model)


def grouped(**settings):
    model = network()
    cnn_l1.attach_groups(model, 5e-2, l1_ratio=0.2, shape="log", scale=0.3)
    return compiled(model, include="all", **settings)


def reweighted():
    model = network()
    cnn_l1.attach(model, cnn_l1.ReweightedL1(5e-2, 0.05))
    return compiled(model)


def scaled_by_layer():
    model = network()
    cnn_l1.attach(model, cnn_l1.L1(1e-2))
    return compiled(model, variable_scales=True)


def slimmed():
    model = network()
    cnn_l1.attach_slimming(model, 2e-2)
    return compiled(model, include="all")


def fine_tuned():
    model = network(kernel_regularizer=cnn_l1.L1(3e-2))
    cnn_l1.apply_threshold(model, 0.05)
    cnn_l1.attach(model, None)
    model.compile(cnn_l1.HoldZeros(keras.optimizers.Adam(1e-2)), "mse")
    return model


def target(**settings):
    return cnn_l1.TargetSparsity(by_epochs=5, checks_per_epoch=4, **settings)


CASES = {
    "L1": (plain, lambda: [cnn_l1.StrengthRamp(2)]),
    "accumulated, scheduled": (accumulated, list),
    "in the layers": (in_the_layers, list),
    "off in the layers": (off_in_the_layers, list),
    "groups": (grouped, lambda: [cnn_l1.Threshold(0.05, start_epochs=1, of="channels")]),
    "reweighted": (reweighted, lambda: [cnn_l1.Reweight(), cnn_l1.Threshold(0.02, start_epochs=2)]),
    "threshold, once": (plain, lambda: [cnn_l1.Threshold(0.05, start_epochs=1)]),
    "threshold, every 2": (
        plain, lambda: [cnn_l1.Threshold(0.05, start_epochs=1, every_epochs=3)],
    ),
    "slimming": (slimmed, list),
    "fine-tuning": (fine_tuned, list),
    "target": (plain, lambda: [target(sparsity=0.6)]),
    "target, met before the cut": (
        plain,
        lambda: [cnn_l1.TargetSparsity(sparsity=0.6, by_epochs=2, checks_per_epoch=4)],
    ),
    "target by layer": (scaled_by_layer, lambda: [target(layers={"conv*": 0.5, "dense": 0.7})]),
    "target in multiply-adds": (grouped, lambda: [target(macs=6000)]),
}  # fmt: skip


def fit(model, callbacks, first, last):
    with warnings.catch_warnings():
        warnings.simplefilter("error", cnn_l1.MisuseWarning)
        warnings.filterwarnings("ignore", message="TargetSparsity expected to train")
        return model.fit(
            X, Y, batch_size=16, shuffle=False, verbose=0,
            initial_epoch=first, epochs=last, callbacks=callbacks,
        ).history  # fmt: skip


def assert_equal(model, other):
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pairs = zip(model.optimizer.variables, other.optimizer.variables, strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


IN_THE_FAST_SUITE = ("L1", "off in the layers", "groups", "reweighted", "target")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in IN_THE_FAST_SUITE else pytest.mark.slow)
        for name in CASES
    ],
)
def test_a_loaded_model_goes_on_as_one_that_was_not_saved(name, tmp_path):
    build, callbacks = CASES[name]
    whole = build()
    logs = fit(whole, callbacks(), 0, EPOCHS)
    before = build()
    fit(before, callbacks(), 0, CUT)
    before.save(tmp_path / "model.keras")
    del before
    after = keras.models.load_model(tmp_path / "model.keras")
    more = fit(after, callbacks(), CUT, EPOCHS)
    assert more["loss"] == logs["loss"][CUT:]
    assert_equal(whole, after)
    assert cnn_l1.count(after).zeros == cnn_l1.count(whole).zeros


@pytest.mark.slow
def test_the_cases_make_zeros(tmp_path):
    """Or nothing would be shown: continued without its penalty a model loses them."""
    for name in ("L1", "groups", "reweighted", "target"):
        build, callbacks = CASES[name]
        model = build()
        fit(model, callbacks(), 0, EPOCHS)
        assert cnn_l1.count(model).sparsity > 0.1, name


@pytest.mark.parametrize(
    "name",
    [
        "reweighted",
        pytest.param("groups", marks=pytest.mark.slow),
        pytest.param("target", marks=pytest.mark.slow),
        pytest.param("target in multiply-adds", marks=pytest.mark.slow),
    ],
)
def test_weights_loaded_into_a_model_attached_anew_go_on(name, tmp_path):
    build, callbacks = CASES[name]
    whole = build()
    fit(whole, callbacks(), 0, EPOCHS)
    before = build()
    fit(before, callbacks(), 0, CUT)
    before.save_weights(tmp_path / "w.weights.h5")
    after = build()
    after.optimizer.build(after.trainable_variables)
    after.load_weights(tmp_path / "w.weights.h5")
    fit(after, callbacks(), CUT, EPOCHS)
    assert_equal(whole, after)


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == CUT:
            raise KilledError


@pytest.mark.parametrize(
    "name",
    [
        "threshold, once",
        pytest.param("L1", marks=pytest.mark.slow),
        pytest.param("groups", marks=pytest.mark.slow),
        pytest.param("target", marks=pytest.mark.slow),
    ],
)
def test_backup_and_restore_goes_on(name, tmp_path):
    build, callbacks = CASES[name]
    whole = build()
    fit(whole, callbacks(), 0, EPOCHS)

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    killed = build()
    with pytest.raises(KilledError):
        fit(killed, [*callbacks(), backup(), Kill()], 0, EPOCHS)
    after = build()
    fit(after, [*callbacks(), backup()], 0, EPOCHS)
    assert_equal(whole, after)


@pytest.mark.slow
def test_model_checkpoint_goes_on(tmp_path):
    whole = grouped()
    fit(whole, [], 0, EPOCHS)
    saved = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    fit(grouped(), [saved], 0, CUT)
    after = keras.models.load_model(tmp_path / f"{CUT}.keras")
    fit(after, [], CUT, EPOCHS)
    assert_equal(whole, after)


@pytest.mark.slow
def test_a_nested_model_keeps_its_penalties(tmp_path):
    def build():
        inner = network()
        inputs = keras.Input((8, 8, 2))
        model = keras.Model(inputs, layers.Dense(3, name="head")(inner(inputs)))
        cnn_l1.attach(model, cnn_l1.L1(3e-2))
        return compiled(model)

    whole = build()
    fit(whole, [], 0, EPOCHS)
    before = build()
    fit(before, [], 0, CUT)
    before.save(tmp_path / "model.keras")
    after = keras.models.load_model(tmp_path / "model.keras")
    fit(after, [], CUT, EPOCHS)
    assert_equal(whole, after)


def test_a_file_of_before_penalties_were_saved_still_loads():
    config = cnn_l1.Proximal(keras.optimizers.Adam(1e-3)).get_config()
    assert "penalties" not in config
    optimizer = cnn_l1.Proximal.from_config(config)
    model = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.build(model.trainable_variables)
    assert cnn_l1.count(model).weights  # and the model's own penalties are as they were
    assert isinstance(model.get_layer("conv").kernel.regularizer, cnn_l1.L1)


def test_penalties_of_another_model_are_not_restored_but_announced():
    config = plain_config()
    optimizer = cnn_l1.Proximal.from_config(config)
    other = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.warns(cnn_l1.MisuseWarning, match="not restored"):
        optimizer.build(other.trainable_variables)


def plain_config():
    model = plain()
    model.optimizer.build(model.trainable_variables)
    return model.optimizer.get_config()


@pytest.mark.slow
def test_a_compiled_model_needs_cnn_l1_only_to_load_compiled(tmp_path):
    model = plain()
    fit(model, [], 0, 1)
    model.save(tmp_path / "model.keras")
    code = (
        "import sys; sys.modules['cnn_l1'] = None; import keras\n"
        "model = keras.models.load_model(sys.argv[1], compile=False)\n"
        "print(model.count_params())\n"
        "try: keras.models.load_model(sys.argv[1])\n"
        "except Exception as error: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.keras")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(model.count_params()), "refused"]


def around_a_loss_scale():
    model = network()
    cnn_l1.attach(model, cnn_l1.L1(3e-2))
    inner = cnn_l1.Proximal(keras.optimizers.Adam(1e-2))
    model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0), "mse")
    return model


def shared_layer():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    shared = layers.Conv2D(2, 3, padding="same", name="shared")
    x = layers.Flatten()(shared(shared(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    cnn_l1.attach(model, cnn_l1.ReweightedL1(5e-2, 0.05))
    return compiled(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "suffix"),
    [
        (around_a_loss_scale, ".keras"),
        (shared_layer, ".keras"),
        (shared_layer, ".h5"),
        (reweighted, ".h5"),
        (grouped, ".h5"),
    ],
)
def test_wrapped_and_shared_and_in_h5(build, suffix, tmp_path):
    # Keras does not read the text "mse" back from an .h5 file.
    def begin():
        model = build()
        model.compile(model.optimizer, keras.losses.MeanSquaredError())
        return model

    whole, before = begin(), begin()
    fit(whole, [], 0, EPOCHS)
    fit(before, [], 0, CUT)
    before.save(tmp_path / f"model{suffix}")
    after = keras.models.load_model(tmp_path / f"model{suffix}")
    fit(after, [], CUT, EPOCHS)
    assert_equal(whole, after)
