"""The penalties of a config: which weights of a network get which."""

import numpy as np
import pytest

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.models import builders
from cnn_l1.models.untrained import new_network
from cnn_l1.sparsity import penalties

FLATTEN = {"type": "flatten"}
LOGITS = {"type": "dense", "units": "classes", "activation": "linear"}
CONV = {"type": "conv", "filters": 3}
NORMED = [CONV, {"type": "batch_norm"}, {"type": "depthwise"}, FLATTEN, LOGITS]


def build(input_shape=(8, 8, 1), **sections):
    return new_network(configs.validate({"name": "a", **sections}), input_shape, 10)


def refusal(**sections):
    with pytest.raises(ConfigError) as caught:
        build(**sections)
    message = str(caught.value)
    assert "\n" not in message
    return message


def l1_strengths(model):
    """The L1 strength of each variable that has a penalty."""
    return {
        variable.path: variable.regularizer.l1_strength
        for variable in model.trainable_variables
        if variable.regularizer is not None
    }


def test_the_builder_puts_no_penalty_on():
    config = configs.validate({"name": "a", "penalty": {"biases": True, "batch_norm": True}})
    model = builders.build(config, (8, 8, 1), 10)
    assert l1_strengths(model) == {}
    assert model.losses == []


@pytest.mark.parametrize(
    "model_section",
    [
        {"name": "lenet5"},
        {"name": "lenet_300_100"},
        {"name": "resnet8"},
        {"name": "cnn"},
        {"name": "pointwise"},
        {"blocks": NORMED},
    ],
    ids=["lenet5", "lenet_300_100", "resnet8", "cnn", "pointwise", "depthwise"],
)
def test_every_kernel_has_a_penalty_and_nothing_else(model_section):
    model = build((32, 32, 3), model=model_section, penalty={"l1_strength": 0.25})
    for variable in model.trainable_variables:
        if variable.name in ("kernel", "depthwise_kernel"):
            assert type(variable.regularizer) is penalties.L1, variable.path
            assert variable.regularizer.l1_strength == 0.25
        else:
            assert variable.regularizer is None, variable.path
    assert len(model.losses) == len(l1_strengths(model)) > 0


def test_penalty_counts_once_in_the_loss():
    model = build(model={"blocks": NORMED}, penalty={"l1_strength": 0.5, "biases": True})
    absolute = 0.0
    for variable in model.trainable_variables:
        if variable.name not in ("gamma", "beta"):
            absolute += np.abs(variable.numpy()).sum(dtype="float64")
    # float32 sums of a few thousand values, against float64.
    np.testing.assert_allclose(float(sum(model.losses)), 0.5 * absolute, rtol=1e-5)


def test_l1l2():
    model = build(penalty={"name": "l1l2", "l1_strength": 0.25, "l2_strength": 0.5})
    found = [v.regularizer for v in model.trainable_variables if v.name == "kernel"]
    assert {type(penalty) for penalty in found} == {penalties.L1L2}
    assert {(p.l1_strength, p.l2_strength) for p in found} == {(0.25, 0.5)}


def test_concave_shapes():
    model = build(
        penalty={"shape": "mcp", "scale": 0.25, "layers": {"dense_1": 0.5}, "biases": True}
    )
    found = {v.path: v.regularizer for v in model.trainable_variables}
    assert {type(penalty) for penalty in found.values()} == {penalties.Concave}
    assert {(p.shape, p.scale) for p in found.values()} == {("mcp", 0.25)}
    assert found["dense_1/kernel"].l1_strength == 0.5
    assert found["dense_2/kernel"].l1_strength == 1e-3


def test_reweighted():
    model = build(penalty={"shape": "reweighted", "scale": 0.25})
    found = [v.regularizer for v in model.trainable_variables if v.name == "kernel"]
    assert {type(penalty) for penalty in found} == {penalties.ReweightedL1}
    assert {(p.l1_strength, p.epsilon) for p in found} == {(1e-3, 0.25)}
    assert len({id(penalty) for penalty in found}) == len(found)


def test_channels_of_a_concave_shape():
    model = build(penalty={"name": "group_l1", "shape": "mcp", "scale": 0.25, "l1_ratio": 0.5})
    found = {v.path: v.regularizer for v in model.trainable_variables if v.regularizer}
    (group,) = found["dense_1/kernel"].groups
    assert (group.shape, group.scale) == ("mcp", 0.25)
    assert type(found["dense_2/kernel"]) is penalties.L1


def test_no_penalty():
    model = build(
        model={"blocks": NORMED}, penalty={"name": "none", "biases": True, "batch_norm": True}
    )
    assert l1_strengths(model) == {}
    assert model.losses == []


@pytest.mark.parametrize(
    ("option", "paths"),
    [
        ("biases", {"conv_1/bias", "depthwise_1/bias", "dense_1/bias"}),
        ("batch_norm", {"batch_norm_1/gamma", "batch_norm_1/beta"}),
    ],
)
def test_options_add_their_variables(option, paths):
    kernels = {"conv_1/kernel", "depthwise_1/kernel", "dense_1/kernel"}
    model = build(model={"blocks": NORMED}, penalty={"l1_strength": 0.25, option: True})
    found = {path.replace("depthwise_kernel", "kernel") for path in l1_strengths(model)}
    assert found == kernels | paths
    assert set(l1_strengths(model).values()) == {0.25}


def test_first_pattern_wins():
    model = build(
        model={"blocks": [CONV, CONV, CONV, FLATTEN, LOGITS]},
        penalty={"l1_strength": 0.5, "layers": {"conv_2": 0.125, "conv*": 0.25}, "biases": True},
    )
    expected = {"conv_1": 0.25, "conv_2": 0.125, "conv_3": 0.25, "dense_1": 0.5}
    assert l1_strengths(model) == {
        f"{layer}/{name}": strength
        for layer, strength in expected.items()
        for name in ("kernel", "bias")
    }


def test_pattern_of_strength_zero():
    model = build(penalty={"l1_strength": 0.5, "layers": {"dense_2": 0}})
    assert l1_strengths(model)["dense_2/kernel"] == 0.0


@pytest.mark.parametrize("name", ["l1", "l1l2", "none"])
def test_pattern_that_matches_no_layer(name):
    message = refusal(penalty={"name": name, "layers": {"conv*": 0.25, "Dense*": 0.5, "x": 1}})
    assert message == (
        "penalty.layers: expected patterns that match one of conv_1, dense_1, dense_2. "
        "Received: Dense*, x"
    )


def test_pattern_for_batch_norm_needs_its_option():
    layers = {"batch_norm*": 0.25}
    assert refusal(model={"blocks": NORMED}, penalty={"layers": layers}).endswith("batch_norm*")
    model = build(model={"blocks": NORMED}, penalty={"layers": layers, "batch_norm": True})
    assert l1_strengths(model)["batch_norm_1/gamma"] == 0.25
