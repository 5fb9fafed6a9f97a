"""Keras' own L1 regularizer in the loss, then one threshold on all kernels; no fine-tuning.

What most people write. Training does not know the sparsity, so one run gives all points.
"""

import time

import keras
import numpy as np

from benchmarks.peers import common, shared


def main():
    settings, arrays, output = common.read_arguments()
    start = time.monotonic()
    keras.config.set_dtype_policy(settings["dtype_policy"])
    keras.utils.set_random_seed(settings["seed"])
    batches = shared.training_batches(arrays, settings["batch_size"], settings["seed"])
    model = shared.lenet5(
        keras,
        settings["augmentation"],
        settings["seed"],
        regularizer=lambda: keras.regularizers.L1(settings["l1_strength"]),
    )
    every = settings["steps_per_execution"]
    shared.compile_model(keras, model, settings, len(batches), steps_per_execution=every)
    times = shared.step_times(keras)
    model.fit(
        batches,
        validation_data=shared.validation_batches(arrays),
        epochs=settings["epochs"],
        callbacks=[times],
        verbose=2,
    )
    seconds = time.monotonic() - start
    per_step = shared.seconds_per_step(times, len(batches))
    keras.config.set_dtype_policy("float32")
    weights = shared.kernels_and_biases(model)
    for point in settings["points"]:
        sparse = thresholded(weights, float(point.removeprefix("sparsity_")))
        shared.export(keras, sparse, output / point)
    common.write_training(
        output,
        ("tensorflow", "keras", "numpy"),
        seconds=seconds,
        seconds_per_step=per_step["wall"],
        seconds_per_step_by_stage={"l1": per_step},
    )


def thresholded(weights, sparsity):
    """Weights with the smallest of all kernels' values set to zero."""
    sizes = np.abs(np.concatenate([v.ravel() for n, v in weights.items() if n.endswith("kernel")]))
    zeros = round(sparsity * sizes.size)
    limit = np.partition(sizes, zeros)[zeros]
    return {
        name: np.where(np.abs(value) < limit, np.zeros_like(value), value)
        if name.endswith("kernel")
        else value
        for name, value in weights.items()
    }


if __name__ == "__main__":
    main()
