"""A `tf.data.Dataset` or `keras.utils.PyDataset` of pairs, read once: kept, or streamed again.

Whether elements are batches is told by their shapes, `x` of the input and `y` of the target:

- `y` is one number or text: an element is one example;
- `x` has four axes, or a first axis of unknown size: an element is a batch;
- `x` has one axis, or the first axes of `x` and `y` differ: an element is one example;
- else a batch cannot be told from one example, and the data are refused.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnn_l1.data.duplicates import digests
from cnn_l1.data.given_inputs import prepared, type_of, with_axes
from cnn_l1.data.origin import Origin
from cnn_l1.data.splits import EVALUATION_BATCH
from cnn_l1.data.tfds_sets import IN_MEMORY_BYTES

COMPARED = 256  # first examples that must come again in the same order
BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Taken:
    """What was read of one split.

    Attributes:
        inputs: As `splits.Split.inputs`; `None` if they are streamed.
        shape: Shape of one input.
        targets: As given, first axis the examples; a dict of them by output; or `None`.
        digests: One an example.
        stream: Makes a data set of single `(input, raw target)`, for streamed inputs.
    """

    inputs: np.ndarray | None
    shape: tuple[int, ...]
    targets: Any
    digests: list[bytes]
    stream: Callable[[], tf.data.Dataset] | None = None


def take_stream(
    given: tf.data.Dataset | keras.utils.PyDataset,
    split: str,
    origin: Origin,
    series: bool | None,
    in_memory: bool | None,
    ordered: bool,
) -> Taken:
    """Read a data set once, to count it and to know its targets.

    Args:
        given: The data set.
        split: Which it is.
        origin: How errors call the data.
        series: As `given_inputs.with_axes` takes it.
        in_memory: Whether to keep the inputs. Default: if they take less than 2 GiB.
        ordered: Whether its examples must come in the same order each time.

    Raises:
        ConfigError: If it has no end, cannot be read, or holds what is no pair.
    """
    dataset = _of_batches(given, split, origin) if _is_pydataset(given) else given
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise origin.error(
            f"a data set with an end for {split}", "one that repeats for ever: leave .repeat() out"
        )
    single = _single(dataset, split, origin)
    try:
        return _read(single, split, origin, series, in_memory, ordered)
    except (tf.errors.OpError, OSError) as error:
        raise origin.error(
            f"a data set for {split} that can be read to its end",
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        ) from None


def _read(
    single: tf.data.Dataset,
    split: str,
    origin: Origin,
    series: bool | None,
    in_memory: bool | None,
    ordered: bool,
) -> Taken:
    limit = IN_MEMORY_BYTES if in_memory is None else math.inf if in_memory else -1
    kept: list[np.ndarray] | None = []
    targets: list[Any] = []
    each: list[bytes] = []
    size = 0
    for element in single.batch(BLOCK).prefetch(1):
        raw, target = element if isinstance(element, tuple) else (element, None)
        block = prepared(raw.numpy(), series, split, origin, start=len(each))
        each += digests(block)
        if target is not None:
            targets.append(tf.nest.map_structure(lambda one: one.numpy(), target))
        size += block.nbytes
        if size > limit:
            kept = None
        if kept is not None:
            kept.append(block)
    if not each:
        raise origin.error(f"examples for {split}", "an empty data set")
    if ordered or kept is None:
        _refuse_other_order(single, each, series, split, origin)
    joined = (
        tf.nest.map_structure(lambda *parts: np.concatenate(parts), *targets) if targets else None
    )
    if kept is not None:
        inputs = np.concatenate(kept)
        return Taken(inputs, inputs.shape[1:], joined, each)
    spec = _input_spec(single)
    shape = with_axes(tuple(spec.shape), series)
    assert shape is not None  # `prepared` has refused others
    kind = type_of(np.dtype(spec.dtype.as_numpy_dtype), shape)

    def stream() -> tf.data.Dataset:
        def shaped(raw: tf.Tensor, *target: Any) -> tuple[Any, ...]:
            return tf.reshape(tf.cast(raw, kind), shape), *target

        return single.map(shaped, tf.data.AUTOTUNE)

    return Taken(None, shape, joined, each, stream)


def _refuse_other_order(
    single: tf.data.Dataset, each: list[bytes], series: bool | None, split: str, origin: Origin
) -> None:
    """A second look at the first examples: positions must name the same ones each time."""
    for element in single.take(COMPARED).batch(COMPARED):
        raw = element[0] if isinstance(element, tuple) else element
        again = digests(prepared(raw.numpy(), series, split, origin))
        if again != each[: len(again)]:
            raise origin.error(
                f"a data set for {split} that gives the same examples in the same order each time",
                "others the second time: leave shuffling and random changes to the training",
            )


def _single(dataset: tf.data.Dataset, split: str, origin: Origin) -> tf.data.Dataset:
    """The data set's examples one by one, as `(input, target)` or `input`."""
    spec = dataset.element_spec
    pair = isinstance(spec, tuple)
    if pair and len(spec) == 2 and (_is_none(spec[1])):
        return _single(dataset.map(lambda x, _: x), split, origin)
    x, y = spec if pair and len(spec) == 2 else (spec, None)
    leaves = [] if y is None else tf.nest.flatten(y)
    if not isinstance(x, tf.TensorSpec) or not all(
        isinstance(one, tf.TensorSpec) for one in leaves
    ):
        raise origin.error(
            f"a data set of (input, target) or of inputs for {split}",
            f"elements of {_shown(spec)}",
        )
    if isinstance(y, tuple | list) or any(one.shape.rank is None for one in [x, *leaves]):
        raise origin.error(
            f"one tensor, or a dict of them by output, of known shapes for {split}",
            f"elements of {_shown(spec)}",
        )
    batched = _is_batched(x.shape, [one.shape for one in leaves])
    if batched is None:
        raise origin.error(
            f"batches of no fixed size, or single examples, for {split}",
            f"elements of {_shown(spec)}, of which one may be either: add .unbatch()",
        )
    single = dataset.unbatch() if batched else dataset
    shapes = [one.shape for one in tf.nest.flatten(single.element_spec)]
    if not all(shape.is_fully_defined() for shape in shapes):
        raise origin.error(f"examples of one shape for {split}", f"elements of {_shown(spec)}")
    return single


