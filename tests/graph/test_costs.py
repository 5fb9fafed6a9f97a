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


def file_costs_of(memory=True, **sizes):
    costs, spaces = costs_of(residual(**sizes))
    return costs.file_costs(list(spaces.values()), nothing_of(spaces), memory)


def nothing_of(spaces):
    return [[False] * space.size for space in spaces.values()]


def test_what_decides_a_files_size_in_closed_form():
    found = file_costs_of()
    assert found.weights == 9 * 2 * 6 + 9 * 6 * 4 + 4 * 6 + 16 * 6 * 5 + 5 * 3
    assert found.channels == (6, 4, 6, 5, 3)
    # The addition: what it adds, which the stem and `back` made, and its sum.
    assert found.alive == 3 * 64 * 6
    # `back` has 1,024 alive: it counts a little.
    assert found.alive < found.nearly_most < 1.02 * found.alive
    assert file_costs_of(memory=False)[2:] == (0, 0.0)


def test_file_costs_without_channels_are_those_of_a_narrower_network():
    costs, spaces = costs_of(residual())
    gone = nothing_of(spaces)
    for name, channels in (("stem", (0, 2)), ("inner", (1,)), ("hidden", (4,))):
        for channel in channels:
            gone[list(spaces).index(name)][channel] = True
    found = costs.file_costs(list(spaces.values()), gone, memory=True)
    assert found == file_costs_of(stem=4, inner=3, hidden=4)


def test_a_layer_that_is_called_twice_is_in_the_file_once():
    images = keras.Input((8, 8, 4))
    shared = layers.Conv2D(4, 1, use_bias=False)
    model = keras.Model(images, layers.Conv2D(3, 1)(shared(shared(images))))
    costs, spaces = costs_of(model)
    found = costs.file_costs(list(spaces.values()), nothing_of(spaces))
    assert (found.weights, found.channels) == (16 + 12, (4, 3))
