"""A table of the user's own, CSV or Parquet: columns to features and a target.

- Numbers and booleans are features as they are; text of few values is one feature a value,
  `color=red`, of the values in the training rows. Another value in the test rows is none of them.
- One target column of text, booleans, or whole numbers of at most 20 values is classes; other
  numbers, or several columns, are values.
- Ids, dates and free text are refused, to be named in `data.ignore`.
"""

import dataclasses
import difflib
import pathlib
import warnings
from typing import Any

import numpy as np

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.packages import check_data_packages
from cnn_l1.data.duplicates import digests, groups_of
from cnn_l1.data.left_out import LeftOut
from cnn_l1.data.origin import Origin
from cnn_l1.data.own_sets import TEST_SEED, OwnSet
from cnn_l1.data.splits import Description, Split, part
from cnn_l1.data.table_columns import kind_of, odd_numbers, why_not
from cnn_l1.data.target_kinds import refuse_rare

MAX_CLASS_NUMBERS = 20  # whole numbers of more values are quantities
PARQUET = (".parquet", ".pq")
SEPARATORS = (",", ";", "\t")


def read(config: DataConfig) -> OwnSet:
    """Read a table.

    Args:
        config: A `DataConfig` of name `table`.

    Raises:
        ConfigError: Naming the file, and the column and row, that cannot be used.
    """
    check_data_packages(config)
    path = pathlib.Path(config.path or "")
    table = _load(path)
    targets, features = _chosen(table, config, path)
    table, left_out = _whole_rows(table[[*features, *targets]], config, path)
    labels, class_names = _targets(table, targets, path)
    left_out.tell(len(table) + sum(map(len, left_out.reasons.values())))
    codes = np.stack([_codes(table[name]) for name in features], axis=1)
    groups = groups_of(digests(codes))
    # Here, not later: the categories are those of the training rows.
    of_train, of_test, groups = part(
        Split(len(table), np.arange(len(table)), labels),
        config.test_fraction,
        TEST_SEED,
        class_names is not None,
        groups,
        "data.test_fraction",
    )
    rows = np.asarray(of_train.inputs)
    inputs, names = _features(table, features, rows, path)
    train, test = (
        dataclasses.replace(one, inputs=inputs[np.asarray(one.inputs)])
        for one in (of_train, of_test)
    )
    spans = np.ptp(inputs[rows], axis=0)
    constant = [name for name, span in zip(names, spans, strict=True) if span == 0]
    if constant:
        print(f"Constant in the training rows: {', '.join(constant)}")
    about = Description(
        str(path),
        (len(names),),
        class_names,
        target_count=len(targets),
        feature_names=names,
    )
    return OwnSet(about, train, None, test, groups)


def _load(path: pathlib.Path) -> Any:
    """The table, as a pandas `DataFrame` that tells missing values from numbers."""
    import pandas as pd

    origin = Origin("data.path")
    try:
        if path.suffix.lower() in PARQUET:
            table = pd.read_parquet(path, dtype_backend="numpy_nullable")
        else:
            table = _load_csv(path, origin)
    except OSError as error:
        raise origin.error(
            "a readable CSV or Parquet file", f"{path} ({error.strerror or error})"
        ) from None
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' and Arrow's own are such
        kind = "Parquet" if path.suffix.lower() in PARQUET else "CSV (UTF-8, with a header)"
        raise origin.error(f"a {kind} file", f"{path} ({error})") from None
    table.columns = [str(name) for name in table.columns]
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise origin.error(f"columns of different names in {path}", f"{twice[0]!r} twice")
    if not len(table):
        raise origin.error(f"rows below the header of {path}", "none")
    return table.reset_index(drop=True)


def _load_csv(path: pathlib.Path, origin: Origin) -> Any:
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    separator = max(SEPARATORS, key=header.count)
    settings = {"sep": separator, "encoding": "utf-8-sig", "index_col": False}
    names = pd.read_csv(path, header=None, nrows=1, dtype=str, **settings).iloc[0].dropna()
    twice = names[names.duplicated()]
    if len(twice):  # pandas would rename the second
        raise origin.error(f"columns of different names in {path}", f"{twice.iloc[0]!r} twice")
    with warnings.catch_warnings():
        # A row longer than the header would be cut off.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, dtype_backend="numpy_nullable", low_memory=False, **settings)


