"""Equal examples: found by a digest, kept on one side of a parting, refused across splits."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_l1.data.origin import Origin


def digests(examples: np.ndarray) -> list[bytes]:
    """A digest of each example's bytes."""
    examples = np.ascontiguousarray(examples)
    return [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in examples]


def groups_of(each: Sequence[bytes]) -> np.ndarray | None:
    """Numbers that equal examples share, `(size,)`; `None` if all examples differ."""
    numbers: dict[bytes, int] = {}
    groups = np.array([numbers.setdefault(one, len(numbers)) for one in each], "int64")
    return None if len(numbers) == len(each) else groups


def refuse_shared(each: Mapping[str, Sequence[bytes]], origin: Origin) -> None:
    """Raise `ConfigError` if an example is in two splits: what is tested would be known.

    Args:
        each: Digests by split.
        origin: How errors call the data.
    """
    first: dict[bytes, tuple[str, int]] = {}
    shared = []
    for split, found in each.items():
        for position, digest in enumerate(found):
            there = first.setdefault(digest, (split, position))
            if there[0] != split:
                shared.append((there, (split, position)))
    if shared:
        (one, i), (other, j) = shared[0]
        raise origin.error(
            f"no example in both {origin.inputs(one)} and {origin.inputs(other)}",
            f"the same example at {origin.inputs(one)}[{i}] and {origin.inputs(other)}[{j}]"
            + (f", and {len(shared) - 1} more" if shared[1:] else ""),
        )
