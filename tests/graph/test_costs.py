"""What channels cost, against networks that are built without them."""

import keras
import pytest
from keras import layers

from cnn_l1.graph import coupling
from cnn_l1.graph.costs import ChannelCosts
from cnn_l1.graph.macs import count_macs


def residual(stem=6, inner=4, hidden=5):
    """Two 3x3 convolutions with an addition around them, and a dense layer behind."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(stem, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(inner, 3, padding="same", name="inner")(x)
    y = layers.Conv2D(stem, 1, name="back")(y)
    x = layers.Flatten()(layers.MaxPooling2D(2)(layers.Add()([x, y])))
    x = layers.Dense(hidden, name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def macs_of(**sizes):
    return sum(count_macs(residual(**sizes)).values())


def costs_of(model):
    analysis = coupling.analyse(model, with_constants=False)
    spaces = {space.members[0].layer: space for space in coupling.spaces_of(analysis)}
    return ChannelCosts(analysis), spaces


@pytest.mark.parametrize("space", ["stem", "inner", "hidden"])
def test_a_channel_saves_what_a_narrower_network_does_without(space):
    costs, spaces = costs_of(residual())
    assert set(spaces) == {"stem", "inner", "hidden"}
    size = spaces[space].size
    saved = (macs_of() - macs_of(**{space: 1})) / (size - 1)
    assert costs.saved_macs(spaces[space]) == saved


def test_macs_without_channels_of_two_spaces():
    costs, spaces = costs_of(residual())
    chosen = [spaces["stem"], spaces["inner"]]
    gone = [[True, False, True, False, False, False], [False, True, False, False]]
    assert costs.macs(chosen, gone) == macs_of(stem=4, inner=3)
