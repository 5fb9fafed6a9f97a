"""What decoding zeros costs in time: TFLite Micro, plain against encoded, side by side.

    python -m benchmarks.decoding [FILE.tflite ...]

Each file and its encoded copy run in turn in one process, in TFLite Micro's reference
kernels on this host; a microcontroller's own kernels are faster, and so the share of
decoding larger there. Without files: LeNet-5 as int8 and float32, the smallest weights of
each kernel zeroed, at several sparsities.
"""

import argparse
import pathlib
import time

import numpy as np


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding")
    parser.add_argument("files", nargs="*", type=pathlib.Path, metavar="FILE.tflite")
    parser.add_argument("--runs", type=int, default=51, help="timed runs a file (default: 51)")
    flags = parser.parse_args()
    named = {path.name: path.read_bytes() for path in flags.files}
    print("file                     bytes   encoded   ratio   ms plain   ms encoded   time ratio")
    for name, content in named.items() if named else networks():
        encoded, plain_ms, encoded_ms = compare(content, flags.runs)
        print(
            f"{name:20} {len(content):9,} {len(encoded):9,} {len(encoded) / len(content):7.2f} "
            f"{plain_ms:10.3f} {encoded_ms:12.3f} {encoded_ms / plain_ms:12.2f}"
        )


def compare(content, runs):
    """The encoded file, and the medians of one run of the plain and of it, in ms."""
    from tflite_micro.python.tflite_micro import runtime

    from cnn_l1.tflite import encoding, metadata, micro

    plain = metadata.remove_metadata(content)
    encoded, _ = encoding.encode_zeros(plain, run=False)
    runners = [
        runtime.Interpreter.from_bytes(part, arena_size=micro.ARENA_BYTES)
        for part in (plain, encoded)
    ]
    details = runners[0].get_input_details(0)
    image = np.random.default_rng(0).integers(-100, 100, details["shape"]).astype(details["dtype"])
    times = np.empty((runs, 2))
    for run in range(-runs // 10, runs):
        for column, runner in enumerate(runners):
            runner.set_input(image, 0)
            start = time.thread_time_ns()
            runner.invoke()
            if run >= 0:
                times[run, column] = (time.thread_time_ns() - start) / 1e6
    first, second = (runner.get_output(0) for runner in runners)
    np.testing.assert_array_equal(first, second)
    return encoded, *np.median(times, axis=0)


def networks():
    """`(name, bytes)` of LeNet-5 files with zeros."""
    import tempfile

    import keras

    from cnn_l1.config.loading import validate
    from cnn_l1.export import tflite
    from cnn_l1.models import builders

    config = validate({"name": "decoding", "model": {"name": "lenet5"}})
    for sparsity in (0.5, 0.9, 0.99):
        keras.utils.set_random_seed(0)
        model = builders.build(config, (28, 28, 1), 10)
        for layer in model.layers:
            if layer.weights and layer.weights[0].ndim > 1:
                kernel, *rest = layer.get_weights()
                limit = np.quantile(np.abs(kernel), sparsity)
                layer.set_weights([np.where(np.abs(kernel) < limit, 0, kernel), *rest])
        images = np.random.default_rng(0).uniform(0, 255, (50, 28, 28, 1)).astype("float32")
        for kind in ("int8", "float32"):
            with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
                tflite.export_tflite(model, file.name, images, kind)
                yield f"{kind}, {sparsity:.0%} zeros", pathlib.Path(file.name).read_bytes()


if __name__ == "__main__":
    main()
