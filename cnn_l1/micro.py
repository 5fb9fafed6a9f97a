"""TFLite Micro's own interpreter, on this host.

A process of its own runs each file: an arena too small, or a file that is broken, can
end the process, and the allocation report goes to its file descriptor 2.

    python -m cnn_l1.micro FILE.tflite
"""

import json
import pathlib
import re
import subprocess
import sys

ARENA_BYTES = 64 * 2**20
REPORT = re.compile(rb"Arena allocation total (\d+) bytes")


class MicroError(RuntimeError):
    """A file that TFLite Micro does not run."""


def arena_bytes(path):
    """The arena that TFLite Micro needs for a file, in bytes.

    Measured on this host, once the file has run. Pointers have 8 bytes here and 4 on a
    microcontroller, whose kernels may need other scratch buffers.

    Args:
        path: A `.tflite` file.

    Raises:
        MicroError: If the file is not one that TFLite Micro runs.
    """
    command = [sys.executable, "-m", "cnn_l1.micro", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    found = REPORT.search(done.stderr)
    if done.returncode or found is None:
        # Micro's own remarks name the operator; Python's last line does not.
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines()]
        reason = "; ".join(line for line in lines if line)[:300]
        reason = reason or f"exit status {done.returncode}"
        raise MicroError(
            f"{pathlib.Path(path).name}: expected a file that TFLite Micro runs. Received: {reason}"
        )
    return int(found[1])


def main(path):
    """Run a file once on zeros; its allocation report goes to descriptor 2."""
    import numpy as np
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=ARENA_BYTES)
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
    interpreter.invoke()
    interpreter.print_allocations()
    print(json.dumps({"output_shape": list(interpreter.get_output(0).shape)}))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:  # the reader's errors have many types
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
