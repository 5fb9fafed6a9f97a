"""Numbers to JSON, CSV and tables: nothing lost, nothing invented."""

import csv
import io
import json

import pytest
from example_figures import COUNTS, FILE
from rich.console import Console

from cnn_l1.process import tables
from cnn_l1.runs import report
from cnn_l1.sparsity.counting import ModelCount


def printed(show, value):
    console = Console(file=io.StringIO(), width=140)
    show(value, console)
    return console.file.getvalue()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_what_it_lacks(value, tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write_json(path, {"stages": [{"loss": value}]})
    assert not path.exists()


def test_json_refuses_other_objects(tmp_path):
    with pytest.raises(TypeError, match=r"Expected plain data for JSON\. Received: set"):
        report.write_json(tmp_path / "report.json", {"a": {1}})


def test_json_takes_dataclasses(tmp_path):
    path = tmp_path / "report.json"
    report.write_json(path, {"files": {"int8": FILE}, "name": "λ"})
    assert path.read_text(encoding="utf-8").endswith("}\n")
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read["name"] == "λ"
    assert read["files"]["int8"]["zeros"] == 925
    assert read["files"]["int8"]["operators"] == []


def test_history_has_the_columns_of_every_row(tmp_path):
    path = tmp_path / "history.csv"
    rows = [{"epoch": 1, "loss": 0.5, "l1_strength": 0.1}, {"epoch": 2, "loss": 0.25, "extra": 3}]
    report.write_history(path, rows)
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read == [
        ["epoch", "loss", "l1_strength", "extra"],
        ["1", "0.5", "0.1", ""],
        ["2", "0.25", "", "3"],
    ]


def test_totals_come_from_counts():
    totals = report.counts_as_dict(COUNTS)
    layers = totals.pop("layers")
    assert totals == {
        "weights": 405_500,
        "zeros": 399_100,
        "nonzero": 6_400,
        # Zeros over weights; not the mean of the layers' 0.2, 0.9975 and 0.
        "sparsity": 399_100 / 405_500,
        "parameters": 406_030,
        "nonzero_parameters": 6_900,
    }
    assert layers[0] == {
        "layer": "conv_1",
        "shape": (5, 5, 1, 20),
        "weights": 500,
        "zeros": 100,
        "nonzero": 400,
        "sparsity": 0.2,
    }
    for total in ("weights", "zeros", "nonzero"):
        assert sum(layer[total] for layer in layers) == totals[total]


def test_totals_of_a_model_without_kernels():
    totals = report.counts_as_dict(ModelCount((), 0, 0))
    assert (totals["weights"], totals["sparsity"], totals["layers"]) == (0, 0.0, [])
    assert "all kernels" in printed(tables.print_layers, ModelCount((), 0, 0))
