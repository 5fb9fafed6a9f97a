"""Figures of exported files, against figures worked out by hand."""

import math
import types
import zlib

import keras
import numpy as np
import pytest

from cnn_l1.data import tasks
from cnn_l1.export import tflite as export
from cnn_l1.measure import measurement
from cnn_l1.sparsity import counting

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
    "m.keras": measurement.measure_keras,
    "saved": measurement.measure_saved_model,
    "f.tflite": measurement.measure_tflite,
    "i.tflite": measurement.measure_tflite,
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
    figures = measurement.measure_tflite(files / name, BATCHES, reference)
    tflite = export.read_tflite((files / name).read_bytes())
    assert (figures.weights, figures.zeros) == (tflite.weight_count, tflite.zeros) == (16, 12)
    assert counting.count(model).zeros == 12
    assert set(figures.operators) == set(tflite.operators)
    assert len(set(figures.operators)) == len(figures.operators)


def test_figures_without_meaning_are_none(files, reference):
    figures = measurement.measure_keras(files / "m.keras", BATCHES, reference)
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
        getattr(measurement, f"measure_{kind}")(path, BATCHES, reference)


def test_a_file_that_does_not_run_is_an_export_error(tmp_path):
    (tmp_path / "no.tflite").write_bytes(b"no model")
    with pytest.raises(export.ExportError, match=r"^no\.tflite"):
        measurement.TFLiteRunner(tmp_path / "no.tflite")


def runner_with(dtype, scale, zero_point):
    """A runner of no file, for `quantize` alone."""
    runner = measurement.TFLiteRunner.__new__(measurement.TFLiteRunner)
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
    runner = measurement.TFLiteRunner(files / "i.tflite")
    output = runner(IMAGES[4])
    assert output.dtype == np.float32
    # Input and output are each rounded to a 1/255th of the range of 0 to 0.98.
    np.testing.assert_allclose(output, reference[4], atol=0.01)


def test_time_files_gives_a_pair_for_each_file(files):
    paths = [files / "f.tflite", files / "i.tflite", files / "f.tflite"]
    times = measurement.time_files(paths, [IMAGES[0]] * 3, runs=5)
    assert len(times) == 3
    assert all(0 < median <= p90 for median, p90 in times)
    assert measurement.time_files([], [], runs=5) == []


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

    monkeypatch.setattr(measurement, "TFLiteRunner", Runner)
    monkeypatch.setattr(measurement, "time", types.SimpleNamespace(thread_time_ns=lambda: now[0]))
    ((median, p90),) = measurement.time_files(["any"], [None], runs=10)
    assert median == pytest.approx(5.5)
    assert p90 == pytest.approx(9.1)  # NumPy's linear interpolation


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 0.05), (0.0, 0.0), (1.0, 0.0)])
def test_standard_error(fraction, expected):
    assert measurement.standard_error(fraction, 100) == pytest.approx(expected)


# Scores of outputs.

VALUES = tasks.Task("values", "squared_error", 1)


def scores_by_scikit_learn(outputs, targets):
    from sklearn import metrics

    return {
        "mean_squared_error": metrics.mean_squared_error(targets, outputs),
        # Over all outputs together, as the squared error is.
        "r2": metrics.r2_score(targets, outputs, multioutput="variance_weighted"),
    }


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
def test_scores_of_values_are_those_of_scikit_learn(shape):
    random = np.random.default_rng(0)
    targets = random.normal(100.0, 20.0, shape).astype("float32")
    columns = targets.reshape(len(targets), -1)
    outputs = (columns + random.normal(2.0, 5.0, columns.shape)).astype("float32")
    found = measurement.score(outputs, targets, VALUES.decide)
    expected = scores_by_scikit_learn(outputs.astype("float64"), columns.astype("float64"))
    for name, value in expected.items():
        # Both in float64, in another order.
        assert found[name] == pytest.approx(value, rel=1e-12), name
    assert "accuracy" not in found


