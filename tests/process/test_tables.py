"""Console tables: nothing is cut off, nothing invented."""

import dataclasses
import io

import pytest
from example_figures import COUNTS, FILE, SAVED_MODEL
from rich.console import Console

from cnn_l1.measure.measurement import Measurement
from cnn_l1.process import tables
from cnn_l1.sparsity.counting import LayerCount, ModelCount


def printed(show, value):
    console = Console(file=io.StringIO(), width=140)
    show(value, console)
    return console.file.getvalue()


def row(text, name):
    (line,) = [line for line in text.splitlines() if f" {name} " in line]
    return [cell.strip() for cell in line.strip("│┃|").split("│")]


def test_table_of_layers_prints_all():
    text = printed(tables.print_layers, COUNTS)
    assert row(text, "conv_1") == ["conv_1", "5×5×1×20", "500", "100", "20.00%"]
    assert row(text, "dense_1") == ["dense_1", "800×500", "400,000", "399,000", "99.75%"]
    assert row(text, "dense_2") == ["dense_2", "500×10", "5,000", "0", "0.00%"]
    assert row(text, "all kernels") == ["all kernels", "", "405,500", "399,100", "98.42%"]
    # Biases count here: 399,100 + 30 of 406,030.
    assert row(text, "all parameters") == ["all parameters", "", "406,030", "399,130", "98.30%"]


def test_table_of_many_layers_prints_all():
    layers = tuple(LayerCount(f"layer_{i}", (3, i), 3 * i, i) for i in range(1, 201))
    text = printed(tables.print_layers, ModelCount(layers, 0, 0))
    for layer in layers:
        assert row(text, layer.layer)[-1] == "33.33%"


def test_table_of_files():
    text = printed(tables.print_files, {"int8": FILE, "saved_model": SAVED_MODEL})
    figures = ["97.25%", "0.86%", "99.72%", "12,345", "2,345", "92.50%", "30,464"]
    figures += ["0.0123", "0.0456"]
    assert row(text, "int8") == ["int8", *figures]
    # What was not measured stays empty: no zero that nobody counted.
    assert row(text, "saved_model")[-4:] == ["", "", "", ""]


def test_table_of_a_file_without_weights():
    bare = dataclasses.replace(FILE, weights=0, zeros=0)
    assert row(printed(tables.print_files, {"int8": FILE, "bare": bare}), "bare")[6] == ""


def test_columns_are_keys_of_the_report():
    keys = {field.name for field in dataclasses.fields(Measurement)}
    assert keys >= set(tables.FILE_COLUMNS)
    assert set(tables.FILE_COLUMNS) >= set(tables.LEFT_OUT_FIRST)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_table_of_files_fits_the_terminal(width):
    console = Console(file=io.StringIO(), width=width)
    tables.print_files({"model_int8.tflite": FILE, "saved_model": SAVED_MODEL}, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "97.25%" in text
    assert "12,345" in text
    assert "…" not in text


@pytest.mark.parametrize("show", [tables.print_layers, tables.print_files])
def test_tables_go_to_the_screen_uncut(show, capsys):
    show(COUNTS if show is tables.print_layers else {"a_rather_long_file_name": FILE})
    assert "…" not in capsys.readouterr().out
