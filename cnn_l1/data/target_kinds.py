"""What given targets are: classes, several labels, a class a pixel, values, or nothing.

By the training targets' type and shape alone, never by how they would score:

- whole numbers, text or booleans, one an example: classes;
- `(size, k)` of zeros and ones: classes if every row has one 1, else several labels;
- whole numbers, one a pixel of the input image: segmentation;
- floats: values. Labels stored as floats, 0.0 and 1.0, are values too.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cnn_l1.data.origin import Origin


@dataclasses.dataclass(frozen=True)
class TargetKind:
    """What the targets of one output are.

    Attributes:
        kind: As in `splits.Description`.
        class_names: Names of the classes or labels, or `None`.
        target_count: Values an example.
        encode: From targets as given, first axis the examples, to those of a `splits.Split`.
    """

    kind: str
    class_names: tuple[str, ...] | None
    target_count: int
    encode: Callable[[np.ndarray], np.ndarray]


# A zero an example stands in, so that every pipeline has pairs. Not a row of no values: TensorFlow
# 2.21 crashes when it unbatches those.
NO_TARGET = TargetKind("none", None, 1, lambda targets: np.zeros(len(targets), "float32"))


def plain(targets: np.ndarray) -> np.ndarray:
    """Text as NumPy's text type, however it came; `(size, 1)` as `(size,)`."""
    targets = np.asarray(targets)
    if targets.dtype.kind == "S" or (
        targets.dtype.kind in "OT" and all(isinstance(one, str | bytes) for one in targets.flat)
    ):
        texts = [one.decode() if isinstance(one, bytes) else str(one) for one in targets.flat]
        targets = np.array(texts, "U").reshape(targets.shape)
    return targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets


def target_kind(
    given: Mapping[str, np.ndarray],
    input_shape: Sequence[int],
    class_names: Sequence[str] | None,
    origin: Origin,
    output: str = "",
    known_classes: int | None = None,
) -> TargetKind:
    """The `TargetKind` of one output's targets.

    Args:
        given: Targets by split, `"train"` among them, as `plain` gives them.
        input_shape: Shape of one input.
        class_names: Names of the classes or labels. Default: the texts or numbers given.
        origin: How errors call the data.
        output: Name of the output, where there are several.
        known_classes: How many classes a network knows that is there already, or `None`.

    Raises:
        ConfigError: If they are none of the kinds, or a class has too few examples.
    """
    train = given["train"]
    for split, targets in given.items():
        name = origin.targets(split, output)
        if targets.dtype.kind not in "biufU":
            raise origin.error(f"numbers, booleans or text in {name}", f"{targets.dtype}")
        if targets.dtype.kind == "f" and not np.isfinite(targets).all():
            where = np.argwhere(~np.isfinite(targets))[0]
            raise origin.error(
                f"finite numbers in {name}", f"{targets[tuple(where)]} at {where.tolist()}"
            )
        if targets.shape[1:] != train.shape[1:] or not _alike(targets, train):
            raise origin.error(
                f"{name} like {origin.targets('train', output)}, {_sort(train)}", _sort(targets)
            )
    if train.ndim == 1 and train.dtype.kind != "f":
        return _classes(given, class_names, origin, output, known_classes)
    if train.ndim == 2 and all(map(_zeros_and_ones, given.values())):
        return _labels(given, class_names, origin, output)
    if train.ndim > 2 and train.dtype.kind in "biu" and _is_mask(train.shape[1:], input_shape):
        return _segmentation(given, class_names, origin, output)
    name = origin.targets("train", output)
    if train.dtype.kind != "f":
        raise origin.error(
            f"one class an example, rows of 0 and 1, a class for each pixel of an image of shape "
            f"{tuple(input_shape)}, or floats, in {name}",
            _sort(train),
        )
    if class_names is not None:
        raise origin.error(
            f"no names of classes, for the targets in {name} are values", f"{len(class_names)}"
        )
    count = int(np.prod(train.shape[1:]))
    return TargetKind("values", None, count, lambda targets: plain(targets).astype("float32"))


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    kinds = {"i": "i", "u": "i", "b": "b", "f": "f", "U": "U"}
    return kinds[one.dtype.kind] == kinds[other.dtype.kind]


def _sort(targets: np.ndarray) -> str:
    kind = "text" if targets.dtype.kind == "U" else str(targets.dtype)
    return f"{kind} of shape {targets.shape}"


def _zeros_and_ones(targets: np.ndarray) -> bool:
    return targets.dtype.kind != "U" and bool(((targets == 0) | (targets == 1)).all())


def _is_mask(shape: tuple[int, ...], input_shape: Sequence[int]) -> bool:
    of_image = len(input_shape) == 3 and shape[:2] == tuple(input_shape[:2])
    return of_image and shape[2:] in ((), (1,))


