"""Channel removal in graphs drawn at random, and in whole networks."""

import itertools

import keras
import numpy as np
import pytest
import random_models
from hypothesis import HealthCheck, Phase, event, given, settings
from keras import layers
from random_models import leaf_layers, random_inputs, zero_outputs
from shrink_models import channels, shrink

from cnn_l1.config import loading as config
from cnn_l1.models import builders
from cnn_l1.shrink.removal import plan_shrink

_drawn = itertools.count()


def check_random_model(recipe):
    """Same outputs, true figures, reasons for what stays, and nothing more to remove."""
    if next(_drawn) % 50 == 49:
        keras.backend.clear_session()  # names and graphs of models that are gone
    built = random_models.build(recipe)
    seed = recipe[-2]
    options = {"round_to": (1, 1, 2, 3)[seed % 4], "allow_empty": seed % 5 == 0}
    # Building takes longest: the same graph serves for two sets of weights.
    for variant in range(2):
        if variant:
            built.plant(variant)
        # Up to twenty layers; their rounding adds up, and sums may cancel.
        plan, small = shrink(built.model, rounding=1e-4, alive=False, **options)
        event(f"removed: {plan.removes_anything}")
        leaves = {layer.name: layer for layer in leaf_layers(built.model)}
        for layer in plan.layers:
            if layer.kind not in ("Conv2D", "Dense") or not layer.channels_after:
                continue
            kernel = np.array(leaves[layer.name].kernel)
            carrying = np.count_nonzero(kernel.reshape(-1, kernel.shape[-1]).any(axis=0))
            if layer.channels_after > carrying:
                assert layer.held_back, layer.name
        again = channels(plan_shrink(small, **options))
        # A branch whose live channels are all zero is left out once the others are gone;
        # the last of several groups is no longer bound to go whole.
        grouped = any(getattr(layer, "groups", 1) > 1 for layer in leaves.values())
        if all(again.values()) and not grouped:
            assert again == {k: v for k, v in channels(plan).items() if v}


def check_and_reduce(recipe):
    """Fail with the smallest recipe that fails: each step left out that may be."""

    def fails(other):
        try:
            check_random_model(other)
        except Exception:  # building the smaller model may fail too, and is as wrong
            return True
        return False

    try:
        check_random_model(recipe)
    except Exception as error:
        smaller = random_models.smaller_recipe(recipe, fails)
        raise AssertionError(f"wrong for random_models.build({smaller!r})") from error


DRAWING = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.generate],  # a seed is no simpler for being smaller
    "suppress_health_check": [HealthCheck.too_slow],
}


@settings(max_examples=12, **DRAWING)
@given(random_models.recipes())
def test_random_models(recipe):
    check_and_reduce(recipe)


@pytest.mark.slow
@settings(max_examples=500, **DRAWING)
@given(random_models.recipes())
def test_many_random_models(recipe):
    check_and_reduce(recipe)


def pointwise(input_shape, classes, **_):
    """The builder of our own that has depthwise convolutions, and zero padding between."""
    section = {"name": "pointwise", "pointwise": {"width": 32}}
    resolved = config.validate({"name": "a", "model": section})
    return builders.build(resolved, input_shape, classes)


NETWORKS = {
    "pointwise": pointwise,
    "MobileNetV2": keras.applications.MobileNetV2,
    "MobileNet": keras.applications.MobileNet,
    "ResNet50": keras.applications.ResNet50,
    "DenseNet121": keras.applications.DenseNet121,
    "EfficientNetB0": keras.applications.EfficientNetB0,
}


def dead_channels(count):
    """A quarter of them, always the same for one width: sums bind equal widths."""
    return np.sort(np.random.default_rng(count).permutation(count)[: count // 4])


def sparse_network(name):
    """A network with random weights, of which a quarter of the channels are zero.

    Batch-norms get about the statistics of what enters them, for signals to stay
    near 1 through fifty layers.
    """
    keras.utils.set_random_seed(1)
    model = NETWORKS[name](weights=None, input_shape=(64, 64, 3), classes=10)
    random = np.random.default_rng(1)
    norms = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    for layer in norms:
        size = layer.gamma.shape
        layer.gamma.assign(random.uniform(0.5, 1.5, size))
        layer.beta.assign(random.normal(0.0, 0.3, size))
        zero_outputs(layer, dead_channels(size[0]))
        layer.momentum = 0.0
    for layer in model.layers[:-1]:
        if isinstance(layer, layers.Conv2D) and type(layer) is layers.Conv2D:
            if layer.use_bias:
                layer.bias.assign(random.normal(0.0, 0.3, layer.bias.shape))
            # The layers of SE gates and of dense blocks, which no batch-norm follows.
            zero_outputs(layer, dead_channels(layer.filters))
    if name == "DenseNet121":  # its batch-norms read what was joined, each alone
        for layer in norms:
            layer.beta.assign(random.normal(0.0, 0.3, layer.beta.shape))
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
    images = random_inputs(model, count=16, seed=2)
    if name in ("EfficientNetB0", "pointwise"):
        images = 64.0 * images + 128.0  # they rescale by themselves
    model(images, training=True)  # sets the moving statistics
    for layer in norms:
        variance = np.array(layer.moving_variance)
        variance[variance < 1e-6] = 1.0  # of channels that are constant
        layer.moving_variance.assign(variance * random.uniform(0.5, 2.0, variance.shape))
        shift = random.normal(0.0, 0.1, variance.shape)
        layer.moving_mean.assign_add(shift * variance**0.5)
        layer.momentum = 0.99
    last = model.layers[-1]
    if hasattr(last, "kernel"):
        last.bias.assign(random.normal(0.0, 0.3, last.bias.shape))
    return model, images[:4]


@pytest.mark.parametrize(
    "name",
    [
        "pointwise",
        "MobileNetV2",
        *(pytest.param(x, marks=pytest.mark.slow) for x in list(NETWORKS)[2:]),
    ],
)
def test_networks_of_keras(name):
    model, images = sparse_network(name)
    # Fifty layers and more, each rounding at 1e-7 of its largest term.
    plan, small = shrink(model, images, rounding=1e-4)
    assert plan.unsupported == ()
    assert plan.parameters_after < 0.8 * plan.parameters_before
    assert plan.macs_after < 0.8 * plan.macs_before
    if name == "MobileNetV2":
        for layer in plan.layers:
            dead = len(dead_channels(layer.channels_before))
            left = layer.channels_before - (0 if layer.kind == "Dense" else dead)
            assert layer.channels_after == left, layer.name
    assert not plan_shrink(small).removes_anything
