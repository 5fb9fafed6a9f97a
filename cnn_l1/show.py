"""Print a finished run again: its layers, its files and what it came to.

cnn-l1 show saved_models/digits
"""

import argparse
import json
import pathlib
import sys
import types
from typing import Any

from cnn_l1.config.loading import ConfigError
from cnn_l1.process import tables
from cnn_l1.process.failures import tell_failure
from cnn_l1.runs.conclusion import conclusion


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 where there is no such run."""
    parser = argparse.ArgumentParser(
        prog="cnn-l1 show", description="Print what a finished run printed at its end."
    )
    parser.add_argument("run", metavar="RUN", type=pathlib.Path, help="the folder of a run")
    folder = parser.parse_args(arguments).run
    try:
        show(folder)
    except ConfigError as error:
        return tell_failure(error)
    return 0


def show(folder: pathlib.Path) -> None:
    """Print a run's tables and conclusion from its report.

    Args:
        folder: The run's folder.

    Raises:
        ConfigError: If there is no report that can be read.
    """
    path = folder / "report.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        counts = _counts(summary["counts"])
        files = {name: _figures(one) for name, one in summary["files"].items()}
        lines = conclusion(summary, folder)
        split = summary["data"]["measured_split"]
    except OSError as error:
        raise ConfigError(
            f"RUN: expected the folder of a run, with a report.json. Received: {folder} "
            f"({error.strerror})"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: expected a run's report. Received: another file "
            f"({type(error).__name__}: {error})"
        ) from None
    tables.print_layers(counts)
    if files:
        tables.print_files(files, split=split)
    for line in lines:
        print(line)


def _counts(counts: dict[str, Any]) -> Any:
    layers = [types.SimpleNamespace(**({"frozen": False} | one)) for one in counts["layers"]]
    return types.SimpleNamespace(**(counts | {"layers": layers, "unknown": ()}))


def _figures(file: dict[str, Any]) -> Any:
    return types.SimpleNamespace(**({"ram_bytes": None, "macs": None} | file))


if __name__ == "__main__":
    sys.exit(main())
