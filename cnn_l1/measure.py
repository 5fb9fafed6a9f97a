"""What an exported file does, in LiteRT's own interpreter: accuracy and latency."""

import dataclasses
import math
import pathlib
import time
import zlib

import numpy as np

from cnn_l1.export import ExportError, read_tflite
from cnn_l1.silence import silenced


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The figures of one exported file; `None` where a figure has no meaning.

    Attributes:
        accuracy: Fraction of the test images whose largest output is right.
        accuracy_standard_error: Binomial, `√(p (1 − p) / n)`.
        images: Number of test images, `n`.
        agreement: Fraction of images for which file and Keras choose alike.
        max_difference: Largest difference of an output from Keras', in logits.
        bytes: Size of the file, or of all files in the folder.
        deflated_bytes: Size after zlib level 9, as a zipped package ships it.
        weights: Weights of convolutions and dense layers in the file.
        zeros: How many of them are exactly zero.
        latency_median_ms: Of one image, one thread, in CPU time.
        latency_p90_ms: The 90th percentile of the same runs.
        operators: Names of the operators, each once.
        macs: Multiply-adds of one image, counted on the network that was exported.
    """

    accuracy: float
    accuracy_standard_error: float
    images: int
    agreement: float
    max_difference: float
    bytes: int
    deflated_bytes: int
    weights: int | None = None
    zeros: int | None = None
    latency_median_ms: float | None = None
    latency_p90_ms: float | None = None
    operators: tuple[str, ...] = ()
    macs: int | None = None


class TFLiteRunner:
    """Run a TFLite file on float pixels, single thread, quantizing as it asks."""

    def __init__(self, path, threads=1):
        from ai_edge_litert.interpreter import Interpreter

        try:
            with silenced():
                self.interpreter = Interpreter(model_path=str(path), num_threads=threads)
                self.interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            # E.g. int8 ranges of a network whose every output is 0.
            reason = " ".join(str(error).split())
            raise ExportError(
                f"{pathlib.Path(path).name}: expected a file that LiteRT runs. Received: {reason}"
            ) from None
        self.input = self.interpreter.get_input_details()[0]
        self.output = self.interpreter.get_output_details()[0]

    def quantize(self, image):
        """An image as the file's input, `(1, rows, cols, channels)`."""
        batch = np.asarray(image, "float32")[None]
        dtype = self.input["dtype"]
        if not np.issubdtype(dtype, np.integer):
            return batch.astype(dtype)
        scale, zero_point = self.input["quantization"]
        limits = np.iinfo(dtype)
        levels = np.round(batch / scale + zero_point)
        return np.clip(levels, limits.min, limits.max).astype(dtype)

    def __call__(self, image):
        """The outputs for one image, as float32 of shape `(classes,)`."""
        self.interpreter.set_tensor(self.input["index"], self.quantize(image))
        self.interpreter.invoke()
        output = self.interpreter.get_tensor(self.output["index"])[0]
        if np.issubdtype(self.output["dtype"], np.integer):
            scale, zero_point = self.output["quantization"]
            return (output.astype("float32") - zero_point) * np.float32(scale)
        return output.astype("float32")


def measure_tflite(path, batches, reference):
    """Measure one TFLite file on a whole split; latency is `time_files`' matter.

    Args:
        path: The file.
        batches: Iterable of `(images, labels)` batches, pixels in 0-255.
        reference: `(images, classes)` outputs of the Keras model, in order.

    Returns:
        A `Measurement`.

    Raises:
        ExportError: If the file gives an output that is not finite.
    """
    runner = TFLiteRunner(path)
    measured = _measure(
        path, lambda batch: np.stack([runner(i) for i in batch]), batches, reference
    )
    tflite = read_tflite(pathlib.Path(path).read_bytes())
    return dataclasses.replace(
        measured,
        weights=tflite.weight_count,
        zeros=tflite.zeros,
        operators=tuple(dict.fromkeys(tflite.operators)),
    )


def measure_keras(path, batches, reference):
    """Measure a `.keras` file, loaded anew: see `measure_tflite`."""
    import keras

    model = keras.models.load_model(path)
    return _measure(path, lambda batch: model.predict_on_batch(batch), batches, reference)


def measure_saved_model(path, batches, reference):
    """Measure a SavedModel by its serving signature: see `measure_tflite`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return _measure(path, lambda batch: loaded.serve(batch).numpy(), batches, reference)


def _measure(path, predict, batches, reference):
    outputs, labels = [], []
    for images, some_labels in batches:
        outputs.append(predict(np.asarray(images, "float32")))
        labels.append(np.asarray(some_labels))
    output, label = np.concatenate(outputs), np.concatenate(labels)
    if not np.all(np.isfinite(output)):
        name = pathlib.Path(path).name
        raise ExportError(f"{name}: expected finite outputs. Received: NaN or infinity")
    accuracy = float(np.mean(output.argmax(axis=1) == label))
    return Measurement(
        accuracy=accuracy,
        accuracy_standard_error=standard_error(accuracy, len(label)),
        images=len(label),
        agreement=float(np.mean(output.argmax(axis=1) == reference.argmax(axis=1))),
        max_difference=float(np.max(np.abs(output - reference))),
        bytes=sum(len(content) for content in _contents(path)),
        deflated_bytes=sum(len(zlib.compress(content, 9)) for content in _contents(path)),
    )


def _contents(path):
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
