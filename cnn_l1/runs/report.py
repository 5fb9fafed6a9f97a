"""A run's figures as JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `cnn-l1 benchmark` writes JSON where only LiteRT is installed
    from cnn_l1.sparsity.counting import LayerCount, ModelCount


def write_json(path: pathlib.Path, report: Any) -> None:
    """Write a report as JSON; NaN and infinity, which JSON lacks, are refused."""
    text = json.dumps(report, indent=2, default=_plain, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"Expected plain data for JSON. Received: {type(value).__name__}")


def write_history(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Write one row an epoch as CSV; a column that a stage lacks stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def counts_as_dict(counts: ModelCount) -> dict[str, Any]:
    """A `ModelCount` as plain data, totals from counts."""
    return {
        "weights": counts.weights,
        "zeros": counts.zeros,
        "nonzero": counts.nonzero,
        "sparsity": counts.sparsity,
        "parameters": counts.parameters,
        "nonzero_parameters": counts.nonzero_parameters,
        "layers": [_layer_as_dict(layer) for layer in counts.layers],
    }


def _layer_as_dict(layer: LayerCount) -> dict[str, Any]:
    described = {**dataclasses.asdict(layer), "nonzero": layer.nonzero, "sparsity": layer.sparsity}
    if not layer.frozen:  # a mark where it is due
        described.pop("frozen")
    return described


def write_rows(path: pathlib.Path, rows: Sequence[Any]) -> None:
    """Write dataclass rows as CSV, one column a field."""
    dicts = [dataclasses.asdict(row) for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dicts[0]))
        writer.writeheader()
        writer.writerows(dicts)
