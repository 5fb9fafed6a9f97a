"""Arrays for several inputs or outputs: as lists, tuples or dicts, as users hold them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def in_order(values: Any, names: Sequence[str], argument: str, single: bool = False) -> list[Any]:
    """What is given for several inputs or outputs, as a list in the order of a file.

    Args:
        values: A dict by name, or a list or tuple in order.
        names: Names in the file's order; empty ones where it has none.
        argument: What to call it in an error.
        single: Whether there is one only: an array then is as good as a list of one.

    Raises:
        ValueError: If there are not as many, or of other names.
    """
    if isinstance(values, Mapping):
        if len(values) == len(names) and (single or not any(names)):
            return [values[key] for key in sorted(values)]  # Keras' own order of dicts
        if set(values) != set(names):
            raise ValueError(
                f"`{argument}` must be a dict of {', '.join(names)}. "
                f"Received: {', '.join(map(str, values))}"
            )
        return [values[name] for name in names]
    if single:
        # A list of one array is that array, and a list of examples is an array.
        one = isinstance(values, (list, tuple)) and len(values) == 1
        return [values[0]] if one and np.ndim(values[0]) > 0 and is_array(values[0]) else [values]
    if not isinstance(values, (list, tuple)) or len(values) != len(names):
        length = f" of {len(values)}" if isinstance(values, (list, tuple)) else ""
        told = ", ".join(name for name in names if name)
        raise ValueError(
            f"`{argument}` must be {len(names)} arrays{f' ({told})' if told else ''}. "
            f"Received: {type(values).__name__}{length}"
        )
    return list(values)


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """A function of each array in a dict, list or tuple, or of one array."""
    if isinstance(structure, Mapping):
        return {name: mapped(function, value) for name, value in structure.items()}
    if isinstance(structure, (list, tuple)) and any(is_array(value) for value in structure):
        return type(structure)([mapped(function, value) for value in structure])
    return function(structure)


def is_array(value: Any) -> bool:
    """Whether something is an array or tensor, of any library."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def common_length(arrays: Iterable[np.ndarray]) -> int:
    """How many examples arrays hold; a `ValueError` unless all hold as many."""
    lengths = {len(array) if array.ndim else 0 for array in arrays}
    if len(lengths) != 1:
        raise ValueError(
            "`inputs` must have as many examples each. "
            f"Received: {', '.join(map(str, sorted(lengths)))}"
        )
    return lengths.pop()


def as_dtype(value: Any, dtype: Any, name: str) -> np.ndarray:
    """An array in a dtype; a `ValueError` if its numbers do not fit into it."""
    value, dtype = np.asarray(value), np.dtype(dtype)
    cast = value.astype(dtype, copy=False)
    if dtype.kind in "iub" and value.dtype != dtype and np.any(cast != value):
        raise ValueError(
            f"`inputs` ({name}) must be whole numbers of {dtype}. Received: others, of dtype "
            f"{value.dtype}"
        )
    return cast


def as_float32(value: Any) -> np.ndarray:
    """An array with its floats in float32; integers as they are."""
    value = np.asarray(value)
    return value.astype("float32", copy=False) if value.dtype.kind == "f" else value
