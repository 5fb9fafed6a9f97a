"""What an exported file does, in LiteRT's own interpreter: accuracy and latency."""

import dataclasses
import lzma
import math
import pathlib
import time
import zlib

import numpy as np

from cnn_l1.runner import TFLiteRunner
from cnn_l1.tflite_file import ExportError, read_tflite


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The figures of one exported file; `None` where a figure has no meaning.

    Attributes:
        accuracy: Fraction of the examples whose class is right; of classes only.
        accuracy_standard_error: Binomial, `√(p (1 − p) / n)`.
        examples: Number of examples, `n`.
        agreement: Fraction of examples for which file and Keras choose alike.
        max_difference: Largest difference of an output from Keras', in its unit.
        bytes: Size of the file, or of all files in the folder.
        deflated_bytes: Size after zlib level 9, as a zipped package ships it.
        xz_bytes: Size after xz level 9, as a firmware update ships it.
        weights: Weights of convolutions and dense layers in the file.
        zeros: How many of them are exactly zero.
        mean_squared_error: Of values; the mean over examples and outputs.
        mean_squared_error_standard_error: Of that mean over examples.
        r2: Of values: 1 − squared error / squared deviation from the mean.
        latency_median_ms: Of one example, one thread, in CPU time.
        latency_p90_ms: The 90th percentile of the same runs.
        operators: Names of the operators, each once.
        ram_bytes: The arena that TFLite Micro needs for it, on this host.
        macs: Multiply-adds of one example, counted on the network that was exported.
    """

    accuracy: float | None
    accuracy_standard_error: float | None
    examples: int
    agreement: float | None
    max_difference: float
    bytes: int
    deflated_bytes: int
    weights: int | None = None
    zeros: int | None = None
    latency_median_ms: float | None = None
    latency_p90_ms: float | None = None
    operators: tuple[str, ...] = ()
    macs: int | None = None
    mean_squared_error: float | None = None
    mean_squared_error_standard_error: float | None = None
    r2: float | None = None
    ram_bytes: int | None = None
    xz_bytes: int | None = None


def largest(outputs):
    """The class of each row: the largest of its outputs."""
    return np.asarray(outputs).argmax(axis=1)


def measure_tflite(path, batches, reference, decide=largest):
    """Measure one TFLite file on a whole split; latency is `time_files`' matter.

    Args:
        path: The file.
        batches: Iterable of `(inputs, targets)` batches, pixels in 0-255.
        reference: `(examples, outputs)` of the Keras model, in order.
        decide: From `(examples, outputs)` to `(examples,)` classes, or to `None` if
            the outputs are values. Default: the largest.

    Returns:
        A `Measurement`.

    Raises:
        ExportError: If the file gives an output that is not finite.
    """
    runner = TFLiteRunner(path)
    measured = _measure(
        path, lambda batch: np.stack([runner(i) for i in batch]), batches, reference, decide
    )
    tflite = read_tflite(pathlib.Path(path).read_bytes())
    return dataclasses.replace(
        measured,
        weights=tflite.weight_count,
        zeros=tflite.zeros,
        operators=tuple(dict.fromkeys(tflite.operators)),
    )


def measure_file(path, batches, reference, decide=largest):
    """Measure a file in the runtime of its kind: see `measure_tflite`.

    Args:
        path: A `.tflite`, `.keras` or `.onnx` file, or the folder of a SavedModel.
    """
    path = pathlib.Path(path)
    by_suffix = {".tflite": measure_tflite, ".keras": measure_keras, ".onnx": measure_onnx}
    return by_suffix.get(path.suffix, measure_saved_model)(path, batches, reference, decide)


def measure_onnx(path, batches, reference, decide=largest):
    """Measure an ONNX file in ONNX Runtime, one thread: see `measure_tflite`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return _measure(path, lambda b: session.run(None, {name: b})[0], batches, reference, decide)


def measure_keras(path, batches, reference, decide=largest):
    """Measure a `.keras` file, loaded anew: see `measure_tflite`."""
    import keras

    model = keras.models.load_model(path)
    return _measure(path, model.predict_on_batch, batches, reference, decide)