def _classes(
    given: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None,
    origin: Origin,
    output: str,
    known_classes: int | None,
) -> TargetKind:
    kind = given["train"].dtype.kind
    if kind in "biu":
        whole = {split: targets.astype("int64") for split, targets in given.items()}
        names = numbered(whole, class_names, origin, output, known_classes)
        if not known_classes:
            refuse_rare(whole["train"], names, origin, output)
        if kind == "b" and class_names is None:
            names = ("False", "True")
        return TargetKind("classes", names, 1, lambda targets: plain(targets).astype("int64"))
    there = np.unique(given["train"])
    texts = [str(one) for one in there]
    name = origin.targets("train", output)
    if class_names is not None and sorted(class_names) != texts:
        raise origin.error(
            f"the classes {', '.join(class_names)} in {name}", f"{', '.join(texts[:20])}"
        )
    names = tuple(texts if class_names is None else class_names)
    for split, targets in given.items():
        unknown = sorted({str(one) for one in np.unique(targets)} - set(names))
        if unknown:
            raise origin.error(
                f"classes of {name} alone in {origin.targets(split, output)}",
                f"the class {unknown[0]!r}, of which {name} has no example",
            )
    order = np.argsort(names)

    def encode(targets: np.ndarray) -> np.ndarray:
        return order[np.searchsorted(np.array(names)[order], plain(targets))].astype("int64")

    refuse_rare(encode(given["train"]), names, origin, output)
    return TargetKind("classes", names, 1, encode)


def numbered(
    given: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None,
    origin: Origin,
    output: str = "",
    known_classes: int | None = None,
) -> tuple[str, ...]:
    """Names of classes that are given by number: all of 0 to K − 1 must be there.

    Where a network is there already, `known_classes` is how many it knows: the data may have
    some of them.

    Raises:
        ConfigError: If training lacks one of them, or another split has more.
    """
    there = np.unique(given["train"])
    name = origin.targets("train", output)
    count = len(there) if class_names is None else len(class_names)
    if known_classes and there[0] >= 0 and there[-1] < known_classes:
        count = known_classes
    elif len(there) != count or there[0] != 0 or there[-1] != count - 1:
        wanted = "0 to K − 1" if class_names is None else f"0 to {count - 1}"
        shown = ", ".join(map(str, there[:10])) + (", …" if len(there) > 10 else "")
        raise origin.error(
            f"class numbers {wanted}, each at least once, or floats for values, in {name}",
            f"{shown} ({len(there)} distinct values from {there[0]} to {there[-1]})",
        )
    for split, targets in given.items():
        if targets.min() < 0 or targets.max() >= count:
            odd = targets[(targets < 0) | (targets >= count)].flat[0]
            raise origin.error(
                f"classes of {name} alone, 0 to {count - 1}, in {origin.targets(split, output)}",
                f"class {odd}",
            )
    unnamed = class_names is None or len(class_names) != count
    return tuple(map(str, range(count) if unnamed else class_names or ()))


def refuse_rare(labels: np.ndarray, names: Sequence[str], origin: Origin, output: str = "") -> None:
    """Raise `ConfigError` unless there are two classes, of two training examples each."""
    name = origin.targets("train", output)
    if len(names) < 2:
        raise origin.error(f"two classes or more in {name}", f"the class {names[0]!r} alone")
    counts = np.bincount(labels.ravel(), minlength=len(names))
    if counts.min() < 2:
        rare = names[int(counts.argmin())]
        number = "one example" if counts.min() else "no example"
        raise origin.error(
            f"two examples or more of each class in {name}", f"{number} of class {rare!r}"
        )


def _labels(
    given: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None,
    origin: Origin,
    output: str,
) -> TargetKind:
    train = given["train"]
    count = train.shape[1]
    if class_names is not None and len(class_names) != count:
        raise origin.error(
            f"{count} names of classes, one a column of {origin.targets('train', output)}",
            f"{len(class_names)}",
        )
    names = tuple(map(str, range(count) if class_names is None else class_names))
    if all((targets.astype("float64").sum(axis=1) == 1).all() for targets in given.values()):
        refuse_rare(train.argmax(axis=1), names, origin, output)
        return TargetKind(
            "classes", names, 1, lambda targets: targets.argmax(axis=1).astype("int64")
        )
    return TargetKind("multilabel", names, 1, lambda targets: targets.astype("float32"))


def _segmentation(
    given: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None,
    origin: Origin,
    output: str,
) -> TargetKind:
    whole = {split: targets.astype("int64") for split, targets in given.items()}
    names = numbered(whole, class_names, origin, output)
    if len(names) < 2:
        raise origin.error(
            f"two classes or more in {origin.targets('train', output)}", "class 0 alone"
        )

    def encode(targets: np.ndarray) -> np.ndarray:
        targets = targets.astype("int64")
        return targets[..., 0] if targets.ndim == 4 else targets

    return TargetKind("segmentation", names, 1, encode)
