"""Which weights and channels go first: by size, by their part in a layer, at their price.

Numbers only, without Keras.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray


def smallest(values: Array, count: int) -> Array:
    """The positions of the `count` smallest sizes that are not zero; of equals the first."""
    sizes = np.abs(values)
    sizes[sizes == 0] = np.inf
    limit = np.partition(sizes, count - 1)[count - 1]
    below = np.flatnonzero(sizes < limit)
    ties = np.flatnonzero(sizes == limit)[: count - len(below)]
    return np.concatenate([below, ties])


class Candidate(NamedTuple):
    """A channel that could go; of several the one of least importance goes first.

    Attributes:
        importance: Its part in its kernels, divided by its price.
        group: The number of its channel group.
        channel: Its number in the group.
    """

    importance: float
    group: int
    channel: int


def shares(squares: Array, gone: Array) -> Array:
    """Each channel's share of a kernel's sum of squares, 0 for those that are gone.

    Args:
        squares: `(channels,)` sums of squares; those that are gone are set to 0.
        gone: `(channels,)` booleans.
    """
    squares[gone] = 0.0
    return squares / max(squares.sum(), 1e-300)


def lamp_order(shares: Array, kernels: int, gone: Array) -> tuple[Array, Array]:
    """The channels from the largest to the smallest, and the part that each has.

    A channel's part in a kernel is its square over the squares of those that are no
    smaller (LAMP: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning,
    2021), so that a layer with few left gives none for cheap. Where several layers end
    in one group, as around an addition, it has as many parts.

    Args:
        shares: `(channels,)`: shares of squares, added up over the kernels.
        kernels: How many kernels those are.
        gone: `(channels,)` booleans: channels that are zero already.

    Returns:
        `(order, parts)`: the numbers of the channels that are left, and their parts.
    """
    order = np.argsort(-shares, kind="stable")
    order = order[~gone[order]]
    parts = kernels * shares[order] / np.maximum(np.cumsum(shares[order]), 1e-300)
    return order, parts


def price(saved: float) -> float:
    """What a channel's part is divided by: the root of the multiply-adds that go with it.

    Without a price, whole layers of cheap units would go before a dear filter does; at
    all multiply-adds, dense units, which cost next to nothing, would stay. Of the bytes of
    a file the same is true.
    """
    return math.sqrt(max(saved, 1))


def choose(
    candidates: Sequence[Candidate],
    gone: Sequence[Array],
    left_without: Callable[[list[Array]], float],
    limit: float,
    tolerance: float,
    exactly: bool,
) -> list[Array]:
    """Which channels go, so that `limit` or less is left of what they cost.

    Args:
        candidates: Channels that may go, those first that go first.
        gone: For each channel group, `(channels,)` booleans: those that are zero already.
        left_without: From the like of `gone` to what is left, e.g. multiply-adds.
        limit: What may be left.
        tolerance: How far below `macs` is near enough, as a part of it.
        exactly: Whether to end just below it, by cheaper channels in place of one that
            costs too much. Otherwise the choice stops above.

    Returns:
        The like of `gone`, with the chosen channels.
    """

    def left(chosen: Sequence[Candidate]) -> tuple[float, list[Array]]:
        trial = [channels.copy() for channels in gone]
        for candidate in chosen:
            trial[candidate.group][candidate.channel] = True
        return left_without(trial), trial

    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if left(candidates[:middle])[0] <= limit:
            high = middle
        else:
            low = middle + 1
    chosen = list(candidates[: max(low - 1, 0)])
    if not exactly:
        return left(chosen)[1]
    best = left(candidates[:low])
    # The channel that crosses the target may cost too much: try those after it.
    for candidate in candidates[low:]:
        if best[0] >= (1.0 - tolerance) * limit:
            break
        found, trial = left([*chosen, candidate])
        if found > limit:
            chosen.append(candidate)
        elif found > best[0]:
            best = found, trial
    return best[1]
