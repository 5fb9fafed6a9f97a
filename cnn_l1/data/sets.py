"""TFDS in, tf.data out: one road for every data set.

Sets that fit in memory are decoded once; batches are then gathered by index,
inside the graph, so that shuffling costs one number an image.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import re
import socket
import warnings
from collections.abc import Callable

import absl.logging
import numpy as np
import tensorflow as tf

from cnn_l1.config.loading import ConfigError
from cnn_l1.errors import CnnL1Error
from cnn_l1.process.silence import silenced

EMBEDDED = ("digits", "xor", "diabetes", "sparse_regression")
IN_MEMORY_BYTES = 2 * 1024**3
EVALUATION_BATCH = 1000
NETWORK_PROBE = ("storage.googleapis.com", 443)
NETWORK_TIMEOUT_S = 5.0


class DataError(CnnL1Error, RuntimeError):
    """A data set that cannot be fetched or read."""


def _no_stream() -> tf.data.Dataset:
    raise TypeError("A split in memory expected to be read from `inputs`. Received: a stream")


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """Mean and variance of the training split, one value a channel or feature."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples, in memory or streamed.

    Attributes:
        size: Number of examples.
        inputs: Images, `(size, rows, cols, channels)` uint8, or features, `(size,
            features)` float32; `None` if streamed.
        targets: `(size,)` int64 labels, or float32 values, `(size,)` or `(size, outputs)`.
        stream: Makes a `tf.data.Dataset` of single `(input, target)` pairs, for
            a streamed split.
    """

    size: int
    inputs: np.ndarray | None
    targets: np.ndarray
    stream: Callable[[], tf.data.Dataset] = _no_stream

    def evaluation_batches(self):
        """Batches in order, as `(float32 inputs, targets)`; pixels are 0 to 255."""
        if self.inputs is None:
            return _streamed(self._pairs().batch(EVALUATION_BATCH))
        pairs = tf.data.Dataset.from_tensor_slices((self.inputs, self.targets))
        return _from_memory(pairs.batch(EVALUATION_BATCH).cache())

    def training_batches(self, batch_size, seed):
        """Shuffled batches, in a new order every epoch, that `seed` fixes.

        A last batch that is not full is left out (other examples each epoch), so
        that every step has one shape; a split smaller than a batch is one batch.
        """
        batch_size = min(batch_size, self.size)
        if self.inputs is None:
            batches = self._pairs().shuffle(min(self.size, 10_000), seed=seed)
            return _streamed(batches.batch(batch_size, drop_remainder=True))
        with tf.device("CPU"):
            inputs, targets = tf.constant(self.inputs), tf.constant(self.targets)
        order = tf.data.Dataset.range(self.size).shuffle(self.size, seed=seed)
        batches = order.batch(batch_size, drop_remainder=True)
        pairs = batches.map(lambda rows: (tf.gather(inputs, rows), tf.gather(targets, rows)))
        return _from_memory(pairs)

    def _pairs(self):
        """The stream, its size told: or Keras warns after an epoch that the data ran out."""
        return self.stream().apply(tf.data.experimental.assert_cardinality(self.size))

    def batches_per_epoch(self, batch_size):
        return self.size // min(batch_size, self.size)

    def sample(self, count):
        """The first `count` inputs, as float32."""
        if self.inputs is not None:
            return self.inputs[:count].astype("float32")
        pairs = self.stream().take(count)
        return np.stack([value.numpy() for value, _ in pairs]).astype("float32")


def _streamed(batches):
    return batches.map(_as_floats, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _from_memory(batches):
    """One thread is enough: and at an epoch's end none waits for the tuner's next look."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.map(_as_floats).prefetch(2).with_options(options)


def _as_floats(inputs, targets):
    return tf.cast(inputs, tf.float32), targets


