"""TFLite Micro's own interpreter, on this host.

A process of its own runs each file: an arena too small, or a file that is broken, can
end the process, and the allocation report goes to its file descriptor 2.

    python -m cnn_l1.tflite.micro FILE.tflite
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.errors import CnnL1Error

ARENA_BYTES = 64 * 2**20
REPORT = re.compile(rb"Arena allocation (total|tail) (\d+) bytes")


class MicroError(CnnL1Error, RuntimeError):
    """A file that TFLite Micro does not run."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a file gave in TFLite Micro.

    Attributes:
        outputs: For each output of the file an array `(examples, *its shape)`.
        arena_bytes: The arena it needed; see `arena_bytes`.
        persistent_bytes: Of it, structures that last, many of them of pointers.
    """

    outputs: tuple[np.ndarray, ...]
    arena_bytes: int
    persistent_bytes: int


def arena_bytes(path: str | os.PathLike) -> int:
    """The arena that TFLite Micro needs for a file, in bytes.

    Measured on this host, once the file has run. It is the tensors, equal everywhere, and
    the persistent part, structures of numbers and pointers. Pointers have 8 bytes here and
    4 on a 32-bit microcontroller: there the persistent part is at least half of this host's.
    TFLite Micro's own test asks 32-bit systems for no more than x86-64's and 3%
    (memory_arena_threshold_test.cc). Kernels made for a chip may want scratch buffers too.

    Args:
        path: A `.tflite` file.

    Raises:
        MicroError: If the file is not one that TFLite Micro runs.
    """
    return _arena(path)[0]


def run(path: str | os.PathLike, inputs: Sequence[np.ndarray], alternate_bytes: int = 0) -> Run:
    """Run a file on examples, one after another, in the same interpreter.

    Args:
        path: A `.tflite` file.
        inputs: For each input of the file an array `(examples, *its shape)` of its
            dtype; its shape counts its batch axis, which is 1 as a rule. None for a file
            without inputs, which runs once.
        alternate_bytes: Memory besides the arena for what DECODE operators decode, in
            bytes. The arena does not count it. 0 (default): they decode to the arena.

    Returns:
        A `Run`.

    Raises:
        MicroError: If the file is not one that TFLite Micro runs, or not on these.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, got = pathlib.Path(folder, "inputs.npz"), pathlib.Path(folder, "outputs.npz")
        np.savez(given, *inputs)
        total, persistent = _arena(
            path, f"--inputs={given}", f"--outputs={got}", f"--alternate-bytes={alternate_bytes}"
        )
        return Run(_arrays(got), total, persistent)


def _arrays(path: str | os.PathLike) -> tuple[np.ndarray, ...]:
    with np.load(path) as file:
        return tuple(file[f"arr_{index}"] for index in range(len(file.files)))


def _arena(path: str | os.PathLike, *flags: str) -> tuple[int, int]:
    """Run this module on a file; the arena that it reports, and the persistent part of it."""
    command = [sys.executable, "-m", "cnn_l1.tflite.micro", str(path), *flags]
    done = subprocess.run(command, capture_output=True, check=False)
    found = dict(REPORT.findall(done.stderr))
    if done.returncode or not found:
        # Micro's own remarks name the operator; Python's last line does not.
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines()]
        reason = "; ".join(line for line in lines if line)[:300]
        reason = reason or f"exit status {done.returncode}"
        raise MicroError(
            f"{pathlib.Path(path).name}: expected a file that TFLite Micro runs. Received: {reason}"
        )
    return int(found[b"total"]), int(found[b"tail"])


def main(arguments: list[str] | None = None) -> None:
    """Run a file, on zeros if nothing is given; its allocation report goes to descriptor 2."""
    # An optional package, of which there are wheels for Linux on x86-64 only.
    from tflite_micro.python.tflite_micro import runtime

    parser = argparse.ArgumentParser(prog="python -m cnn_l1.tflite.micro")
    parser.add_argument("file", metavar="FILE.tflite")
    parser.add_argument("--inputs", metavar="INPUTS.npz")
    parser.add_argument("--outputs", metavar="OUTPUTS.npz")
    parser.add_argument("--alternate-bytes", type=int, default=0, metavar="BYTES")
    flags = parser.parse_args(arguments)
    interpreter = runtime.Interpreter.from_file(
        flags.file, arena_size=ARENA_BYTES, alt_decompression_memory_size=flags.alternate_bytes
    )
    if flags.inputs is None:
        details = [interpreter.get_input_details(i) for i in range(_input_count(flags.file))]
        inputs = tuple(np.zeros((1, *one["shape"]), one["dtype"]) for one in details)
    else:
        inputs = _arrays(flags.inputs)
    results = []
    # A file without inputs runs once.
    for example in zip(*inputs, strict=True) if inputs else [()]:
        for index, array in enumerate(example):
            interpreter.set_input(array, index)
        interpreter.invoke()
        results.append(_outputs(interpreter))
    interpreter.print_allocations()
    outputs = [np.stack(output) for output in zip(*results, strict=True)]
    if flags.outputs is not None:
        np.savez(flags.outputs, *outputs)
    print(json.dumps({"output_shape": list(outputs[0].shape[1:])}))


def _input_count(path: str | os.PathLike) -> int:
    graph = schema.Model.GetRootAs(pathlib.Path(path).read_bytes()).Subgraphs(0)
    return graph.InputsLength()


def _outputs(interpreter: Any) -> list[np.ndarray]:
    """Copies of all outputs: their number is not asked for, but where they end is told."""
    outputs = [np.array(interpreter.get_output(0))]
    while True:
        try:
            outputs.append(np.array(interpreter.get_output(len(outputs))))
        except (IndexError, ValueError, RuntimeError):
            return outputs


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # the reader's errors have many types
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
