"""The command `cnn-l1 shrink`: take channels that can go out of a saved Keras model.

python -m cnn_l1.shrink model.keras --output small.keras
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import cnn_l1
from cnn_l1.config.loading import ConfigError
from cnn_l1.errors import CnnL1Error
from cnn_l1.process.failures import tell_failure
from cnn_l1.process.silence import import_tensorflow


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 bad flag or file."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.shrink",
        description="Remove all-zero filters and units from a saved Keras model.",
    )
    parser.add_argument("model", metavar="MODEL.keras", help="a saved Keras model with zeros")
    parser.add_argument("--output", metavar="SMALL.keras", help="where to write the smaller one")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, and stop")
    parser.add_argument(
        "--round-to", type=int, default=1, metavar="N", help="keep channel counts multiples of N"
    )
    parser.add_argument(
        "--allow-empty", action="store_true", help="let an empty branch of a concatenation go"
    )
    flags = parser.parse_args(arguments)
    try:
        source, target = _check_flags(flags)
    except ConfigError as error:
        return tell_failure(error)
    return _run(source, target, flags.round_to, flags.allow_empty)


def _run(source: pathlib.Path, target: pathlib.Path | None, round_to: int, empty: bool) -> int:
    import_tensorflow()
    try:
        model = cnn_l1.load_model(source)
        plan = cnn_l1.plan_shrink(model, round_to, empty)
        print(plan)
        if target is not None:
            write_atomically(cnn_l1.apply_shrink(model, plan), target)
            print(f"Wrote {target}")
    except CnnL1Error as error:
        return tell_failure(error)
    return 0


class WriteError(CnnL1Error, ValueError):
    """A smaller model that cannot be written."""


def _check_flags(flags: argparse.Namespace) -> tuple[pathlib.Path, pathlib.Path | None]:
    source = pathlib.Path(flags.model)
    if not source.is_file():
        raise ConfigError(
            f"MODEL.keras: expected a file. Received: {source}, and there is no such file"
        )
    if flags.round_to < 1:
        raise ConfigError(f"--round-to: expected 1 or more. Received: {flags.round_to}")
    if flags.dry_run:
        return source, None
    if flags.output is None:
        raise ConfigError("--output: expected where to write, or --dry-run. Received: neither")
    target = pathlib.Path(flags.output)
    if target.suffix != ".keras":
        raise ConfigError(f"--output: expected a name that ends in .keras. Received: {target}")
    if not target.parent.is_dir():
        raise ConfigError(f"--output: expected a folder that is there. Received: {target.parent}")
    if target.exists() and not flags.overwrite:
        raise ConfigError(
            f"--output: expected a new file. Received: {target}, which is there; "
            "--overwrite replaces it."
        )
    return source, target


def write_atomically(model: Any, path: pathlib.Path) -> None:
    """Save a model so that a file is there only when it is whole."""
    partial = path.with_name(f".{path.stem}.partial.keras")
    try:
        model.save(partial)
        partial.replace(path)
    except OSError as error:
        raise WriteError(f"--output: expected room to write {path}. Received: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
