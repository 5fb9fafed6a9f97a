"""What fails after the training loses itself alone; sparse files."""

import dataclasses
import importlib.util

import keras
import numpy as np
import pytest
from pipeline_runs import (
    QUICK,
    arguments,
    check_refusal,
    read_report,
)

from cnn_l1.config import loading as configs
from cnn_l1.data import sets as data
from cnn_l1.data.task_choice import task_of
from cnn_l1.export import copying, saved_model_file
from cnn_l1.measure import measurement, on_micro
from cnn_l1.models.setup import configured
from cnn_l1.models.untrained import new_network
from cnn_l1.runs import exported_files, verification
from cnn_l1.sparsity import counting
from cnn_l1.tflite import encoding
from cnn_l1.train import pipeline, stages, summary
from cnn_l1.train.__main__ import main as train_main


def colour(load):
    """A loader of data whose images have three channels."""

    def loaded(*arguments):
        dataset = load(*arguments)
        about = dataclasses.replace(dataset.about, input_shape=(8, 8, 3))

        def split(part):
            return dataclasses.replace(part, inputs=np.repeat(part.inputs, 3, axis=-1))

        return dataclasses.replace(
            dataset,
            about=about,
            train=split(dataset.train),
            validation=split(dataset.validation),
            load_test=lambda: split(dataset.load_test()),
        )

    return loaded


POINTWISE = (
    "model={name: pointwise, pointwise: {width: 16, halvings: 1, repeats: 1}}",
    "training.epochs=2",
    "export.formats=[float32, sparse_float32]",
)


SPARSE = "model_sparse_float32.tflite"


