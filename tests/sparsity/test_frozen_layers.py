"""Frozen layers: no penalty, no threshold, and their channels stay."""

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.config import loading as configs
from cnn_l1.graph.coupling import beside_frozen, channel_spaces
from cnn_l1.sparsity.configured import attach_configured
from cnn_l1.sparsity.groups import attach_groups, attach_slimming
from cnn_l1.sparsity.optimizers import Proximal
from cnn_l1.sparsity.penalty import Penalty
from cnn_l1.sparsity.targets import TargetSparsity
from cnn_l1.sparsity.thresholding import apply_threshold


def model_with(*frozen, scale=1.0):
    """Two convolutions with batch-norm that add up, one more, and a dense layer."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(name="a_norm")(layers.Conv2D(4, 3, name="a")(inputs))
    y = layers.BatchNormalization(name="b_norm")(layers.Conv2D(4, 3, name="b")(inputs))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.BatchNormalization(name="c_norm")(layers.Conv2D(5, 3, name="c")(x))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3, name="d")(x))
    for name in frozen:
        model.get_layer(name).trainable = False
    model.set_weights([scale * w for w in model.get_weights()])
    return model


def carry(model):
    return [v.path for v in model.weights if isinstance(v.regularizer, Penalty)]


def penalty(name, **settings):
    return configs.validate({"name": "a", "penalty": {"name": name, **settings}}).penalty


@pytest.mark.parametrize(
    ("frozen", "spaces"),
    [
        ((), ["a+a_norm+b+b_norm", "c+c_norm"]),
        (("a",), ["c+c_norm"]),  # one of those that add up is enough
        (("b_norm",), ["c+c_norm"]),
        (("c",), ["a+a_norm+b+b_norm"]),
        (("d",), ["a+a_norm+b+b_norm", "c+c_norm"]),  # it reads them, and makes none
    ],
)
def test_groups_with_a_frozen_member_are_none(frozen, spaces):
    model = model_with(*frozen)
    found = ["+".join(sorted(space.name.split("+"))) for space in channel_spaces(model)]
    assert found == spaces
    attach_groups(model, 1e-3)
    assert {path for path in carry(model) if path.endswith("kernel")} == {
        f"{name}/kernel" for name in ("a", "b", "c") if any(name in s.split("+") for s in spaces)
    }


@pytest.mark.parametrize("name", ["l1", "l1l2", "group_l1", "slimming"])
def test_no_frozen_weight_carries_a_penalty(name):
    settings = {"l1_ratio": 0.5} if name == "group_l1" else {}
    model = model_with("a", "a_norm", "d")
    attach_configured(model, penalty(name, l1_strength=1e-3, **settings))
    assert carry(model)
    assert not {"a/kernel", "a_norm/gamma", "d/kernel"} & set(carry(model))
    trainable = {v.path for v in model.trainable_variables}
    assert set(carry(model)) <= trainable


def test_nothing_left_to_remove_says_why():
    with pytest.raises(ValueError, match=r"keep all of theirs; those of frozen layers stay$"):
        attach_groups(model_with("a", "c"), 1e-3)


def test_slimming_leaves_scales_of_frozen_channels():
    assert attach_slimming(model_with("a"), 1e-3) == ["c_norm/gamma"]
    assert attach_slimming(model_with("d"), 1e-3) == [
        "a_norm/gamma",
        "b_norm/gamma",
        "c_norm/gamma",
    ]
    model = model_with("a")
    beside = beside_frozen(model)
    names = {v.path for v in model.weights if id(v) in beside}
    assert names == {f"{x}/{y}" for x in ("a_norm", "b_norm") for y in ("gamma", "beta")} | {
        "b/kernel", "b/bias",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::cnn_l1.sparsity.empty_layers.EmptyLayerWarning")
@pytest.mark.parametrize("of", ["weights", "channels", "scales"])
def test_thresholds_leave_frozen_layers(of):
    model = model_with("a", "a_norm")
    before = {v.path: v.numpy() for v in model.weights}
    apply_threshold(model, 1e6, of=of)
    zero = {v.path for v in model.weights if not v.numpy().any() and before[v.path].any()}
    expected = {
        "weights": {"b/kernel", "c/kernel", "d/kernel"},
        "channels": {"c/kernel", "c_norm/gamma"},
        "scales": {"c_norm/gamma"},
    }
    assert zero == expected[of]
    for path in ("a/kernel", "a_norm/gamma", "a_norm/beta"):
        np.testing.assert_array_equal(
            next(v for v in model.weights if v.path == path), before[path]
        )


def test_shifts_of_frozen_norms_stay():
    model = model_with("a_norm")
    norm = model.get_layer("a_norm")
    norm.set_weights([np.zeros(4), np.ones(4), np.zeros(4), np.ones(4)])
    apply_threshold(model, 1e-3, of="scales")
    np.testing.assert_array_equal(norm.beta, np.ones(4))


def test_a_target_in_multiply_adds_leaves_frozen_channels():
    model = model_with("a")
    attach_groups(model, 1e-3)
    # a and b: 2 · 36·18·4; c: 16·36·5; d: 15. Two of the five channels of c are to go.
    assert 2 * 36 * 18 * 4 + 16 * 36 * 5 + 15 == 8_079
    model.compile(Proximal(keras.optimizers.SGD(0.01)), "mse")
    target = TargetSparsity(macs=8_079 - 2 * (16 * 36 + 3), by_epochs=1, tolerance=0.01)
    before = model.get_layer("a").kernel.numpy()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16, 8, 8, 2)), rng.normal(size=(16, 3))
    model.fit(*data, 4, verbose=0, callbacks=[target])
    np.testing.assert_array_equal(model.get_layer("a").kernel, before)
    kernels = {name: model.get_layer(name).kernel.numpy() for name in ("a", "b", "c")}
    dead = {n: int((~k.any(axis=(0, 1, 2))).sum()) for n, k in kernels.items()}
    assert dead == {"a": 0, "b": 0, "c": 2}
