"""What version 0.1.0 wrote still loads, goes on and verifies: the files in tests/saved.

Each model was trained for three epochs of four steps and saved compiled, with its penalty.
"""

import pathlib
import shutil

import keras
import numpy as np
import pytest

import cnn_l1
from cnn_l1 import show
from cnn_l1.sparsity import groups
from cnn_l1.verify import main as verify_main

SAVED = pathlib.Path(__file__).parent / "saved"
# Zeros as they were counted when the file was written, and the penalty of the first layer.
MODELS = {
    "l1": (97, cnn_l1.L1),
    "groups": (13, groups.ChannelShare),
    "reweighted": (201, cnn_l1.ReweightedL1),
    "target": (550, cnn_l1.L1),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_goes_on(name):
    zeros, penalty = MODELS[name]
    model = keras.models.load_model(SAVED / f"{name}.keras")
    assert cnn_l1.count(model).zeros == zeros
    assert int(model.optimizer.iterations) == 12
    assert isinstance(model.get_layer("conv").kernel.regularizer, penalty)
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 8, 8, 2)).astype("float32")
    model.fit(x, random.normal(size=(32, 3)), batch_size=16, verbose=0)
    assert int(model.optimizer.iterations) == 14
    assert cnn_l1.count(model).zeros > 0.5 * zeros  # without its penalty, none


def test_a_run_of_before_verifies_and_is_shown(tmp_path, capsys):
    folder = tmp_path / "xor_run"
    shutil.copytree(SAVED / "xor_run", folder)
    assert verify_main([str(folder)]) == 0
    assert show.main([str(folder)]) == 0
    assert "60.0% of the kernel weights are zero. Accuracy 100.0%." in capsys.readouterr().out
