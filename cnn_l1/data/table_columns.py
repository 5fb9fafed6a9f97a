"""What each column of a table is: numbers, booleans, categories, or nothing to learn from."""

import re
from typing import Any

import numpy as np

MAX_CATEGORIES = 50
DATE = r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}( .*)?"
ID_NAME = re.compile(r"(.*[_ .-])?(id|uuid|guid|index)|.*[a-z]Id|Unnamed: \d+", re.ASCII)
# Text of which so much reads as numbers is numbers with some odd values, such as `?`.
MOSTLY = 0.8


def kind_of(column: Any) -> str:
    """`"bool"`, `"int"`, `"float"`, `"text"`, `"date"` or the name of another type.

    Args:
        column: A pandas `Series`.
    """
    import pandas as pd
    import pandas.api.types as types

    if types.is_bool_dtype(column.dtype):
        return "bool"
    if types.is_integer_dtype(column.dtype):
        return "int"
    if types.is_float_dtype(column.dtype):
        return "float"
    if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        return "date"
    values = column.dropna()
    if isinstance(column.dtype, pd.StringDtype) or all(isinstance(one, str) for one in values):
        return "text"
    return (
        type(values.iloc[0]).__name__ if types.is_object_dtype(column.dtype) else str(column.dtype)
    )


def odd_numbers(column: Any) -> np.ndarray | None:
    """Where text that is mostly numbers is none, `(rows,)`; `None` for any other text."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").isna() & column.notna()
    odd = numbers.to_numpy(dtype=bool)
    there = int(column.notna().sum())
    return odd if there and odd.sum() <= (1 - MOSTLY) * there else None


def why_not(name: str, column: Any) -> str:
    """Why a column is no feature, in a few words; empty if it is one.

    A number that names a row would be learned by heart, and a date or free text is no category.

    Args:
        name: Of the column.
        column: A pandas `Series`.
    """
    kind, values = kind_of(column), column.dropna()
    if not len(values):
        return "no value in it"
    if kind == "date":
        return "dates"
    if kind not in ("bool", "int", "float", "text"):
        return f"values of type {kind}"
    distinct = values.nunique()
    if kind == "int" and len(values) > 2:
        steps = np.diff(values.to_numpy(dtype="int64"))
        if (steps == 1).all() and values.iloc[0] in (0, 1):
            return "the number of the row"
        if distinct == len(values) and ID_NAME.fullmatch(name):
            return "an id: every value differs"
    if kind != "text":
        return ""
    if values.str.fullmatch(DATE).all():
        return "dates"
    if distinct <= MAX_CATEGORIES and 2 * distinct <= len(values):
        return ""
    if odd_numbers(column) is not None:
        return ""
    if distinct == len(values):
        return "ids or free text: every value differs"
    return f"free text: {distinct} distinct values in {len(values)} rows"
