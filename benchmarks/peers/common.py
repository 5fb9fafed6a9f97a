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


def uniform(kernels, sparsity):
    """The same sparsity for every layer."""
    return dict.fromkeys(kernels, sparsity)


def lamp(kernels, sparsity):
    """What one global threshold on each weight's share of the not smaller ones leaves."""
    scores = []
    for kernel in kernels.values():
        squares = np.sort(np.square(kernel.astype("float64")).ravel())
        scores.append(squares / np.cumsum(squares[::-1])[::-1])
    every = np.concatenate(scores)
    kept = round((1.0 - sparsity) * every.size)
    threshold = np.partition(every, every.size - kept)[every.size - kept]
    sparsities = (float(np.mean(some < threshold)) for some in scores)
    return dict(zip(kernels, sparsities, strict=True))


def one_threshold(kernels, sparsity):
    """What one threshold on all weights' sizes leaves."""
    every = np.concatenate([np.abs(kernel).ravel() for kernel in kernels.values()])
    kept = round((1.0 - sparsity) * every.size)
    threshold = np.partition(every, every.size - kept)[every.size - kept]
    return {name: float(np.mean(np.abs(kernel) < threshold)) for name, kernel in kernels.items()}


# A layer's sparsity by its name, from kernels by name and the sparsity of all of them.
ALLOCATIONS = {"uniform": uniform, "lamp": lamp, "global": one_threshold}
