"""Calibration data, as users have it, as lists of examples for a model's inputs."""

import collections.abc
import inspect
import itertools
from typing import Any, NamedTuple

import keras
import numpy as np

from cnn_l1.graph.reading import as_functional, input_name
from cnn_l1.process import keras_internals

LIMIT = 500  # examples taken of what may never end


class InputSpec(NamedTuple):
    """What one input of a model takes.

    Attributes:
        name: Name of the input.
        shape: Of an example, without the batch axis; `None` where a size is open.
        dtype: NumPy's name of the type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def input_specs(model: keras.Model) -> list[InputSpec]:
    """The inputs of a Functional or Sequential model, in its own order."""
    functional = as_functional(model)
    return [
        InputSpec(
            input_name(tensor),
            tuple(tensor.shape[1:]),
            keras.backend.standardize_dtype(tensor.dtype),
        )
        for tensor in keras_internals.input_tensors(functional)
    ]


def read_examples(
    data: Any, model: keras.Model, argument: str = "calibration_data", limit: int = LIMIT
) -> list[list[np.ndarray]]:
    """Calibration data as a list of examples, each a list of arrays without batch axis.

    Args:
        data: See `export_tflite`.
        model: The Functional or Sequential model that is to take the data.
        argument: Name of the argument that the user gave, for errors.
        limit: Examples to take of a dataset or a generator.

    Returns:
        One list an example, with one array an input, in the model's order and dtypes.

    Raises:
        ValueError: If the data are not examples of the model's inputs, if there is none, or
            if a value is not finite.
    """
    reader = _Reader(input_specs(model), _input_keys(model), argument)
    examples = reader.read(data, limit)
    if not examples:
        raise ValueError(f"`{argument}` must have at least one example. Received: none")
    return examples


def _input_keys(model: keras.Model) -> list[Any]:
    """The keys of a model that takes a dict, in its own order of inputs; else empty."""
    structure = keras_internals.input_structure(as_functional(model))
    return sorted(structure) if isinstance(structure, dict) else []


class _Reader:
    def __init__(self, specs: list[InputSpec], keys: list[Any], argument: str):
        self.specs, self.keys, self.argument = specs, keys, argument

    def read(self, data: Any, limit: int) -> list[list[np.ndarray]]:
        if isinstance(data, (str, bytes)) or np.isscalar(data):
            raise self.wrong(type(data).__name__ + f" {data!r}"[:50])
        if isinstance(data, dict):
            return self.batch(self.ordered(data))
        if inspect.isgeneratorfunction(data) or inspect.isfunction(data) or inspect.ismethod(data):
            data = data()
        if isinstance(data, (list, tuple)):
            return self.sequence(data)
        if hasattr(data, "element_spec") or isinstance(data, collections.abc.Iterator):
            return self.elements(iter(data), limit)
        if isinstance(data, keras.utils.PyDataset):
            count = data.num_batches
            numbers = itertools.count() if count is None else range(count)
            return self.elements((data[number] for number in numbers), limit)
        if hasattr(data, "__array__"):
            return self.batch(self.counted([data]))
        if isinstance(data, collections.abc.Iterable):
            return self.elements(iter(data), limit)
        raise self.wrong(type(data).__name__)

    def sequence(self, data: Any) -> list[list[np.ndarray]]:
        """A list: one array an input, or for a model of one input examples."""
        if len(self.specs) > 1:
            return self.batch(self.counted(data))
        if not len(data):
            return []
        rank = len(self.specs[0].shape)
        ranks = {np.ndim(item) for item in data if not isinstance(item, (dict, list, tuple))}
        if len(data) == 1 and ranks == {rank + 1}:  # the one input's array, in a list
            return self.batch(list(data))
        return self.elements(iter(data), None)

    def elements(self, items: Any, limit: int | None) -> list[list[np.ndarray]]:
        """Batches or single examples, with or without what is to be predicted."""
        examples: list[list[np.ndarray]] = []
        for item in items:
            arrays = self.element(item)
            single = np.ndim(arrays[0]) == len(self.specs[0].shape)
            if single:
                arrays = [np.asarray(array)[None] for array in arrays]
            examples += self.batch(arrays)
            if limit is not None and len(examples) >= limit:
                return examples[:limit]
        return examples

    def element(self, item: Any) -> list[Any]:
        """The inputs out of one element: `x`, `(x, y)` or `(x, y, weights)`."""
        if isinstance(item, dict):
            return self.ordered(item)
        several = len(self.specs) > 1
        if isinstance(item, (list, tuple)) and len(item):
            first = item[0]
            if isinstance(first, dict):
                return self.ordered(first)
            if several:
                return self.counted(first if isinstance(first, (list, tuple)) else item)
            if isinstance(item, tuple):
                item = first  # the rest is a label, and a weight
            rank = len(self.specs[0].shape)
            alone = isinstance(item, (list, tuple)) and len(item) == 1
            return [item[0] if alone and np.ndim(item[0]) >= rank else item]
        return self.counted([item])

    def ordered(self, by_name: dict) -> list[Any]:
        names = [spec.name for spec in self.specs]
        for keys in (self.keys, names):
            if keys and set(keys) == set(by_name):
                return [by_name[key] for key in keys]
        raise ValueError(
            f"`{self.argument}` must have the inputs' names as keys: "
            f"{', '.join(map(str, self.keys or names))}. "
            f"Received: {', '.join(map(str, by_name))}"
        )

    def counted(self, arrays: Any) -> list[Any]:
        if len(arrays) != len(self.specs):
            names = ", ".join(spec.name for spec in self.specs)
            raise ValueError(
                f"`{self.argument}` must have an array for each of the model's "
                f"{len(self.specs)} inputs ({names}). Received: {len(arrays)}"
            )
        return list(arrays)

    def batch(self, arrays: list[Any]) -> list[list[np.ndarray]]:
        """Arrays `(count, …)`, one an input, as examples."""
        checked = [self.array(value, spec) for value, spec in zip(arrays, self.specs, strict=True)]
        counts = [len(array) for array in checked]
        if len(set(counts)) > 1:
            raise ValueError(
                f"`{self.argument}` must have as many examples for each input. "
                f"Received: {', '.join(map(str, counts))}"
            )
        return [list(example) for example in zip(*checked, strict=True)]

    def array(self, value: Any, spec: InputSpec) -> np.ndarray:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):  # e.g. lists of different lengths
            raise self.wrong("lists of different lengths", spec) from None
        if array.dtype.kind not in "fiub" and array.dtype.name not in ("bfloat16", "float16"):
            raise self.wrong(f"values of type {array.dtype}", spec)
        fits = array.ndim == len(spec.shape) + 1 and all(
            size in (None, given) for size, given in zip(spec.shape, array.shape[1:], strict=True)
        )
        if array.size and not fits:
            raise self.wrong(f"shape {array.shape}", spec)
        if not array.size and not len(array):
            return np.zeros((0, *(size or 1 for size in spec.shape)), spec.dtype)
        if not fits:
            raise self.wrong(f"shape {array.shape}", spec)
        if array.dtype.kind not in "iub" and not np.all(np.isfinite(array.astype("float64"))):
            raise self.wrong("NaN or infinity", spec, "finite values")
        return self.cast(array, spec)

    def cast(self, array: np.ndarray, spec: InputSpec) -> np.ndarray:
        with np.errstate(all="ignore"):
            cast = array.astype(spec.dtype)
        if cast.dtype.kind in "iub":
            if not np.array_equal(cast, array):
                expected = f"values that are {spec.dtype}"
                raise self.wrong(f"{array.dtype}, {array.min()} to {array.max()}", spec, expected)
        elif not np.all(np.isfinite(cast.astype("float32"))):
            raise self.wrong(f"values up to {np.abs(array).max():g}", spec, f"finite {spec.dtype}")
        return cast

    def wrong(self, received: str, spec: InputSpec | None = None, expected: str = "") -> ValueError:
        specs = self.specs if spec is None else [spec]
        if not expected:
            shapes = [
                f"({', '.join(['count', *(str(s or 'any') for s in one.shape)])}) for input "
                f"{one.name!r}"
                for one in specs
            ]
            expected = f"examples of shape {', '.join(shapes)}"
        elif spec is not None:
            expected = f"{expected} for input {spec.name!r}"
        return ValueError(f"`{self.argument}` must be {expected}. Received: {received}")
