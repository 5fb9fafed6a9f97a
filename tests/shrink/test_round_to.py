"""Counts of channels as multiples, and models of which nothing is left."""

import pytest
from keras import layers
from random_models import leaf_layers, output_channels, zero_outputs
from shrink_models import (
    add,
    channels,
    concatenate,
    depthwise_of_zeros,
    entry,
    flatten,
    groups_go_whole,
    line,
    multiply,
    nested,
    residual_chain,
    sandwich,
    several_inputs_and_outputs,
    shared_in_a_row,
    shared_on_two_tensors,
    shrink,
    squeeze_and_excite,
)

from cnn_l1.shrink.removal import plan_shrink


def all_zero(model):
    for layer in leaf_layers(model):
        count = output_channels(layer)
        if count is not None:
            zero_outputs(layer, range(count))
    return model


@pytest.mark.parametrize(
    "make",
    [
        residual_chain,
        concatenate,
        groups_go_whole,
        squeeze_and_excite,
        shared_in_a_row,
        depthwise_of_zeros,
        nested,
        several_inputs_and_outputs,
        flatten,
        multiply,
    ],
    ids=lambda make: make.__name__,
)
def test_a_model_of_zeros(make):
    """Nothing is left but what makes a model of it."""
    model = all_zero(make()[0])
    for allow_empty in (False, True):
        plan, _ = shrink(model, alive=False, allow_empty=allow_empty)
        assert plan.parameters_after < plan.parameters_before


@pytest.mark.parametrize(
    ("round_to", "dead", "left"),
    [(1, 3, 5), (2, 3, 6), (4, 3, 8), (4, 5, 4), (4, 8, 4), (3, 5, 3), (3, 1, 8), (16, 5, 8)],
)
def test_round_to(round_to, dead, left):
    """Of eight channels: counts are multiples of `round_to`, or as they were."""
    a = layers.Conv2D(8, 3, activation="relu", name="a")
    model = line((8, 8, 3), a, layers.BatchNormalization(name="bn"), layers.Conv2D(3, 3, name="b"))
    zero_outputs(a, range(dead))
    plan, _ = shrink(model, round_to=round_to, alive=dead < 8)
    assert channels(plan) == {"a": left, "bn": left, "b": 3}
    expected = left > 8 - dead
    assert bool(entry(plan, "a").held_back) == expected


@pytest.mark.parametrize(
    "make",
    [
        residual_chain,
        concatenate,
        add,
        multiply,
        groups_go_whole,
        depthwise_of_zeros,
        shared_in_a_row,
        shared_on_two_tensors,
        flatten,
        squeeze_and_excite,
    ],
    ids=lambda make: make.__name__,
)
def test_round_to_in_any_graph(make):
    model, _ = make()
    for round_to in (2, 3, 4):
        plan, _ = shrink(model, round_to=round_to)
        for layer in plan.layers:
            if layer.kind in ("Conv2D", "Dense"):
                after = layer.channels_after
                assert after % round_to == 0 or after == layer.channels_before, round_to


@pytest.mark.parametrize("round_to", [0, -1, 1.5, True, "4"])
def test_round_to_is_a_whole_number(round_to):
    with pytest.raises(ValueError, match="round_to"):
        plan_shrink(sandwich(), round_to=round_to)
