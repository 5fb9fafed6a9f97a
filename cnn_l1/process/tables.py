"""Console tables: layers, files, channels, sweeps."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def console_of() -> Console:
    """A console; away from a terminal wide enough for every column."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def print_layers(counts: Any, console: Console | None = None) -> None:
    """Print a table of layers: shape, weights, zeros, sparsity."""
    table = Table(title="Exact zeros", title_justify="left")
    table.add_column("layer")
    for heading in ("shape", "weights", "zeros", "sparsity"):
        table.add_column(heading, justify="right")
    for layer in counts.layers:
        shape = "×".join(str(size) for size in layer.shape)
        figures = f"{layer.weights:,}", f"{layer.zeros:,}", f"{layer.sparsity:.2%}"
        table.add_row(f"{layer.layer} (frozen)" if layer.frozen else layer.layer, shape, *figures)
    table.add_section()
    total = f"{counts.weights:,}", f"{counts.zeros:,}", f"{counts.sparsity:.2%}"
    table.add_row("all kernels", "", *total)
    all_zeros = counts.parameters - counts.nonzero_parameters
    share = all_zeros / counts.parameters if counts.parameters else 0.0
    table.add_row("all parameters", "", f"{counts.parameters:,}", f"{all_zeros:,}", f"{share:.2%}")
    console = console or console_of()
    console.print(table)
    for name in counts.unknown:
        console.print(f"Not counted as a kernel: weights of {name}, a layer of unknown kind")


def layers_table(counts: Any) -> str:
    """A `ModelCount` as text: shape, weights, zeros and sparsity, layer by layer."""
    console = console_of()
    with console.capture() as capture:
        print_layers(counts, console)
    return capture.get().rstrip("\n")


# Columns of the table of files: a key of `report.json` and how its figure is shown. A column
# that no file has a figure for is left out.
FILE_COLUMNS = {
    "accuracy": ".2%",
    "accuracy_standard_error": ".2%",
    "mean_squared_error": ".5g",
    "mean_squared_error_standard_error": ".3g",
    "r2": ".4f",
    "agreement": ".2%",
    "bytes": ",",
    "deflated_bytes": ",",
    "zeros": ".2%",
    "macs": ",",
    "ram_bytes": ",",
    "latency_median_ms": ".4f",
    "latency_p90_ms": ".4f",
}
# What a narrow terminal goes without, in this order; the report has it all.
LEFT_OUT_FIRST = (
    "latency_p90_ms", "deflated_bytes", "accuracy_standard_error",
    "mean_squared_error_standard_error", "macs", "agreement", "zeros", "latency_median_ms",
)  # fmt: skip


def print_files(
    files: Mapping[str, Any], console: Console | None = None, split: str = "test"
) -> None:
    """Print a table of measured files; the columns are keys of `report.json`.

    Args:
        files: Mapping from a file's name to its `Measurement`.
        split: The data they were measured on.
    """
    console = console or console_of()
    columns = {key: [_shown(file, key) for file in files.values()] for key in FILE_COLUMNS}
    if all(file.accuracy is None for file in files.values()):
        del columns["agreement"]  # of classes alone
    columns = {key: cells for key, cells in columns.items() if any(cells)}
    names = max(map(len, ("file", *files)))
    for key in LEFT_OUT_FIRST:
        widths = (max(map(len, [*_heading(k).split("\n"), *c])) for k, c in columns.items())
        # Each column has a border and a space on both sides.
        if names + 4 + sum(width + 3 for width in widths) <= console.width:
            break
        columns.pop(key, None)
    table = Table(title=f"Exported files, measured on the {split} split", title_justify="left")
    table.add_column("file", overflow="fold")
    for key in columns:
        table.add_column(_heading(key), justify="right")
    for row, name in enumerate(files):
        table.add_row(name, *(cells[row] for cells in columns.values()))
    console.print(table)


HEADINGS = {
    "l1_strength": "l1_strength",
    "accuracy_standard_error": "standard\nerror",
    "mean_squared_error": "mean squared\nerror",
    "mean_squared_error_standard_error": "standard\nerror",
}


