"""Compare TFLite files side by side, on this machine.

    python -m cnn_l1.benchmark model_float32.tflite model_int8.tflite

The files run in turn, so that whatever else the machine does meets them alike.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from cnn_l1.config.loading import ConfigError
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError
from cnn_l1.tflite.multiply_adds import file_macs
from cnn_l1.tflite.runner import TFLiteRunner
from cnn_l1.tflite.sample_inputs import run_once

NOISY_TAIL = 1.5  # p90 over median of CPU time
NOISY_WALL = 1.3  # wall time over CPU time: something else had the core


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one file costs.

    Attributes:
        file: Its path.
        median_ms, p90_ms: Of one example; CPU time for one thread, else wall time.
        ratio: Median over the first file's.
        bytes: Size of the file.
        memory_bytes: What the process grew by, at its peak, from before the file was
            loaded until it had run: the file, its weights as the kernels want them,
            and the arena.
        macs: Multiply-adds of one example, as far as they can be counted; see
            `tflite_macs.file_macs`.
    """

    file: str
    median_ms: float
    p90_ms: float
    ratio: float
    bytes: int
    memory_bytes: int | None
    macs: int


def compare(
    paths: Sequence[str | pathlib.Path], threads: int = 1, runs: int = 200
) -> tuple[list[Figures], list[str]]:
    """Run files in turn and measure each.

    Args:
        paths: `.tflite` files, of any origin.
        threads: Threads of each interpreter.
        runs: Timed runs a file, after a tenth as many to warm up.

    Returns:
        `(figures, warnings)`: a `Figures` for each file, and lines that say where the
        machine was too noisy for them, which sizes were chosen where they are open, and
        what was not counted.

    Raises:
        ConfigError: If a file cannot be read or run.
    """
    runners, contents, memory, warnings = [], [], [], []
    macs = []
    for path in paths:
        try:
            contents.append(pathlib.Path(path).read_bytes())
            # In a process of its own first: a broken file can end the one that runs it.
            memory.append(_grown(path, threads))
            runner = TFLiteRunner(path, threads)
            with silenced():
                shape = run_once(runner, contents[-1])
        except (OSError, RuntimeError, ValueError, ExportError) as error:
            reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            raise ConfigError(
                f"FILE: expected a .tflite file that runs. Received: {path} ({reason})"
            ) from None
        runners.append(runner)
        shapes = None
        if shape is not None:
            warnings.append(f"{path}: its size is open; it was run on {shape}")
            details = runner.interpreter.get_tensor_details()
            shapes = {detail["index"]: detail["shape"] for detail in details}
        counted = file_macs(contents[-1], shapes)
        macs.append(counted.total)
        if counted.unknown:
            warnings.append(
                f"{path}: its multiply-adds are without those of {', '.join(counted.unknown)}"
            )
    cpu, wall = np.empty((2, runs, len(runners)))
    for run in range(-max(1, runs // 10), runs):
        for column, runner in enumerate(runners):
            started, used = time.perf_counter_ns(), time.thread_time_ns()
            runner.interpreter.invoke()
            used, started = time.thread_time_ns() - used, time.perf_counter_ns() - started
            if run >= 0:
                cpu[run, column], wall[run, column] = used / 1e6, started / 1e6
    times = cpu if threads == 1 else wall
    medians, tails = np.median(times, axis=0), np.percentile(times, 90, axis=0)
    figures = [
        Figures(
            file=str(path),
            median_ms=float(medians[i]),
            p90_ms=float(tails[i]),
            ratio=float(medians[i] / medians[0]),
            bytes=len(contents[i]),
            memory_bytes=memory[i],
            macs=macs[i],
        )
        for i, path in enumerate(paths)
    ]
    for i, path in enumerate(paths):
        if tails[i] > NOISY_TAIL * medians[i]:
            warnings.append(
                f"{path}: a tenth of its runs took {tails[i] / medians[i]:.1f} times the median "
                "or more; close other programs and run again"
            )
    if threads == 1 and np.median(wall) > NOISY_WALL * np.median(cpu):
        warnings.append(
            f"the core was shared: wall time is {np.median(wall) / np.median(cpu):.1f} times CPU "
            "time; ratios hold, wall times of a quiet machine are shorter"
        )
    return figures, warnings


def peak_memory(path: str | pathlib.Path, threads: int = 1) -> int | None:
    """Bytes a process grows by when it loads a file and runs it once; `None` if unknown."""
    try:
        return _grown(path, threads)
    except ExportError:
        return None


def _grown(path: str | pathlib.Path, threads: int) -> int | None:
    """As `peak_memory`; an `ExportError` if the file does not run there."""
    command = [sys.executable, "-m", "cnn_l1.measure.peak_memory", str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise ExportError(f"it ended LiteRT's process with signal {-done.returncode}")
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None
    if "error" in told:
        raise ExportError(told["error"])
    return told["bytes"]
