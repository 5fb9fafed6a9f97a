"""The command `cnn-l1 benchmark`: time TFLite files side by side, on this machine.

python -m cnn_l1.benchmark model_float32.tflite model_int8.tflite
"""

import argparse
import dataclasses
import pathlib
import sys

from cnn_l1.config.loading import ConfigError
from cnn_l1.process import tables
from cnn_l1.runs import report


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. 2: a flag or file that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.benchmark",
        description="Compare TFLite files side by side: latency, memory, size.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .tflite file")
    parser.add_argument("--threads", type=int, default=1, help="threads of each (default: 1)")
    parser.add_argument("--runs", type=int, default=200, help="timed runs a file (default: 200)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    flags = parser.parse_args(arguments)
    for name in ("threads", "runs"):
        if getattr(flags, name) < 1:
            given = getattr(flags, name)
            print(f"error: --{name}: expected 1 or more. Received: {given}", file=sys.stderr)
            return 2
    # Only here: a wrong flag is answered before LiteRT and TensorFlow are imported.
    from cnn_l1.measure import latency

    try:
        figures, warnings = latency.compare(flags.files, flags.threads, flags.runs)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    kind = "CPU" if flags.threads == 1 else "wall"
    tables.print_rows(
        f"One example, {flags.threads} thread{'s' * (flags.threads > 1)}, {kind} time", figures
    )
    for line in warnings:
        print(f"warning: {line}")
    if flags.json:
        rows = [dataclasses.asdict(row) for row in figures]
        report.write_json(pathlib.Path(flags.json), {"files": rows, "warnings": warnings})
    return 0


if __name__ == "__main__":
    sys.exit(main())
