"""Which importance of channels keeps more accuracy, one shot and without training.

    python -m benchmarks.one_shot

Prints the accuracy on validation data for each criterion of `cnn_l1.prune`, network and part of the
multiply-adds, as mean and standard deviation over seeds of the trained network.
"""

import argparse

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cnn_l1
from cnn_l1.sparsity.one_shot import CRITERIA, zero_channels

PARTS = (0.7, 0.5, 0.3)


def residual(inputs):
    """Batch-norm and an addition."""
    x = layers.Conv2D(24, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    x = layers.ReLU()(layers.Add()([x, layers.Conv2D(24, 3, padding="same")(y)]))
    x = layers.Conv2D(48, 3, activation="relu")(layers.MaxPooling2D()(x))
    return layers.Dense(10)(layers.Flatten()(x))


def plain(inputs):
    """Convolutions and a hidden dense layer, without batch-norm."""
    x = layers.Conv2D(16, 3, activation="relu")(inputs)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return layers.Dense(10)(x)


def depthwise(inputs):
    """Depthwise-separable blocks with batch-norm."""
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters in (32, 48):
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 1)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


NETWORKS = {"residual": residual, "plain": plain, "depthwise": depthwise}


def accuracies(network, seed):
    """`{(criterion, part): accuracy}` of one trained network on its validation data."""
    data = load_digits()
    x, y = (data.images[..., None] / 16).astype("float32"), data.target
    x, x_validation, y, y_validation = train_test_split(
        x, y, test_size=0.25, stratify=y, random_state=seed
    )
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, NETWORKS[network](inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=15, verbose=0)

    def accuracy(one):
        outputs = np.asarray(one(x_validation, training=False))
        return float(np.mean(outputs.argmax(axis=1) == y_validation))

    found = {("none", 1.0): accuracy(model)}
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 512, 32)]
    for criterion in CRITERIA:
        for part in PARTS:
            copy = cnn_l1.plain_copy(model)
            zero_channels(copy, batches, loss, {"macs": part}, criterion)
            found[criterion, part] = accuracy(copy)
    return found


def main():
    parser = argparse.ArgumentParser(description="Compare the criteria of one-shot pruning.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    print("| network | criterion | " + " | ".join(f"{part:.0%}" for part in PARTS) + " |")
    print("|---|---|" + "---|" * len(PARTS))
    for network in NETWORKS:
        runs = [accuracies(network, seed) for seed in seeds]
        whole = [run["none", 1.0] for run in runs]
        print(f"| {network} | whole: {100 * np.mean(whole):.2f} | " + " | " * len(PARTS))
        for criterion in CRITERIA:
            cells = []
            for part in PARTS:
                values = [100 * run[criterion, part] for run in runs]
                cells.append(f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}")
            print(f"| {network} | {criterion} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
