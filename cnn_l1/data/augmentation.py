"""Random changes to training images, as Keras layers around the network.

They are no part of the network: what is counted, shrunk and exported never holds them.
"""

import keras
from keras import layers

from cnn_l1.config.data_settings import AugmentationConfig
from cnn_l1.config.loading import ConfigError


def with_augmentation(
    network: keras.Model, augmentation: AugmentationConfig, seed: int = 0
) -> keras.Model:
    """The model to train: the network on augmented images.

    Training it trains the network, whose weights and names it shares. Outside training
    it gives what the network gives.

        trainer = with_augmentation(network, config.data.augmentation, config.seed)
        trainer.compile(...)
        trainer.fit(...)
        network.save("trained.keras")  # without augmentation

    Args:
        network: A `keras.Model` from `(batch, rows, cols, channels)` images.
        augmentation: What to change.
        seed: Seeds the random changes. Default 0.

    Returns:
        A `keras.Model` around the network; the network itself where nothing is changed.

    Raises:
        ConfigError: If the inputs are no images, or are too small for the changes.
    """
    input_shape = tuple(network.input_shape[1:])
    check_augmentation(augmentation, input_shape)
    changes = _layers(augmentation, input_shape, seed)
    if not changes:
        return network
    given = network.inputs[0]
    inputs = keras.Input(input_shape, dtype=given.dtype, name=given.name)
    x = inputs
    for layer in changes:
        x = layer(x)
    return keras.Model(inputs, network(x), name=f"{network.name}_with_augmentation")


def check_augmentation(augmentation: AugmentationConfig, input_shape: tuple[int, ...]) -> None:
    """Raise `ConfigError` unless inputs of this shape can be augmented so."""
    if augmentation == AugmentationConfig():
        return
    if len(input_shape) != 3:
        raise ConfigError(
            "data.augmentation: expected nothing, for these inputs are no images. "
            f"Received: {augmentation}"
        )
    rows, cols, _ = input_shape
    for setting in ("shift_pixels", "crop_pixels"):
        pixels = getattr(augmentation, setting)
        if pixels > min(rows, cols):
            raise ConfigError(
                f"data.augmentation.{setting}: expected at most the size of the images, "
                f"{rows}x{cols}. Received: {pixels}"
            )


def _layers(
    augmentation: AugmentationConfig, input_shape: tuple[int, ...], seed: int
) -> list[layers.Layer]:
    found: list[layers.Layer] = []
    if augmentation.shift_pixels:
        found.append(_translation(augmentation.shift_pixels, input_shape, seed, "shift"))
    if augmentation.crop_pixels:
        # A crop of the padded image is a shift. RandomCrop would crop a batch alike, and
        # outside training not at all, so that the network got the padded image.
        found.append(_translation(augmentation.crop_pixels, input_shape, seed + 1, "crop"))
    if augmentation.flip:
        found.append(layers.RandomFlip("horizontal", seed=seed + 2, name="augment_flip"))
    return found


def _translation(pixels: int, input_shape: tuple[int, ...], seed: int, name: str) -> layers.Layer:
    rows, cols, _ = input_shape
    return layers.RandomTranslation(
        pixels / rows,
        pixels / cols,
        fill_mode="constant",
        interpolation="nearest",
        seed=seed,
        name=f"augment_{name}",
    )
