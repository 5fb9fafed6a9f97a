"""What outputs mean, and how right they are: classes, classes of pixels, or values."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnn_l1.tflite.structures import in_order


def largest(outputs: Any) -> np.ndarray:
    """The class of each example, or of each pixel: the largest along the last axis."""
    return np.asarray(outputs).argmax(axis=-1)


def above(threshold: float) -> Callable[[Any], np.ndarray]:
    """A `decide` for one output a class pair: class 1 where it is above a threshold.

    Args:
        threshold: 0.0 for a logit, 0.5 for a probability.
    """

    def decide(outputs: Any) -> np.ndarray:
        outputs = np.asarray(outputs)
        one = outputs[..., 0] if outputs.ndim > 1 and outputs.shape[-1] == 1 else outputs
        return (one > threshold).astype("int64")

    return decide


def score(outputs: Any, targets: Any, decide: Any = None) -> Any:
    """Score outputs: `accuracy` of classes, or `mean_squared_error` and `r2` of values.

    Args:
        outputs: `(examples, …)`; a list of them for several outputs.
        targets: `(examples,)` labels, or one for each pixel; one-hot rows; or values, as
            many as the outputs. A list of them for several outputs.
        decide: See `measure_tflite`.

    Returns:
        The figures with their standard errors, by the names of `Measurement`; a list of
        them for several outputs.

    Raises:
        ValueError: If there are not as many targets as outputs.
    """
    if isinstance(outputs, (list, tuple)):
        decides = decide if isinstance(decide, (list, tuple)) else [decide] * len(outputs)
        targets = in_order(targets, [""] * len(outputs), "targets")
        return [score(*each) for each in zip(outputs, targets, decides, strict=True)]
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    decide = decide or automatic(outputs, targets)
    chosen = decide(outputs)
    if chosen is not None:
        right = chosen == _labels(targets, chosen, outputs)
        accuracy = float(np.mean(right))
        error = standard_error(accuracy, len(right))
        if right.ndim > 1:
            # Each example is one draw; its pixels are not independent.
            each = right.reshape(len(right), -1).mean(axis=1)
            error = float(each.std() / math.sqrt(len(each)))
        return {"accuracy": accuracy, "accuracy_standard_error": error}
    if targets.size != outputs.size:
        raise ValueError(
            f"`targets` must be values for outputs of shape {outputs.shape}. "
            f"Received: shape {targets.shape}"
        )
    values = targets.astype("float64").reshape(outputs.shape)
    squares = np.square(outputs - values)
    # Each example's error is one draw; its outputs are not independent.
    each = squares.reshape(len(squares), -1).mean(axis=1)
    spread = np.square(values - values.mean(axis=0)).sum()
    return {
        "mean_squared_error": float(each.mean()),
        "mean_squared_error_standard_error": (
            float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else 0.0
        ),
        "r2": float(1.0 - squares.sum() / spread) if spread else 0.0,
    }


def _labels(targets: np.ndarray, chosen: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Targets as labels in the shape of the classes that were chosen."""
    if targets.shape == chosen.shape:
        return targets
    if targets.size == chosen.size and targets.shape[:1] == chosen.shape[:1]:
        return targets.reshape(chosen.shape)
    if targets.shape == outputs.shape:
        return largest(targets)
    raise ValueError(
        f"`targets` must be labels of shape {chosen.shape}. Received: shape {targets.shape}"
    )


def automatic(output: np.ndarray, target: np.ndarray | None) -> Callable[[Any], Any]:
    """What an output means, from its targets: see `measure_tflite`.

    Args:
        output: `(examples, …)`.
        target: Of the same examples, or `None`.

    Returns:
        A function as `decide`.
    """
    if output.dtype.kind in "iub":
        return np.asarray  # classes already, such as of an argmax
    several = output.ndim > 1 and output.shape[-1] > 1
    if target is None:
        return largest if several else _values
    if not several or target.dtype.kind not in "fiub":
        return _values
    labels = target.size == math.prod(output.shape[:-1]) and np.all(target == np.floor(target))
    return largest if labels or _one_hot(target, output.shape) else _values


def _values(outputs: Any) -> None:
    """A `decide` for values."""


def _one_hot(target: np.ndarray, shape: tuple[int, ...]) -> bool:
    whole = target.shape == shape and bool(np.all((target == 0) | (target == 1)))
    return whole and bool(np.all(target.sum(axis=-1) == 1))


def is_constant(outputs: Any) -> bool:
    """Whether outputs are the same, bit by bit, for every example; of several, all of them."""
    if isinstance(outputs, Mapping):
        return all(is_constant(one) for one in outputs.values())
    if isinstance(outputs, (list, tuple)):
        return all(is_constant(one) for one in outputs)
    return bool((outputs == outputs[:1]).all())


def standard_error(fraction: float, count: int) -> float:
    """Binomial standard error of a fraction of `count`, `√(p (1 − p) / n)`."""
    return math.sqrt(fraction * (1.0 - fraction) / count)
