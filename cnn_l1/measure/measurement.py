"""Measure an exported file in the runtime of its kind: accuracy, agreement, sizes, latency."""

import dataclasses
import lzma
import pathlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnn_l1.config.formats import measuring_function
from cnn_l1.measure.figures import Measurement, OutputMeasurement
from cnn_l1.measure.scores import (
    above,
    automatic,
    is_constant,
    largest,
    score,
    standard_error,
)
from cnn_l1.tflite.file import ExportError, float_operators, read_operators, read_tflite
from cnn_l1.tflite.runner import TFLiteRunner
from cnn_l1.tflite.structures import as_dtype, as_float32, in_order, mapped

__all__ = [
    "Measurement",
    "OutputMeasurement",
    "TFLiteRunner",
    "above",
    "contents",
    "is_constant",
    "largest",
    "measure_file",
    "measure_keras",
    "measure_onnx",
    "measure_saved_model",
    "measure_tflite",
    "onnx_session",
    "predict",
    "score",
    "standard_error",
    "time_files",
]


# Pairs of inputs and targets.
Batches = Iterable[tuple[Any, Any]]
# From a file's outputs to further figures by name.
Figures = Callable[[Any], dict[str, float]]


def measure_tflite(
    path: str | pathlib.Path,
    batches: Batches,
    reference: Any,
    decide: Any = None,
    figures: Figures | None = None,
) -> Measurement:
    """Measure one TFLite file on a whole split. `time_files` measures latency.

    Each output is compared with its own reference and targets: by its name where they are
    dicts, else by its place in the file.

    Args:
        path: The file.
        batches: Iterable of `(inputs, targets)` batches. `inputs` is an array, or for
            several inputs a tuple, list or dict of arrays; so is `targets` for several
            outputs. Targets are labels, one-hot rows or values; `None` where none are known.
        reference: `(examples, …)` of the Keras model, in order; for several outputs a
            tuple, list or dict of them.
        decide: From an output, `(examples, …)`, to its classes, or to `None` if it is
            values; for several outputs also a list or dict of such functions. Default: the
            largest along the last axis, where the targets are labels or one-hot rows of
            it; else values. Give `above(0.0)` for a single logit.
        figures: From all outputs, as the file gives them, to further figures by name. They
            are `metrics` of the measurement. Default: none.

    Returns:
        A `Measurement`.

    Raises:
        ExportError: If the file does not run, or gives an output that is not finite.
        ValueError: If inputs, targets or reference are not as many or not of the shapes
            that the file has.

    Example:
        >>> reference = model.predict(x, verbose=0)
        >>> cnn_l1.measure_tflite("model_int8.tflite", [(x, y)], reference).examples
        64
    """
    runner = TFLiteRunner(path)

    def run(inputs: Any) -> list[np.ndarray]:
        rows = [_as_list(runner(*given)) for given in runner.examples(inputs)]
        try:
            return [np.stack(column) for column in zip(*rows, strict=True)]
        except ValueError:
            raise ValueError(
                f"{pathlib.Path(path).name}: expected outputs of one shape for every example. "
                "Received: several shapes"
            ) from None

    names = runner.output_names
    measured = _measure(path, run, batches, reference, decide, figures, names)
    content = pathlib.Path(path).read_bytes()
    try:
        tflite = read_tflite(content)
        weights, zeros, operators = tflite.weight_count, tflite.zeros, tflite.operators
    except ExportError:  # zero points other than 0: no count of zeros
        weights, zeros, operators = None, None, read_operators(content)
    return dataclasses.replace(
        measured,
        weights=weights,
        zeros=zeros,
        operators=tuple(dict.fromkeys(operators)),
        float_operators=float_operators(content),
    )


def measure_file(
    path: str | pathlib.Path,
    batches: Batches,
    reference: Any,
    decide: Any = None,
    figures: Figures | None = None,
) -> Measurement:
    """Measure a file in the runtime of its kind: see `measure_tflite`.

    Args:
        path: A `.tflite`, `.keras`, `.h5` or `.onnx` file, or the folder of a SavedModel.
    """
    return measuring_function(path)(pathlib.Path(path), batches, reference, decide, figures)


# ONNX Runtime's names of types that NumPy calls otherwise.
ONNX_TYPES = {"float": "float32", "double": "float64"}


