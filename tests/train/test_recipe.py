"""The default recipe: from `--sparsity` alone to settings, or to one refusal."""

import json
import pathlib

import pytest
import yaml

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.training_settings import PenaltyConfig
from cnn_l1.sweep.__main__ import main as sweep_main
from cnn_l1.train import recipe
from cnn_l1.train.__main__ import main as train_main
from cnn_l1.train.recipe import LEARNING_RATE, SCALE

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {
        "blocks": [
            {"type": "conv", "filters": 4, "strides": 2},
            {"type": "flatten"},
            {"type": "dense", "units": 16},
            {"type": "dense", "units": "classes", "activation": "linear"},
        ]
    },
    "training": {"epochs": 4, "ramp_epochs": 1},
    "thresholding": {"threshold": 1e-3},
    "fine_tuning": {"epochs": 0},
    "baseline": False,
    "tensorboard": False,
    "export": {"formats": []},
    "measure": {"split": "validation"},
}
# Of the shipped configs, those without a penalty to steer.
UNPENALISED = ("fashion_6kib.yaml", "fashion_16kib.yaml")


@pytest.fixture
def write(tmp_path):
    def write_file(**changes):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
        return path

    return write_file


def refusal(path, overrides=(), sparsity=0.9):
    with pytest.raises(ConfigError) as caught:
        recipe.load(path, overrides, sparsity)
    (line,) = str(caught.value).splitlines()
    return line


def test_all_that_it_sets(write):
    config = recipe.load(write(), (), 0.8)
    assert config.target is not None
    assert config.target.model_dump(exclude_none=True) == {"sparsity": 0.8, "by_epochs": 3}
    assert (config.training.ramp_epochs, config.thresholding) == (0, None)
    assert (config.penalty.name, config.penalty.shape) == ("l1", "reweighted")
    assert (config.penalty.scale, config.optimizer.learning_rate) == (SCALE, LEARNING_RATE)


def test_all_else_stays_as_the_file_has_it(write):
    path = write()
    plain, steered = configs.load(path).model_dump(), recipe.load(path, (), 0.8).model_dump()
    plain["training"]["ramp_epochs"] = 0
    for section in ("target", "thresholding", "penalty", "optimizer"):
        plain.pop(section), steered.pop(section)
    assert plain == steered


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"optimizer": {"learning_rate": 1e-2}}, "optimizer.learning_rate", 1e-2),
        ({"optimizer": {"name": "sgd"}}, "optimizer.learning_rate", 0.1),
        ({"optimizer": None}, "optimizer.learning_rate", LEARNING_RATE),
        ({"penalty": {"shape": "log", "scale": 0.2}}, "penalty.scale", 0.2),
        ({"penalty": {"shape": "log"}}, "penalty.shape", "log"),
        ({"penalty": {"shape": "l1"}}, "penalty.shape", "reweighted"),
        ({"penalty": {"name": "l1l2"}}, "penalty.shape", "reweighted"),
        ({"penalty": {"name": "l1l2", "l2_strength": 1e-4}}, "penalty.name", "l1l2"),
        ({"penalty": {"name": "l1l2", "l2_strength": 1e-4}}, "penalty.shape", "l1"),
        ({"penalty": {"l1_strength": 0}}, "penalty.l1_strength", PenaltyConfig().l1_strength),
        ({"penalty": {"l1_strength": 0.5}}, "penalty.l1_strength", 0.5),
        ({"target": {"sparsity": 0.5, "by_epochs": 2}}, "target.by_epochs", 2),
        ({"target": {"sparsity": 0.5, "by_epochs": 9}}, "target.by_epochs", 3),
        ({"target": {"layers": {"conv_1": 0.5}, "by_epochs": 2}}, "target.sparsity", 0.9),
        ({"training": {"epochs": 1}}, "target.by_epochs", 1),
        ({"training": None}, "target.by_epochs", 22),
    ],
)
def test_what_a_file_gives_and_what_it_lacks(write, changes, key, value):
    if "target" in changes:
        changes |= {"thresholding": None, "training": {"epochs": 4}}
    assert read(recipe.load(write(**changes), (), 0.9), key) == value


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("penalty.shape=l1", "penalty.scale", None),
        ("penalty.shape=l1", "penalty.shape", "l1"),
        ("penalty.scale=0.1", "penalty.scale", 0.1),
        ("penalty.name=l1l2", "penalty.name", "l1l2"),
        ("penalty={l1_strength: 0.5}", "penalty.shape", "reweighted"),
        ("optimizer.learning_rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("target.by_epochs=2", "target.by_epochs", 2),
        ("training.epochs=8", "target.by_epochs", 6),
        ("training.ramp_epochs=0", "training.ramp_epochs", 0),
        ("thresholding=null", "thresholding", None),
    ],
)
def test_overrides_come_before_it(write, override, key, value):
    assert read(recipe.load(write(), [override], 0.9), key) == value