def test_standard_error_of_a_mean_squared_error_by_hand():
    found = measurement.score(
        np.array([[1.0], [2.0], [3.0]]), np.array([0.0, 2.0, 0.0]), VALUES.decide
    )
    # Squared errors 1, 0, 9: mean 10/3, variance (49 + 100 + 289)/9/2 = 73/3, over n = 3.
    assert found["mean_squared_error"] == pytest.approx(10 / 3)
    assert found["mean_squared_error_standard_error"] == pytest.approx(math.sqrt(73 / 3 / 3))
    # Targets 0, 2, 0 lie 4/9 + 16/9 + 4/9 = 8/3 about their mean.
    assert found["r2"] == pytest.approx(1 - 10 / (8 / 3))


def test_outputs_of_one_example_are_one_draw():
    outputs, targets = np.array([[1.0, 1.0], [0.0, 0.0]]), np.zeros((2, 2))
    found = measurement.score(outputs, targets, tasks.Task("values", "squared_error", 2).decide)
    assert found["mean_squared_error"] == pytest.approx(0.5)
    # Two means, 1 and 0: deviation √½, over √2. Four draws would have 0.29.
    assert found["mean_squared_error_standard_error"] == pytest.approx(0.5)


@pytest.mark.parametrize("output", [3.0, 4.0])
def test_r2_of_constant_targets_is_finite(output):
    found = measurement.score(np.full((4, 1), output), np.full(4, 3.0), VALUES.decide)
    assert found["r2"] == 0.0  # nothing to explain
    assert found["mean_squared_error"] == (output - 3.0) ** 2
    assert found["mean_squared_error_standard_error"] == 0.0


def test_one_example():
    found = measurement.score(np.array([[2.0]]), np.array([5.0]), VALUES.decide)
    assert found["mean_squared_error"] == 9.0
    assert found["mean_squared_error_standard_error"] == 0.0  # no spread to tell from


def test_scores_of_two_classes_with_one_output():
    decide = tasks.Task("classes", "squared_error", 1).decide
    outputs = np.array([[0.2], [0.8], [0.4], [1.7], [-0.3]])
    found = measurement.score(outputs, np.array([0, 1, 1, 1, 0]), decide)
    assert found == {
        "accuracy": 4 / 5,
        "accuracy_standard_error": pytest.approx(math.sqrt(0.8 * 0.2 / 5)),
    }


def test_measured_files_of_a_regression(tmp_path):
    """y = 2a − b + 1 of two features, measured where some targets are off by 3."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.layers[0].set_weights([np.float32([[2.0], [-1.0]]), np.float32([1.0])])
    random = np.random.default_rng(0)
    inputs = random.uniform(-4.0, 4.0, (32, 2)).astype("float32")
    exact = model.predict_on_batch(inputs)
    targets = exact[:, 0] + 3.0 * (np.arange(32) % 4 == 0)
    batches = [(inputs[:20], targets[:20]), (inputs[20:], targets[20:])]
    expected = scores_by_scikit_learn(exact[:, 0].astype("float64"), targets.astype("float64"))
    export.export_keras(model, tmp_path / "m.keras")
    export.export_saved_model(model, tmp_path / "saved")
    export.export_tflite(model, tmp_path / "f.tflite")
    export.export_tflite(model, tmp_path / "i.tflite", inputs)
    for name, function in CASES.items():
        figures = function(tmp_path / name, batches, exact, VALUES.decide)
        assert figures.examples == 32
        assert figures.accuracy is figures.accuracy_standard_error is figures.agreement is None
        # float32: two products. int8: input and output, of a range of some 24, are each
        # rounded to a 255th, so that an output is off by up to 0.15.
        bound = 0.15 if name == "i.tflite" else 1e-5
        assert figures.max_difference <= bound, name
        assert figures.mean_squared_error == pytest.approx(
            expected["mean_squared_error"], abs=2 * 3.0 * bound + bound**2
        )
        assert figures.r2 == pytest.approx(expected["r2"], abs=bound)
    # A quarter of the squared errors is 9, the others 0: 9 · √(¼ · ¾ / 31).
    assert figures.mean_squared_error_standard_error == pytest.approx(
        9.0 * math.sqrt(0.25 * 0.75 / 31), rel=0.1
    )
    assert expected["mean_squared_error"] == pytest.approx(9 / 4, rel=1e-5)
