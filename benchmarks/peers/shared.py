"""What every peer that trains with TensorFlow has in common.

It runs in the peers' own environments: with NumPy and TensorFlow, without `cnn_l1`. The
Keras that a peer trains with, 2 or 3, is handed in as a module.
"""

import math
import statistics
import time

import numpy as np
import tensorflow as tf

from benchmarks.peers.common import LAYERS

IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10


def training_batches(arrays, batch_size, seed):
    """Shuffled full batches, in a new order every epoch, that `seed` fixes."""
    images, labels = tf.constant(arrays["train_images"]), tf.constant(arrays["train_labels"])
    order = tf.data.Dataset.range(len(labels)).shuffle(len(labels), seed=seed)
    batches = order.batch(batch_size, drop_remainder=True).map(
        lambda rows: (tf.cast(tf.gather(images, rows), tf.float32), tf.gather(labels, rows))
    )
    return _prefetched(batches)


def validation_batches(arrays):
    """The validation split in order."""
    pairs = arrays["validation_images"], arrays["validation_labels"]
    batches = tf.data.Dataset.from_tensor_slices(pairs).batch(1000)
    return _prefetched(batches.map(lambda x, y: (tf.cast(x, tf.float32), y)))


def _prefetched(batches):
    # On one core the end of an epoch would wait for the autotuner's next look.
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)


def lenet5(keras, augmentation=None, seed=0, batch_size=None, regularizer=None):
    """The network of the builder `lenet5`, from raw pixels to logits.

    Args:
        keras: The module, of Keras 2 or 3.
        augmentation: `{"shift_pixels": int, "flip": bool}`, or `None`.
        seed: Of the augmentation.
        batch_size: Fixed size of the batch axis. Default: open.
        regularizer: Makes each kernel's regularizer. Default: none.
    """
    layers = keras.layers
    made = regularizer or (lambda: None)
    inputs = keras.Input(IMAGE_SHAPE, batch_size=batch_size, name="image")
    x = inputs
    augmentation = augmentation or {}
    if augmentation.get("shift_pixels"):
        factors = [augmentation["shift_pixels"] / size for size in IMAGE_SHAPE[:2]]
        x = layers.RandomTranslation(
            *factors, fill_mode="constant", interpolation="nearest", seed=seed, name="shift"
        )(x)
    if augmentation.get("flip"):
        x = layers.RandomFlip("horizontal", seed=seed + 2, name="flip")(x)
    x = layers.Rescaling(1.0 / 255.0, name="rescale")(x)
    x = layers.Conv2D(20, 5, activation="relu", kernel_regularizer=made(), name="conv_1")(x)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Conv2D(50, 5, activation="relu", kernel_regularizer=made(), name="conv_2")(x)
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", kernel_regularizer=made(), name="dense_1")(x)
    x = layers.Dense(CLASSES, kernel_regularizer=made(), name="dense_2")(x)
    x = layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(inputs, x, name="lenet5")


def cosine_segments(keras, settings, steps_per_epoch, first_epoch=0):
    """A learning rate that falls as a cosine, and starts anew at `restart_epochs`."""
    rate, floor = settings["learning_rate"], settings["final_fraction"]
    starts = [0, *sorted(settings.get("restart_epochs", ())), settings["epochs"]]
    bounds = tf.constant([epoch * steps_per_epoch for epoch in starts], tf.float32)

    class CosineSegments(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            now = tf.cast(step, tf.float32) + first_epoch * steps_per_epoch
            segment = tf.reduce_sum(tf.cast(now >= bounds[1:-1], tf.int32))
            start, stop = tf.gather(bounds, segment), tf.gather(bounds, segment + 1)
            done = tf.clip_by_value((now - start) / (stop - start), 0.0, 1.0)
            return rate * (floor + (1.0 - floor) * 0.5 * (1.0 + tf.cos(math.pi * done)))

        def get_config(self):
            return {}

    return CosineSegments()


def compile_model(keras, model, settings, steps_per_epoch, first_epoch=0, **options):
    """Compile as all peers train: Adam under `cosine_segments`, crossentropy of logits."""
    rate = cosine_segments(keras, settings, steps_per_epoch, first_epoch)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        **options,
    )
    return model


def step_times(keras):
    """A callback that times the training steps of each epoch, validation left out."""

    class StepTimes(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.wall, self.cpu = [], []
            self._start = None

        def on_epoch_begin(self, epoch, logs=None):
            self._start = time.perf_counter(), time.process_time()

        def on_test_begin(self, logs=None):
            if self._start is None:
                return
            wall, cpu = self._start
            self._start = None
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)

    return StepTimes()


def best_epoch(keras):
    """A callback that keeps the weights of the best epoch; of equal ones the later."""

    class BestEpoch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.best, self.epoch, self.weights = -1.0, None, None

        def on_epoch_end(self, epoch, logs=None):
            if logs["val_accuracy"] >= self.best:
                self.best, self.epoch = logs["val_accuracy"], epoch
                self.weights = self.model.get_weights()

    return BestEpoch()


def seconds_per_step(times, steps_per_epoch):
    """Median of a stage's epochs, the first left out, which traces.

    Args:
        times: What `step_times` gave.
        steps_per_epoch: Training steps in an epoch.

    Returns:
        `{"wall": seconds, "cpu": seconds}`.
    """
    pairs = (("wall", times.wall), ("cpu", times.cpu))
    return {kind: statistics.median(some[1:] or some) / steps_per_epoch for kind, some in pairs}


def kernels_and_biases(model):
    """`{"<layer>/kernel": array, "<layer>/bias": array}` of the network's layers."""
    found = {}
    for name in LAYERS:
        kernel, bias = model.get_layer(name).get_weights()
        found |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return found


def export(keras, weights, folder):
    """Write weights and the float32 TFLite file of them, as the converter gives it."""
    folder.mkdir(parents=True)
    # A mask leaves -0.0 of negative weights, which would more than double the deflated file.
    weights = {name: value + 0.0 for name, value in weights.items()}
    np.savez(folder / "weights.npz", **weights)
    model = lenet5(keras, batch_size=1)
    for name in LAYERS:
        model.get_layer(name).set_weights([weights[f"{name}/kernel"], weights[f"{name}/bias"]])
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (folder / "model_float32.tflite").write_bytes(content)
