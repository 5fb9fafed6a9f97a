"""Arrays and series in a `.npz` file: `x_train`, `y_train`, `x_test`, …, or `x` and `y`."""

import difflib
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.data.given_arrays import own_set
from cnn_l1.data.origin import Origin
from cnn_l1.data.own_sets import OwnSet

SPLITS = ("train", "validation", "test")
KEYS = "x_train, y_train, x_test, y_test (and x_validation, y_validation), or x and y"


def read(config: DataConfig) -> OwnSet:
    """Read a `.npz` file.

    Targets of several outputs are `y_train_<output>` and so on. `class_names` (and
    `class_names_<output>`) and `feature_names` are optional, and so are all targets.

    Args:
        config: A `DataConfig` of name `arrays` or `series`.

    Raises:
        ConfigError: Naming the file and the key, if they cannot be used.
    """
    path = pathlib.Path(config.path or "")
    origin = Origin("data.path", f" in {path}")
    arrays = _load(path, origin)
    parted = "x" in arrays
    names = {"train": ("x", "y")} if parted else {s: (f"x_{s}", f"y_{s}") for s in SPLITS}
    _check_keys(arrays, parted, origin)
    origin = Origin("data.path", origin.place, names)
    forms = {
        split: (arrays[x], _targets(arrays, y, origin))
        for split, (x, y) in names.items()
        if x in arrays
    }
    texts = {key: tuple(map(str, arrays[key].ravel())) for key in arrays if "_names" in key}
    by_output = {
        key.removeprefix("class_names_"): names
        for key, names in texts.items()
        if key.startswith("class_names_")
    }
    return own_set(
        forms["train"],
        forms.get("validation"),
        forms.get("test"),
        name=str(path),
        series=config.name == "series",
        sampling_rate_hz=config.sampling_rate_hz,
        class_names=by_output or texts.get("class_names"),
        feature_names=texts.get("feature_names"),
        origin=origin,
    )


def _load(path: pathlib.Path, origin: Origin) -> dict[str, np.ndarray]:
    """All arrays of the file. No pickles: they could run any code."""
    there = Origin("data.path")
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        received = error.strerror or str(error)
        raise there.error("a readable .npz file", f"{path} ({received})") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise there.error("a .npz file, as np.savez writes", f"{path} ({error})") from None
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise there.error(
            "a .npz file, as np.savez(path, x_train=…, y_train=…) writes",
            f"{path}, which holds one array without a name",
        )
    arrays = {}
    with loaded:
        for key in loaded.files:
            try:
                arrays[key] = loaded[key]
            except Exception as error:  # a pickle, or an archive that is cut off or damaged
                raise origin.error(
                    f"an array of numbers or text as {key}", f"{type(error).__name__}: {error}"
                ) from None
            if arrays[key].dtype.kind not in "biufUS":
                raise origin.error(
                    f"an array of numbers or text as {key}", f"one of {arrays[key].dtype}"
                )
    return arrays


def _check_keys(arrays: Mapping[str, Any], parted: bool, origin: Origin) -> None:
    found = ", ".join(arrays) or "no key"
    if parted:
        of_splits = [key for key in arrays if re.match("[xy]_(train|validation|test)", key)]
        if of_splits:
            raise origin.error("x and y, to be parted, or x_train and so on, not both", found)
        inputs, targets = ["x"], "y"
    else:
        for key in ("x_train", "x_test"):
            if key not in arrays:
                others = [one for one in arrays if re.match("x|test", one) and one != "x_train"]
                close = difflib.get_close_matches(key, others, n=1)
                hint = f". Is {close[0]!r} meant for {key}?" if close else ""
                raise origin.error(f"the key {key} ({KEYS})", found + hint)
        inputs, targets = [f"x_{split}" for split in SPLITS], "y_(train|validation|test)"
    known = "|".join([*inputs, f"{targets}(_.+)?", r"class_names(_.+)?", "feature_names"])
    unknown = [key for key in arrays if not re.fullmatch(known, key)]
    if unknown:
        raise origin.error(
            f"{KEYS}, and class_names and feature_names",
            f"the unknown key {unknown[0]!r} among {found}",
        )
    if not parted and "x_validation" not in arrays:
        alone = [key for key in arrays if key.startswith("y_validation")]
        if alone:
            raise origin.error("x_validation with its targets", f"{alone[0]} alone")


def _targets(arrays: Mapping[str, np.ndarray], key: str, origin: Origin) -> Any:
    """The targets of a key, or a dict of those of several outputs, or `None`."""
    outputs = {
        found.removeprefix(f"{key}_"): value
        for found, value in arrays.items()
        if found.startswith(f"{key}_")
    }
    if outputs and key in arrays:
        raise origin.error(
            f"{key} for one output, or {key}_<output> for several",
            f"{key}, {key}_{next(iter(outputs))}",
        )
    return outputs or arrays.get(key)
