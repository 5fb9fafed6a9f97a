"""The table of what each Keras layer can do, and how it is made."""

import keras
import numpy as np
import pytest

from benchmarks import children, layer_cases, steps, support


def test_each_class_that_keras_exports_has_a_row():
    exported = {found for found in vars(keras.layers).values() if isinstance(found, type)}
    rows = layer_cases.layer_classes()
    assert len(rows) == len(exported)
    assert set(rows) == set(layer_cases.CASES) | set(layer_cases.WITHOUT_MODEL)
    assert not set(layer_cases.CASES) & set(layer_cases.WITHOUT_MODEL)


@pytest.mark.parametrize("name", ["Dense", "Conv2D", "LSTM", "Embedding", "MultiHeadAttention"])
def test_a_case_is_seeded_and_has_the_kernels_it_names(name):
    case = layer_cases.CASES[name]
    (model, inputs), (again, same) = (layer_cases.build(case) for _ in range(2))
    np.testing.assert_array_equal(inputs, same)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    own = [v.name for v in model.get_layer("layer").weights if v.name in case.kernels]
    assert sorted(own) == sorted(case.kernels)
    outputs = steps.keras_outputs(model, inputs)[0]
    assert np.ptp(outputs, axis=0).min() > 1e-3  # a constant output would prove nothing


WORK = """
import os, sys, time
from benchmarks import children

def perform(task):
    if task == "die":
        os.kill(os.getpid(), 11)
    if task == "hang":
        time.sleep(600)
    if task == "speak":
        print("a line of a library's")
    return {"cell": task}

children.serve(perform)
"""


def test_a_child_that_dies_or_hangs_is_a_result(tmp_path, monkeypatch):
    (tmp_path / "some_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr(children, "START_SECONDS", 30)
    tasks = ["a", "die", "speak", "hang", "b"]
    results = dict(children.run("some_work", tasks, seconds=2, batch=5, workers=1))
    assert list(results) == tasks
    assert results["die"] == {"crashed": "the process ended with code -11"}
    assert results["hang"] == {"crashed": "no result within 2 s"}
    assert [results[task] for task in ("a", "speak", "b")] == [
        {"cell": "a"}, {"cell": "speak"}, {"cell": "b"},
    ]  # fmt: skip


def test_raw_errors_are_faults_and_ours_are_refusals():
    from cnn_l1.tflite.file import ExportError

    def ours():
        raise ExportError("layer: expected a kernel. Received: none")

    def raw():
        raise KeyError("kernel")

    assert steps.judged(ours) == steps.Cell("refused", "layer: expected a kernel. Received: none")
    assert steps.judged(raw).verdict == "crashed"
    assert steps.judged(lambda: np.float32("a")).verdict == "crashed"


def test_a_permuted_or_changed_output_is_wrong():
    one, other = np.arange(6.0).reshape(2, 3), np.arange(6.0, 12.0).reshape(2, 3)
    assert steps.compare([one, other], [one, other], "float32", "it") == steps.YES
    assert steps.compare([one, other], [other, one], "int8", "it").verdict == "wrong"
    assert steps.compare([one], [one, other], "int8", "it").verdict == "wrong"
    assert steps.compare([one], [one * np.nan], "int8", "it").verdict == "wrong"
    assert steps.compare([one], [one + 5e-3], "float32", "it").verdict == "wrong"


def test_the_page_reads_back_as_its_cells():
    cells = {
        (name, column): ["yes", ""] for name in layer_cases.CASES for column in support.COLUMNS
    }
    cells["Dense", "int8"] = ["refused", "a | reason"]
    cells["Conv2D", "groups"] = ["none", ""]
    read = support.verdicts(support.page(cells))
    assert read["Dense", "int8"] == "refused"
    assert read["Dense", "float32"] == "yes"
    assert read["Conv2D", "groups"] == "—"
    assert read["Layer", "counted"] == "—"
    assert len(read) == len(layer_cases.layer_classes()) * len(support.COLUMNS)


NO_FILES = [column for column in support.QUICK if column != "float32"]


@pytest.mark.slow
def test_the_table_is_what_is_committed():
    """Of the layers with kernels and every sixth other: all columns but the files', and by
    turns a float32 file and one of another kind. The whole table takes half an hour."""
    if not support.PAGE.is_file():
        pytest.skip("docs/support.md is not made yet: python -m benchmarks.support writes it")
    committed = support.verdicts(support.PAGE.read_text(encoding="utf-8"))
    others = [name for name, case in layer_cases.CASES.items() if not case.kernels]
    left_out = {name for number, name in enumerate(others) if number % 6}
    names = [name for name in layer_cases.CASES if name not in left_out]
    # A file takes longer than all else, and float32 files of all layers with kernels are made
    # in tests/graph.
    float32 = {name for number, name in enumerate(names) if number // 6 % 2 == 0}
    tasks = [
        [name, column]
        for name, column in support.sample(names)
        if column in NO_FILES or (column == "float32") == (name in float32)
    ]
    assert len({name for name, _ in tasks}) > 45
    assert {column for _, column in tasks} == set(support.COLUMNS)
    cells = support.measure(tasks=tasks, workers=2)
    assert support.faults(cells) == []
    shown = {key: "—" if cell[0] == "none" else cell[0] for key, cell in cells.items()}
    changed = {key: (committed[key], now) for key, now in shown.items() if committed[key] != now}
    assert not changed, "docs/support.md differs: python -m benchmarks.support writes it again"
