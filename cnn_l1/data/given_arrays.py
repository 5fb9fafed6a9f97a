"""Examples given as arrays or data sets, `(x, y)`, to splits and their description."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnn_l1.data.duplicates import digests, groups_of, refuse_shared
from cnn_l1.data.given_inputs import prepared
from cnn_l1.data.given_streams import Taken, encoded_stream, take_stream
from cnn_l1.data.origin import Origin
from cnn_l1.data.own_sets import OwnSet
from cnn_l1.data.splits import Description, Split
from cnn_l1.data.target_kinds import NO_TARGET, TargetKind, plain, target_kind

Names = Sequence[str] | Mapping[str, Sequence[str]]


def own_set(
    train: Any,
    validation: Any = None,
    test: Any = None,
    name: str = "given",
    series: bool | None = False,
    sampling_rate_hz: float | None = None,
    class_names: Names | None = None,
    feature_names: Sequence[str] | None = None,
    in_memory: bool | None = None,
    origin: Origin | None = None,
    known_classes: Mapping[str, int] | None = None,
) -> OwnSet:
    """What given examples are, checked, as an `OwnSet`.

    Args:
        train: `(inputs, targets)`; inputs alone, or `(inputs, None)`, where there is no target;
            a `tf.data.Dataset` of such pairs, single or in batches; or a
            `keras.utils.PyDataset`. Targets may be a dict of arrays by output.
        validation: As `train`, or `None`, to be parted from it.
        test: As `train`, or `None`, to be parted from it.
        name: What the data are called.
        series: Whether inputs are series. If `False`, three axes are images without an axis
            for channels, which they get. If `None`, three axes are a series.
        sampling_rate_hz: Steps a second of a series.
        class_names: Names of the classes, in the order of their numbers; a dict of them by
            output where there are several.
        feature_names: Names of the features, or of a series' channels.
        in_memory: Whether to keep inputs of data sets. Default: if they take less than 2 GiB.
        origin: How errors call the data. Default: `"data"`.
        known_classes: How many classes a network knows that is there already, by output, `""`
            for the one. The data may have some of them; and where a class is rare, they are
            parted without regard to classes.

    Raises:
        ConfigError: If the examples cannot be used.
    """
    origin = origin or Origin()
    given = {"train": train, "validation": validation, "test": test}
    given = {split: form for split, form in given.items() if form is not None}
    whole = len(given) == 3
    if feature_names is None and "train" in given:
        feature_names = _column_names(train)
    taken = {
        # Where nothing is parted, training data may come in any order.
        split: _take(form, split, origin, series, in_memory, not (whole and split == "train"))
        for split, form in given.items()
    }
    shape = taken["train"].shape
    for split, one in taken.items():
        if one.shape != shape:
            raise origin.error(
                f"inputs of one shape in {origin.inputs('train')} and {origin.inputs(split)}",
                f"{shape} and {one.shape} an example",
            )
    _refuse_mixed_types(taken, origin)
    refuse_shared({split: one.digests for split, one in taken.items()}, origin)
    if feature_names is not None and len(feature_names) != shape[-1]:
        raise origin.error(f"{shape[-1]} feature names", f"{len(feature_names)}")
    kinds, outputs = _kinds(taken, shape, class_names, origin, known_classes or {})
    splits = {split: _split(one, kinds, outputs) for split, one in taken.items()}
    about = _description(
        name,
        shape,
        kinds,
        outputs,
        None if feature_names is None else tuple(map(str, feature_names)),
        sampling_rate_hz,
    )
    return OwnSet(
        about,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        groups_of(taken["train"].digests),
        bool(known_classes),
    )


def _take(
    form: Any,
    split: str,
    origin: Origin,
    series: bool | None,
    in_memory: bool | None,
    ordered: bool,
) -> Taken:
    if isinstance(form, tf.data.Dataset | keras.utils.PyDataset):
        return take_stream(form, split, origin, series, in_memory, ordered)
    x, y = form if isinstance(form, tuple | list) and len(form) == 2 else (form, None)
    if isinstance(x, dict | tuple | list) or np.ndim(x) == 0:
        raise origin.error(
            f"(inputs, targets) arrays, inputs alone, a tf.data.Dataset or a "
            f"keras.utils.PyDataset for {split}",
            f"{type(form).__name__}"
            + (f" of {len(form)} elements" if isinstance(form, tuple | list) else ""),
        )
    inputs = prepared(np.asarray(x), series, split, origin)
    if not len(inputs):
        raise origin.error(f"examples in {origin.inputs(split)}", "none")
    if y is not None:
        y = {str(o): plain(v) for o, v in y.items()} if isinstance(y, dict) else plain(y)
    for output, targets in y.items() if isinstance(y, dict) else [("", y)]:
        if targets is None:
            continue
        if targets.ndim == 0 or len(targets) != len(inputs):
            size = "one value" if targets.ndim == 0 else f"{len(targets)}"
            raise origin.error(
                f"as many targets in {origin.targets(split, output)} as inputs in "
                f"{origin.inputs(split)}, {len(inputs)}",
                size,
            )
    return Taken(inputs, inputs.shape[1:], y, digests(inputs))


def _column_names(form: Any) -> list[str] | None:
    """The column names of a table that is given as inputs, e.g. a pandas one."""
    x = form[0] if isinstance(form, tuple | list) and len(form) == 2 else form
    columns = getattr(x, "columns", None)
    return None if columns is None else [str(one) for one in columns]


def _refuse_mixed_types(taken: Mapping[str, Taken], origin: Origin) -> None:
    """Images from 0 to 255 in one split and floats in another are two scales."""
    types = {split: one.inputs.dtype for split, one in taken.items() if one.inputs is not None}
    for split, dtype in types.items():
        first = next(iter(types))
        if dtype != types[first]:
            raise origin.error(
                f"inputs of one type in {origin.inputs(first)} and {origin.inputs(split)}",
                f"{types[first]} and {dtype}",
            )


def _kinds(
    taken: Mapping[str, Taken],
    shape: tuple[int, ...],
    class_names: Names | None,
    origin: Origin,
    known_classes: Mapping[str, int],
) -> tuple[dict[str, TargetKind], bool]:
    """The `TargetKind` of each output, one without a name if there is one; and if several."""
    forms = {split: one.targets for split, one in taken.items()}
    train = forms["train"]
    outputs = isinstance(train, dict)
    for split, targets in forms.items():
        if _form(targets) != _form(train):
            raise origin.error(
                f"targets of {split} as of train, {_form(train)}", f"{_form(targets)}"
            )
    if train is None:
        if class_names is not None:
            raise origin.error("no names of classes where there are no targets", "some")
        return {"": NO_TARGET}, False
    if not outputs:
        plain_forms = {split: plain(targets) for split, targets in forms.items()}
        if isinstance(class_names, Mapping):
            raise origin.error("names of classes as a list, for there is one output", "a dict")
        return {
            "": target_kind(
                plain_forms, shape, class_names, origin, known_classes=known_classes.get("")
            )
        }, False
    if class_names is not None and not isinstance(class_names, Mapping):
        raise origin.error("names of classes by output, for there are several", "a list")
    names = class_names or {}
    unknown = sorted(set(names) - set(train))
    if unknown:
        raise origin.error(f"names of classes for {', '.join(train)}", f"{unknown[0]!r}")
    return {
        output: target_kind(
            {split: plain(targets[output]) for split, targets in forms.items()},
            shape,
            names.get(output),
            origin,
            output,
            known_classes.get(output),
        )
        for output in train
    }, True


def _form(targets: Any) -> str:
    if targets is None:
        return "none"
    return f"those of {', '.join(sorted(targets))}" if isinstance(targets, dict) else "one array"


def _split(taken: Taken, kinds: Mapping[str, TargetKind], outputs: bool) -> Split:
    def encode(raw: Any) -> Any:
        if outputs:
            return {output: kind.encode(plain(raw[output])) for output, kind in kinds.items()}
        return kinds[""].encode(plain(raw))

    size = len(taken.digests)
    # Without a target there is nothing to encode but how many there are.
    targets = encode(np.zeros(size) if taken.targets is None else taken.targets)
    if taken.inputs is not None:
        return Split(size, taken.inputs, targets)
    return Split(size, None, targets, encoded_stream(taken, encode, targets))


def _description(
    name: str,
    shape: tuple[int, ...],
    kinds: Mapping[str, TargetKind],
    outputs: bool,
    feature_names: tuple[str, ...] | None,
    sampling_rate_hz: float | None,
) -> Description:
    def describe(kind: TargetKind | None, parts: dict[str, Description]) -> Description:
        return Description(
            name=name,
            input_shape=shape,
            class_names=kind.class_names if kind else None,
            target_count=kind.target_count if kind else 1,
            feature_names=feature_names,
            kind=kind.kind if kind else "",
            outputs=parts,
            sampling_rate_hz=sampling_rate_hz,
        )

    if not outputs:
        return describe(kinds[""], {})
    return describe(None, {output: describe(kind, {}) for output, kind in kinds.items()})
