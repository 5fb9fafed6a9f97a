"""The command that judges sparse TFLite files: what keeps one off XNNPACK's sparse path.

    python -m cnn_l1.export.sparse_tflite MODEL.tflite

Prints each reason and exits with 1 if there is any, with 2 if the file cannot be read. It
imports no TensorFlow. `sparse_file` writes such files, `sparse_rules` has the rules.
"""

import argparse
import pathlib
import sys

from cnn_l1.export.sparse_rules import count_zeros, find


def main(arguments: list[str] | None = None) -> int:
    """Print the findings of a file; exit status 1 if there are any, 2 if it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.export.sparse_tflite",
        description="Print what keeps a TFLite file off XNNPACK's sparse path.",
    )
    parser.add_argument("file", type=pathlib.Path, metavar="MODEL.tflite")
    path = parser.parse_args(arguments).file
    try:
        findings = find(path.read_bytes())
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    if not findings:
        zeros, weights = count_zeros(path.read_bytes())
        print(f"{path}: nothing in the way; {zeros / weights:.1%} zeros in the 1x1 kernels")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
