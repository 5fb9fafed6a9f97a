"""One process, one file: how much memory loading and running it takes.

    python -m cnn_l1.measure.peak_memory FILE.tflite THREADS

By the kernel's own account of the process (Linux), in pages of 4 KiB. The file is run
once before, so that the runtime's own code is there, and freed memory is given back, or a
small file would fit into that and cost nothing.
"""

import contextlib
import ctypes
import gc
import json
import pathlib
import re
import sys

from cnn_l1.process.silence import silenced
from cnn_l1.tflite.runner import TFLiteRunner
from cnn_l1.tflite.sample_inputs import run_once

STATUS = pathlib.Path("/proc/self/status")


def main(path: str, threads: int) -> None:
    """Print `{"bytes": growth}`; `null` where the system does not say, or `{"error": why}`."""
    content = pathlib.Path(path).read_bytes()

    def run() -> None:
        run_once(TFLiteRunner(path, threads), content)

    with silenced():
        try:
            run()
        except Exception as error:  # whatever broken bytes make a reader raise
            failure: str | None = " ".join(str(error).split()) or type(error).__name__
        else:
            failure = None
    if failure is not None:
        print(json.dumps({"error": failure}))
        return
    with silenced():
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        before = reset_peak()
        run()
        after = read_status("VmHWM")
    grown = None if before is None or after is None else max(0, after - before)
    print(json.dumps({"bytes": grown}))


def reset_peak() -> int | None:
    """Start the peak anew at the present; returns the present, in bytes, or `None`."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return read_status("VmRSS")


def read_status(key: str) -> int | None:
    """A figure of /proc/self/status in bytes, or `None`."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
