"""The same small training on JAX, and on two replicas, each in a process of its own.

Run as a script, this file writes the results of `steps()`, `tuning()` and others into an
`.npz` file, on the backend that KERAS_BACKEND names; the tests below run it so.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
INPUTS = np.random.default_rng(3).normal(size=(16, 8)).astype("float32")
LABELS = (INPUTS[:, 0] - INPUTS[:, 3] > 0).astype("int32")


def make_model(optimizer, strength):
    """A model whose first weights do not hang on a backend's random numbers."""
    import keras

    from cnn_l1.sparsity.penalties import L1

    regularizer = L1(strength)
    model = keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(6, activation="tanh", kernel_regularizer=regularizer),
            keras.layers.Dense(2, kernel_regularizer=regularizer),
        ]
    )
    rng = np.random.default_rng(4)
    model.set_weights([0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss)
    return model


def steps():
    """The weights after one update, for several inner optimizers."""
    import keras

    from cnn_l1.sparsity.optimizers import Proximal

    inner = {
        "sgd": keras.optimizers.SGD(0.5, momentum=0.5),
        "adam": keras.optimizers.Adam(0.05),
        "rmsprop": keras.optimizers.RMSprop(0.01),
        "accumulated": keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
    }
    results = {}
    for name, optimizer in inner.items():
        model = make_model(Proximal(optimizer), strength=0.05)
        batch = 8 if name == "accumulated" else 16
        model.fit(INPUTS, LABELS, batch, verbose=0, shuffle=False)
        for index, weight in enumerate(model.get_weights()):
            results[f"{name}/{index}"] = weight
    return results


def make_grouped(optimizer):
    """Two kernels that an addition binds together, batch-norm behind, groups attached."""
    import keras

    from cnn_l1.sparsity.groups import attach_groups

    inputs = keras.Input((8,))
    x = keras.layers.Dense(6, activation="tanh", name="a")(inputs)
    y = keras.layers.Dense(6, use_bias=False, name="b")(x)
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Add()([x, y]))
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x))
    rng = np.random.default_rng(4)
    scale = np.linspace(0.05, 0.8, 6)  # some channels are small
    for variable in model.trainable_variables:
        if variable.path not in ("out/kernel", "out/bias"):
            variable.assign(scale * rng.normal(size=variable.shape))
        else:
            variable.assign(0.3 * rng.normal(size=variable.shape))
    attach_groups(model, 0.3, 0.25)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def groups():
    """The weights after a few updates under a penalty on channels."""
    import keras

    from cnn_l1.sparsity.optimizers import Proximal

    inner = {
        "adam": keras.optimizers.Adam(0.005),
        "accumulated": keras.optimizers.SGD(0.2, 0.5, gradient_accumulation_steps=2),
    }
    results = {}
    for name, optimizer in inner.items():
        model = make_grouped(Proximal(optimizer))
        history = model.fit(INPUTS, LABELS, 8, 2, verbose=0, shuffle=False).history
        results[f"groups/{name}/loss"] = np.array(history["loss"])
        for variable in model.trainable_variables:
            results[f"groups/{name}/{variable.path}"] = keras.ops.convert_to_numpy(variable)
    return results


def resting():
    """Weights that start at zero, under a data gradient that their penalty outweighs."""
    import keras

    from cnn_l1.sparsity.optimizers import Proximal
    from cnn_l1.sparsity.penalties import L1, L1L2, Concave, GroupL1

    results = {}
    for penalty in (L1(0.5), L1L2(0.5, 0.1), Concave(0.5, "mcp", 1.0), GroupL1(0.5, 0.5)):
        layer = keras.layers.Dense(
            1, use_bias=False, kernel_initializer="zeros", kernel_regularizer=penalty
        )
        model = keras.Sequential([keras.Input((2,)), layer])
        model.compile(Proximal(keras.optimizers.SGD(1.0)), "mse")
        model.fit(np.ones((4, 2)), np.full((4, 1), -0.2), epochs=2, verbose=0)  # gradient 0.4
        results[f"resting/{type(penalty).__name__}"] = model.get_weights()[0]
    return results