def onnx_session(path: str | pathlib.Path) -> Any:
    """An ONNX file in ONNX Runtime, one thread."""
    import onnxruntime  # an optional package, of the extra `onnx`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure_onnx(
    path: str | pathlib.Path,
    batches: Batches,
    reference: Any,
    decide: Any = None,
    figures: Figures | None = None,
) -> Measurement:
    """Measure an ONNX file in ONNX Runtime, one thread: see `measure_tflite`."""
    session = onnx_session(path)
    details = session.get_inputs()
    names = [detail.name for detail in details]
    types = [detail.type.removeprefix("tensor(").removesuffix(")") for detail in details]

    def run(inputs: Any) -> Any:
        given = in_order(inputs, names, "inputs", single=len(names) == 1)
        return session.run(
            None,
            {
                name: as_dtype(value, ONNX_TYPES.get(dtype, dtype), name)
                for name, dtype, value in zip(names, types, given, strict=True)
            },
        )

    outputs = [detail.name for detail in session.get_outputs()]
    return _measure(path, run, batches, reference, decide, figures, outputs)


def measure_keras(
    path: str | pathlib.Path,
    batches: Batches,
    reference: Any,
    decide: Any = None,
    figures: Figures | None = None,
) -> Measurement:
    """Measure a `.keras` file, loaded anew: see `measure_tflite`."""
    model = keras.models.load_model(path)
    dtypes = [tensor.dtype for tensor in getattr(model, "inputs", None) or []]

    def run(inputs: Any) -> Any:
        if len(dtypes) == 1 and not isinstance(inputs, Mapping):
            (inputs,) = in_order(inputs, [""], "inputs", single=True)
            return model.predict_on_batch(as_dtype(inputs, dtypes[0], "input"))
        return model.predict_on_batch(mapped(as_float32, inputs))

    return _measure(path, run, batches, reference, decide, figures)


def measure_saved_model(
    path: str | pathlib.Path,
    batches: Batches,
    reference: Any,
    decide: Any = None,
    figures: Figures | None = None,
) -> Measurement:
    """Measure a SavedModel by its serving signature: see `measure_tflite`."""
    loaded = tf.saved_model.load(str(path))
    if hasattr(loaded, "serve"):
        (structure, *_), _ = loaded.serve.concrete_functions[0].structured_input_signature
        call = loaded.serve
    else:
        signature = loaded.signatures["serving_default"]
        structure = signature.structured_input_signature[1]

        def call(values: Mapping[str, Any]) -> Any:
            return signature(**values)

    specs = tf.nest.flatten(structure)
    names = list(structure) if isinstance(structure, dict) else [spec.name for spec in specs]
    names = sorted(names) if isinstance(structure, dict) else names

    def run(inputs: Any) -> Any:
        given = in_order(inputs, names, "inputs", single=len(names) == 1)
        tensors = [
            tf.constant(as_dtype(value, spec.dtype.name, name))
            for value, spec, name in zip(given, specs, names, strict=True)
        ]
        return mapped(np.asarray, call(tf.nest.pack_sequence_as(structure, tensors)))

    return _measure(path, run, batches, reference, decide, figures)


def _measure(
    path: str | pathlib.Path,
    predict: Callable[[Any], Any],
    batches: Batches,
    reference: Any,
    decide: Any,
    figures: Figures | None,
    names: Sequence[str] = (),
) -> Measurement:
    name = pathlib.Path(path).name
    columns: list[list[np.ndarray]] = []
    given: list[list | None] = []
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            length = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise ValueError(
                "`batches` must be pairs (inputs, targets). "
                f"Received: {type(batch).__name__}{length}"
            )
        inputs, some_targets = batch
        outputs = predict(inputs)
        if isinstance(outputs, Mapping):
            names = sorted(outputs)
            outputs = [outputs[key] for key in names]
        outputs = [np.asarray(output) for output in _as_list(outputs)]
        columns = columns or [[] for _ in outputs]
        for column, output in zip(columns, outputs, strict=True):
            column.append(output)
        if len(names) != len(outputs):
            names = [""] * len(outputs)
        given.append(_targets_in_order(some_targets, names))
    if not columns:
        raise ValueError("`batches` must be one batch or more. Received: none")
    outputs = [_joined(column, name) for column in columns]
    if not all(np.all(np.isfinite(output)) for output in outputs):
        raise ExportError(f"{name}: expected finite outputs. Received: NaN or infinity")
    single = len(outputs) == 1
    references = in_order(reference, names, "reference", single)
    decides = [decide] * len(outputs)
    if isinstance(decide, (list, tuple, Mapping)):
        decides = in_order(decide, names, "decide")
    found = [
        _measure_output(
            label,
            output,
            _reference_like(output, expected, label),
            [one if one is None else one[place] for one in given],
            chooser,
        )
        for place, (label, output, expected, chooser) in enumerate(
            zip(names, outputs, references, decides, strict=True)
        )
    ]
    agreements = [one.agreement for one in found if one.agreement is not None]
    further: dict[str, float] = {}
    if figures is not None:
        by_name = isinstance(reference, Mapping)
        given_outputs = dict(zip(names, outputs, strict=True)) if by_name else outputs
        further = figures(outputs[0] if single else given_outputs)
    first = found[0] if single else OutputMeasurement("", 0.0)
    return Measurement(
        accuracy=first.accuracy,
        accuracy_standard_error=first.accuracy_standard_error,
        examples=len(outputs[0]),
        agreement=min(agreements, default=None),
        max_difference=max(one.max_difference for one in found),
        bytes=sum(len(content) for content in contents(path)),
        deflated_bytes=sum(len(zlib.compress(content, 9)) for content in contents(path)),
        xz_bytes=sum(len(lzma.compress(content, preset=9)) for content in contents(path)),
        mean_squared_error=first.mean_squared_error,
        mean_squared_error_standard_error=first.mean_squared_error_standard_error,
        r2=first.r2,
        outputs=() if single else tuple(found),
        metrics=further,
    )


