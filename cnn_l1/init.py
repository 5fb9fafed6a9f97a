"""The command `cnn-l1 init`: a commented config to start from, for your data and model.

    cnn-l1 init --data photos/ --model mine.keras --board arduino_nano_33_ble

The data and the model are looked at; the settings that fit them are filled in.
"""

import argparse
import pathlib
import sys

from cnn_l1.config.boards import board_of
from cnn_l1.config.loading import ConfigError
from cnn_l1.process.failures import tell_failure
from cnn_l1.process.interrupt import stoppable
from cnn_l1.process.silence import import_tensorflow


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 where data or model cannot be used."""
    parser = argparse.ArgumentParser(
        prog="cnn-l1 init",
        description="Write a commented config to start from, for your data and model.",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="PATH",
        help="a folder of images, an .npz, .csv or .parquet file, or a TFDS name",
    )
    parser.add_argument("--target", metavar="COLUMN", help="for a table: the column to predict")
    parser.add_argument("--model", metavar="FILE", help="a .keras or .h5 file (default: a new CNN)")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--board", metavar="NAME", help="make it fit a board's flash and RAM")
    goal.add_argument("--bytes", type=int, metavar="N", help="make the int8 file fit N bytes")
    goal.add_argument(
        "--macs", type=float, metavar="PART", help="part of the multiply-adds left (default 0.5)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="the config's file (default: the data's name and .yaml)"
    )
    flags = parser.parse_args(arguments)
    try:
        if flags.board is not None:
            try:
                board_of(flags.board)
            except ValueError as error:
                raise ConfigError(f"--board: {error}. Received: {flags.board!r}") from None
        data = pathlib.Path(flags.data)
        output = pathlib.Path(flags.output or f"{data.resolve().stem or 'mine'}.yaml")
        if output.exists():
            raise ConfigError(f"--output: expected a file that is not there. Received: {output}")
        with stoppable():
            import_tensorflow()
            # Only here: a bad flag is answered before TensorFlow is imported.
            from cnn_l1.train import starting_config

            goals = {"board": flags.board, "bytes": flags.bytes, "macs": flags.macs}
            text = starting_config.starting_config(
                data, flags.model, goals, output.parent, flags.target
            )
        output.write_text(text, encoding="utf-8")
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    except Exception as error:
        return tell_failure(error)
    print(f"Wrote {output}. Look through it, then: cnn-l1 train --config {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
