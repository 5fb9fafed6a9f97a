"""Epochs a minute of `lenet5` and `resnet8`, and what each choice is worth, side by side.

    python benchmarks/train_speed.py [--config configs/lenet5_mnist.yaml] [--rounds 5]

The step is that of `cnn_l1.train.pipeline`: augmentation, penalty and the proximal step behind
Adam. It starts from Keras' own ways (float32, a chain of operations for batch normalization, a
tuned input pipeline, one step a call) and takes one choice after another:

    10 steps a call      steps_per_execution
    data from memory     gathered by one thread, with no tuner to wait for
    bfloat16             the config's dtype policy
    fused normalization  `cnn_l1.fused_batch_norm`; networks without any leave it out
    half the channels    the network that is left when every second hidden channel is dead,
                         as `shrink.fine_tuning_epochs` trains it

and what was turned down: XLA for the whole step, batches of 64 and of 256. All take turns, a
short epoch each, so that a machine that slows down slows all alike. Random pixels.
"""

import argparse
import contextlib
import statistics
import sys
import time
import warnings

from cnn_l1.process.silence import import_tensorflow

import_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from cnn_l1.config import loading as configs  # noqa: E402
from cnn_l1.data import splits, tasks  # noqa: E402
from cnn_l1.data.augmentation import with_augmentation  # noqa: E402
from cnn_l1.models import fused  # noqa: E402
from cnn_l1.models.untrained import new_network  # noqa: E402
from cnn_l1.shrink import removal  # noqa: E402
from cnn_l1.sparsity import optimizers, penalties  # noqa: E402

CONFIGS = ("configs/lenet5_mnist.yaml", "configs/resnet8_cifar10.yaml")
# (rows, cols, channels) and training images an epoch, nine tenths of the split.
SHAPES = {"mnist": ((28, 28, 1), 54_000), "cifar10": ((32, 32, 3), 45_000)}
START = {
    "dtype_policy": "float32", "tuned": True, "fuse": False, "jit": False, "halve": False,
    "augment": True, "steps_per_execution": 1, "batch_size": 128,
}  # fmt: skip


def variants(config):
    """`{name: settings}`: each choice on top of those before, then what was turned down."""
    made = {"Keras' own": START}
    chosen = dict(START)
    choices = {
        "10 steps a call": {"steps_per_execution": 10},
        "data from memory": {"tuned": False},
        "bfloat16": {"dtype_policy": "mixed_bfloat16"},
        "fused normalization": {"fuse": True},
    }
    for name, choice in choices.items():
        if "fuse" in choice and config.model.name != "resnet8":
            continue
        chosen |= choice
        made[name] = dict(chosen)
    made["half the channels"] = chosen | {"halve": True}
    # Keras' augmentation cannot be compiled by XLA: without it on both sides.
    made["no augmentation"] = chosen | {"augment": False}
    made["no augmentation, XLA"] = chosen | {"augment": False, "jit": True}
    made["batches of 64"] = chosen | {"batch_size": 64}
    made["batches of 256"] = chosen | {"batch_size": 256}
    return made


def make(path, settings, images):
    """A function that trains for one short epoch."""
    overrides = [f"model.dtype_policy={settings['dtype_policy']}", "penalty={l1_strength: 1e-6}"]
    if not settings["augment"]:
        overrides.append("data.augmentation={}")
    config = configs.load(path, [*overrides, "target=null", "thresholding=null"])
    shape, _ = SHAPES[config.data.name]
    keras.config.set_dtype_policy(config.model.dtype_policy)
    neutral = splits.InputStatistics((127.0,) * shape[-1], (4000.0,) * shape[-1])
    model = new_network(config, shape, 10, neutral)
    if settings["halve"]:
        model = removal.apply_shrink(model, removal.plan_shrink(without_half(model)))
    penalties.detach(model)
    model = with_augmentation(model, config.data.augmentation, config.seed)
    keras.config.set_dtype_policy("float32")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, *shape), dtype="uint8")
    labels = random.integers(0, 10, images)
    read = tuned_batches if settings["tuned"] else batches_from_memory
    batches = read(pixels, labels, settings["batch_size"])
    task = tasks.Task("classes", "crossentropy", 10)
    with fused.fused_batch_norm(model) if settings["fuse"] else contextlib.nullcontext():
        model.compile(
            optimizers.Proximal(keras.optimizers.Adam(1e-5)),
            task.keras_loss(),
            metrics=task.keras_metrics(),
            steps_per_execution=settings["steps_per_execution"],
            jit_compile=settings["jit"],
        )
        model.fit(batches, verbose=0)  # traces
    return lambda: model.fit(batches, verbose=0)


def batches_from_memory(pixels, labels, batch_size):
    return splits.Split(len(labels), pixels, labels).training_batches(batch_size, seed=0)


def tuned_batches(pixels, labels, batch_size):
    """As TensorFlow's guide has it: images in, parallel calls and buffers left to the tuner."""
    examples = tf.data.Dataset.from_tensor_slices((pixels, labels)).shuffle(len(labels), seed=0)
    batches = examples.batch(batch_size, drop_remainder=True)
    floats = batches.map(lambda x, y: (tf.cast(x, tf.float32), y), tf.data.AUTOTUNE)
    return floats.prefetch(tf.data.AUTOTUNE)


def without_half(model):
    """Zero every second hidden channel of each layer, biases and all."""
    *hidden, _ = [layer for layer in model.layers if layer.weights]
    for layer in hidden:
        layer.set_weights([halved(value) for value in layer.get_weights()])
    return model


def halved(value):
    value = np.array(value)
    value[..., ::2] = 0.0
    return value


def compare(path, rounds, images):
    config = configs.load(path)
    made = variants(config)
    epochs = {name: make(path, settings, images) for name, settings in made.items()}
    times = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            times[name].append((time.perf_counter() - start) / images)
    _, size = SHAPES[config.data.name]
    print(f"\n{config.model.name}: short epochs of {images:,} images, median of {rounds} rounds")
    print(f"{'':22}{'us/image':>10}{'epochs/minute':>15}{'speed':>8}")
    for name, taken in times.items():
        seconds = statistics.median(taken)
        pairs = zip(times["Keras' own"], taken, strict=True)
        speed = statistics.median(start / now for start, now in pairs)
        print(f"{name:22}{seconds * 1e6:10.1f}{60 / (seconds * size):15.2f}{speed:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", default=CONFIGS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=5_120)
    flags = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    for path in flags.config:
        compare(path, flags.rounds, flags.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
