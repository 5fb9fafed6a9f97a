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


def print_files(
    files: Mapping[str, Any], console: Console | None = None, split: str = "test"
) -> None:
    """Print a table of measured files.

    Args:
        files: Mapping from a file's name to its `Measurement`.
        split: The data they were measured on.
    """
    console = console or console_of()
    classes = any(file.accuracy is not None for file in files.values())
    shown = ("accuracy", "± SE", "same as Keras") if classes else ("MSE", "± SE", "R²")
    ram = ("RAM",) if any(file.ram_bytes is not None for file in files.values()) else ()
    headings = [*shown, "bytes", "deflated", "zeros", "MACs", *ram, "median ms", "p90 ms"]
    rows = {name: dict(zip(headings, _row(file, ram), strict=True)) for name, file in files.items()}
    left_out = [heading for heading in LEFT_OUT_FIRST if heading in headings]
    while True:
        table = Table(title=f"Exported files, measured on the {split} split", title_justify="left")
        table.add_column("file", overflow="fold")
        for heading in headings:
            table.add_column(heading, justify="right")
        for name, row in rows.items():
            table.add_row(name, *(row[heading] for heading in headings))
        unbounded = console.options.update(max_width=1000)
        if not left_out or console.measure(table, options=unbounded).maximum <= console.width:
            break
        headings.remove(left_out.pop(0))
    console.print(table)


# Columns of the files' table that a narrow terminal goes without, in this order; the report
# has them all.
LEFT_OUT_FIRST = ("p90 ms", "deflated", "± SE", "MACs", "same as Keras", "zeros", "median ms")


def _row(file: Any, ram: Sequence[str]) -> tuple[str, ...]:
    zeros = "" if file.zeros is None or not file.weights else f"{file.zeros / file.weights:.2%}"
    timed = file.latency_median_ms is not None
    return (
        *_scores(file),
        f"{file.bytes:,}",
        f"{file.deflated_bytes:,}",
        zeros,
        "" if file.macs is None else f"{file.macs:,}",
        *(("" if file.ram_bytes is None else f"{file.ram_bytes:,}",) if ram else ()),
        f"{file.latency_median_ms:.4f}" if timed else "",
        f"{file.latency_p90_ms:.4f}" if timed else "",
    )


def _scores(file: Any) -> tuple[str, ...]:
    if file.accuracy is None:
        error = file.mean_squared_error_standard_error
        return f"{file.mean_squared_error:.5g}", f"{error:.3g}", f"{file.r2:.4f}"
    return (
        f"{file.accuracy:.2%}",
        f"{file.accuracy_standard_error:.2%}",
        f"{file.agreement:.2%}",
    )


def print_sweep(rows: Iterable[Any], classes: bool, console: Console | None = None) -> None:
    """Print the table of a sweep: one `selection.Row` a strength, the choice marked.

    Args:
        rows: `selection.Row`s.
        classes: Whether the score is an accuracy, else a mean squared error.
    """
    table = Table(title="Strengths, measured on validation data", title_justify="left")
    score = "accuracy" if classes else "MSE"
    headings = "l1_strength", "runs", "failed", score, "± SE", "sparsity", "nonzero"
    for heading in (*headings, "bytes", "MACs", "RAM", "median ms", ""):
        table.add_column(heading, justify="right")

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
