"""The command `cnn-l1 verify`: check a run from its files alone.

    python -m cnn_l1.verify saved_models/digits

Exit code 0 if every file is as `report.json` says; 1, with a line for each mismatch; 2 if
the folder is no run. In Python, `cnn_l1.verify(folder)` is `cnn_l1.train.api.verify`.
"""

import argparse
import pathlib
import sys
import types
from typing import Any

from cnn_l1.process.failures import tell_failure
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
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="where your own data are now, if not where the run's config says",
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

    try:
        found = verification.verification(folder, not flags.no_data, data_path=flags.data)
    except Exception as error:
        return tell_failure(error)
    for line in found.mismatches:
        print(line)
    if found.mismatches:
        print(f"{folder}: {len(found.mismatches)} mismatches")
        return 1
    unchecked = f" ({found.unchecked})" if found.unchecked else ""
    print(f"{folder}: every file is as reported{unchecked}")
    return 0


class _Callable(types.ModuleType):
    """This module, which is called as the function of its name."""

    def __call__(self, *arguments: Any, **keywords: Any) -> list[str]:
        from cnn_l1.train import api  # imports TensorFlow, which the command does later

        return api.verify(*arguments, **keywords)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())
