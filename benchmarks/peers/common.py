"""What every peer has in common, whatever it trains with: NumPy alone."""

import argparse
import json
import os
import pathlib
import platform
from importlib import metadata

import numpy as np

LAYERS = ("conv_1", "conv_2", "dense_1", "dense_2")


def read_arguments():
    """A peer's command line: `(settings, arrays, output folder)`."""
    parser = argparse.ArgumentParser(description="Train one peer, once.")
    parser.add_argument("--data", required=True, help="an .npz with the split")
    parser.add_argument("--settings", required=True, help="a JSON file")
    parser.add_argument("--output", required=True, help="a folder that is there")
    flags = parser.parse_args()
    settings = json.loads(pathlib.Path(flags.settings).read_text(encoding="utf-8"))
    with np.load(flags.data) as arrays:
        return settings, dict(arrays), pathlib.Path(flags.output)


def write_training(folder, packages, **facts):
    """Write `training.json`: facts of the run, and the versions it was made with."""
    versions = {"python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in packages}
    facts |= {"cpu_cores": len(os.sched_getaffinity(0)), "versions": versions}
    text = json.dumps(facts, indent=2) + "\n"
    (folder / "training.json").write_text(text, encoding="utf-8")
