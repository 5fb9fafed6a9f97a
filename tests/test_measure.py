"""Figures of exported files, against figures worked out by hand."""

import math
import types
import zlib

import keras
import numpy as np
import pytest

from cnn_l1 import export, measure, sparsity

SHAPE = (2, 2, 1)


@pytest.fixture(scope="module")
def model():
    """Four pixels are the four logits, over 255 and with a few zero weights more."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="dense"),
        ]
    )
    model.layers[-1].kernel.assign(np.eye(4))
    return model


# The largest pixel is the model's choice; of these five, three are labelled so.
PIXELS = np.array(
    [[200, 0, 0, 0], [0, 200, 0, 0], [0, 0, 200, 0], [0, 0, 0, 200], [50, 250, 0, 0]], "float32"
)
IMAGES = PIXELS.reshape(-1, *SHAPE)
LABELS = np.array([0, 1, 2, 0, 0])
BATCHES = [(IMAGES[:3], LABELS[:3]), (IMAGES[3:], LABELS[3:])]


@pytest.fixture(scope="module")
def reference(model):
    return model.predict_on_batch(IMAGES)


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    export.export_keras(model, folder / "m.keras")
    export.export_saved_model(model, folder / "saved")
    export.export_tflite(model, folder / "f.tflite")
    export.export_tflite(model, folder / "i.tflite", IMAGES)
    return folder


CASES = {
    "m.keras": measure.measure_keras,
    "saved": measure.measure_saved_model,
    "f.tflite": measure.measure_tflite,
    "i.tflite": measure.measure_tflite,
}


@pytest.mark.parametrize("name", CASES)
def test_accuracy_agreement_and_difference(files, reference, name):
    figures = CASES[name](files / name, BATCHES, reference)
    assert figures.examples == 5
    assert figures.accuracy == 3 / 5
    assert figures.accuracy_standard_error == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    assert figures.agreement == 1.0
    # int8: logits lie in 0 to 0.98, in 255 steps; input and output are rounded.
    # float32: one product.
    bound = 0.01 if name == "i.tflite" else 1e-6
    assert figures.max_difference <= bound


@pytest.mark.parametrize("name", CASES)
def test_agreement_is_with_the_reference(files, reference, name):
    moved = reference.copy()
    moved[1] = [9.0, 0.0, 0.0, 0.0]  # another choice in one of five
    figures = CASES[name](files / name, BATCHES, moved)
    assert figures.agreement == 4 / 5
    # 9 against 0; int8 has it within a step of 1/255.
    assert figures.max_difference == pytest.approx(9.0, abs=0.01)
    assert figures.accuracy == 3 / 5


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_on_the_disk(files, reference, name):
    path = files / name
    figures = CASES[name](path, BATCHES, reference)
    contents = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    assert figures.bytes == sum(file.stat().st_size for file in contents)
    deflated = sum(len(zlib.compress(file.read_bytes(), 9)) for file in contents)
    assert figures.deflated_bytes == deflated


@pytest.mark.parametrize("name", ["f.tflite", "i.tflite"])
def test_zeros_and_operators_are_the_files(files, model, reference, name):
    figures = measure.measure_tflite(files / name, BATCHES, reference)
    tflite = export.read_tflite((files / name).read_bytes())
    assert (figures.weights, figures.zeros) == (tflite.weight_count, tflite.zeros) == (16, 12)
    assert sparsity.count(model).zeros == 12
    assert set(figures.operators) == set(tflite.operators)
    assert len(set(figures.operators)) == len(figures.operators)


def test_figures_without_meaning_are_none(files, reference):
    figures = measure.measure_keras(files / "m.keras", BATCHES, reference)
    assert figures.weights is figures.zeros is figures.latency_median_ms is None


@pytest.mark.parametrize("kind", ["keras", "tflite", "saved_model"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(tmp_path, kind, value):
    if kind == "tflite" and value == np.inf:
        pytest.skip("LiteRT clips a dense layer's outputs to the largest float32")
    broken = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    broken.layers[-1].bias.assign([0.0, value, 0.0, 0.0])
    path = tmp_path / "broken"
    getattr(export, f"export_{kind}")(broken, path.with_suffix(".keras" if kind == "keras" else ""))
    (path,) = tmp_path.iterdir()
    reference = np.zeros((5, 4))
    with pytest.raises(export.ExportError, match=r"^broken.* finite"):
        getattr(measure, f"measure_{kind}")(path, BATCHES, reference)


def test_a_file_that_does_not_run_is_an_export_error(tmp_path):
    (tmp_path / "no.tflite").write_bytes(b"no model")
    with pytest.raises(export.ExportError, match=r"^no\.tflite"):
        measure.TFLiteRunner(tmp_path / "no.tflite")


def runner_with(dtype, scale, zero_point):
    """A runner of no file, for `quantize` alone."""
    runner = measure.TFLiteRunner.__new__(measure.TFLiteRunner)
    runner.input = {"dtype": dtype, "quantization": (scale, zero_point)}
    return runner


def test_quantize_rounds_and_clips():
    image = np.array([[[0.0]], [[1.4]], [[1.6]], [[255.0]], [[300.0]], [[-50.0]]])
    got = runner_with(np.int8, 1.0, -128).quantize(image)
    assert got.dtype == np.int8
    assert got.shape == (1, 6, 1, 1)
    # x − 128, rounded, within −128 to 127: beyond it clips and does not wrap.
    assert got.ravel().tolist() == [-128, -127, -126, 127, 127, -128]
    got = runner_with(np.uint8, 0.5, 3).quantize(image)
    assert got.ravel().tolist() == [3, 6, 6, 255, 255, 0]


def test_quantize_leaves_floats_alone():
    image = np.array([[[0.25]], [[300.0]]])
    got = runner_with(np.float32, 0.0, 0).quantize(image)
    assert got.dtype == np.float32
    assert got.ravel().tolist() == [0.25, 300.0]


def test_int8_outputs_are_decoded(files, reference):
    runner = measure.TFLiteRunner(files / "i.tflite")
    output = runner(IMAGES[4])
    assert output.dtype == np.float32
    # Input and output are each rounded to a 1/255th of the range of 0 to 0.98.
    np.testing.assert_allclose(output, reference[4], atol=0.01)


def test_time_files_gives_a_pair_for_each_file(files):
    paths = [files / "f.tflite", files / "i.tflite", files / "f.tflite"]
    times = measure.time_files(paths, [IMAGES[0]] * 3, runs=5)
    assert len(times) == 3
    assert all(0 < median <= p90 for median, p90 in times)
    assert measure.time_files([], [], runs=5) == []


def test_time_files_takes_the_median_and_the_tail(monkeypatch):
    """Ten runs of 1 to 10 ms after a warm-up, by a clock of ours."""
    durations = iter([99, *range(1, 11)])
    now = [0]

    def invoke():
        now[0] += next(durations) * 10**6

    class Runner:
        interpreter = types.SimpleNamespace(invoke=invoke)

        def __init__(self, path):
            pass

        def __call__(self, image):
            pass

    monkeypatch.setattr(measure, "TFLiteRunner", Runner)
    monkeypatch.setattr(measure, "time", types.SimpleNamespace(thread_time_ns=lambda: now[0]))
    ((median, p90),) = measure.time_files(["any"], [None], runs=10)
    assert median == pytest.approx(5.5)
    assert p90 == pytest.approx(9.1)  # NumPy's linear interpolation


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 0.05), (0.0, 0.0), (1.0, 0.0)])
def test_standard_error(fraction, expected):
    assert measure.standard_error(fraction, 100) == pytest.approx(expected)
