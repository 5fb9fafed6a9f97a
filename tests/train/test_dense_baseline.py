"""The config of the dense baseline."""

import pathlib

import pytest

from cnn_l1.config import loading as configs
from cnn_l1.train.dense_baseline import dense_baseline

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    "penalty",
    [
        {"name": "l1", "layers": {"conv*": 1e-3}, "biases": True},
        {"name": "l1l2", "l2_strength": 0.1},
        {"name": "l1", "shape": "log", "scale": 0.2},
        {"name": "group_l1", "l1_ratio": 0.5},
        {"name": "slimming"},
    ],
)
def test_it_has_no_penalty_and_the_same_epochs(penalty):
    settings = {"training": {"ramp_epochs": 3}, "thresholding": {"threshold": 0.1}, "seed": 2}
    settings["shrink"] = {"fine_tuning_epochs": 7}
    config = configs.validate({"name": "t", "penalty": penalty, **settings})
    dense = dense_baseline(config)
    assert dense.penalty.name == "none"
    assert dense.thresholding is None
    assert dense.seed == 2
    assert stages(dense) == stages(config)


def stages(config):
    return config.training.epochs, config.fine_tuning, config.shrink.fine_tuning_epochs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_has_one(path):
    config = configs.load(path)
    dense = dense_baseline(config)
    assert stages(dense) == stages(config)
    assert configs.validate(dense.model_dump(mode="json")) == dense
    for setting in ("data", "model", "optimizer", "export", "seed"):
        assert getattr(dense, setting) == getattr(config, setting)
