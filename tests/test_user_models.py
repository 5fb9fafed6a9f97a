"""Each model of `user_models` through each step: equal to Keras, or the refusal listed here."""

import keras
import numpy as np
import pytest
import user_models

import cnn_l1
from benchmarks import steps
from benchmarks.third_party import planted
from cnn_l1.graph import macs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Keras itself does not know the sizes behind an einsum.
WITHOUT_SIZES = ("open_size", "attention_by_einsum")
# No channel of these can go: they are inputs, outputs, split, or read at every place.
WITHOUT_GROUPS = (
    "lstm_stack",
    "shared_convolution",
    "channel_shuffle",
    "frames",
    "slices",
    "attention_by_einsum",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", user_models.MODELS)
def test_each_step_is_right(name):
    model, inputs = user_models.build(name)
    assert cnn_l1.count(model).weights > 0
    if name in WITHOUT_SIZES:
        with pytest.raises(macs.MacsError, match="expected fixed sizes"):
            cnn_l1.count_macs(model)
    else:
        assert sum(cnn_l1.count_macs(model).values()) > 0
    assert steps.fold_cell(model, inputs) == steps.YES
    assert steps.copy_cell(model, inputs) == steps.YES
    assert steps.file_cell(model, inputs, "float32") == steps.YES
    assert steps.file_cell(model, inputs, "int8") == steps.YES
    assert steps.shrink_cell(planted(model), inputs) == steps.YES


@pytest.mark.slow
@pytest.mark.parametrize("name", user_models.MODELS)
def test_training_makes_zeros_that_stay_in_the_shrunk_model(name):
    model, inputs = user_models.build(name)
    targets = keras.tree.map_structure(np.asarray, model(inputs, training=False))
    if name in WITHOUT_GROUPS:
        with pytest.raises(ValueError, match="expects a model with channels that can be removed"):
            cnn_l1.attach_groups(model, 1e-2)
        cnn_l1.attach(model, cnn_l1.L1(0.1))
        include = "kernels"
    else:
        cnn_l1.attach_groups(model, 1.0)
        include = "all"
    model.compile(cnn_l1.Proximal(keras.optimizers.Adam(3e-2), include=include), "mse")
    model.fit(inputs, targets, epochs=8, batch_size=4, verbose=0)
    assert cnn_l1.count(model).zeros > 0
    assert steps.shrink_cell(model, inputs, train=False) == steps.YES
