"""Data and networks as users have them, made of scikit-learn's digits."""

import pathlib

import keras
import numpy as np
from keras import layers
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def digits(count=None):
    """Pixels, 0 to 255, `(count, 8, 8, 1)` uint8, and labels."""
    data = load_digits()
    images = (data.images[:count, ..., None] * 15).astype("uint8")
    return images, data.target[:count]


def write_folder(folder, count=None, classes=10):
    """Digits as PNG files, a folder for each class: sizes mixed, some gray, some RGB."""
    random = np.random.default_rng(0)
    for number, (pixels, label) in enumerate(zip(*digits(count), strict=True)):
        if label >= classes:
            continue
        path = pathlib.Path(folder) / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = int(random.integers(8, 20))
        image = Image.fromarray(pixels[..., 0]).resize((size, size + int(random.integers(0, 3))))
        (image.convert("RGB") if random.random() < 0.5 else image).save(path)
    return folder


def residual_network(scaled=True):
    """A network with `x + y`, of operators and not of an Add layer."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 255)(inputs) if scaled else inputs
    x = layers.Conv2D(24, 3, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(24, 3, padding="same")(y)
    x = layers.ReLU()(x + y)
    x = layers.Conv2D(48, 3, activation="relu")(layers.MaxPooling2D()(x))
    outputs = layers.Dense(10, activation="softmax")(layers.Flatten()(x))
    return keras.Model(inputs, outputs, name="mine")


def trained_network(epochs=12, scaled=True):
    """`residual_network`, compiled and trained on four fifths of the digits."""
    keras.utils.set_random_seed(0)
    inputs, labels = digits()
    inputs = inputs if scaled else inputs / 127.5 - 1.0
    inputs, _, labels, _ = train_test_split(
        inputs, labels, test_size=0.2, stratify=labels, random_state=0
    )
    model = residual_network(scaled)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(inputs.astype("float32"), labels, epochs=epochs, batch_size=64, verbose=0)
    return model