@pytest.mark.parametrize("sparsity", [0, 1, 1.5, -0.1, float("nan"), float("inf"), "half", True])
def test_a_sparsity_out_of_range_names_the_flag(write, sparsity):
    line = refusal(write(), sparsity=sparsity)
    assert line.startswith("--sparsity: expected a number above 0 and below 1")
    assert f"Received: {sparsity!r}" in line


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("training={epochs: 4, method: subgradient}", "training.method 'subgradient'"),
        ("penalty.name=none", "penalty.name 'none'"),
        ("penalty.name=slimming", "penalty.name 'slimming'"),
        ("target.macs=400", "--set target.macs"),
        ("target.bytes=4000", "--set target.bytes"),
        ("target={sparsity: 0.5, by_epochs: 2}", "--set target.sparsity"),
        ("target=null", "--set target"),
        ("target.by_epochs=5", "target.by_epochs must be at most training.epochs (4), not 5"),
        ("thresholding.threshold=0.1", "--set thresholding"),
        ("training.ramp_epochs=1", "--set training.ramp_epochs"),
        ("penalty.l1_strength=0", "penalty.l1_strength above 0"),
        ("training.epochs=x", "training.epochs: expected a valid integer"),
        ("training.epochs=true", "training.epochs: expected a valid integer"),
        ("penalty=3", "penalty: expected"),
        ("optimizer=3", "optimizer: expected"),
        ("penalty.shap=l1", "penalty.shap: unknown key"),
    ],
)
def test_what_leaves_nothing_to_steer_is_one_message(write, override, text):
    line = refusal(write(), [override])
    assert text in line
    assert "--sparsity" in line


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_takes_it_or_says_why_not(path):
    plain = configs.load(path)
    if path.name in UNPENALISED:
        assert "penalty.name 'none'" in refusal(path)
        return
    config = recipe.load(path, (), 0.9)
    assert config.target is not None
    part = config.target.macs if plain.penalty.name == "group_l1" else config.target.sparsity
    assert part == (0.1 if plain.penalty.name == "group_l1" else 0.9)
    given = plain.optimizer.learning_rate
    assert config.optimizer.learning_rate in (given, LEARNING_RATE)


def test_groups_lose_a_fraction_of_the_multiply_adds(write):
    path = write(penalty={"name": "group_l1"})
    config = recipe.load(path, (), 0.75)
    assert config.target is not None
    assert (config.target.sparsity, config.target.macs) == (None, 0.25)
    assert (config.penalty.name, config.penalty.shape) == ("group_l1", "l1")


def test_a_run_ends_at_the_sparsity(write, tmp_path):
    flags = ["--config", str(write()), "--output", str(tmp_path / "run"), "--sparsity", "0.75"]
    assert train_main(flags) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    counts = report["counts"]
    assert counts["zeros"] == round(0.75 * counts["weights"])
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["target"]["by_epochs"] == 3
    )


def test_a_dry_run_prints_what_it_sets(write, tmp_path, capsys):
    flags = ["--config", str(write()), "--sparsity", "0.75", "--dry-run"]
    assert train_main(flags) == 0
    printed = capsys.readouterr().out
    assert "shape: reweighted" in printed
    assert "sparsity: 0.75" in printed


@pytest.mark.parametrize(
    ("changes", "sparsity", "texts"),
    [
        ({}, "1.5", ("--sparsity", "1.5")),
        ({}, "90%", ("--sparsity", "'90%'")),
        ({"penalty": {"layers": {"dense*": 0}}}, "0.9", ("target: ", "conv_1", "0.9")),
        ({"penalty": {"name": "group_l1"}}, "0.999", ("error: target.macs: ", "at least 100,")),
    ],
    ids=["range", "percent", "unpenalised layers", "a channel always stays"],
)
def test_what_cannot_be_reached_is_one_message(write, tmp_path, capsys, changes, sparsity, texts):
    path = write(**changes)
    flags = ["--config", str(path), "--output", str(tmp_path / "run"), "--sparsity", sparsity]
    assert train_main(flags) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    for text in texts:
        assert text in error
    assert not (tmp_path / "run").exists()


def test_a_sweep_refuses_it(write, capsys):
    assert sweep_main(["--config", str(write()), "--sparsity", "0.9", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "--sparsity: expected one run" in error
    assert "cnn_l1.train" in error


def read(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config