def _is_none(spec: Any) -> bool:
    # TensorFlow's class for it has no public name.
    return spec is None or type(spec).__name__ == "NoneTensorSpec"


def _is_batched(x: tf.TensorShape, targets: list[tf.TensorShape]) -> bool | None:
    """Whether elements are batches, by the rule of this module; `None` if it is open."""
    if any(y.rank == 0 for y in targets) or x.rank < 2:
        return False
    if x.rank == 4 or x[0] is None:
        return True
    if not targets and x.rank == 3:
        return False
    if any(y[0] != x[0] for y in targets):
        return False
    return None


def _input_spec(single: tf.data.Dataset) -> tf.TensorSpec:
    spec = single.element_spec
    return spec[0] if isinstance(spec, tuple) else spec


def _shown(spec: Any) -> str:
    def one(leaf: Any) -> str:
        if isinstance(leaf, tf.TensorSpec):
            return f"{leaf.dtype.name}{leaf.shape}"
        return type(leaf).__name__

    return str(tf.nest.map_structure(one, spec)).replace("'", "")


def _is_pydataset(given: Any) -> bool:
    return isinstance(given, keras.utils.PyDataset)


def _of_batches(given: keras.utils.PyDataset, split: str, origin: Origin) -> tf.data.Dataset:
    """A `PyDataset` as a data set of batches whose first axis has no fixed size."""
    count = given.num_batches
    if not count:
        received = "an empty one" if count == 0 else "one without a length"
        raise origin.error(f"a PyDataset of a known number of batches for {split}", received)

    def batch(number: int) -> Any:
        try:
            element = given[number]
        except Exception as error:  # whatever the user's code raises
            raise origin.error(
                f"a PyDataset for {split} that gives its batches",
                f"batch {number} raised {type(error).__name__}: {error}",
            ) from error
        element = tuple(element) if isinstance(element, tuple | list) else element
        return tf.nest.map_structure(np.asarray, element)

    spec = tf.nest.map_structure(
        lambda one: tf.TensorSpec((None, *one.shape[1:]), tf.as_dtype(one.dtype)), batch(0)
    )
    return tf.data.Dataset.from_generator(
        lambda: (batch(number) for number in range(count)), output_signature=spec
    ).prefetch(1)


def encoded_stream(
    taken: Taken, encode: Callable[[Any], Any], example: Any
) -> Callable[[], tf.data.Dataset]:
    """A stream of single `(input, target)`, the targets as splits hold them.

    Args:
        taken: What was read of the split.
        encode: From a block of raw targets to encoded ones, of one output or a dict.
        example: Some encoded targets, for their types and shapes.
    """
    leaves = tf.nest.flatten(example)
    types = [tf.as_dtype(one.dtype) for one in leaves]
    source = taken.stream
    assert source is not None  # for a split that is streamed

    def stream() -> tf.data.Dataset:
        def encoded(inputs: tf.Tensor, *target: Any) -> tuple[tf.Tensor, Any]:
            if not target:
                return inputs, tf.zeros((tf.shape(inputs)[0],))
            structure = target[0]

            def call(*raw: np.ndarray) -> list[np.ndarray]:
                return tf.nest.flatten(encode(tf.nest.pack_sequence_as(structure, raw)))

            given = tf.numpy_function(call, tf.nest.flatten(structure), types, stateful=False)
            for tensor, leaf in zip(given, leaves, strict=True):
                tensor.set_shape((None, *leaf.shape[1:]))
            return inputs, tf.nest.pack_sequence_as(example, given)

        return source().batch(EVALUATION_BATCH // 4).map(encoded, tf.data.AUTOTUNE).unbatch()

    return stream
