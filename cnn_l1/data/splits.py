"""Splits of a data set, in memory or streamed, and how a training split is parted.

Sets that fit in memory are decoded once; batches are then gathered by index,
inside the graph, so that shuffling costs one number an image.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from cnn_l1.config.loading import ConfigError

EVALUATION_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """Mean and variance of the training split, one value a channel or feature."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


def _no_stream() -> tf.data.Dataset:
    raise TypeError("A split in memory expected to be read from `inputs`. Received: a stream")


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

    def evaluation_batches(self) -> tf.data.Dataset:
        """Batches in order, as `(float32 inputs, targets)`; pixels are 0 to 255."""
        if self.inputs is None:
            return _streamed(self._pairs().batch(EVALUATION_BATCH))
        pairs = tf.data.Dataset.from_tensor_slices((self.inputs, self.targets))
        return _from_memory(pairs.batch(EVALUATION_BATCH).cache())

    def training_batches(self, batch_size: int, seed: int) -> tf.data.Dataset:
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

    def _pairs(self) -> tf.data.Dataset:
        """The stream, its size told: or Keras warns after an epoch that the data ran out."""
        return self.stream().apply(tf.data.experimental.assert_cardinality(self.size))

    def batches_per_epoch(self, batch_size: int) -> int:
        """Whole batches of a size in the split."""
        return self.size // min(batch_size, self.size)

    def sample(self, count: int) -> np.ndarray:
        """The first `count` inputs, as float32."""
        if self.inputs is not None:
            return self.inputs[:count].astype("float32")
        pairs = self.stream().take(count)
        return np.stack([value.numpy() for value, _ in pairs]).astype("float32")


def _streamed(batches: tf.data.Dataset) -> tf.data.Dataset:
    return batches.map(_as_floats, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _from_memory(batches: tf.data.Dataset) -> tf.data.Dataset:
    """One thread is enough: and at an epoch's end none waits for the tuner's next look."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.map(_as_floats).prefetch(2).with_options(options)


def _as_floats(inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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

    def statistics(self) -> InputStatistics:
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


def _parts(inputs: np.ndarray, rows: int = 1000) -> Iterator[np.ndarray]:
    return (inputs[start : start + rows] for start in range(0, len(inputs), rows))


def part(
    whole: Split, validation_fraction: float, seed: int, stratify: bool
) -> tuple[Split, Split]:
    """Part a split in two: disjoint, seeded, stratified by label."""
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


def part_by_fold(
    whole: Split, fold: tuple[int, int], seed: int, stratify: bool
) -> tuple[Split, Split]:
    """Part a split in two: validation is one fold of several, seeded and stratified."""
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


def _some(stratify: bool) -> str:
    return "examples of every class" if stratify else "examples"


def _select(whole: Split, rows: np.ndarray) -> Split:
    if whole.inputs is not None:
        return Split(len(rows), whole.inputs[rows], whole.targets[rows])
    chosen = np.zeros(whole.size, bool)
    chosen[rows] = True

    def stream() -> tf.data.Dataset:
        table = tf.constant(chosen)
        numbered = whole.stream().enumerate()
        return numbered.filter(lambda i, _: table[i]).map(lambda _, pair: pair)

    return Split(len(rows), None, whole.targets[rows], stream)