@pytest.mark.slow
def test_sparse_files_of_a_run(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", colour(data.load))
    flags = arguments(
        config_file, tmp_path / "run", *QUICK[1:-1], *POINTWISE, "penalty.l1_strength=0.05"
    )
    assert train_main(flags) == 0
    report = read_report(tmp_path / "run")
    assert report["refused"] == {}
    sparse, dense = report["files"][SPARSE], report["files"]["model_float32.tflite"]
    for key in ("accuracy", "weights", "zeros", "macs"):
        assert sparse[key] == dense[key], key
    config = configs.load(tmp_path / "run" / "config.yaml")
    assert verification.check_formats(tmp_path / "run", report["files"], config, {}) == []


@pytest.mark.slow
def test_a_sparse_file_of_few_zeros_is_refused(config_file, tmp_path, capsys):
    config = configs.load(config_file, [*QUICK[1:-1], *POINTWISE])
    dataset = colour(data.load)(config.data, config.seed)
    task = task_of(config.training, dataset.about)
    network = new_network(config, dataset.about.input_shape, task.outputs, dataset.statistics())
    model = copying.plain_copy(network)
    written, refused = exported_files.export_files(model, tmp_path, config, dataset, task)
    assert not (tmp_path / SPARSE).exists()
    assert set(written) == {"model.keras", "model_float32.tflite"}
    assert "zeros in more than 66.7%" in refused[SPARSE]
    assert f"Not written: {SPARSE}: expected" in capsys.readouterr().out
    assert verification.check_formats(tmp_path, written, config, refused) == []


def test_sparse_files_of_another_network_are_refused_before_training(config_file, tmp_path, capsys):
    flags = arguments(config_file, tmp_path / "run", "export.formats=[sparse_float16]")
    check_refusal(
        capsys, tmp_path, 2, flags, "export.formats", "XNNPACK's sparse path", "3 channels"
    )


def test_a_format_that_fails_loses_its_file_alone(config_file, tmp_path, capsys):
    settings = ("model.blocks.3.activation=elu", "export.formats=[float32, int8, c]")
    output = tmp_path / "run"
    assert train_main(arguments(config_file, output, *QUICK, *settings)) == 0
    report, printed = read_report(output), capsys.readouterr().out
    assert set(report["files"]) == {"model.keras", "model_float32.tflite"}
    assert set(report["refused"]) == {"model_int8.tflite", "model_int8.h"}
    assert "ELU in float" in report["refused"]["model_int8.tflite"]
    # Before the training too.
    assert printed.index("Will not be written: model_int8") < printed.index("Exact zeros")
    assert "Not written: model_int8.tflite" in printed
    assert not [path for path in output.iterdir() if "int" in path.name]
    assert verification.verify(output, with_data=False) == []


def test_dry_run_names_what_cannot_be_written(config_file, tmp_path, capsys):
    settings = ("model.blocks.3.activation=elu", "export.formats=[float32, int8]")
    flags = [*arguments(config_file, tmp_path / "run", *settings), "--dry-run"]
    assert train_main(flags) == 0
    printed = capsys.readouterr().out
    assert "Will not be written: model_int8.tflite: expected every operator in int" in printed
    assert "Will not be written: model_float32" not in printed


@pytest.mark.parametrize("flag", [(), ("--dry-run",)])
def test_packages_are_looked_for_before_the_training(
    config_file, tmp_path, capsys, monkeypatch, flag
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "tf2onnx" else found(name, *a)
    )
    flags = [*arguments(config_file, tmp_path / "run", "export.formats=[onnx]"), *flag]
    check_refusal(capsys, tmp_path, 2, flags, "export.formats", "cnn_l1[onnx]", "no tf2onnx")


@pytest.fixture(scope="module")
def begun(config_file):
    """A network and what a run knows of it once the training is done."""
    settings = ("export.formats=[float32, saved_model]", "measure.micro_examples=2")
    config = configs.load(config_file, [*QUICK, *settings, "export.encode_zeros=true"])
    setup = configured(config)
    return copying.plain_copy(stages.start_model(setup)), stages.Run(setup)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[] if place == "export" else pytest.mark.slow)
        for place in ("export", "measure", "micro", "encode", "time")
    ],
)
def test_any_error_of_one_file_is_told(begun, tmp_path, capsys, monkeypatch, place):
    def fail(*arguments, **settings):
        raise IndexError("out of luck")

    where = {
        "export": (saved_model_file, "export_saved_model"),
        "measure": (measurement, "measure_saved_model"),
        "micro": (on_micro, "measure_micro"),
        "encode": (encoding, "encode_zeros"),
        "time": (measurement, "time_files"),
    }
    monkeypatch.setattr(*where[place], fail)
    network, this = begun
    report = summary.begin_report(this, counting.count(network), [])
    pipeline.complete(network, network, this, [], tmp_path, report)
    assert "model_float32.tflite" in report["files"]
    told = report["refused"] | report["not_measured"]
    assert list(told.values()) == ["IndexError: out of luck"]
    assert (tmp_path / "saved_model").exists() == ("saved_model" not in report["refused"])
    assert ("saved_model" in report["refused"]) == (place in ("export", "measure"))
    assert "IndexError: out of luck" in capsys.readouterr().out or place == "time"


@pytest.mark.slow
def test_what_was_trained_is_kept(config_file, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise IndexError("out of luck")

    monkeypatch.setattr(measurement, "predict", fail)
    output = tmp_path / "run"
    assert train_main(arguments(config_file, output, *QUICK)) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert f"error: IndexError: out of luck. What was trained is kept in {output}" in error
    report = read_report(output)
    assert report["error"] == "IndexError: out of luck"
    assert report["counts"]["weights"] > 0
    assert {"model.keras", "config.yaml", "history.csv"} <= {p.name for p in output.iterdir()}
    keras.models.load_model(output / "model.keras")
    (line,) = verification.verify(output, with_data=False)
    assert "expected a run that ended well" in line
    # Such a run can be replaced.
    monkeypatch.undo()
    assert train_main([*arguments(config_file, output, *QUICK), "--overwrite"]) == 0
    assert read_report(output)["error"] is None
