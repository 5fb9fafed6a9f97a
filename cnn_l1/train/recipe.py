"""The default recipe: from a sparsity alone to the settings that reach it.

`python -m cnn_l1.train --config FILE --sparsity 0.9` is FILE with these settings:

- `target`: the sparsity, met after three quarters of `training.epochs`; the last quarter,
  and fine-tuning where the file has some, train without penalty.
- `penalty`: reweighted L1 with scale 0.3 in place of plain L1. Other concave shapes, and
  an elastic net with an L2 part, stay.
- `thresholding` and `training.ramp_epochs`: none, for the target takes their place.
- `optimizer.learning_rate`: 5e-3 for Adam, unless one is given.

What `--set` names comes before all of these. Under `penalty.name: group_l1` whole channels
go, and the sparsity is the fraction of multiply-adds that go with them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.config.training_settings import PenaltyConfig, TrainingConfig
from cnn_l1.errors import CnnL1Error

LEARNING_RATE = 5e-3
SCALE = 0.3
PENALISED_PART = 0.75
STEERABLE = ("l1", "l1l2", "group_l1")
TARGETS = ("sparsity", "layers", "macs", "bytes", "ram_bytes", "board")


class RecipeError(CnnL1Error, ValueError):
    """A sparsity, or settings, for which there is no recipe."""


def load(path: Any, overrides: Sequence[str], sparsity: float | None) -> Config:
    """Read a config file, changed by the recipe where a sparsity is given.

    Args:
        path: A YAML file, or the name of a shipped config.
        overrides: Texts such as `"seed=1"`.
        sparsity: Float between 0 and 1, or `None`: the config as it is.

    Returns:
        A validated `Config`.

    Raises:
        ConfigError: If config, overrides and sparsity do not go together.
    """
    if sparsity is None:
        return configs.load(path, overrides)
    data, named, source = configs.read(path, overrides)
    try:
        check_sparsity(sparsity)
        apply_recipe(data, named, sparsity)
        data["expected_result"] = ""  # which the file says of its own settings
    except RecipeError as error:
        raise ConfigError(f"--sparsity: {error}") from None
    return configs.validate(data, f"{source} with --sparsity {sparsity:g}")


def check_sparsity(value: Any) -> None:
    """Raise `RecipeError` unless a sparsity is a number between 0 and 1."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < 1.0:
        raise RecipeError(
            "expected a number above 0 and below 1, the fraction of kernel weights to become "
            f"zero. Received: {value!r}"
        )


def apply_recipe(data: dict, named: Mapping, sparsity: float) -> None:
    """Change a config's plain mapping to reach a sparsity.

    Values of a wrong type are left for the config's validation to name.

    Args:
        data: The mapping, with overrides applied; it is changed.
        named: The overrides alone, as a mapping of the same form. They stay.
        sparsity: Between 0 and 1.

    Raises:
        RecipeError: If the settings leave nothing to steer, or an override says otherwise.
    """
    _check_settings(data, named)
    penalty = _section(data, "penalty")
    target: dict[str, Any] = {"by_epochs": _by_epochs(data), **_section(named, "target")}
    changes: dict[str, Any] = {"training.ramp_epochs": 0}
    if penalty.get("name") == "group_l1":
        # Without the last digits of binary fractions: 1 - 0.9 is 0.09999999999999998.
        target["macs"] = round(1.0 - sparsity, 12)
    else:
        target["sparsity"] = sparsity
        changes |= _penalty_changes(penalty, _section(named, "penalty"))
    if penalty.get("l1_strength") == 0:
        changes["penalty.l1_strength"] = PenaltyConfig.model_fields["l1_strength"].default
    optimizer = _section(data, "optimizer")
    if optimizer.get("learning_rate") is None and optimizer.get("name", "adam") == "adam":
        changes["optimizer.learning_rate"] = LEARNING_RATE
    data["thresholding"] = None
    data["target"] = target
    for key, value in changes.items():
        section, setting = key.split(".")
        if setting in _section(named, section):
            continue
        if data.get(section) is None:
            data[section] = {}
        if isinstance(data[section], dict):
            data[section][setting] = value


def _check_settings(data: Mapping, named: Mapping) -> None:
    method = _section(data, "training").get("method", "proximal")
    if method == "subgradient":
        raise RecipeError(
            "expected training.method proximal, for a subgradient makes no exact zeros. "
            "Received: training.method 'subgradient'"
        )
    name = _section(data, "penalty").get("name", "l1")
    if name in ("none", "slimming"):
        raise RecipeError(
            f"expected a penalty that can be steered, penalty.name {', '.join(STEERABLE)}. "
            f"Received: penalty.name {name!r}"
        )
    others = [f"target.{key}" for key in TARGETS if key in _section(named, "target")]
    if "target" in named and not isinstance(named["target"], Mapping):
        others.append("target")
    if named.get("thresholding") is not None:
        others.append("thresholding")
    if _section(named, "training").get("ramp_epochs"):
        others.append("training.ramp_epochs")
    if others:
        raise RecipeError(
            "expected no --set of what it sets itself: target, thresholding and "
            f"training.ramp_epochs. Received: --set {', '.join(others)}"
        )


def _penalty_changes(penalty: Mapping, named: Mapping) -> dict[str, Any]:
    """Settings that turn plain L1 into reweighted L1; none where the penalty is another."""
    chosen = "shape" in named or named.get("name") == "l1l2"
    if chosen or penalty.get("l2_strength") or penalty.get("shape", "l1") != "l1":
        return {}
    return {"penalty.name": "l1", "penalty.shape": "reweighted", "penalty.scale": SCALE}


def _by_epochs(data: Mapping) -> Any:
    """The target's deadline: the config's own where it has one that fits."""
    epochs = _section(data, "training").get("epochs", TrainingConfig.model_fields["epochs"].default)
    given = _section(data, "target").get("by_epochs")
    if not isinstance(epochs, int) or epochs < 1:
        return 1
    if isinstance(given, int) and given <= epochs:
        return given
    return max(1, round(PENALISED_PART * epochs))


def _section(data: Mapping, name: str) -> Mapping:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}