def _heading(key: str) -> str:
    """A key of the report as a heading, of two lines where it is long."""
    return HEADINGS.get(key) or key.replace("_", "\n", 1).replace("_", " ")


def _shown(file: Any, key: str) -> str:
    value = getattr(file, key, None)
    if key == "zeros":  # as a fraction of the weights that the file holds
        value = value / file.weights if value is not None and file.weights else None
    return "" if value is None else format(value, FILE_COLUMNS[key])


def print_sweep(rows: Iterable[Any], classes: bool, console: Console | None = None) -> None:
    """Print the table of a sweep: one `selection.Row` a strength, the choice marked.

    Args:
        rows: `selection.Row`s.
        classes: Whether the score is an accuracy, else a mean squared error.
    """
    table = Table(title="Strengths, measured on validation data", title_justify="left")
    score = "accuracy" if classes else "mean_squared_error"
    headings = "l1_strength", "runs", "failed", score, "standard_error", "sparsity", "nonzero"
    for heading in (*headings, "bytes", "macs", "ram_bytes", "latency_median_ms", ""):
        table.add_column(_heading(heading), justify="right")

    def shown(value: float | None, style: str) -> str:
        return "" if value is None else format(value, style)

    for row in rows:
        marks = ("chosen",) if row.chosen else ("too large",) if row.fits is False else ("",)
        table.add_row(
            "dense" if not row.l1_strength else f"{row.l1_strength:.3g}",
            str(row.runs),
            str(row.failed) if row.failed else "",
            shown(row.score, ".2%" if classes else ".5g"),
            shown(row.standard_error, ".2%" if classes else ".3g"),
            shown(row.sparsity, ".2%"),
            shown(row.nonzero_parameters, ",.0f"),
            shown(row.bytes, ",.0f"),
            shown(row.macs, ",.0f"),
            shown(row.ram_bytes, ",.0f"),
            shown(row.latency_median_ms, ".4f"),
            *marks,
        )
    (console or console_of()).print(table)


def print_rows(title: str, rows: Sequence[Any], console: Console | None = None) -> None:
    """Print dataclass rows as a table, one column a field."""
    table = Table(title=title, title_justify="left")
    for number, field in enumerate(dataclasses.fields(rows[0])):
        table.add_column(field.name, justify="right" if number else "left", overflow="fold")

    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)

    for row in rows:
        table.add_row(*(shown(value) for value in dataclasses.asdict(row).values()))
    (console or console_of()).print(table)


def shrink_table(plan: Any) -> str:
    """A `ShrinkPlan` as text: channels, multiply-adds and parameters, layer by layer."""
    table = Table(title="Channels", title_justify="left")
    table.add_column("layer")
    for heading in ("channels", "multiply-adds", "parameters"):
        table.add_column(heading, justify="right")
    held_back = any(layer.held_back for layer in plan.layers)
    if held_back:
        table.add_column("why kept")
    unknown = {name.rpartition(" (")[0] for name in plan.macs_unknown}
    for layer in plan.layers:
        macs = _change(layer.macs_before, layer.macs_after) if layer.macs_before else ""
        table.add_row(
            layer.name,
            _change(layer.channels_before, layer.channels_after),
            "unknown" if layer.name in unknown else macs,
            _change(layer.parameters_before, layer.parameters_after),
            *([layer.held_back] if held_back else []),
        )
    table.add_section()
    total = _change(plan.macs_before, plan.macs_after) if plan.macs_before else ""
    if unknown:
        total = f"{total} + unknown" if total else "unknown"
    parameters = _change(plan.parameters_before, plan.parameters_after)
    table.add_row("all", "", total, parameters)
    size = _change(4 * plan.parameters_before, 4 * plan.parameters_after)
    table.add_row("float32 bytes", "", "", size)
    console = console_of()
    with console.capture() as capture:
        console.print(table)
        for name in plan.macs_unknown:
            console.print(f"Multiply-adds not counted: {name}")
        for name in plan.unsupported:
            console.print(f"Kept as it is, for its kind is not supported: {name}")
    return capture.get().rstrip("\n")


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"