def measure_saved_model(path, batches, reference, decide=largest):
    """Measure a SavedModel by its serving signature: see `measure_tflite`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return _measure(path, lambda b: loaded.serve(b).numpy(), batches, reference, decide)


def _measure(path, predict, batches, reference, decide):
    outputs, targets = [], []
    for inputs, some_targets in batches:
        outputs.append(predict(np.asarray(inputs, "float32")))
        targets.append(np.asarray(some_targets))
    output, target = np.concatenate(outputs), np.concatenate(targets)
    if not np.all(np.isfinite(output)):
        name = pathlib.Path(path).name
        raise ExportError(f"{name}: expected finite outputs. Received: NaN or infinity")
    figures = score(output, target, decide)
    chosen = decide(output)
    agreement = None if chosen is None else float(np.mean(chosen == decide(reference)))
    return Measurement(
        accuracy=figures.get("accuracy"),
        accuracy_standard_error=figures.get("accuracy_standard_error"),
        examples=len(target),
        agreement=agreement,
        max_difference=float(np.max(np.abs(output - reference))),
        bytes=sum(len(content) for content in contents(path)),
        deflated_bytes=sum(len(zlib.compress(content, 9)) for content in contents(path)),
        xz_bytes=sum(len(lzma.compress(content, preset=9)) for content in contents(path)),
        mean_squared_error=figures.get("mean_squared_error"),
        mean_squared_error_standard_error=figures.get("mean_squared_error_standard_error"),
        r2=figures.get("r2"),
    )


def predict(model, split):
    """A Keras model's outputs on a whole split, in order, `(examples, outputs)`."""
    outputs = [model.predict_on_batch(np.asarray(x)) for x, _ in split.evaluation_batches()]
    return np.concatenate(outputs)


def is_constant(outputs):
    """Whether outputs are the same, bit by bit, for every example."""
    return bool((outputs == outputs[:1]).all())


def score(outputs, targets, decide):
    """Score outputs: `accuracy` of classes, or `mean_squared_error` and `r2` of values.

    Args:
        outputs: `(examples, outputs)`.
        targets: `(examples,)` labels, or values of `outputs` numbers an example.
        decide: See `measure_tflite`.

    Returns:
        The figures with their standard errors, by the names of `Measurement`.
    """
    chosen = decide(outputs)
    if chosen is not None:
        accuracy = float(np.mean(chosen == targets))
        return {
            "accuracy": accuracy,
            "accuracy_standard_error": standard_error(accuracy, len(targets)),
        }
    values = np.asarray(targets, "float64").reshape(outputs.shape)
    squares = np.square(outputs - values)
    # Each example's error is one draw; its outputs are not independent.
    each = squares.mean(axis=1)
    spread = np.square(values - values.mean(axis=0)).sum()
    return {
        "mean_squared_error": float(each.mean()),
        "mean_squared_error_standard_error": (
            float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else 0.0
        ),
        "r2": float(1.0 - squares.sum() / spread) if spread else 0.0,
    }


def contents(path):
    """The bytes of a file, or of each file in a folder."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    return (file.read_bytes() for file in files)


def time_files(paths, images, runs):
    """Time TFLite files side by side: in turn, run by run, one thread.

    Args:
        paths: The files.
        images: One image for each file, as it takes it.
        runs: Timed runs a file, after a tenth as many to warm up.

    Returns:
        For each file, `(median, 90th percentile)` of one run's CPU time in ms.
        One thread does the work, so another process' load does not count as it
        would in wall time.
    """
    runners = [TFLiteRunner(path) for path in paths]
    for runner, image in zip(runners, images, strict=True):
        runner(image)
    times = np.empty((runs, len(runners)))
    warm_up = max(1, runs // 10)
    for run in range(-warm_up, runs):
        for column, runner in enumerate(runners):
            start = time.thread_time_ns()
            runner.interpreter.invoke()
            if run >= 0:
                times[run, column] = (time.thread_time_ns() - start) / 1e6
    medians, tails = np.median(times, axis=0), np.percentile(times, 90, axis=0)
    return [(float(m), float(t)) for m, t in zip(medians, tails, strict=True)]


def standard_error(fraction, count):
    """Binomial standard error of a fraction of `count`, `√(p (1 − p) / n)`."""
    return math.sqrt(fraction * (1.0 - fraction) / count)
