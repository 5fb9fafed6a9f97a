"""The steps that tables of models try, each judged against Keras and not by `cnn_l1` itself.

A step returns a `Cell`: right, or refused with the reason. Whatever raises something that is
no error of ours, or gives something that is not equal, is a fault.
"""

import dataclasses
import pathlib
import re
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import cnn_l1
from benchmarks import children
from cnn_l1.export import onnx_file
from cnn_l1.tflite import micro

# Of the largest output. Float32 sums are taken in another order; float16 has 11 bits of
# mantissa; int8 has 255 steps a tensor, and errors of a few layers add up. A wrong file, of
# permuted or stale outputs, differs by the outputs' own size.
TOLERANCES = {
    "float32": 1e-4,
    "float16": 2e-2,
    "dynamic_int8": 0.15,
    "int8": 0.25,
    "int16x8": 0.05,
    "onnx": 1e-4,
    "copy": 1e-5,
    "shrink": 1e-4,
    "fold": 1e-4,
}

# Or the root mean square, of the standard deviation: a spectrogram has few large values, and
# many that are about a step of int8. Unrelated outputs have 1.4.
INTEGER = {"dynamic_int8": 0.15, "int8": 0.35, "int16x8": 0.1}

NOTE_LENGTH = 280


@dataclasses.dataclass(frozen=True)
class Cell:
    """What became of a step.

    Attributes:
        verdict: `"yes"`, `"stays"`, `"refused"` or `"none"`; `"wrong"` or `"crashed"` are faults.
        reason: Why, where it is not `"yes"`.
    """

    verdict: str
    reason: str = ""


YES = Cell("yes")


def judged(step: Callable[[], Cell]) -> Cell:
    """A step's cell, with its errors judged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return step()
    except Exception as error:
        said = children.refusal(error)
        if said is None:
            return Cell("crashed", children.raw(error))
        return Cell("refused", plain(said))


def plain(reason: str) -> str:
    """A reason without folders, numbers and colours of the moment, in `NOTE_LENGTH` characters."""
    reason = re.sub(r"\x1b\[\d*m|(?<=__inference_)\w*_\d+", "", reason)
    text = re.sub(r"/\S*/([\w.]+)", r"\1", reason)
    return text if len(text) <= NOTE_LENGTH else text[: NOTE_LENGTH - 1].rstrip() + "…"


def flat(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(one) for one in keras.tree.flatten(outputs)]


def keras_outputs(model: Any, inputs: Any) -> list[np.ndarray]:
    """A model's outputs, flattened, in inference."""
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "UO":
        import tensorflow as tf

        inputs = tf.constant(inputs)
    return flat(model(inputs, training=False))


def rounding(model: Any, inputs: np.ndarray) -> float:
    """How far a network's outputs move when its inputs change in their last bits, twice over.

    A deep network with batch-norms of small variances enlarges the rounding of its sums, so
    that the same network in another order of operations differs by as much.
    """
    random = np.random.default_rng(0)
    moved = (inputs * (1 + 1e-6 * random.uniform(-1, 1, inputs.shape))).astype(inputs.dtype)
    pairs = zip(keras_outputs(model, inputs), keras_outputs(model, moved), strict=True)
    return 2 * max(float(np.max(np.abs(one - other))) for one, other in pairs)


def compare(expected: list, received: list, kind: str, what: str, floor: float = 0.0) -> Cell:
    """`yes` where all outputs agree, by position, as closely as a format can.

    Args:
        floor: A difference that is rounding; see `rounding`.
    """
    if len(expected) != len(received):
        return Cell("wrong", f"{what}: {len(received)} outputs instead of {len(expected)}")
    for number, (one, other) in enumerate(zip(expected, received, strict=True)):
        if one.size != other.size:
            return Cell("wrong", f"{what}: output {number} of shape {other.shape}, not {one.shape}")
        one, other = one.astype("float64"), other.astype("float64").reshape(one.shape)
        largest = max(float(np.max(np.abs(one))), 1e-6)
        difference = float(np.max(np.abs(one - other)))
        if kind in INTEGER and np.sqrt(np.mean((one - other) ** 2)) <= INTEGER[kind] * one.std():
            continue
        if not difference <= max(TOLERANCES[kind] * largest, floor):
            return Cell(
                "wrong", f"{what}: output {number} differs by {difference:.2g} of {largest:.2g}"
            )
    return YES


