"""A Keras model as the bytes of a TFLite file.

The model is traced to a SavedModel in this process. TensorFlow Lite's converter then reads
it: in this process where the graph has only operations that are known to convert without a
crash, and in one of its own otherwise, so that the native code cannot end the user's session.
"""

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.lite.python import conversion_metadata_schema_py_generated as metadata

from cnn_l1.config.formats import FORMATS
from cnn_l1.export.copying import copy_with_safe_names
from cnn_l1.export.names import has_several, identifier, put_in_order
from cnn_l1.graph.reading import as_functional
from cnn_l1.process import keras_internals
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError, pack, parse
from cnn_l1.tflite.runner import TFLiteRunner

CALIBRATED = tuple(one.kind for one in FORMATS if one.calibrated)
TIMEOUT_SECONDS = 1800
# Calibrated ranges far beyond a sensor's overflow in the converter.
LARGE = 1e6

# Operations of a traced model that the converter is known to take or to refuse without a
# crash, with calibration too. Any other is converted in a process of its own.
_SAFE_NAMES = """
Abs Add AddN AddV2 ArgMax AssignVariableOp AvgPool BatchMatMulV2 BatchToSpaceND BiasAdd
BroadcastTo Cast ConcatV2 Const Conv2D Conv2DBackpropInput DepthToSpace
DepthwiseConv2dNative DisableCopyOnRead Einsum Elu Equal Erf Erfc ExpandDims Fill
FusedBatchNormV3 GatherV2 Greater GreaterEqual Identity IdentityN LeakyRelu Less LessEqual
LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool Maximum Mean MergeV2Checkpoints Min
Minimum MirrorPad Mul Neg NoOp NotEqual Pack Pad PadV2 PartitionedCall Placeholder Prod
ReadVariableOp RealDiv Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor RestoreV2
Rsqrt SaveV2 Select SelectV2 Selu Shape ShardedFilename Sigmoid Slice Softmax Softplus
SpaceToBatchND Split SplitV Sqrt Square SquaredDifference Squeeze Stack
StatefulPartitionedCall StaticRegexFullMatch StopGradient StridedSlice StringJoin Sub Sum
Tanh Tile Transpose Unpack VarHandleOp VarIsInitializedOp ZerosLike
"""
SAFE_OPERATIONS = frozenset(_SAFE_NAMES.split())


def convert_model(
    model: keras.Model,
    kind: str = "float32",
    examples: list[list[np.ndarray]] | None = None,
    io_type: str = "int8",
    sparse: bool = False,
) -> bytes:
    """The bytes of a model's TFLite file, unchecked: see `convert_tables`."""
    content, root, edited = convert_tables(model, kind, examples, io_type, sparse)
    return pack(root) if edited else content


def convert_tables(
    model: keras.Model,
    kind: str = "float32",
    examples: list[list[np.ndarray]] | None = None,
    io_type: str = "int8",
    sparse: bool = False,
) -> tuple[bytes, Any, bool]:
    """A model's TFLite file as tables, unchecked.

    The file's inputs and outputs come in the order of the model's, flattened. A file with
    several of them has a signature with their names.

    Args:
        model: A plain copy of a model: Functional or Sequential.
        kind: See `export_tflite`.
        examples: For `"int8"` and `"int16x8"`; see `calibration.read_examples`.
        io_type: See `export_tflite`.
        sparse: Whether to store tensors with some 30% zeros or more as sparse ones.

    Returns:
        `(content, root, edited)`: the converter's bytes, the file's `ModelT`, and whether it
            is no longer what the bytes say.

    Raises:
        ExportError: If the converter refuses the model, or crashes on it.
    """
    settings = {"kind": kind, "io_type": io_type, "sparse": sparse, "named": has_several(model)}
    examples = examples if kind in CALIBRATED else None
    if examples is not None:
        _check_one_size(examples)
    # The converter must have closed what it loaded before the folder goes.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        try:
            with silenced():
                trace(copy_with_safe_names(model), folder / "saved")
            unknown = operations(folder / "saved") - SAFE_OPERATIONS
            large = any(np.abs(a.astype("float64")).max(initial=0) > LARGE for a in _flat(examples))
            if unknown or large:
                content = _convert_apart(folder, settings, examples)
            else:
                with silenced():
                    content = run_converter(folder / "saved", settings, examples)
        except Exception as error:  # whatever Keras, TensorFlow or the converter raise
            raise _refusal(model, kind, error) from None
    root = parse(content)
    if settings["named"]:
        put_in_order(root, model)
    return content, root, bool(settings["named"])


