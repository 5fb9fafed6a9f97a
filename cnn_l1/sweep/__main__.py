"""The command `cnn-l1 sweep`: train along strengths λ and choose one on validation data.

python -m cnn_l1.sweep --config configs/sweep_digits.yaml
"""

import argparse
import sys

from cnn_l1.config import loading as configs
from cnn_l1.process.failures import tell_failure
from cnn_l1.process.interrupt import stoppable
from cnn_l1.process.silence import import_tensorflow
from cnn_l1.sweep.engines import set_threads
from cnn_l1.sweep.folder import check_folder, open_folder
from cnn_l1.sweep.plan import check, describe_runs
from cnn_l1.train.flags import add_flags, read_flags


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done. 1: no choice could be made. 2: bad file, key, value or flag. 130: interrupted;
    the same command with `--resume` goes on.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.sweep",
        description="Train along strengths λ, choose one on validation data, test it once.",
    )
    add_flags(parser, "sweep", "sweep.points=12")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--overwrite", action="store_true", help="replace a sweep that is there")
    there.add_argument("--resume", action="store_true", help="go on with a sweep that was cut off")
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="Ray cluster, for sweep.engine ray; 'auto' finds it"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and the runs, and stop"
    )
    flags = parser.parse_args(arguments)
    try:
        config, output = read_flags(flags)
        check(config, flags.address)
        if flags.dry_run:
            print(configs.dump(config))
            print(describe_runs(config))
            return 0
        check_folder(output, config, flags.overwrite, flags.resume)
        with stoppable():
            # What this process trains, the end of the path and the choice, repeats too.
            set_threads(config.sweep.threads)
            import_tensorflow()
            # Only here: a bad setting is answered, and threads are set, before TensorFlow.
            from cnn_l1.sweep.search import check_network, sweep

            check_network(config)
            open_folder(output, config, flags.overwrite, flags.resume)
            sweep(config, output.absolute(), flags.address)
    except KeyboardInterrupt:
        print("\ninterrupted; --resume goes on from the runs that are done", file=sys.stderr)
        return 130
    except Exception as error:
        return tell_failure(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