@dataclasses.dataclass(frozen=True)
class Description:
    """What a data set is, without an example of it.

    Attributes:
        name: TFDS name.
        input_shape: `(rows, cols, channels)` of an image or `(features,)`.
        class_names: Names of the classes, in the order of the labels; `None` where
            the targets are values.
        target_count: Values an example, for targets that are values; else 1.
        feature_names: Names of the features, or `None`.
        true_coefficients: Of data made with known coefficients; else `None`.
    """

    name: str
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...] | None
    target_count: int = 1
    feature_names: tuple[str, ...] | None = None
    true_coefficients: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set with its training split parted; the test split loads on demand.

    Attributes:
        about: Its `Description`.
        train: `Split` to train on.
        validation: `Split` by which everything is chosen.
        load_test: Loads the test `Split`; called in the final report alone.
    """

    about: Description
    train: Split
    validation: Split
    load_test: Callable[[], Split]

    def statistics(self):
        """`InputStatistics` of the training split (its first 10,000 if streamed)."""
        inputs = self.train.inputs
        if inputs is None:
            inputs = self.train.sample(10_000)
        axes = tuple(range(inputs.ndim - 1))
        # Part by part: no float64 copy of the whole set.
        count = inputs.size / inputs.shape[-1]
        mean = inputs.mean(axis=axes, dtype="float64")
        squares = (np.square(p.astype("float64") - mean).sum(axis=axes) for p in _parts(inputs))
        variance = sum(squares) / count
        return InputStatistics(tuple(map(float, mean)), tuple(map(float, variance)))


def _parts(inputs, rows=1000):
    return (inputs[start : start + rows] for start in range(0, len(inputs), rows))


def load(config, seed):
    """Load the configured data set and part its training split.

    Args:
        config: A `DataConfig`.
        seed: Seeds the parting into training and validation.

    Returns:
        A `Data`.

    Raises:
        ConfigError: If the data set is unknown, not there, cannot be downloaded,
            or holds nothing to learn.
    """
    builder = _builder(config)
    keys = _keys(builder)
    about = _describe(builder, keys, config)
    for setting in ("train_split", "validation_split", "test_split"):
        if getattr(config, setting) is not None:
            _check_split(builder, setting, getattr(config, setting))
    read = functools.partial(_read, builder, keys, about.input_shape, config)
    whole = read(config.train_split)
    stratify = about.class_names is not None
    if config.validation_split is not None:
        train, validation = whole, read(config.validation_split)
    elif config.fold is not None:
        train, validation = _part_by_fold(whole, config.fold, seed, stratify)
    else:
        train, validation = _part(whole, config.validation_fraction, seed, stratify)
    return Data(about, train, validation, load_test=lambda: read(config.test_split))


def describe(config):
    """A data set's `Description`, without reading an example."""
    builder = _builder(config)
    return _describe(builder, _keys(builder), config)


def _describe(builder, keys, config):
    import tensorflow_datasets as tfds

    input_key, target_key = keys
    target = builder.info.features[target_key]
    labels = isinstance(target, tfds.features.ClassLabel)
    metadata = builder.info.metadata or {}
    names, true = metadata.get("feature_names"), metadata.get("true_coefficients")
    return Description(
        name=config.name,
        input_shape=_input_shape(builder, input_key, config),
        class_names=tuple(target.names) if labels else None,
        target_count=1 if labels else math.prod(target.shape),
        feature_names=None if names is None else tuple(names),
        true_coefficients=None if true is None else tuple(map(float, true)),
    )


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
        from cnn_l1.data import embedded

        builder = embedded.BUILDERS[config.name](data_dir=_embedded_dir())
        try:
            with silenced(), contextlib.suppress(FileExistsError):  # prepared meanwhile
                builder.download_and_prepare()
        except (OSError, tf.errors.OpError) as error:
            raise DataError(
                f"data.name: expected to prepare {config.name!r} in {_embedded_dir()}, the user's "
                "cache (XDG_CACHE_HOME moves it). "
                f"Received: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from None
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
            f"data.name: expected one of {', '.join(EMBEDDED)}, or the name of a TFDS data set. "
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
    try:
        builder.download_and_prepare()
    except Exception as error:  # a server's refusal, a cut-off archive, no room, a missing package
        reason = " ".join(str(error).split())[:300] or "no message"
        raise DataError(
            f"data.download: expected to fetch and prepare {config.name!r} in {data_dir}. "
            f"Received: {type(error).__name__}: {reason}"
        ) from None
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
    """The keys of input and target: an image or features, a label or values."""
    import tensorflow_datasets as tfds

    keys = builder.info.supervised_keys
    features = builder.info.features
    if keys is not None and len(keys) == 2:
        source, target = features[keys[0]], features[keys[1]]
        image = isinstance(source, tfds.features.Image)
        labels = isinstance(target, tfds.features.ClassLabel)
        if (image or _is_vector(source, 1)) and (labels or _is_vector(target, 0, 1)):
            return keys
    raise ConfigError(
        "data.name: expected a data set with an image or a row of floats, and a class label or "
        f"floats to predict. Received: {builder.info.name!r} with {', '.join(features)}"
    )


def _is_vector(feature, *ranks):
    """Whether a feature is numbers of a fixed shape, of one of these ranks."""
    shape, dtype = getattr(feature, "shape", None), getattr(feature, "np_dtype", None)
    if not isinstance(shape, tuple) or len(shape) not in ranks or None in shape:
        return False
    return dtype is not None and np.issubdtype(dtype, np.floating)


def _input_shape(builder, input_key, config):
    shape = tuple(builder.info.features[input_key].shape)
    if len(shape) == 1:
        if config.image_size is not None:
            raise ConfigError(
                f"data.image_size: expected nothing, for {builder.info.name!r} holds rows of "
                f"features, not images. Received: {list(config.image_size)}"
            )
        return shape
    rows, cols, channels = shape
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
            f"data.{setting}: expected a split of {builder.info.name!r} with examples "
            f"({', '.join(builder.info.splits)}, or a part like train[:80%]). Received: {split!r}"
        )


