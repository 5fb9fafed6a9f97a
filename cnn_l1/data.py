"""TFDS in, tf.data out: one road for every data set.

Sets that fit in memory are decoded once; batches are then gathered by index,
inside the graph, so that shuffling costs one number an image.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import socket
from collections.abc import Callable

import absl.logging
import numpy as np
import tensorflow as tf

from cnn_l1.config import ConfigError
from cnn_l1.models import PixelStatistics
from cnn_l1.silence import silenced

EMBEDDED = ("digits",)
IN_MEMORY_BYTES = 2 * 1024**3
EVALUATION_BATCH = 1000
NETWORK_PROBE = ("storage.googleapis.com", 443)
NETWORK_TIMEOUT_S = 5.0


def _no_stream() -> tf.data.Dataset:
    raise TypeError("A split in memory expected to be read from `images`. Received: a stream")


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and labels, in memory or streamed.

    Attributes:
        size: Number of images.
        images: `(size, rows, cols, channels)` uint8, or `None` if streamed.
        labels: `(size,)` int64.
        stream: Makes a `tf.data.Dataset` of single `(image, label)` pairs, for
            a streamed split.
    """

    size: int
    images: np.ndarray | None
    labels: np.ndarray
    stream: Callable[[], tf.data.Dataset] = _no_stream

    def evaluation_batches(self):
        """Batches in order, as `(float32 pixels, labels)`."""
        if self.images is None:
            batches = self.stream().batch(EVALUATION_BATCH)
        else:
            pairs = tf.data.Dataset.from_tensor_slices((self.images, self.labels))
            batches = pairs.batch(EVALUATION_BATCH).cache()
        return batches.map(_as_pixels, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def training_batches(self, batch_size, seed):
        """Shuffled batches, in a new order every epoch, that `seed` fixes.

        A last batch that is not full is left out (other images each epoch), so
        that every step has one shape; a split smaller than a batch is one batch.
        """
        batch_size = min(batch_size, self.size)
        if self.images is None:
            batches = self.stream().shuffle(min(self.size, 10_000), seed=seed)
            batches = batches.batch(batch_size, drop_remainder=True)
        else:
            with tf.device("CPU"):
                images, labels = tf.constant(self.images), tf.constant(self.labels)
            order = tf.data.Dataset.range(self.size).shuffle(self.size, seed=seed)
            batches = order.batch(batch_size, drop_remainder=True).map(
                lambda rows: (tf.gather(images, rows), tf.gather(labels, rows)),
                tf.data.AUTOTUNE,
            )
        return batches.map(_as_pixels, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def steps_per_epoch(self, batch_size):
        return self.size // min(batch_size, self.size)

    def sample(self, count):
        """The first `count` images, as `(count, rows, cols, channels)` float32."""
        if self.images is not None:
            return self.images[:count].astype("float32")
        pairs = self.stream().take(count)
        return np.stack([image.numpy() for image, _ in pairs]).astype("float32")


def _as_pixels(images, labels):
    return tf.cast(images, tf.float32), labels


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set with its training split parted; the test split loads on demand.

    Attributes:
        name: TFDS name.
        image_shape: `(rows, cols, channels)`.
        class_names: Names of the classes, in the order of the labels.
        train: `Split` to train on.
        validation: `Split` by which everything is chosen.
        load_test: Loads the test `Split`; called in the final report alone.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    load_test: Callable[[], Split]

    def statistics(self):
        """`PixelStatistics` of the training split (its first 10,000 if streamed)."""
        images = self.train.images
        if images is None:
            images = self.train.sample(10_000)
        axes = (0, 1, 2)
        # By the mean of squares in float64: no float copy of the whole set.
        mean = images.mean(axis=axes, dtype="float64")
        square = sum(np.square(part, dtype="float64").sum(axis=axes) for part in _parts(images))
        variance = square / (images.size / images.shape[-1]) - mean**2
        return PixelStatistics(tuple(map(float, mean)), tuple(map(float, variance)))


def _parts(images, rows=1000):
    return (images[start : start + rows] for start in range(0, len(images), rows))


def load(config, seed):
    """Load the configured data set and part its training split.

    Args:
        config: A `DataConfig`.
        seed: Seeds the parting into training and validation.

    Returns:
        A `Data`.

    Raises:
        ConfigError: If the data set is unknown, not there, cannot be downloaded,
            or holds no labelled images.
    """
    builder = _builder(config)
    image_key, label_key = _keys(builder)
    image_shape = _image_shape(builder, image_key, config)
    for setting in ("train_split", "test_split"):
        _check_split(builder, setting, getattr(config, setting))
    read = functools.partial(_read, builder, (image_key, label_key), image_shape, config)
    whole = read(config.train_split)
    train, validation = _part(whole, config.validation_fraction, seed)
    return Data(
        name=config.name,
        image_shape=image_shape,
        class_names=tuple(builder.info.features[label_key].names),
        train=train,
        validation=validation,
        load_test=lambda: read(config.test_split),
    )


def describe(config):
    """A data set's image shape and class count, without reading an image."""
    builder = _builder(config)
    image_key, label_key = _keys(builder)
    return _image_shape(builder, image_key, config), builder.info.features[label_key].num_classes


def _data_dir(config):
    if config.data_dir is not None:
        return str(pathlib.Path(config.data_dir).expanduser())
    return os.environ.get("TFDS_DATA_DIR") or str(
        pathlib.Path("~/tensorflow_datasets").expanduser()
    )


def _embedded_dir():
    """Embedded sets are prepared in the user's cache; a data folder may be read-only."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
    return str(pathlib.Path(cache) / "cnn_l1" / "tensorflow_datasets")


def _builder(config):
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    absl.logging.set_verbosity(absl.logging.ERROR)  # its remarks are answered by ours
    if config.name in EMBEDDED:
        from cnn_l1 import digits

        builder = digits.Digits(data_dir=_embedded_dir())
        with silenced(), contextlib.suppress(FileExistsError):  # prepared meanwhile
            builder.download_and_prepare()
        return builder
    data_dir = _data_dir(config)
    try:
        if ":" in config.name and not re.search(r":(\d+|\*)(\.(\d+|\*)){2}$", config.name):
            raise ValueError("a name of another hub, such as huggingface:mnist")
        # No look at the public bucket: it would wait for a network.
        tfds.core.utils.gcs_utils._is_gcs_disabled = True
        builder = tfds.builder(config.name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError):
        # Unknown; not a name at all; a version or a variant that the set does not have.
        import difflib

        known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(config.name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            "data.name: expected 'digits' or the name of a TFDS data set. "
            f"Received: {config.name!r}.{hint}"
        ) from None
    if builder.is_prepared():
        return builder
    if not config.download:
        raise ConfigError(
            f"data.name: expected {config.name!r} prepared for TFDS in {data_dir}. Received: no "
            "such data there. Set TFDS_DATA_DIR or data.data_dir to where it is, or "
            "data.download=true to fetch it."
        )
    _check_network(config.name, data_dir)
    builder.download_and_prepare()
    return builder


def _check_network(name, data_dir):
    """Fail at once without a network; TFDS would retry for minutes."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    try:
        socket.create_connection(NETWORK_PROBE, timeout=NETWORK_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(
            f"data.download: expected a network to fetch {name!r} into {data_dir}. "
            f"Received: no connection to {NETWORK_PROBE[0]} ({error})"
        ) from None


def _keys(builder):
    import tensorflow_datasets as tfds

    keys = builder.info.supervised_keys
    features = builder.info.features
    if keys is not None and len(keys) == 2:
        image, label = features[keys[0]], features[keys[1]]
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise ConfigError(
        "data.name: expected an image-classification data set (an image and a class label). "
        f"Received: {builder.info.name!r} with {', '.join(features)}"
    )


def _image_shape(builder, image_key, config):
    rows, cols, channels = builder.info.features[image_key].shape
    if config.image_size is not None:
        rows, cols = config.image_size
    if rows is None or cols is None:
        raise ConfigError(
            f"data.image_size: expected [rows, columns], for images in {builder.info.name!r} "
            "differ in size. Received: nothing"
        )
    return rows, cols, channels


def _check_split(builder, setting, split):
    try:
        size = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError):
        size = 0
    if not size:
        raise ConfigError(
            f"data.{setting}: expected a split of {builder.info.name!r} with images "
            f"({', '.join(builder.info.splits)}, or a part like train[:80%]). Received: {split!r}"
        )


def _read(builder, keys, image_shape, config, split):
    import tensorflow_datasets as tfds

    image_key, label_key = keys
    size = builder.info.splits[split].num_examples
    in_memory = config.in_memory
    if in_memory is None:
        in_memory = size * int(np.prod(image_shape)) <= IN_MEMORY_BYTES
    options = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    resize = functools.partial(_resize, config.image_size)

    def stream():
        examples = builder.as_dataset(split=split, shuffle_files=False, read_config=options)
        return examples.map(
            lambda e: (resize(e[image_key]), tf.cast(e[label_key], tf.int64)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    if in_memory:
        images = np.empty((size, *image_shape), "uint8")
        labels = np.empty((size,), "int64")
        start = 0
        for some_images, some_labels in stream().batch(EVALUATION_BATCH).prefetch(2):
            stop = start + len(some_labels)
            images[start:stop], labels[start:stop] = some_images.numpy(), some_labels.numpy()
            start = stop
        return Split(size, images, labels)
    skip = {image_key: tfds.decode.SkipDecoding()}
    bare = builder.as_dataset(
        split=split, shuffle_files=False, read_config=options, decoders=skip
    ).map(lambda e: e[label_key])
    labels = np.concatenate([some.numpy() for some in bare.batch(10_000)]).astype("int64")
    return Split(size, None, labels, stream)


def _resize(image_size, image):
    if image_size is None:
        return image
    resized = tf.image.resize(tf.cast(image, tf.float32), image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def _part(whole, validation_fraction, seed):
    """Part a split in two: disjoint, seeded, stratified by label."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(whole.size)
    try:
        train, validation = train_test_split(
            rows, test_size=validation_fraction, stratify=whole.labels, random_state=seed
        )
    except ValueError as error:
        raise ConfigError(
            "data.validation_fraction: expected a part that holds and leaves images of every "
            f"class. Received: {validation_fraction} of {whole.size} images ({error})"
        ) from None
    return tuple(_select(whole, np.sort(chosen)) for chosen in (train, validation))


def _select(whole, rows):
    if whole.images is not None:
        return Split(len(rows), whole.images[rows], whole.labels[rows])
    chosen = np.zeros(whole.size, bool)
    chosen[rows] = True

    def stream():
        table = tf.constant(chosen)
        numbered = whole.stream().enumerate()
        return numbered.filter(lambda i, _: table[i]).map(lambda _, pair: pair)

    return Split(len(rows), None, whole.labels[rows], stream)
