"""Splits of a data set, in memory or streamed, and how a training split is parted.

Sets that fit in memory are decoded once; batches are then gathered by index,
inside the graph, so that shuffling costs one number an image.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

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


# What is to be predicted, for one output or by the output's name.
Targets = Any  # `np.ndarray | dict[str, np.ndarray]`


@dataclasses.dataclass(frozen=True)
class InputScaling:
    """`x · scale + offset` of raw inputs, one value for all, or one a channel or feature.

    Attributes:
        meaning: What the scaled values are, in words, e.g. `"pixels from 0 to 1"`.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    meaning: str


def scaled(inputs: Any, scaling: InputScaling | None) -> Any:
    """Float inputs, scaled; as they are for `None`."""
    if scaling is None:
        return inputs
    return inputs * np.asarray(scaling.scale, "float32") + np.asarray(scaling.offset, "float32")


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples, in memory or streamed.

    Attributes:
        size: Number of examples.
        inputs: Images, `(size, rows, cols, channels)` uint8, features, `(size, features)`
            float32, or series, `(size, steps, channels)` float32; `None` if streamed.
        targets: int64 labels or float32 values, first axis `size`; for several outputs
            a dict of them by the output's name. See `Description` for the shapes.
        stream: Makes a `tf.data.Dataset` of single `(input, target)` pairs, for
            a streamed split.
        is_ordered: Whether examples may be ordered by class, so that samples are taken evenly
            from all of them.
        at: Makes such pairs of a data set of positions, for a streamed split whose examples
            can be read in any order: they are shuffled whole, and no others are read.
        scaling: What is done to inputs in every batch and sample; `None` for nothing.
    """

    size: int
    inputs: np.ndarray | None
    targets: Targets
    stream: Callable[[], tf.data.Dataset] = _no_stream
    scaling: InputScaling | None = None
    at: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None
    is_ordered: bool = False

    def evaluation_batches(self) -> tf.data.Dataset:
        """Batches in order, as `(float32 inputs, targets)`; pixels are 0 to 255 if not scaled."""
        if self.inputs is None:
            return self._streamed(self._pairs().batch(EVALUATION_BATCH))
        pairs = tf.data.Dataset.from_tensor_slices((self.inputs, self.targets))
        return self._from_memory(pairs.batch(EVALUATION_BATCH).cache())

    def training_batches(self, batch_size: int, seed: int) -> tf.data.Dataset:
        """Shuffled batches, in a new order every epoch, that `seed` fixes.

        A last batch that is not full is left out (other examples each epoch), so
        that every step has one shape; a split smaller than a batch is one batch.
        """
        batch_size = min(batch_size, self.size)
        if self.inputs is None and self.at is not None:
            order = tf.data.Dataset.range(self.size).shuffle(self.size, seed=seed)
            batches = _counted(self.at(order), self.size)
            return self._streamed(batches.batch(batch_size, drop_remainder=True))
        if self.inputs is None:
            batches = self._pairs().shuffle(min(self.size, 10_000), seed=seed)
            return self._streamed(batches.batch(batch_size, drop_remainder=True))
        with tf.device("CPU"):
            inputs = tf.constant(self.inputs)
            targets = tf.nest.map_structure(tf.constant, self.targets)
        order = tf.data.Dataset.range(self.size).shuffle(self.size, seed=seed)
        batches = order.batch(batch_size, drop_remainder=True)
        pairs = batches.map(
            lambda rows: (
                tf.gather(inputs, rows),
                tf.nest.map_structure(lambda each: tf.gather(each, rows), targets),
            )
        )
        return self._from_memory(pairs)

    def _pairs(self) -> tf.data.Dataset:
        return _counted(self.stream(), self.size)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Whole batches of a size in the split."""
        return self.size // min(batch_size, self.size)

    def sample(self, count: int) -> np.ndarray:
        """At most `count` inputs, as float32, scaled as batches are: see `sampled`."""
        rows = self.sampled(count)
        if self.inputs is not None:
            inputs = self.inputs[rows].astype("float32")
        else:
            if self.at is not None:
                pairs = self.at(tf.data.Dataset.from_tensor_slices(rows))
            else:
                pairs = self.stream().take(count)
            inputs = np.stack([value.numpy() for value, _ in pairs]).astype("float32")
        return np.asarray(scaled(inputs, self.scaling))

    def sampled(self, count: int) -> np.ndarray:
        """Positions of at most `count` examples: the first, or evenly spaced if ordered."""
        count = min(count, self.size)
        if self.is_ordered and (self.inputs is not None or self.at is not None):
            return np.linspace(0, self.size - 1, count).round().astype("int64")
        return np.arange(count)

    def sampled_targets(self, count: int) -> Targets:
        """The targets of the examples of `sample`."""
        rows = self.sampled(count)
        return tf.nest.map_structure(lambda each: each[rows], self.targets)

    def _as_floats(self, inputs: tf.Tensor, targets: Any) -> tuple[tf.Tensor, Any]:
        return scaled(tf.cast(inputs, tf.float32), self.scaling), targets

    def _streamed(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        return batches.map(self._as_floats, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _from_memory(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """One thread is enough: and at an epoch's end none waits for the tuner's next look."""
        options = tf.data.Options()
        options.autotune.enabled = False
        return batches.map(self._as_floats).prefetch(2).with_options(options)


def _counted(pairs: tf.data.Dataset, size: int) -> tf.data.Dataset:
    """A stream, its size told: or Keras warns after an epoch that the data ran out."""
    return pairs.apply(tf.data.experimental.assert_cardinality(size))


@dataclasses.dataclass(frozen=True)
class Description:
    """What a data set is, without an example of it.

    Attributes:
        name: TFDS name, or the path or function of the user's own data.
        input_shape: `(rows, cols, channels)` of an image, `(steps, channels)` of a series or
            `(features,)`.
        class_names: Names of the classes, in the order of the labels, or of the labels that
            an example may have several of; `None` where the targets are values.
        target_count: Values an example, for targets that are values; else 1.
        feature_names: Names of the features, or of a series' channels, or `None`.
        true_coefficients: Of data made with known coefficients; else `None`.
        kind: What the targets are. `"classes"`: int64 labels, `(size,)`. `"multilabel"`:
            float32 0 or 1, `(size, labels)`. `"segmentation"`: int64 labels, `(size, rows,
            cols)`. `"values"`: float32, `(size,)` or `(size, …)`. `"none"`: no target but
            the input. Default: classes where there are names of them, else values.
        outputs: For several outputs, a `Description` of each one's targets by its name.
        sampling_rate_hz: Steps a second of a series, or `None`.
        source: What the data are in words for messages, e.g. a path. Default: the name.
    """

    name: str
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...] | None
    target_count: int = 1
    feature_names: tuple[str, ...] | None = None
    true_coefficients: tuple[float, ...] | None = None
    kind: str = ""
    outputs: dict[str, "Description"] = dataclasses.field(default_factory=dict)
    sampling_rate_hz: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.kind:
            kind = "values" if self.class_names is None else "classes"
            object.__setattr__(self, "kind", kind)
        if not self.source:
            object.__setattr__(self, "source", self.name)

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images."""
        return len(self.input_shape) == 3


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
        """`InputStatistics` of raw training inputs (the first 10,000 if streamed)."""
        inputs = self.train.inputs
        if inputs is None:
            inputs = dataclasses.replace(self.train, scaling=None).sample(10_000)
        axes = tuple(range(inputs.ndim - 1))
        # Part by part: no float64 copy of the whole set.
        count = inputs.size / inputs.shape[-1]
        mean = inputs.mean(axis=axes, dtype="float64")
        squares = (np.square(p.astype("float64") - mean).sum(axis=axes) for p in _parts(inputs))
        variance = sum(squares) / count
        return InputStatistics(tuple(map(float, mean)), tuple(map(float, variance)))

    def scaled(self, scaling: InputScaling | None) -> "Data":
        """The same data, their inputs scaled in every batch and sample."""
        if scaling is None:
            return self

        def scale(split: Split) -> Split:
            return dataclasses.replace(split, scaling=scaling)

        load_test = self.load_test
        return dataclasses.replace(
            self,
            train=scale(self.train),
            validation=scale(self.validation),
            load_test=lambda: scale(load_test()),
        )


def _parts(inputs: np.ndarray, rows: int = 1000) -> Iterator[np.ndarray]:
    return (inputs[start : start + rows] for start in range(0, len(inputs), rows))


def part(
    whole: Split,
    fraction: float,
    seed: int,
    stratify: bool,
    groups: np.ndarray | None = None,
    setting: str = "data.validation_fraction",
) -> tuple[Split, Split, np.ndarray | None]:
    """Part a split in two: disjoint, seeded, stratified by label.

    Args:
        whole: The split.
        fraction: Part that the second one takes.
        seed: Seeds the choice.
        stratify: Whether the targets are labels, of which both shall have as many.
        groups: `(size,)` numbers; examples of one number stay on one side. Default: each
            example is alone.
        setting: What an error names.

    Returns:
        `(first, second, groups of the first)`.
    """
    alone = _first_of_each(whole.size, groups)
    try:
        kept, taken = train_test_split(
            alone,
            test_size=fraction,
            stratify=whole.targets[alone] if stratify else None,
            random_state=seed,
        )
    except ValueError as error:
        raise ConfigError(
            f"{setting}: expected a part that holds and leaves {_some(stratify)}. "
            f"Received: {fraction} of {whole.size} ({error})"
        ) from None
    first, second = _with_groups(kept, groups), _with_groups(taken, groups)
    left = None if groups is None else groups[first]
    return select(whole, first), select(whole, second), left


def part_by_fold(
    whole: Split,
    fold: tuple[int, int],
    seed: int,
    stratify: bool,
    groups: np.ndarray | None = None,
) -> tuple[Split, Split]:
    """Part a split in two: validation is one fold of several, seeded and stratified."""
    number, folds = fold
    kind = StratifiedKFold if stratify else KFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    alone = _first_of_each(whole.size, groups)
    labels = whole.targets[alone] if stratify else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a class with fewer members than folds
            parts = list(splitter.split(np.zeros(len(alone)), labels))
    except (ValueError, UserWarning) as error:
        raise ConfigError(
            f"data.fold: expected folds that hold {_some(stratify)}. Received: {folds} folds of "
            f"{whole.size} examples ({error})"
        ) from None
    train, validation = (_with_groups(alone[rows], groups) for rows in parts[number])
    return select(whole, train), select(whole, validation)


def _first_of_each(size: int, groups: np.ndarray | None) -> np.ndarray:
    """Positions of the first example of each group, in order."""
    if groups is None:
        return np.arange(size)
    return np.sort(np.unique(groups, return_index=True)[1])


def _with_groups(rows: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Positions with those of the same groups, in order."""
    if groups is None:
        return np.sort(rows)
    return np.flatnonzero(np.isin(groups, groups[rows]))


def _some(stratify: bool) -> str:
    return "examples of every class" if stratify else "examples"


def select(whole: Split, rows: np.ndarray) -> Split:
    """The examples of a split at some positions, which rise where it is streamed."""
    targets = tf.nest.map_structure(lambda each: each[rows], whole.targets)
    if whole.inputs is not None:
        return dataclasses.replace(
            whole, size=len(rows), inputs=whole.inputs[rows], targets=targets
        )
    if whole.at is not None:
        found = at_positions(len(rows), targets, _at_rows(whole.at, rows), whole.scaling)
        return dataclasses.replace(found, is_ordered=whole.is_ordered)
    chosen = np.zeros(whole.size, bool)
    chosen[rows] = True

    def stream() -> tf.data.Dataset:
        table = tf.constant(chosen)
        numbered = whole.stream().enumerate()
        return numbered.filter(lambda i, _: table[i]).map(lambda _, pair: pair)

    return dataclasses.replace(whole, size=len(rows), targets=targets, stream=stream)


def _at_rows(
    at: Callable[[tf.data.Dataset], tf.data.Dataset], rows: np.ndarray
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    def chosen(positions: tf.data.Dataset) -> tf.data.Dataset:
        table = tf.constant(rows, tf.int64)
        return at(positions.map(lambda i: table[i]))

    return chosen


def at_positions(
    size: int,
    targets: Targets,
    at: Callable[[tf.data.Dataset], tf.data.Dataset],
    scaling: InputScaling | None = None,
) -> Split:
    """A streamed `Split` whose examples can be read in any order."""
    return Split(size, None, targets, lambda: at(tf.data.Dataset.range(size)), scaling, at)
