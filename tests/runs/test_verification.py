"""A run verifies as it is, and does not once anything in it is changed.

Where a test repairs the manifest, as one would who tampers with care, the hashes fit and
only a look into the files can tell.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from cnn_l1.config import loading as configs
from cnn_l1.data import sets
from cnn_l1.data.task_choice import task_of
from cnn_l1.export import firmware
from cnn_l1.export import tflite as export
from cnn_l1.measure import measurement
from cnn_l1.runs import exported_files as files
from cnn_l1.runs import manifest, verification
from cnn_l1.tflite import metadata
from cnn_l1.train import pipeline
from cnn_l1.verify import main as verify_main

SAVED = pathlib.Path(__file__).parents[1] / "saved"
BLOCKS = [
    {"type": "conv", "filters": 4, "strides": 2},
    {"type": "batch_norm"},
    {"type": "flatten"},
    {"type": "dense", "units": 12},
    {"type": "dense", "units": "classes", "activation": "linear"},
]
SETTINGS = {
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {"blocks": BLOCKS},
    "penalty": {"name": "group_l1", "l1_strength": 0.01, "l1_ratio": 0.3},
    "optimizer": {"learning_rate": 0.01},
    "training": {"epochs": 6, "batch_size": 32},
    "thresholding": {"threshold": 0.1},
    "fine_tuning": {"epochs": 0},
    "baseline": False,
    "tensorboard": False,
    "export": {"calibration_images": 50, "formats": ["float32", "int8", "c"]},
    "measure": {"latency_runs": 1},
}
EVERY_FORMAT = [
    *("saved_model", "float32", "float16", "dynamic_int8", "int8", "int16x8", "onnx", "c")
]


def make_run(folder, **sections):
    pipeline.run(configs.validate({**SETTINGS, **sections}), folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with few files, and a shrunk network in it."""
    folder = make_run(tmp_path_factory.mktemp("verify") / "small")
    assert (folder / "shrunk" / "model.keras").is_file()
    return folder


@pytest.fixture(scope="module")
def every_format(tmp_path_factory):
    """A run with every format there is, batch-norms folded."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    return make_run(
        tmp_path_factory.mktemp("verify") / "all",
        export={"calibration_images": 50, "formats": EVERY_FORMAT, "fold_batch_norm": True},
        shrink={"enabled": False},
        training={"epochs": 1},
    )


def copy_of(folder, tmp_path):
    return pathlib.Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.fixture
def run_copy(finished, tmp_path):
    return copy_of(finished, tmp_path)


@pytest.fixture
def stored_copy(tmp_path):
    """A small run that is kept with the tests, with no int8 file."""
    return copy_of(SAVED / "xor_run", tmp_path)


def mismatches(folder, repair=True, with_data=True):
    if repair:
        manifest.write_manifest(folder)
    return verification.verify(folder, with_data)


def edit_json(path, edit):
    """Change a JSON file by a function."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_figures(folder, name, **figures):
    edit_json(folder / "report.json", lambda report: report["files"][name].update(figures))


def edit_weights(path, edit, which=-1):
    """Change a weight tensor of a TFLite file, in place: no other byte moves."""
    content = path.read_bytes()
    weights = export.read_tflite(content).weights[which]
    changed = edit(weights.copy())
    assert changed.dtype == weights.dtype
    assert np.any(changed.view("uint8") != weights.view("uint8"))
    assert content.count(weights.tobytes()) == 1
    path.write_bytes(content.replace(weights.tobytes(), changed.tobytes()))


def network_files(lines):
    """Names that mismatches are about."""
    return {line.split(":")[0] for line in lines}


@pytest.mark.slow
def test_a_finished_run_verifies(finished, capsys):
    assert verify_main([str(finished)]) == 0
    assert capsys.readouterr().out == f"{finished}: every file is as reported\n"


@pytest.mark.slow
def test_a_run_with_every_format_verifies(every_format):
    report = json.loads((every_format / "report.json").read_text(encoding="utf-8"))
    assert {export.file_name(kind) for kind in EVERY_FORMAT if kind != "c"} < set(report["files"])
    assert (every_format / "model_int8.cc").is_file()
    assert mismatches(every_format, repair=False) == []


