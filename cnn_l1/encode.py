"""The command `cnn-l1 encode`: store the zeros of an int8 file in a bit each, for TFLite Micro.

python -m cnn_l1.encode model_int8.tflite --output small.tflite
"""

import argparse
import pathlib
import sys

import cnn_l1
from cnn_l1.config.loading import ConfigError
from cnn_l1.errors import CnnL1Error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 bad flag or file."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.encode",
        description="Store the zeros of a .tflite file in a bit each, for TFLite Micro.",
    )
    parser.add_argument("model", metavar="MODEL.tflite", help="a .tflite file with zeros")
    parser.add_argument("--output", required=True, metavar="SMALL.tflite", help="where to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--decoded-limit", type=int, metavar="BYTES", help="encode no tensor larger than this"
    )
    parser.add_argument("--no-run", action="store_true", help="do not run it in TFLite Micro")
    parser.add_argument("--decode", action="store_true", help="the other way: write a plain file")
    flags = parser.parse_args(arguments)
    try:
        source, target = _check_flags(flags)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        content = source.read_bytes()
        if flags.decode:
            result = cnn_l1.decode_zeros(content)
        else:
            result, report = cnn_l1.encode_zeros(content, flags.decoded_limit, not flags.no_run)
            print(report)
        target.write_bytes(result)
        print(f"Wrote {target}")
    except CnnL1Error as error:
        print(f"error: {source}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: expected files to read and write. Received: {error}", file=sys.stderr)
        return 1
    return 0


def _check_flags(flags: argparse.Namespace) -> tuple[pathlib.Path, pathlib.Path]:
    source, target = pathlib.Path(flags.model), pathlib.Path(flags.output)
    if not source.is_file():
        raise ConfigError(
            f"MODEL.tflite: expected a file. Received: {source}, and there is no such file"
        )
    if flags.decoded_limit is not None and flags.decoded_limit < 1:
        raise ConfigError(f"--decoded-limit: expected 1 or more. Received: {flags.decoded_limit}")
    if not target.parent.is_dir():
        raise ConfigError(f"--output: expected a folder that is there. Received: {target.parent}")
    if target.exists() and not flags.overwrite:
        raise ConfigError(
            f"--output: expected a new file. Received: {target}, which is there; "
            "--overwrite replaces it."
        )
    return source, target


if __name__ == "__main__":
    sys.exit(main())
