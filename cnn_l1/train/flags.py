"""Flags that every command takes which starts from a config."""

import argparse
import pathlib
from typing import Any

from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.train import recipe


def add_flags(parser: argparse.ArgumentParser, what: str, example: str) -> None:
    """Add `--config`, `--set`, `--sparsity` and `--output` to a parser.

    Args:
        parser: An `argparse.ArgumentParser`.
        what: What the command makes, e.g. `"run"`.
        example: A setting for the help, `KEY=VALUE`.
    """
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML config")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help=f"override a setting, e.g. {example}; repeatable",
    )
    parser.add_argument(
        "--sparsity",
        metavar="FRACTION",
        help="fraction of kernel weights to become zero, e.g. 0.9 (of multiply-adds, where the "
        "penalty is group_l1); sets the target, a reweighted penalty, and all else it needs",
    )
    parser.set_defaults(what=what)
    parser.add_argument(
        "--output", metavar="DIR", help=f"folder of the {what} (default: saved_models/<name>)"
    )


def read_flags(flags: argparse.Namespace) -> tuple[Config, pathlib.Path]:
    """The `Config` that parsed flags name, and the folder for what it makes.

    Raises:
        ConfigError: If the config, or an override, cannot be used.
    """
    config = recipe.load(flags.config, flags.overrides, _read_sparsity(flags))
    return config, pathlib.Path(flags.output or pathlib.Path("saved_models") / config.name)


def _read_sparsity(flags: argparse.Namespace) -> Any:
    text = flags.sparsity
    if text is None:
        return None
    if flags.what == "sweep":
        raise ConfigError(
            "--sparsity: expected one run, python -m cnn_l1.train, for a sweep moves the strength "
            f"itself. Received: --sparsity {text}"
        )
    try:
        return float(text)
    except ValueError:
        return text  # for `load` to refuse, with all else that is no sparsity
