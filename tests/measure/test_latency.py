"""Files side by side. Nothing here asserts a time: only what a busy machine leaves alone."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from cnn_l1.benchmark import main as benchmark_main
from cnn_l1.config.loading import ConfigError
from cnn_l1.export import tflite
from cnn_l1.measure import latency
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.sample_inputs import id_bounds, random_inputs


def dense(*units):
    layers = [keras.layers.Dense(count) for count in units]
    return keras.Sequential([keras.Input((16,)), *layers])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    tflite.export_tflite(dense(4), folder / "small.tflite")
    # 16 · 2000 + 2000 · 2000 weights of 4 bytes: 16 MB.
    tflite.export_tflite(dense(2000, 2000), folder / "large.tflite")
    images = np.random.default_rng(0).uniform(-1, 1, (10, 16)).astype("float32")
    tflite.export_tflite(dense(4), folder / "int8.tflite", images)
    left, right = keras.Input((3, 2)), keras.Input((5,))
    flat = keras.layers.Flatten()(left)
    both = keras.layers.Concatenate()([keras.layers.Dense(2)(flat), right])
    foreign = keras.Model([left, right], keras.layers.Dense(3)(both))
    content = tf.lite.TFLiteConverter.from_keras_model(foreign).convert()
    (folder / "foreign.tflite").write_bytes(content)
    (folder / "broken.tflite").write_bytes(b"not a network")
    return folder


def test_the_command(files, capsys):
    names = ("small.tflite", "int8.tflite", "foreign.tflite")
    paths = [str(files / name) for name in names]
    target = files / "figures.json"
    assert benchmark_main([*paths, "--runs", "5", "--threads", "2", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("One example, 2 threads, wall time")
    written = json.loads(target.read_text(encoding="utf-8"))
    rows = written["files"]
    assert [row["file"] for row in rows] == paths
    assert rows[0]["ratio"] == 1.0
    assert [row["bytes"] for row in rows] == [pathlib.Path(p).stat().st_size for p in paths]
    assert [row["macs"] for row in rows] == [16 * 4, 16 * 4, 6 * 2 + 7 * 3]
    for row in rows:
        assert set(row) == {field.name for field in dataclasses.fields(latency.Figures)}
        assert 0 < row["median_ms"] <= row["p90_ms"]
        assert row["ratio"] == row["median_ms"] / rows[0]["median_ms"]
    assert all(f"warning: {line}" in printed for line in written["warnings"])


def test_a_much_larger_file_takes_more_memory(files):
    small = latency.peak_memory(files / "small.tflite")
    large = latency.peak_memory(files / "large.tflite")
    if small is None or large is None:
        assert not pathlib.Path("/proc/self/clear_refs").exists()
        pytest.skip("the system does not say")
    # Its 16 MB of weights are mapped or packed, at least once.
    assert large - small > 12e6


def test_memory_of_no_network_is_unknown(files):
    assert latency.peak_memory(files / "broken.tflite") is None


@pytest.mark.parametrize(
    ("name", "reason"), [("broken.tflite", "LiteRT runs"), ("nothing.tflite", "No such file")]
)
def test_a_file_that_does_not_run(files, capsys, name, reason):
    path = files / name
    assert benchmark_main([str(files / "small.tflite"), str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    start = f"error: FILE: expected a .tflite file that runs. Received: {path} ("
    assert captured.err.startswith(start)
    assert reason in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--threads", "--runs"])
def test_flags_below_one(files, capsys, flag):
    assert benchmark_main([str(files / "small.tflite"), flag, "0"]) == 2
    assert capsys.readouterr().err == f"error: {flag}: expected 1 or more. Received: 0\n"


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"FILE: expected a \.tflite file that runs"):
        latency.compare([tmp_path])


def test_inputs_are_not_all_equal(files):
    for name in ("int8.tflite", "foreign.tflite"):
        interpreter = Interpreter(str(files / name))
        interpreter.allocate_tensors()
        random_inputs(interpreter)
        for detail in interpreter.get_input_details():
            assert len(np.unique(interpreter.get_tensor(detail["index"]))) > 4


def test_the_command_without_tensorflow(files):
    """A device has LiteRT alone."""
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None;"
        "from cnn_l1 import benchmark; sys.exit(benchmark.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(files / "small.tflite"), "--runs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "small.tflite" in done.stdout.replace("\n", "") or "│" in done.stdout


# Files of any inputs.


def converted(model, path):
    with silenced():
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


def embedding(dtype):
    inputs = keras.Input((6,), dtype=dtype)
    x = keras.layers.Flatten()(keras.layers.Embedding(50, 4)(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "uint8"])
def test_ids_are_those_of_the_table(dtype, tmp_path):
    path = converted(embedding(dtype), tmp_path / "ids.tflite")
    assert list(id_bounds(path.read_bytes()).values()) == [50]
    ((figures,), _) = latency.compare([path], runs=2)
    assert figures.macs == 6 * 4 * 2


def test_a_file_without_inputs(tmp_path):
    path = tmp_path / "constant.tflite"
    with silenced():
        concrete = tf.function(lambda: tf.random.uniform((1, 3))).get_concrete_function()
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    ((figures,), _) = latency.compare([path], runs=2)
    assert figures.macs == 0


def test_an_open_size_is_chosen_and_told(tmp_path):
    model = keras.Sequential([keras.Input((None, 5, 2)), keras.layers.Conv2D(3, 3)])
    path = converted(model, tmp_path / "open.tflite")
    ((figures,), warnings) = latency.compare([path], runs=2)
    assert f"{path}: its size is open; it was run on (1, 32, 5, 2)" in warnings
    assert figures.macs == 30 * 3 * 3 * 9 * 2


def test_what_is_not_counted_is_told(tmp_path):
    weights = np.eye(3, dtype="float32")

    def halve(x):
        return tf.while_loop(
            lambda value: tf.reduce_sum(value) > 1.0, lambda value: (value @ weights / 2,), (x,)
        )[0]

    path = tmp_path / "loop.tflite"
    with silenced():
        concrete = tf.function(halve).get_concrete_function(tf.TensorSpec((1, 3)))
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    _, warnings = latency.compare([path], runs=2)
    assert any("multiply-adds are without those of WHILE" in line for line in warnings)


def refused(path):
    with pytest.raises(ConfigError) as caught:
        latency.compare([path], runs=2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_encoded_file_names_the_plain_one(tmp_path):
    from cnn_l1.tflite import encoding

    model = dense(64)
    model.layers[0].kernel.assign(np.eye(16, 64))
    tflite.export_tflite(model, tmp_path / "plain.tflite")
    content, _ = encoding.encode_zeros((tmp_path / "plain.tflite").read_bytes(), run=False)
    (tmp_path / "encoded.tflite").write_bytes(content)
    assert "encoded for TFLite Micro, which LiteRT cannot run; take the plain file" in refused(
        tmp_path / "encoded.tflite"
    )


@pytest.mark.parametrize("part", ["nothing", "half"])
def test_a_file_cut_short(part, files, tmp_path):
    whole = (files / "small.tflite").read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(b"" if part == "nothing" else whole[: len(whole) // 2])
    refused(path)


def test_a_file_that_ends_the_process_is_one_line(files, monkeypatch):
    """Broken bytes may make LiteRT crash; a process that ends itself stands in for them."""
    monkeypatch.setattr(
        latency.subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], -11, "", ""),
    )
    assert "it ended LiteRT's process with signal 11" in refused(files / "small.tflite")