def shapes():
    """Concave penalties' proximal operators, alone and compiled into an update."""
    import keras

    from cnn_l1.sparsity.callbacks import Reweight
    from cnn_l1.sparsity.optimizers import Proximal
    from cnn_l1.sparsity.penalties import Concave, GroupL1, ReweightedL1, attach

    rng = np.random.default_rng(7)
    x = (rng.normal(size=(40, 5)) * [0.01, 0.1, 0.3, 1.0, 3.0]).astype("float32")
    steps = np.exp(rng.uniform(-4.0, 4.0, size=x.shape)).astype("float32")
    results = {}
    for shape in ("transformed", "mcp", "log"):
        single, group = Concave(0.2, shape, 0.3), GroupL1(0.2, 0.25, shape=shape, scale=0.3)
        for name, penalty in (("single", single), ("group", group)):
            for kind, step in (("array", steps), ("scalar", np.float32(0.5))):
                found = keras.ops.convert_to_numpy(penalty.prox(x, step))
                results[f"shapes/{shape}/{name}/{kind}"] = found
        model = make_model(Proximal(keras.optimizers.SGD(0.5)), strength=0.0)
        attach(model, Concave(0.2, shape, 0.3))
        model.fit(INPUTS, LABELS, 16, verbose=0, shuffle=False)
        results[f"shapes/{shape}/update"] = model.get_weights()[0]
    model = make_model(Proximal(keras.optimizers.SGD(0.5)), strength=0.0)
    attach(model, ReweightedL1(0.2, 0.3))
    model.fit(INPUTS, LABELS, 16, epochs=3, verbose=0, shuffle=False, callbacks=[Reweight()])
    results["shapes/reweighted/update"] = model.get_weights()[0]
    return results


def tuning():
    """Zeros from L1, a ramp and a threshold; then held through fine-tuning."""
    import keras

    from cnn_l1 import HoldZeros, Proximal, SparsityMonitor, StrengthRamp, Threshold, count

    model = make_model(Proximal(keras.optimizers.Adam(0.05)), strength=0.03)
    callbacks = [StrengthRamp(2), Threshold(0.1, start_epochs=4), SparsityMonitor()]
    history = model.fit(
        INPUTS, LABELS, 8, epochs=6, verbose=0, shuffle=False, callbacks=callbacks
    ).history
    results = {f"history/{key}": np.array(values) for key, values in history.items()}
    results["counted"] = np.array(count(model).zeros)
    results |= {f"before/{i}": w for i, w in enumerate(model.get_weights())}
    model.compile(HoldZeros(keras.optimizers.Adam(0.01)), loss=model.loss)
    model.fit(INPUTS, LABELS, 8, epochs=3, verbose=0, shuffle=False)
    return results | {f"after/{i}": w for i, w in enumerate(model.get_weights())}


def steering():
    """Steered to a target within the epochs, and held behind it."""
    import keras

    from cnn_l1 import Proximal, SparsityMonitor, TargetSparsity

    optimizer = Proximal(keras.optimizers.Adam(0.02), variable_scales=True)
    model = make_model(optimizer, strength=1e-5)
    callbacks = [TargetSparsity(layers={"*": 0.75}, by_epochs=8), SparsityMonitor(per_layer=False)]
    history = model.fit(
        INPUTS, LABELS, 2, epochs=9, verbose=0, shuffle=False, callbacks=callbacks
    ).history
    scales = [key for key in history if key.startswith("strength_scale/")]
    return {
        "steered/nonzero": np.array(history["nonzero"]),
        "steered/scales": np.array([history[key] for key in scales]),
    }


def replicas():
    """One update on two replicas of half the batch each, TensorFlow only."""
    import keras
    import tensorflow as tf

    from cnn_l1.sparsity.optimizers import Proximal

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]).scope():
        model = make_model(Proximal(keras.optimizers.Adam(0.05)), strength=0.05)
    model.fit(INPUTS, LABELS, 16, verbose=0, shuffle=False)
    return {f"adam/{index}": weight for index, weight in enumerate(model.get_weights())}


def run(backend, path, what):
    """Run this file as a script and read what it wrote."""
    environment = dict(os.environ, KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, str(path), *what],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as data:
        return dict(data)


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory):
    if importlib.util.find_spec("jax") is None:
        pytest.skip('jax is not installed: pip install "jax[cpu]"')
    path = tmp_path_factory.mktemp("jax") / "results.npz"
    results = run("jax", path, ["steps", "groups", "shapes", "resting", "tuning", "steering"])
    assert results.pop("backend") == "jax"
    return results


@pytest.fixture(scope="module")
def on_tensorflow():
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip(f"the tests run on TensorFlow, not {keras.backend.backend()}")
    return steps() | groups() | shapes()


@pytest.mark.slow
def test_one_step_on_jax_is_the_tensorflow_step(on_jax, on_tensorflow):
    keys = [key for key in on_tensorflow if not key.startswith(("groups/", "shapes/"))]
    for key in keys:
        # float32: sums over 16 rows in another order, and Adam's first step divides them
        # by their own size.
        expected = on_tensorflow[key]
        np.testing.assert_allclose(on_jax[key], expected, rtol=1e-4, atol=2e-6, err_msg=key)
    zeros = {key: on_jax[key] == 0.0 for key in keys if on_jax[key].ndim == 2}
    assert any(mask.any() for mask in zeros.values())
    for key, mask in zeros.items():
        np.testing.assert_array_equal(mask, on_tensorflow[key] == 0.0, err_msg=key)


