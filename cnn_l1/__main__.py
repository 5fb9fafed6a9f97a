"""The command `cnn-l1`: its first word chooses a program of this package.

    cnn-l1 train --config digits

Each is also `python -m cnn_l1.train` and so on, with the same flags.
"""

import argparse
import importlib
import sys
from collections.abc import Callable

import cnn_l1

# Packages hold their command in `__main__`.
PACKAGES = ("train", "sweep", "shrink")

COMMANDS = {
    "init": "write a commented config to start from, for your data and model",
    "train": "train a config's network, export it and measure the files",
    "sweep": "train along strengths λ and choose one on validation data",
    "shrink": "take channels that can go out of a saved Keras model",
    "show": "print a finished run's tables and result again",
    "verify": "check a run's folder against its report and its data",
    "encode": "store the zeros of an int8 file in a bit each, for TFLite Micro",
    "benchmark": "time TFLite files side by side on this machine",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 2 where there is no such command."""
    parser = argparse.ArgumentParser(
        prog="cnn-l1",
        description="Train Keras CNNs under L1 to exact zeros, shrink, export and measure them.",
        epilog="\n".join(
            ["commands:"] + [f"  {name:10} {does}" for name, does in COMMANDS.items()]
            + ["", "cnn-l1 COMMAND --help tells a command's flags."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"cnn_l1 {cnn_l1.__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="see below")
    given = sys.argv[1:] if arguments is None else arguments
    # Of the flags, only those before the command are for here.
    command = parser.parse_args(given[:1]).command
    return main_of(command)(given[1:]) or 0


def main_of(command: str) -> Callable[[list[str]], int | None]:
    """The function that runs a command."""
    module = f"cnn_l1.{command}.__main__" if command in PACKAGES else f"cnn_l1.{command}"
    return importlib.import_module(module).main


if __name__ == "__main__":
    sys.exit(main())