def run_tflite(path: Any, inputs: Any) -> list[np.ndarray]:
    """The outputs of a file for a batch of examples, by LiteRT's own interpreter.

    Inputs and outputs are matched by position.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    arrays = keras.tree.flatten(inputs)
    for array, details in zip(arrays, interpreter.get_input_details(), strict=True):
        if -1 in details["shape_signature"]:
            interpreter.resize_tensor_input(details["index"], (1, *array.shape[1:]))
    interpreter.allocate_tensors()
    found: list[list[np.ndarray]] = []
    for number in range(len(arrays[0])):
        for array, details in zip(arrays, interpreter.get_input_details(), strict=True):
            interpreter.set_tensor(details["index"], quantized(array[number][None], details))
        interpreter.invoke()
        outputs = interpreter.get_output_details()
        found.append([dequantized(interpreter.get_tensor(o["index"]), o) for o in outputs])
    return [np.concatenate(one) for one in zip(*found, strict=True)]


def quantized(batch: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    dtype = np.dtype(details["dtype"])
    if not scale:
        return batch.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(batch / scale) + zero_point, limits.min, limits.max).astype(dtype)


def dequantized(values: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return (values.astype("float64") - zero_point) * scale if scale else values


def file_cell(model: Any, inputs: Any, kind: str, floor: float = 0.0) -> Cell:
    """A TFLite file of a kind, run and compared with Keras."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        calibration = inputs if kind in ("int8", "int16x8") else None
        cnn_l1.export_tflite(model, path, calibration, kind=kind)
        received = run_tflite(path, inputs)
        return compare(keras_outputs(model, inputs), received, kind, "the file", floor)


def onnx_cell(model: Any, inputs: Any) -> Cell:
    """An ONNX file, run by ONNX Runtime and compared with Keras."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.onnx")
        onnx_file.export_onnx(model, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        arrays = keras.tree.flatten(inputs)
        fed = dict(zip((one.name for one in session.get_inputs()), arrays, strict=True))
        return compare(keras_outputs(model, inputs), session.run(None, fed), "onnx", "the file")


def micro_cell(model: Any, inputs: Any) -> Cell:
    """The int8 file, or else the float32 one, in TFLite Micro, compared with Keras."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        kind = "int8"
        try:
            cnn_l1.export_tflite(model, path, inputs, kind=kind)
        except Exception:
            kind = "float32"
            cnn_l1.export_tflite(model, path, kind=kind)
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path))
        arrays = keras.tree.flatten(inputs)
        details = interpreter.get_input_details()
        fed = [quantized(a, d)[:, None] for a, d in zip(arrays, details, strict=True)]
        ran = micro.run(path, fed)
        received = [
            dequantized(a, d)
            for a, d in zip(ran.outputs, interpreter.get_output_details(), strict=True)
        ]
        expected = [one[:, None] for one in keras_outputs(model, inputs)]
        return compare(expected, received, kind, f"the {kind} file")


def shrink_cell(model: Any, inputs: Any, train: bool = True) -> Cell:
    """`apply_shrink`, compared with Keras, then trained for a step."""
    plan = cnn_l1.plan_shrink(model)
    shrunk = cnn_l1.apply_shrink(model, plan)
    expected = keras_outputs(model, inputs)
    cell = compare(expected, keras_outputs(shrunk, inputs), "shrink", "the shrunk model")
    if cell != YES or not train:
        return cell
    for layer in shrunk.layers:
        if layer.count_params() != sum(int(np.prod(v.shape)) for v in layer.weights):
            return Cell("wrong", f"{layer.name}: its weights are not those it counts")
    shrunk.compile("sgd", "mse")
    packed = keras.tree.pack_sequence_as(model(inputs, training=False), expected)
    shrunk.train_on_batch(inputs, packed)
    return YES


def fold_cell(model: Any, inputs: Any, floor: float = 0.0) -> Cell:
    folded = cnn_l1.fold_batch_norm(model)
    expected, received = keras_outputs(model, inputs), keras_outputs(folded, inputs)
    return compare(expected, received, "fold", "the folded model", floor)


def copy_cell(model: Any, inputs: Any) -> Cell:
    copied = cnn_l1.plain_copy(model)
    expected, received = keras_outputs(model, inputs), keras_outputs(copied, inputs)
    return compare(expected, received, "copy", "the copy")
