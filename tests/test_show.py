"""What a run came to: in a few lines, at its end and again from its folder."""

import copy
import json

import pytest
from rich.console import Console

from cnn_l1 import show
from cnn_l1.process import tables
from cnn_l1.runs.conclusion import conclusion, file_to_use


def figures(size, accuracy=0.99, **changes):
    return {
        "accuracy": accuracy, "accuracy_standard_error": 0.01, "agreement": 1.0,
        "bytes": size, "deflated_bytes": size // 2, "weights": 100, "zeros": 90,
        "latency_median_ms": 0.01, "latency_p90_ms": 0.02, "macs": 1000,
        "mean_squared_error": None, "mean_squared_error_standard_error": None, "r2": None,
    } | changes  # fmt: skip


REPORT = {
    "counts": {
        "weights": 100, "zeros": 90, "nonzero": 10, "sparsity": 0.9, "parameters": 110,
        "nonzero_parameters": 15,
        "layers": [{
            "layer": "dense", "shape": [10, 10], "weights": 100, "zeros": 90, "nonzero": 10,
            "sparsity": 0.9,
        }],
    },
    "data": {"measured_split": "test"},
    "files": {
        "model.keras": figures(50),
        "model_int8.tflite": figures(900, 0.97),
        "shrunk/model_int8.tflite": figures(400, 0.97),
        "dense/model_int8.tflite": figures(300, 0.985),
    },
    "refused": {},
}  # fmt: skip


def test_the_smallest_sparse_tflite_file_is_the_one_to_use():
    assert file_to_use(REPORT["files"]) == "shrunk/model_int8.tflite"
    assert file_to_use({"model.keras": figures(1), "dense/model_int8.tflite": figures(1)}) is None


def test_lines_say_zeros_score_file_and_what_is_next():
    first, use, following = conclusion(REPORT, "runs/mine")
    assert first == (
        "90.0% of the kernel weights are zero. Accuracy 97.0%; without the penalty 98.5% "
        "(-1.5 points)."
    )
    assert use == "Use   runs/mine/shrunk/model_int8.tflite   400 bytes (dense 300)"
    assert following.startswith("Next  cnn-l1 benchmark runs/mine/shrunk/model_int8.tflite")


def test_values_without_a_baseline_and_a_refused_file():
    summary = copy.deepcopy(REPORT)
    error = {"accuracy": None, "mean_squared_error": 2.5}
    summary["files"] = {"model_float32.tflite": figures(900, **error)}
    summary["refused"] = {"model_int8.tflite": "no such operator"}
    lines = conclusion(summary, "mine")
    assert lines[0].endswith("Mean squared error 2.5.")
    assert lines[2] == "Not   model_int8.tflite: no such operator"


def test_an_autoencoder_is_told_by_its_auc():
    summary = copy.deepcopy(REPORT)
    scores = [{"accuracy": None, "mean_squared_error": 9.5, "metrics": {"auc": a}} for a in (1, 0)]
    name = "model_int8.tflite"
    summary["files"] = {name: figures(900, **scores[0]), f"dense/{name}": figures(900, **scores[1])}
    line = conclusion(summary, "mine")[0]
    assert line.endswith("with an AUC of 1.0000; without the penalty 0.0000.")


def test_a_run_is_shown_again_without_tensorflow(tmp_path, capsys):
    (tmp_path / "report.json").write_text(json.dumps(REPORT), encoding="utf-8")
    assert show.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "Exact zeros" in text
    assert "shrunk/model_int8.tflite" in text
    assert text.splitlines()[-3:] == conclusion(REPORT, tmp_path)


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"counts": {}}'])
def test_what_is_no_run_is_told_in_a_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content, encoding="utf-8")
    assert show.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_files_table_fits_the_terminal(width):
    console = Console(width=width, force_terminal=True, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    files = {name: show._figures(one) for name, one in REPORT["files"].items()}
    tables.print_files(files, console)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert ("p90 ms" in text) == (width == 200)
    assert "bytes" in text
    assert "accuracy" in text
