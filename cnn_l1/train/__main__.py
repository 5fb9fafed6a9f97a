"""The command `cnn-l1 train`: one run, from a config to a report.

python -m cnn_l1.train --config configs/digits.yaml
"""

import argparse
import sys

from cnn_l1.config.packages import check_packages
from cnn_l1.process.failures import tell_failure
from cnn_l1.process.interrupt import stoppable
from cnn_l1.process.silence import import_tensorflow
from cnn_l1.runs.folders import check_output
from cnn_l1.train.flags import add_flags, read_flags


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done. 1: the run failed. 2: bad file, key, value or flag. 130: interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.train",
        description="Train a CNN under L1 to exact zeros, export it, measure the files.",
    )
    add_flags(parser, "run", "optimizer.learning_rate=3e-4")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and the layers, and stop"
    )
    flags = parser.parse_args(arguments)
    try:
        config, output = read_flags(flags)
        check_packages(config)
        if not flags.dry_run:
            check_output(output, flags.overwrite)
        with stoppable():
            import_tensorflow()
            # Only here: a bad flag or setting is answered before TensorFlow is imported.
            from cnn_l1.train import dry_run, pipeline

            if flags.dry_run:
                dry_run.dry_run(config)
            else:
                pipeline.run(config, output, flags.overwrite)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    except Exception as error:
        return tell_failure(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
