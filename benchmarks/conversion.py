"""Seconds and memory that writing a TFLite file takes, and whether it stays silent.

    python -m benchmarks.conversion

Each network and format in a process of its own: seconds of the conversion alone, the
process' peak memory with TensorFlow in it, and that before the conversion began. Weights
are random, calibration has 100 examples.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

NETWORKS = ("lenet_300_100", "lenet5", "resnet8", "pointwise")
KINDS = ("float32", "float16", "dynamic_int8", "int8", "int16x8")
SHAPES = {"resnet8": (32, 32, 3), "pointwise": (32, 32, 3)}


def convert(network, kind):
    """Convert one network here; prints one line of JSON."""
    import numpy as np

    from cnn_l1.config.loading import validate
    from cnn_l1.export import tflite
    from cnn_l1.models import builders

    shape = SHAPES.get(network, (28, 28, 1))
    config = validate({"name": "conversion", "model": {"name": network}})
    model = builders.build(config, shape, 10)
    model.predict_on_batch(np.zeros((1, *shape), "float32"))
    samples = np.random.default_rng(0).uniform(0, 255, (100, *shape)).astype("float32")
    before = peak_bytes()
    start = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        size = tflite.export_tflite(model, file.name, samples, kind)
    seconds = time.monotonic() - start
    found = {"bytes": size, "seconds": seconds, "before": before, "peak": peak_bytes()}
    print(json.dumps(found), file=sys.stderr)


def peak_bytes():
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversion")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "KIND"), help=argparse.SUPPRESS)
    one = parser.parse_args().one
    if one:
        convert(*one)
        return
    print("network        kind           bytes      s   MB peak   MB before  stdout")
    for network in NETWORKS:
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.conversion", "--one", network, kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stderr.splitlines()[-1])
            print(
                f"{network:14} {kind:12} {found['bytes']:9,} {found['seconds']:6.1f} "
                f"{found['peak'] / 1e6:9,.0f} {found['before'] / 1e6:11,.0f}  "
                f"{len(done.stdout)} characters"
            )


if __name__ == "__main__":
    main()