def _measure_output(
    name: str, output: np.ndarray, reference: np.ndarray, targets: list[Any], decide: Any
) -> OutputMeasurement:
    known = bool(targets) and all(one is not None for one in targets)
    target = np.concatenate([np.asarray(one) for one in targets]) if known else None
    decide = decide or automatic(output, target)
    figures = {} if target is None else score(output, target, decide)
    chosen = decide(output)
    return OutputMeasurement(
        name=name,
        max_difference=float(np.max(np.abs(_signed(output) - _signed(reference)), initial=0.0)),
        agreement=None if chosen is None else float(np.mean(chosen == decide(reference))),
        **figures,
    )


def _signed(values: np.ndarray) -> np.ndarray:
    """Values whose differences do not wrap around."""
    return values if values.dtype.kind in "fc" else values.astype("float64")


def _joined(batches: list[np.ndarray], name: str) -> np.ndarray:
    try:
        return np.concatenate(batches)
    except ValueError:
        shapes = ", ".join(str(shape) for shape in sorted({one.shape[1:] for one in batches}))
        raise ValueError(
            f"{name}: expected outputs of one shape in every batch. Received: {shapes}"
        ) from None


def _reference_like(output: np.ndarray, reference: Any, name: str) -> np.ndarray:
    reference = np.asarray(reference)
    label = f" of output {name!r}" if name else ""
    if reference.shape == output.shape:
        return reference
    # One value an example, with or without an axis of its own.
    if len(reference) == len(output) and reference.size == output.size == len(output):
        return reference.reshape(output.shape)
    raise ValueError(
        f"`reference`{label} must have the shape of the file's output, {output.shape}. "
        f"Received: {reference.shape}"
    )


def _as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _targets_in_order(targets: Any, names: Sequence[str]) -> list[Any] | None:
    """A batch's targets, one for each output, or `None`."""
    if targets is None:
        return None
    return in_order(targets, names, "targets", single=len(names) == 1)


def predict(model: keras.Model, split: Any) -> Any:
    """A Keras model's outputs on a whole split, in order.

    Args:
        model: The `keras.Model`.
        split: A `data.Split`, or whatever has `evaluation_batches()`.

    Returns:
        `(examples, …)`; for several outputs a list or dict of them, as the model gives it.
    """
    batches = [
        mapped(np.asarray, model.predict_on_batch(mapped(np.asarray, x)))
        for x, _ in split.evaluation_batches()
    ]
    first = batches[0]
    if isinstance(first, Mapping):
        return {name: np.concatenate([batch[name] for batch in batches]) for name in first}
    if isinstance(first, (list, tuple)):
        return [np.concatenate(column) for column in zip(*batches, strict=True)]
    return np.concatenate(batches)


def contents(path: str | pathlib.Path) -> Iterator[bytes]:
    """The bytes of a file, or of each file in a folder."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    return (file.read_bytes() for file in files)


def time_files(
    paths: Sequence[str | pathlib.Path], images: Sequence[Any], runs: int
) -> list[tuple[float, float]]:
    """Time TFLite files side by side: in turn, run by run, one thread.

    Args:
        paths: The files.
        images: One example for each file: an array without a batch axis, or for several
            inputs a tuple, list or dict of them.
        runs: Timed runs a file, after a tenth as many to warm up.

    Returns:
        For each file, `(median, 90th percentile)` of one run's CPU time in ms.
        One thread does the work, so another process' load does not count as it
        would in wall time.
    """
    runners = [TFLiteRunner(path) for path in paths]
    for runner, image in zip(runners, images, strict=True):
        runner(*image) if isinstance(image, (tuple, list)) else runner(image)
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
