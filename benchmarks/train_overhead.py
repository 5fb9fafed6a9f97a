"""What L1 training costs a step, side by side in one run, on LeNet-5.

    python benchmarks/train_overhead.py

Prints milliseconds a training step of: plain Keras `fit`, the penalty in the loss
(`subgradient`), `Proximal`, and the whole monitored pipeline; each as a ratio to
plain, from rounds in turn, so that a machine that slows down slows all alike.
Then an epoch of the monitored pipeline against `fit` on NumPy arrays as most
people write it (float32 arrays, Keras' defaults, no penalty), once in float32 and
once in bfloat16 as `configs/lenet5_mnist.yaml` trains. Random pixels; the
arithmetic is the same. CPU time is the steadier of the two on a busy machine.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
import warnings

from cnn_l1.process.silence import import_tensorflow

import_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402

from cnn_l1.config.loading import validate  # noqa: E402
from cnn_l1.data import splits  # noqa: E402
from cnn_l1.models.untrained import new_network  # noqa: E402
from cnn_l1.sparsity import callbacks, optimizers, penalties  # noqa: E402

BATCH = 128


def build(penalty):
    config = validate(
        {
            "name": "overhead",
            "model": {"name": "lenet5"},
            # Weak: random labels would let a usual strength empty every layer.
            "penalty": {"name": penalty, "l1_strength": 1e-5 if penalty == "l1" else 0.0},
        }
    )
    return new_network(config, (28, 28, 1), 10)


def compiled(penalty, wrap, steps_per_execution=10, monitored=False, dtype_policy="float32"):
    keras.config.set_dtype_policy(dtype_policy)
    model = build(penalty)
    keras.config.set_dtype_policy("float32")
    metrics = ["accuracy"]
    if monitored:
        loss = keras.metrics.SparseCategoricalCrossentropy(name="data_loss", from_logits=True)
        metrics.append(loss)
    if wrap is optimizers.Proximal:
        penalties.detach(model)  # as cnn_l1.train.pipeline does
    model.compile(
        wrap(keras.optimizers.Adam(1e-3)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=metrics,
        steps_per_execution=steps_per_execution,
        jit_compile=False,
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=12_800)
    flags = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (flags.images, 28, 28, 1), dtype="uint8")
    labels = random.integers(0, 10, flags.images)
    split = splits.Split(flags.images, images, labels)
    steps = split.batches_per_epoch(BATCH)
    batches = split.training_batches(BATCH, seed=0)
    floats = images.astype("float32")
    proximal = optimizers.Proximal

    with tempfile.TemporaryDirectory() as logs:
        monitor = callbacks.SparsityMonitor(per_layer=False)
        watching = [
            callbacks.StrengthRamp(2),
            callbacks.LogValue("l1_strength", 1e-5),
            callbacks.StopOnNaN(),
            monitor,
            callbacks.LogLayers(monitor),
            keras.callbacks.TensorBoard(
                str(pathlib.Path(logs)), histogram_freq=1, write_graph=False
            ),
        ]
        plain, subgradient = compiled("none", keep), compiled("l1", keep)
        shrunk, whole = compiled("l1", proximal), compiled("l1", proximal, monitored=True)
        shipped = compiled("l1", proximal, monitored=True, dtype_policy="mixed_bfloat16")
        numpy_model = compiled("none", keep, steps_per_execution=1)
        contenders = {
            "plain Keras": lambda: plain.fit(batches, verbose=0),
            "subgradient": lambda: subgradient.fit(batches, verbose=0),
            "proximal": lambda: shrunk.fit(batches, verbose=0),
            "proximal, monitored": lambda: whole.fit(batches, verbose=0, callbacks=watching),
            "monitored, bfloat16": lambda: shipped.fit(batches, verbose=0, callbacks=watching),
            "fit on NumPy arrays": lambda: numpy_model.fit(
                floats, labels, batch_size=BATCH, verbose=0
            ),
        }
        times = {name: [] for name in contenders}
        cpu_times = {name: [] for name in contenders}
        for round_number in range(flags.rounds + 1):
            for name, one_epoch in contenders.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                one_epoch()
                if round_number:  # the first traces and warms up
                    times[name].append((time.perf_counter() - start) / steps * 1e3)
                    cpu_times[name].append((time.process_time() - cpu_start) / steps * 1e3)

    print(f"LeNet-5, batch {BATCH}, {steps} steps an epoch, median of {flags.rounds} rounds")
    print(f"{'':22}{'wall ms/step':>13}{'ratio':>8}{'CPU ms/step':>13}{'ratio':>8}")
    for name in contenders:
        wall, cpu = statistics.median(times[name]), statistics.median(cpu_times[name])
        # Round by round, for both sides of a ratio then saw the same machine.
        wall_ratio, cpu_ratio = (
            statistics.median(a / b for a, b in zip(t[name], t["plain Keras"], strict=True))
            for t in (times, cpu_times)
        )
        print(f"{name:22}{wall:13.2f}{wall_ratio:8.3f}{cpu:13.2f}{cpu_ratio:8.3f}")
    for name in ("proximal, monitored", "monitored, bfloat16"):
        pairs = list(zip(times[name], times["fit on NumPy arrays"], strict=True))
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        print(f"epoch of {name!r} / epoch of fit on NumPy arrays, wall: {ratio:.3f}")
    return 0


def keep(optimizer):
    return optimizer


if __name__ == "__main__":
    sys.exit(main())