def _flat(examples: list[list[np.ndarray]] | None) -> Iterator[np.ndarray]:
    return (array for example in examples or () for array in example)


def _check_one_size(examples: list[list[np.ndarray]]) -> None:
    shapes = {tuple(array.shape for array in example) for example in examples}
    if len(shapes) > 1:
        found = ", ".join(str(shape[0] if len(shape) == 1 else shape) for shape in sorted(shapes))
        raise ValueError(
            f"Calibration data must have one size, though the model leaves it open. "
            f"Received: {found}"
        )


def trace(model: keras.Model, folder: pathlib.Path) -> None:
    """Write a model as a SavedModel with flat inputs and outputs, for inference."""
    functional = as_functional(model)
    several = has_several(model)
    specs = []
    for number, tensor in enumerate(keras_internals.input_tensors(functional)):
        name = f"input_{number:04d}" if several else identifier(tensor.name)
        specs.append(tf.TensorSpec(tensor.shape, tensor.dtype, name=name))

    def serve(*tensors: Any) -> Any:
        packed = keras.tree.pack_sequence_as(
            keras_internals.input_structure(functional), list(tensors)
        )
        outputs = keras.tree.flatten(model(packed, training=False))
        given = [id(tensor) for tensor in tensors]
        # An input that is passed on.
        outputs = [tf.identity(one) if id(one) in given else one for one in outputs]
        if not several:
            return outputs[0]
        return {f"output_{number:04d}": output for number, output in enumerate(outputs)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.add_endpoint("serve", serve, specs)
    archive.write_out(str(folder), verbose=False)


def operations(folder: pathlib.Path) -> set[str]:
    """Names of all operations in a SavedModel."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    found: set[str] = set()
    for meta in saved.meta_graphs:
        found |= {node.op for node in meta.graph_def.node}
        for function in meta.graph_def.library.function:
            found |= {node.op for node in function.node_def}
    return found


def run_converter(
    folder: pathlib.Path, settings: dict[str, Any], examples: list[list[np.ndarray]] | None
) -> bytes:
    """Convert a SavedModel in this process."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter._metadata.environment.modelType = metadata.ModelType.KERAS_MODEL
    kind = settings["kind"]
    operators = tf.lite.OpsSet.TFLITE_BUILTINS
    optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if settings["sparse"] else []
    if kind != "float32":
        optimizations.append(tf.lite.Optimize.DEFAULT)
    converter.optimizations = optimizations
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind in CALIBRATED:
        converter.representative_dataset = lambda: _samples(examples, settings["named"])
    if kind == "int8":
        operators = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        converter.inference_input_type = getattr(tf, settings["io_type"])
        converter.inference_output_type = getattr(tf, settings["io_type"])
    if kind == "int16x8":
        weights_int8 = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
        operators = getattr(tf.lite.OpsSet, weights_int8)
        converter.inference_input_type = tf.int16
        converter.inference_output_type = tf.int16
    converter.target_spec.supported_ops = [operators]
    return converter.convert()


def _samples(examples: Any, named: bool) -> Iterator[Any]:
    for example in examples:
        arrays = [array[None] for array in example]
        if named:
            yield {f"input_{number:04d}": array for number, array in enumerate(arrays)}
        else:
            yield arrays


class _CrashError(Exception):
    """The converter's process ended without a word."""


def _convert_apart(
    folder: pathlib.Path, settings: dict[str, Any], examples: list[list[np.ndarray]] | None
) -> bytes:
    """Convert a SavedModel in a process of its own."""
    (folder / "settings.json").write_text(json.dumps(settings))
    if examples is not None:
        columns = [np.stack(column) for column in zip(*examples, strict=True)]
        np.savez(folder / "examples.npz", *columns)
    package = pathlib.Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path[:] = {[str(package), *sys.path]!r}; "
        f"from cnn_l1.export import conversion; conversion.main({str(folder)!r})"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _CrashError(f"it ran for more than {TIMEOUT_SECONDS} s") from None
    if (folder / "error.txt").exists():
        raise RuntimeError((folder / "error.txt").read_text())
    if done.returncode or not (folder / "model.tflite").exists():
        raise _CrashError(_ending(done.returncode))
    return (folder / "model.tflite").read_bytes()


def _ending(code: int) -> str:
    try:
        return f"it ended with signal {signal.Signals(-code).name}"
    except ValueError:
        return f"it ended with status {code}"


def main(name: str) -> None:
    """Convert the SavedModel in a folder, and run the file once: the process apart."""
    folder = pathlib.Path(name)
    settings = json.loads((folder / "settings.json").read_text())
    examples = None
    if (folder / "examples.npz").exists():
        with np.load(folder / "examples.npz") as columns:
            examples = [list(row) for row in zip(*columns.values(), strict=True)]
    try:
        with silenced():
            content = run_converter(folder / "saved", settings, examples)
    except Exception as error:
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
        return
    with contextlib.suppress(Exception):
        _run_once(content)
    (folder / "model.tflite").write_bytes(content)


def _run_once(content: bytes) -> None:
    """Let a file that crashes do so here. Errors are told where the file is proved."""
    runner = TFLiteRunner(content)
    zeros = [np.zeros(np.maximum(one["shape"][1:], 1), one["dtype"]) for one in runner.inputs]
    runner.stored_outputs(*zeros)


def _refusal(model: keras.Model, kind: str, error: Exception) -> ExportError:
    """The error of ours for whatever went wrong in a conversion."""
    if isinstance(error, ExportError):
        return error
    layers = [
        layer
        for layer in keras_internals.flatten_layers(model)
        if not isinstance(layer, keras.Model)
    ]
    kinds = dict.fromkeys(type(layer).__name__ for layer in layers)
    kinds.pop("InputLayer", None)
    listed = ", ".join(list(kinds)[:12]) + (", …" if len(kinds) > 12 else "")
    recurrent = [
        layer.name
        for layer in layers
        if isinstance(layer, keras.layers.RNN) and not getattr(layer, "unroll", True)
    ]
    reason = (
        f"a crash of it: {error}"
        if isinstance(error, _CrashError)
        else _first_reason(error, {one.name for one in layers})
    )
    advice = ""
    if recurrent:
        advice = f". Recurrent layers convert with `unroll=True`: {', '.join(recurrent)}"
    return ExportError(
        f"Model {model.name!r} ({listed}): expected TensorFlow's converter to write a {kind} "
        f"file. Received: {reason}{advice}"
    )


def _first_reason(error: Exception, names: Collection[str]) -> str:
    """What Keras or the converter said, without the places in code and graph that they add."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    refused = re.findall(r"(?:\"([^\"]*)@[^\"]*\"[^\n]*)?'tf\.(\w+)' op is neither", text)
    if refused:
        found = dict.fromkeys(f"{op}{_layer_in(path, names)}" for path, op in refused)
        return f"operators that LiteRT has no kernel for: {', '.join(found)[:200]}"
    missing = re.findall(r"(?:Flex ops|Custom ops|Select TF ops): *([^\n]+)", text)
    if missing:
        return f"operators that LiteRT has no kernel for: {'; '.join(missing)[:150]}"
    called = re.search(r"Exception encountered when calling .*?\n\s*\n(.+?)(?:\n|$)", text)
    located = [called[1]] if called else re.findall(r"error: ([^\n]+)", text)
    lines = [line.strip() for line in located or text.splitlines() if line.strip()]
    name = type(error).__name__
    # A process apart has put the name of its own error first.
    prefix = "" if located or re.match(r"\w*Error:", text) else f"{name}: "
    return f"{prefix}{(lines or ['no reason'])[0][:250]}"


def _layer_in(path: str, names: Collection[str]) -> str:
    """Which layer a traced operation's path goes through, to be put after its name."""
    for part in path.split("/"):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in names:
                return f" (of layer {name!r})"
    return ""
