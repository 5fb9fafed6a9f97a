"""The command `cnn-l1 verify`: check a run from its files alone.

    python -m cnn_l1.verify saved_models/digits

Exit code 0 if every file is as `report.json` says; 1, with a line for each mismatch; 2 if
the folder is no run.
"""

import argparse
import pathlib
import sys

from cnn_l1.process.silence import import_tensorflow
from cnn_l1.runs import manifest


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.verify", description="Check a run from its files alone."
    )
    parser.add_argument("folder", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument(
        "--no-data",
        action="store_true",
        help="where the data set is not at hand: leave accuracy and parity unchecked",
    )
    flags = parser.parse_args(arguments)
    folder = pathlib.Path(flags.folder)
    if not (folder / manifest.NAME).is_file():
        print(
            f"error: RUN_DIR: expected the folder of a run, with a {manifest.NAME}. "
            f"Received: {folder}",
            file=sys.stderr,
        )
        return 2
    import_tensorflow()
    # Only here: a wrong folder is answered before TensorFlow is imported.
    from cnn_l1.runs import verification

    mismatches = verification.verify(folder, with_data=not flags.no_data)
    for line in mismatches:
        print(line)
    if mismatches:
        print(f"{folder}: {len(mismatches)} mismatches")
        return 1
    print(f"{folder}: every file is as reported" + (" (scores unchecked)" * flags.no_data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