def _chosen(table: Any, config: DataConfig, path: pathlib.Path) -> tuple[list[str], list[str]]:
    """Target columns and feature columns."""
    given = config.target or ()
    targets = [given] if isinstance(given, str) else list(given)
    for setting, names in (("data.target", targets), ("data.ignore", list(config.ignore))):
        for name in names:
            if name not in table.columns:
                close = difflib.get_close_matches(name, table.columns, n=1)
                hint = f". Did you mean {close[0]!r}?" if close else ""
                shown = ", ".join(table.columns[:20]) + (", …" if len(table.columns) > 20 else "")
                raise Origin(setting).error(f"columns of {path} ({shown})", f"{name!r}{hint}")
    both = [name for name in targets if name in config.ignore or targets.count(name) > 1]
    if both:
        raise Origin("data.target").error(
            "each column once, and none of data.ignore", f"{both[0]!r}"
        )
    features = [one for one in table.columns if one not in {*targets, *config.ignore}]
    if not features:
        raise Origin("data.path").error(f"a feature beside data.target in {path}", "none")
    refused = {name: why_not(name, table[name]) for name in features}
    told = [f"{name!r} ({reason})" for name, reason in refused.items() if reason]
    if told:
        raise Origin("data.path").error(
            f"numbers, booleans or categories in the columns of {path}",
            f"{', '.join(told)}: put what is not to be learned from in data.ignore",
        )
    return targets, features


def _whole_rows(table: Any, config: DataConfig, path: pathlib.Path) -> tuple[Any, LeftOut]:
    """Rows that have a value of its kind in every column."""
    import pandas as pd

    left_out = LeftOut(config.skip_broken, "rows", "data.path")
    bad = np.zeros(len(table), bool)
    faults: list[tuple[int, str, str]] = []
    for name in table.columns:
        column = table[name]
        kind = kind_of(column)
        faulty = column.isna().to_numpy(dtype=bool).copy()
        if kind == "float":
            faulty |= np.isinf(column.to_numpy(dtype="float64", na_value=np.nan))
        odd = odd_numbers(column) if kind == "text" else None
        if odd is not None:
            faulty |= odd
        new = np.flatnonzero(faulty & ~bad)
        faults += [
            (int(row), name, "" if pd.isna(column[row]) else str(column[row])) for row in new
        ]
        bad |= faulty
    for row, name, value in sorted(faults):
        # Rows are counted from 1, below the header.
        item = f"row {row + 1}, column {name!r}"
        received = f"{value!r} in {item}" if value else f"nothing in {item}"
        reason = "with a value that is no number" if value else "with a missing value"
        left_out.add(reason, f"a value of its column's kind in every row of {path}", item, received)
    if bad.all():
        raise Origin("data.path").error(f"a row without a missing value in {path}", "none")
    kept = table[~bad].reset_index(drop=True)
    for name in kept.columns:
        if kind_of(kept[name]) == "text" and odd_numbers(table[name]) is not None:
            kept[name] = pd.to_numeric(kept[name])
    return kept, left_out


def _targets(
    table: Any, targets: list[str], path: pathlib.Path
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels with the names of their classes, or float32 values."""
    kinds = {name: kind_of(table[name]) for name in targets}
    origin = Origin("data.target")
    name, kind = next(iter(kinds.items()))
    classes = kind in ("text", "bool") or (
        kind == "int" and table[name].nunique() <= MAX_CLASS_NUMBERS
    )
    if len(targets) == 1 and classes:
        of_type = {"int": "int64", "bool": "bool", "text": object}[kind]
        there, labels = np.unique(table[name].to_numpy(dtype=of_type), return_inverse=True)
        names = tuple(map(str, there))
        place = Origin("data.target", f" of {path}", {"train": ("", f"column {name!r}")})
        refuse_rare(labels, names, place)
        return labels.astype("int64"), names
    for name, kind in kinds.items():
        if kind not in ("int", "float") and not (kind == "bool" and len(targets) > 1):
            expected = "numbers" if len(targets) > 1 else "numbers, text or booleans"
            raise origin.error(f"{expected} in column {name!r} of {path}", kind)
    values = np.stack([_floats(table[name], name, path) for name in targets], axis=1)
    return (values[:, 0] if len(targets) == 1 else values), None


def _floats(column: Any, name: str, path: pathlib.Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = column.to_numpy(dtype="float64").astype("float32")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise Origin("data.path").error(
            f"numbers that float32 holds in column {name!r} of {path}", f"{column[row]}"
        )
    return values


def _codes(column: Any) -> np.ndarray:
    """Numbers by which equal values are found."""
    if kind_of(column) == "text":
        return np.unique(column.to_numpy(dtype=object), return_inverse=True)[1].astype("float64")
    return column.to_numpy(dtype="float64")


def _features(
    table: Any, features: list[str], rows: np.ndarray, path: pathlib.Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """All features and their names; categories are those of some rows."""
    columns, names = [], []
    for name in features:
        if kind_of(table[name]) != "text":
            columns.append(_floats(table[name], name, path))
            names.append(name)
            continue
        values = table[name].to_numpy(dtype=object)
        for category in sorted(set(values[rows])):
            columns.append((values == category).astype("float32"))
            names.append(f"{name}={category}")
    return np.stack(columns, axis=1), tuple(names)