def _read(builder, keys, input_shape, config, split):
    import tensorflow_datasets as tfds

    input_key, target_key = keys
    target_feature = builder.info.features[target_key]
    labels = isinstance(target_feature, tfds.features.ClassLabel)
    target_type = tf.int64 if labels else tf.float32
    target_shape = () if labels else tuple(target_feature.shape)
    size = builder.info.splits[split].num_examples
    image = len(input_shape) == 3
    input_type = "uint8" if image else "float32"
    in_memory = config.in_memory
    if in_memory is None:
        in_memory = size * math.prod(input_shape) * (1 if image else 4) <= IN_MEMORY_BYTES
    options = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)

    def prepare(value):
        return _resize(config.image_size, value) if image else tf.cast(value, tf.float32)

    def stream():
        examples = builder.as_dataset(split=split, shuffle_files=False, read_config=options)
        return examples.map(
            lambda e: (prepare(e[input_key]), tf.cast(e[target_key], target_type)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    if in_memory:
        inputs = np.empty((size, *input_shape), input_type)
        targets = np.empty((size, *target_shape), target_type.as_numpy_dtype)
        start = 0
        try:
            for some_inputs, some_targets in stream().batch(EVALUATION_BATCH).prefetch(2):
                stop = start + len(some_targets)
                inputs[start:stop], targets[start:stop] = some_inputs.numpy(), some_targets.numpy()
                start = stop
        except (OSError, tf.errors.OpError) as error:
            raise DataError(
                f"data: expected to read {builder.info.name!r}, split {split!r}, in "
                f"{builder.data_dir}. "
                f"Received: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from None
        return Split(size, inputs, targets)
    bare = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=options,
        decoders={input_key: tfds.decode.SkipDecoding()} if image else None,
    ).map(lambda e: tf.cast(e[target_key], target_type))
    targets = np.concatenate([some.numpy() for some in bare.batch(10_000)])
    return Split(size, None, targets, stream)


def _resize(image_size, image):
    if image_size is None:
        return image
    resized = tf.image.resize(tf.cast(image, tf.float32), image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def _part(whole, validation_fraction, seed, stratify):
    """Part a split in two: disjoint, seeded, stratified by label."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(whole.size)
    try:
        train, validation = train_test_split(
            rows,
            test_size=validation_fraction,
            stratify=whole.targets if stratify else None,
            random_state=seed,
        )
    except ValueError as error:
        raise ConfigError(
            f"data.validation_fraction: expected a part that holds and leaves {_some(stratify)}. "
            f"Received: {validation_fraction} of {whole.size} ({error})"
        ) from None
    return _select(whole, np.sort(train)), _select(whole, np.sort(validation))


def _part_by_fold(whole, fold, seed, stratify):
    """Part a split in two: validation is one fold of several, seeded and stratified."""
    from sklearn.model_selection import KFold, StratifiedKFold

    number, folds = fold
    kind = StratifiedKFold if stratify else KFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a class with fewer members than folds
            parts = list(splitter.split(np.zeros(whole.size), whole.targets))
    except (ValueError, UserWarning) as error:
        raise ConfigError(
            f"data.fold: expected folds that hold {_some(stratify)}. Received: {folds} folds of "
            f"{whole.size} examples ({error})"
        ) from None
    train, validation = parts[number]
    return _select(whole, train), _select(whole, validation)


def _some(stratify):
    return "examples of every class" if stratify else "examples"


def _select(whole, rows):
    if whole.inputs is not None:
        return Split(len(rows), whole.inputs[rows], whole.targets[rows])
    chosen = np.zeros(whole.size, bool)
    chosen[rows] = True

    def stream():
        table = tf.constant(chosen)
        numbered = whole.stream().enumerate()
        return numbered.filter(lambda i, _: table[i]).map(lambda _, pair: pair)

    return Split(len(rows), None, whole.targets[rows], stream)