@pytest.mark.slow
def test_the_command_in_its_own_process(finished):
    command = [sys.executable, "-m", "cnn_l1.verify", str(finished), "--no-data"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = f"{finished}: every file is as reported (scores unchecked)\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_a_mismatch_is_a_line_and_exit_code_1(stored_copy, capsys):
    (stored_copy / "history.csv").write_text("epoch\n", encoding="utf-8")
    assert verify_main([str(stored_copy), "--no-data"]) == 1
    line, total = capsys.readouterr().out.splitlines()
    assert line.startswith("history.csv: expected ")
    assert line.endswith(" bytes. Received: 6")
    assert total == f"{stored_copy}: 1 mismatches"


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_folder_that_is_no_run(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert verify_main([str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: RUN_DIR: expected the folder of a run")
    assert error.count("\n") == 1


def test_a_broken_report_is_a_line(stored_copy):
    (stored_copy / "report.json").write_text("{", encoding="utf-8")
    (line,) = mismatches(stored_copy)
    assert line.startswith("report.json, config.yaml: expected to be read. Received: ")


@pytest.mark.slow
def test_a_report_without_a_figure_is_a_line(run_copy):
    def edit(report):
        del report["files"]["model_int8.tflite"]["zeros"]

    edit_json(run_copy / "report.json", edit)
    (line,) = mismatches(run_copy, with_data=False)
    assert line == "report.json: expected figures of model_int8.tflite. Received: 'zeros'"


@pytest.mark.slow
def test_data_that_are_not_at_hand(run_copy, tmp_path, monkeypatch):
    """Another set than the report's, and it is not there either."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    edit_yaml(run_copy, lambda content: content["data"].update(name="fashion_mnist"))
    lines = mismatches(run_copy)
    (line,) = [line for line in lines if line.startswith("data: ")]
    assert "expected 'fashion_mnist' prepared for TFDS" in line
    assert line.endswith("(or give --no-data)")
    assert "config.yaml: expected data.name digits, as in report.json." in "\n".join(lines)


# Tampering.


def test_a_flipped_byte(stored_copy):
    path = stored_copy / "model_float32.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    lines = mismatches(stored_copy, repair=False, with_data=False)
    assert lines[0].startswith("model_float32.tflite: expected SHA-256 ")


@pytest.mark.slow
def test_a_flipped_byte_in_a_weight_after_a_repaired_manifest(run_copy):
    def edit(weights):
        largest = np.abs(weights).argmax()
        weights.reshape(-1).view("uint32")[largest] ^= 1 << 31  # its sign
        return weights

    edit_weights(run_copy / "model_float32.tflite", edit)
    lines = mismatches(run_copy)
    assert network_files(lines) == {"model_float32.tflite"}
    assert any("expected max_difference" in line for line in lines)


def test_a_deleted_file(stored_copy):
    (stored_copy / "model_float32.tflite").unlink()
    lines = mismatches(stored_copy, repair=False, with_data=False)
    assert "model_float32.tflite: expected a file. Received: nothing there" in lines


def test_a_file_deleted_from_folder_report_and_manifest(stored_copy):
    (stored_copy / "model_float32.tflite").unlink()
    edit_json(stored_copy / "report.json", lambda r: r["files"].pop("model_float32.tflite"))
    assert mismatches(stored_copy, with_data=False) == [
        "report.json: expected figures of model_float32.tflite. Received: none"
    ]


@pytest.mark.slow
def test_c_sources_deleted_from_folder_and_manifest(run_copy):
    for suffix in (".h", ".cc"):
        (run_copy / f"model_int8{suffix}").unlink()
    assert mismatches(run_copy, with_data=False) == [
        f"model_int8{suffix}: expected a file, for format c. Received: nothing there"
        for suffix in (".h", ".cc")
    ]


def test_an_extra_file(stored_copy):
    (stored_copy / "shrunk" / "notes.txt").write_text("mine", encoding="utf-8")
    assert mismatches(stored_copy, repair=False, with_data=False) == [
        "shrunk/notes.txt: expected only files that the manifest lists. Received: this"
    ]


def change_keras(path, edit):
    """Change the last kernel of a `.keras` file by a function."""
    model = keras.models.load_model(path)
    variable = [v for v in model.weights if v.name == "kernel"][-1]
    variable.assign(edit(keras.ops.convert_to_numpy(variable).copy()))
    model.save(path)
    return model


@pytest.mark.slow
def test_changed_weights_of_the_keras_model(run_copy):
    change_keras(run_copy / "model.keras", lambda kernel: -kernel)
    size = (run_copy / "model.keras").stat().st_size
    edit_figures(run_copy, "model.keras", bytes=size)
    lines = mismatches(run_copy)
    # Its own accuracy, what was exported from it, and what was shrunk from it.
    assert {"model.keras", "model_float32.tflite", "shrunk/model.keras"} <= network_files(lines)


@pytest.mark.slow
def test_a_zero_of_the_keras_model_filled(run_copy):
    def edit(kernel):
        kernel[tuple(np.argwhere(kernel == 0)[0])] = 1e-12  # moves no output
        return kernel

    change_keras(run_copy / "model.keras", edit)
    lines = mismatches(run_copy, with_data=False)
    assert any(line.startswith("model.keras: expected zeros ") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_zeros_filled_in_a_file(run_copy, kind):
    def edit(weights):
        # As little as the type has: outputs hardly move.
        weights[weights == 0] = 1 if kind == "int8" else 1e-12
        return weights

    name = f"model_{kind}.tflite"
    edit_weights(run_copy / name, edit)
    lines = [line for line in mismatches(run_copy) if line.startswith(name)]
    (line,) = lines
    assert "expected its zeros as zeros in the file" in line


@pytest.mark.slow
def test_another_networks_file(run_copy):
    shutil.copy(run_copy / "shrunk/model_float32.tflite", run_copy / "model_float32.tflite")
    size = (run_copy / "model_float32.tflite").stat().st_size
    edit_figures(run_copy, "model_float32.tflite", bytes=size)
    lines = mismatches(run_copy, with_data=False)
    assert lines
    assert "no weights of its size" in lines[0]


@pytest.mark.slow
def test_a_network_of_the_same_zeros_and_other_values(run_copy):
    edit_weights(run_copy / "model_float32.tflite", lambda weights: -weights)
    lines = mismatches(run_copy)
    assert network_files(lines) == {"model_float32.tflite"}
    assert any("expected accuracy" in line for line in lines)
    assert any("expected agreement" in line for line in lines)
    # No zero is gone: without data this passes.
    assert mismatches(run_copy, with_data=False) == []


def convert(function, model, operators=None):
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(tf.TensorSpec((1, 8, 8, 1)))], model
    )
    if operators is not None:
        converter.target_spec.supported_ops = operators
    return converter.convert()


@pytest.mark.slow
def test_a_file_without_its_weights(run_copy):
    """From concrete functions Keras 3 variables stay resources, without a value."""
    name = "model_float32.tflite"
    model = keras.models.load_model(run_copy / "model.keras")
    content = convert(tf.function(lambda x: model(x)), model)
    assert "VAR_HANDLE" in export.read_tflite(content).operators
    (run_copy / name).write_bytes(content)
    edit_figures(run_copy, name, bytes=len(content), weights=0, zeros=0)
    for with_data in (True, False):
        lines = mismatches(run_copy, with_data=with_data)
        assert any(line.startswith(f"{name}: ") and "VAR_HANDLE" in line for line in lines)


@pytest.mark.slow
def test_a_file_with_tensorflow_operators(run_copy):
    name = "model_float32.tflite"

    def call(x):
        return tf.linalg.inv(x[:, :, :, 0])[:, :, 0]  # TFLite has no such operator

    operators = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    content = convert(tf.function(call), None, operators)
    assert "FLEX" in export.read_tflite(content).operators
    (run_copy / name).write_bytes(content)
    lines = mismatches(run_copy, with_data=False)
    assert any(line.startswith(f"{name}: ") and "FLEX" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("with_data", [True, False])
def test_a_weight_that_is_not_a_number(run_copy, with_data):
    def edit(weights):
        weights[tuple(np.argwhere(weights != 0)[0])] = np.nan
        return weights

    edit_weights(run_copy / "model_float32.tflite", edit)
    lines = mismatches(run_copy, with_data=with_data)
    name = "model_float32.tflite"
    assert f"{name}: expected finite weights. Received: NaN or infinity" in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"accuracy": 0.999}, "expected accuracy 99.9000%"),
        ({"agreement": 0.5}, "expected agreement 50.0000%"),
        ({"zeros": 1}, "expected zeros 1."),
        ({"weights": 7}, "expected weights 7."),
        ({"bytes": 4000}, "expected 4000 bytes."),
        ({"macs": 12}, "expected 12 multiply-adds."),
        ({"operators": ["ADD"]}, "expected operators ADD."),
        ({"examples": 1000}, "expected 1000 examples."),
        ({"max_difference": -1.0}, "expected max_difference -1."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_figure(run_copy, figures, told):
    name = "model_int8.tflite"
    edit_figures(run_copy, name, **figures)
    measured = {"accuracy", "agreement", "examples", "max_difference"} & figures.keys()
    (line,) = mismatches(run_copy, with_data=bool(measured))
    assert line.startswith(f"{name}: {told}")


@pytest.mark.parametrize("key", ["weights", "zeros", "parameters", "nonzero_parameters"])
@pytest.mark.parametrize(("counts", "prefix"), [("counts", ""), ("shrunk_counts", "shrunk/")])
def test_a_changed_count(stored_copy, key, counts, prefix):
    edit_json(stored_copy / "report.json", lambda report: report[counts].update({key: 3}))
    (line,) = mismatches(stored_copy, with_data=False)
    assert line.startswith(f"{prefix}model.keras: expected {key} 3. Received: ")


@pytest.mark.slow
def test_a_shrunk_network_that_is_another(run_copy):
    """With all of its files and figures made anew: alone, everything fits."""
    path = run_copy / "shrunk" / "model.keras"
    model = change_keras(path, lambda kernel: kernel * 1.01)
    settings = configs.load(run_copy / "config.yaml")
    dataset = sets.load(settings.data, settings.seed)
    task = task_of(settings.training, dataset.about)
    paths, _ = files.export_files(model, run_copy, settings, dataset, task, "shrunk/")
    measured = files.measure_files(
        paths, dataset.load_test(), {"shrunk/": model}, task, settings.measure
    )
    for name, figures in measured.items():
        edit_figures(run_copy, name, **vars(figures))
    (line,) = mismatches(run_copy)
    assert line.startswith("shrunk/model.keras: Expected the same values once channels are gone")


@pytest.mark.slow
def test_an_altered_c_array(run_copy):
    source = run_copy / "model_int8.cc"
    text = source.read_text(encoding="utf-8")
    last = text.rindex("0x")
    text = text[:last] + ("0x01" if text[last : last + 4] != "0x01" else "0x02") + text[last + 4 :]
    source.write_text(text, encoding="utf-8")
    tflite = metadata.remove_metadata((run_copy / "model_int8.tflite").read_bytes())
    assert firmware.read_c_source(source) != tflite
    assert mismatches(run_copy, with_data=False) == [
        "model_int8.cc: expected what model_int8.tflite gives. Received: something else"
    ]


@pytest.mark.slow
def test_an_altered_header(run_copy):
    """A wrong scale in firmware, with the right array."""
    header = run_copy / "shrunk" / "model_int8.h"
    text = header.read_text(encoding="utf-8")
    changed = text.replace("model_input_zero_point = -128", "model_input_zero_point = 0")
    assert changed != text
    header.write_text(changed, encoding="utf-8")
    assert mismatches(run_copy, with_data=False) == [
        "shrunk/model_int8.h: expected what model_int8.tflite gives. Received: something else"
    ]


def edit_yaml(folder, edit):
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_another_seed_in_the_config(stored_copy):
    edit_yaml(stored_copy, lambda content: content.update(seed=9))
    lines = mismatches(stored_copy, with_data=False)
    assert "config.yaml: expected seed 0, as in report.json. Received: 9" in lines


def test_another_seed_in_config_and_report(stored_copy):
    edit_yaml(stored_copy, lambda content: content.update(seed=9))
    edit_json(stored_copy / "report.json", lambda report: report.update(seed=9))
    lines = mismatches(stored_copy, with_data=False)
    assert lines
    assert {line.split(": ", 1)[1] for line in lines} == {
        "expected the config of config.yaml. Received: another"
    }


@pytest.mark.slow
def test_other_data_in_the_config(run_copy):
    """Data of another shape: a line for each file that does not run on them."""
    edit_yaml(run_copy, lambda content: content["data"].update(name="diabetes"))
    lines = mismatches(run_copy)
    assert "config.yaml: expected data.name digits, as in report.json. Received: diabetes" in lines
    assert any(line.startswith("model_int8.tflite: ") for line in lines)


@pytest.mark.slow
def test_labels_in_another_order(run_copy):
    name = "model_int8.tflite"
    content = (run_copy / name).read_bytes()
    files = metadata.read_files(content)
    labels = files["labels.txt"].split()[::-1]
    bare = metadata.remove_metadata(content)
    texts = "tiny", "pixels", "logits", labels, files["config.yaml"]
    (run_copy / name).write_bytes(metadata.add_metadata(bare, *texts))
    edit_figures(run_copy, name, bytes=(run_copy / name).stat().st_size)
    assert mismatches(run_copy, with_data=False) == [
        f"{name}: expected the labels of report.json. Received: others"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("with_data", [True, False])
def test_a_truncated_saved_model(every_format, tmp_path, with_data):
    folder = copy_of(every_format, tmp_path)
    values = folder / "saved_model/variables/variables.data-00000-of-00001"
    values.write_bytes(values.read_bytes()[: values.stat().st_size // 2])
    size = sum(len(content) for content in measurement.contents(folder / "saved_model"))
    edit_figures(folder, "saved_model", bytes=size)
    (line,) = mismatches(folder, with_data=with_data)
    assert line.startswith("saved_model: expected to ")


@pytest.mark.slow
@pytest.mark.parametrize("with_data", [True, False])
def test_a_truncated_onnx_file(every_format, tmp_path, with_data):
    folder = copy_of(every_format, tmp_path)
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-200])
    edit_figures(folder, "model.onnx", bytes=path.stat().st_size)
    (line,) = mismatches(folder, with_data=with_data)
    assert line.startswith("model.onnx: expected to ")