@pytest.mark.slow
def test_channel_groups_on_jax_are_those_on_tensorflow(on_jax, on_tensorflow):
    keys = [key for key in on_tensorflow if key.startswith("groups/")]
    assert len(keys) == 2 * 8  # seven variables and the loss, for each optimizer
    for key in keys:
        # As above, over four updates: Adam divides noise by its own size.
        expected = on_tensorflow[key]
        np.testing.assert_allclose(on_jax[key], expected, rtol=1e-3, atol=1e-5, err_msg=key)
        np.testing.assert_array_equal(on_jax[key] == 0.0, expected == 0.0, err_msg=key)
    for name in ("adam", "accumulated"):
        of_group = [f"groups/{name}/{path}" for path in ("a/kernel", "b/kernel", "norm/gamma")]
        gone = [~on_jax[key].reshape(-1, 6).any(axis=0) for key in of_group]
        assert 0 < gone[0].sum() < 6
        assert all((gone[0] <= other).all() for other in gone)


@pytest.mark.slow
def test_concave_shapes_on_jax_are_those_on_tensorflow(on_jax, on_tensorflow):
    keys = [key for key in on_tensorflow if key.startswith("shapes/")]
    assert len(keys) == 3 * 5 + 1
    for key in keys:
        expected = on_tensorflow[key]
        # float32 roots and arc sines; the update's gradient is a sum over 16 rows.
        np.testing.assert_allclose(on_jax[key], expected, rtol=1e-4, atol=2e-6, err_msg=key)
        np.testing.assert_array_equal(on_jax[key] == 0.0, expected == 0.0, err_msg=key)
        assert 0 < (expected == 0.0).sum() < expected.size


@pytest.mark.slow
def test_zeros_rest_on_jax(on_jax):
    # JAX differentiates |x| to 1 at 0; taken out as 0, that would push zeros away.
    kernels = [on_jax[f"resting/{name}"] for name in ("L1", "L1L2", "Concave", "GroupL1")]
    assert not any(kernel.any() for kernel in kernels)


@pytest.mark.slow
def test_training_on_jax_makes_counts_and_holds_exact_zeros(on_jax):
    kernels = [i for i in range(4) if on_jax[f"before/{i}"].ndim == 2]
    zeros = [on_jax[f"before/{i}"] == 0.0 for i in kernels]
    total = sum(mask.sum() for mask in zeros)
    assert 0 < total == on_jax["counted"] < 8 * 6 + 6 * 2
    assert on_jax["history/nonzero"][-1] == 60 - total
    assert on_jax["history/sparsity"][-1] == total / 60
    np.testing.assert_array_equal(on_jax["history/strength_scale"], [1 / 3, 2 / 3, 1, 1, 1, 1])
    # Thresholded before epoch 5 and held from there on.
    sparsity = on_jax["history/sparsity"]
    assert sparsity[5] >= sparsity[4] > sparsity[3]
    for index, mask in zip(kernels, zeros, strict=True):
        after = on_jax[f"after/{index}"]
        np.testing.assert_array_equal(after == 0.0, mask)
        assert np.all(after[~mask] != on_jax[f"before/{index}"][~mask])


@pytest.mark.slow
def test_steering_on_jax_arrives(on_jax):
    # Within an epoch JAX keeps weights outside their variables.
    scales = on_jax["steered/scales"]
    assert scales.shape == (2, 9)
    assert (scales[:, 6] > 10 * scales[:, 0]).all()
    assert on_jax["steered/nonzero"][6] < 50  # 60 weights, far too weak a strength at first
    assert on_jax["steered/nonzero"][7:].tolist() == [15, 15]


@pytest.mark.slow
def test_two_replicas_make_the_step_of_one(on_tensorflow, tmp_path):
    results = run("tensorflow", tmp_path / "results.npz", ["replicas"])
    assert results.pop("backend") == "tensorflow"
    for key, weight in results.items():
        # float32 sums of two halves, divided by their own size in Adam's first step.
        np.testing.assert_allclose(weight, on_tensorflow[key], rtol=1e-4, atol=2e-6, err_msg=key)


if __name__ == "__main__":
    import keras

    found = {"backend": np.array(keras.backend.backend())}
    functions = {
        f.__name__: f for f in (steps, groups, shapes, resting, tuning, steering, replicas)
    }
    for name in sys.argv[2:]:
        found |= functions[name]()
    np.savez(sys.argv[1], **found)
