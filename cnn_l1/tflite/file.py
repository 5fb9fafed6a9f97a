"""What is in a `.tflite` file, and how it is packed. No TensorFlow here."""

import copy
import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from cnn_l1.errors import CnnL1Error

IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # of buffers, by the schema


class ExportError(CnnL1Error, RuntimeError):
    """A conversion went wrong: the file would not be what it should."""


Read = typing.TypeVar("Read")


def reads_a_file(function: Callable[..., Read]) -> Callable[..., Read]:
    """Let a function that reads a file's bytes, its first argument, refuse what is no file.

    The schema's reader checks nothing: a file that is cut short or altered ends in errors of
    many kinds, anywhere in the reading.
    """

    @functools.wraps(function)
    def reading(content: bytes, *args: Any, **settings: Any) -> Read:
        if bytes(content[4:8]) != IDENTIFIER:
            raise ExportError(
                f"Expected a .tflite file: {IDENTIFIER!r} at byte 4. "
                f"Received: {bytes(content[4:8])!r}, in {len(content)} bytes"
            )
        try:
            return function(content, *args, **settings)
        except (ExportError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:100]
            raise ExportError(
                "Expected a whole .tflite file. Received: one that was cut short or altered "
                f"({type(error).__name__}: {reason})"
            ) from None

    return reading


@reads_a_file
def parse(content: bytes) -> Any:
    """A file as the schema's `ModelT`.

    Raises:
        ExportError: If it is none.
    """
    root = schema.ModelT.InitFromPackedBuf(content, 0)
    if not root.subgraphs or root.buffers is None or root.operatorCodes is None:
        raise ExportError("Expected a .tflite file with a graph. Received: one without")
    return root


# What the weights of an operator look like: the input that holds them, and how
# the Keras kernel's axes lie in the file.
WEIGHT_INPUT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "CONV_3D": 1,
    "CONV_3D_TRANSPOSE": 1,
    "BATCH_MATMUL": 1,
}
# By TFLite's quantization specification, their weights have the zero point 0.
SYMMETRIC = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D")
# Further operators with weights, which have no such layout.
WEIGHT_INPUTS = {name: (place,) for name, place in WEIGHT_INPUT.items()} | {
    "GATHER": (0,),
    "EMBEDDING_LOOKUP": (1,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": tuple(range(1, 9)),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
}


@dataclasses.dataclass(frozen=True)
class TFLiteFile:
    """What is in a TFLite file.

    Attributes:
        operators: Names of the operators, in order; `"FLEX"` for a TensorFlow
            operator and `"CUSTOM"` for any other custom one.
        weights: The constant weights of convolutions, dense and recurrent layers and
            embeddings, in order, each once: arrays of the stored dtype, minus the zero
            point where that is not 0, so that a weight is zero where its value is 0;
            those stored sparse as dense ones.
        constants: All other constants of numbers with two values or more, likewise.
    """

    operators: tuple[str, ...]
    weights: tuple[np.ndarray, ...]
    constants: tuple[np.ndarray, ...] = ()

    @property
    def zeros(self) -> int:
        """How many weights decode to exactly 0 (their zero point is 0)."""
        return sum(int(np.count_nonzero(tensor == 0)) for tensor in self.weights)

    @property
    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(np.all(np.isfinite(tensor))) for tensor in self.weights)

    @property
    def weight_count(self) -> int:
        """How many weights there are."""
        return sum(tensor.size for tensor in self.weights)


NUMPY_TYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    8: "complex64",
    9: "int8",
    10: "float64",
    11: "complex128",
    12: "uint64",
    15: "uint32",
    16: "uint16",
}
INT4 = 17  # two a byte, the first in the lower half


@reads_a_file
def read_tflite(content: bytes) -> TFLiteFile:
    """Read operators and weights out of a TFLite file's bytes.

    Raises:
        ExportError: If it is no whole file, or a weight tensor has a zero point other than 0.
    """
    return read_tables(parse(content))


def read_tables(root: Any) -> TFLiteFile:
    """`read_tflite` of a file that is parsed already: its `ModelT`.

    Raises:
        ExportError: If a weight tensor has a zero point other than 0.
    """
    operators: list[str] = []
    weights: list[np.ndarray] = []
    constants: list[np.ndarray] = []
    seen: set[int] = set()
    for graph in root.subgraphs:
        stored = stored_constants(root, graph)
        for operator in graph.operators or []:
            name = _told_name(root, operator)
            operators.append(name)
            for place in WEIGHT_INPUTS.get(name, ()):
                index = int(operator.inputs[place]) if place < len(operator.inputs) else -1
                if index < 0:  # left out, as an LSTM's input gate may be
                    continue
                tensor = graph.tensors[stored.get(index, index)]
                if not _is_constant(root, tensor) or tensor.buffer in seen:
                    continue
                seen.add(tensor.buffer)
                points = _zero_points(tensor)
                if points.any() and name in SYMMETRIC:
                    raise ExportError(
                        f"Weights of {name} expected with zero point 0. "
                        f"Received: {[int(point) for point in points[:4]]}"
                    )
                weights.append(_centred(root, tensor))
    for graph in root.subgraphs:
        for tensor in graph.tensors:
            if not _is_constant(root, tensor) or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            values = _centred(root, tensor)
            if values.size > 1:
                constants.append(values)
    return TFLiteFile(tuple(operators), tuple(weights), tuple(constants))


def _is_constant(root: Any, tensor: Any) -> bool:
    """Whether a tensor is a constant of numbers that weights can be."""
    types = ("float32", "float16", "int8", "uint8", "int16")
    known = tensor.type == INT4 or NUMPY_TYPES.get(tensor.type) in types
    return known and root.buffers[tensor.buffer].data is not None


def _zero_points(tensor: Any) -> np.ndarray:
    quantization = tensor.quantization
    points = None if quantization is None else quantization.zeroPoint
    return np.zeros(0, "int64") if points is None else np.asarray(points, "int64")


def _centred(root: Any, tensor: Any) -> np.ndarray:
    """A constant's values, minus its zero point."""
    values, points = read_constant(root, tensor), _zero_points(tensor)
    return values.astype("int16") - points[0] if points.size == 1 and points[0] else values


@reads_a_file
def read_operators(content: bytes) -> tuple[str, ...]:
    """The names of a TFLite file's operators, in order: see `TFLiteFile.operators`."""
    return operators_of(parse(content))


def operators_of(root: Any) -> tuple[str, ...]:
    """`read_operators` of a file that is parsed already: its `ModelT`."""
    return tuple(
        _told_name(root, operator) for graph in root.subgraphs for operator in graph.operators or []
    )


def _told_name(root: Any, operator: Any) -> str:
    name = operator_name(root, operator)
    if name != "CUSTOM":
        return name
    custom = root.operatorCodes[operator.opcodeIndex].customCode or b""
    return "FLEX" if custom.startswith(b"Flex") else "CUSTOM"


@reads_a_file
def float_operators(content: bytes) -> tuple[str, ...]:
    """The operators that a quantized file computes in float, each once.

    A file is quantized if values between its operators are: integers with a scale. What
    only turns integers into floats and back, QUANTIZE and DEQUANTIZE, is not listed.

    Args:
        content: The bytes of a `.tflite` file.

    Returns:
        Names in order, e.g. `("ELU",)`; empty for a file that computes in integers alone,
        and for one that is not quantized.
    """
    return float_operators_of(parse(content))


def float_operators_of(root: Any) -> tuple[str, ...]:
    """`float_operators` of a file that is parsed already: its `ModelT`."""
    types = schema.TensorType
    floats = {types.FLOAT16, types.FLOAT32, types.FLOAT64, types.BFLOAT16}
    integers = {types.INT4, types.INT8, types.UINT8, types.INT16}
    found: list[str] = []
    quantized = False
    for graph in root.subgraphs:
        for operator in graph.operators or []:
            used = [*(operator.inputs if operator.inputs is not None else []), *operator.outputs]
            values = [
                graph.tensors[index]
                for index in used
                if index >= 0 and root.buffers[graph.tensors[index].buffer].data is None
            ]
            quantized |= any(
                tensor.type in integers
                and tensor.quantization is not None
                and tensor.quantization.scale is not None
                for tensor in values
            )
            name = _told_name(root, operator)
            if name not in ("QUANTIZE", "DEQUANTIZE") and any(t.type in floats for t in values):
                found.append(name)
    return tuple(dict.fromkeys(found)) if quantized else ()


# Operators that only change how a constant is stored: sparse, or halved.
STORAGE = ("DENSIFY", "DEQUANTIZE")


def stored_constants(root: Any, graph: Any) -> dict[int, int]:
    """Tensors that are made of a constant stored another way: `{index: the constant's index}`."""
    stored: dict[int, int] = {}
    for operator in graph.operators or []:
        if operator_name(root, operator) not in STORAGE:
            continue
        source = int(operator.inputs[0])
        constant = source in stored or root.buffers[graph.tensors[source].buffer].data is not None
        if source >= 0 and constant:
            stored[int(operator.outputs[0])] = stored.get(source, source)
    return stored


def read_constant(root: Any, tensor: Any) -> np.ndarray:
    """A constant tensor as a dense array of the stored dtype."""
    data = bytes(root.buffers[tensor.buffer].data)
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    if tensor.type == INT4:
        halves = np.frombuffer(data, np.uint8).repeat(2)
        halves[::2] <<= 4
        return (halves.view(np.int8) >> 4)[: math.prod(shape)].reshape(shape)
    if tensor.type not in NUMPY_TYPES:
        name = enumeration_names(schema.TensorType).get(tensor.type, tensor.type)
        raise ExportError(f"Expected weights of a known type. Received: {name}")
    values = np.frombuffer(data, NUMPY_TYPES[tensor.type])
    if tensor.sparsity is None:
        return values.reshape(shape)
    return decode_sparse(tensor.sparsity, values, shape)


def decode_sparse(sparsity: Any, values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A dense array from TFLite's sparse encoding (schema.fbs, SparsityParameters).

    The traversal order lists the axes, then the inner axes of blocks; each is stored
    dense, or as compressed rows: segments, and the indices within.
    """
    order = [int(axis) for axis in sparsity.traversalOrder]
    block_axes = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    rank = len(shape)
    block = {rank + place: axis for place, axis in enumerate(block_axes)}
    sizes = {
        axis: int(level.denseSize)
        for axis, level in zip(order, sparsity.dimMetadata, strict=True)
        if axis in block
    }
    # Each stored value's place: along every level, for all values at once.
    current: dict[int, np.ndarray] = {}
    count = 1
    for axis, level in zip(order, sparsity.dimMetadata, strict=True):
        if level.format == 0:
            size = int(level.denseSize)
            current = {k: np.repeat(v, size) for k, v in current.items()}
            current[axis] = np.tile(np.arange(size), count)
            count *= size
        else:
            segments = np.asarray(level.arraySegments.values, "int64")
            indices = np.asarray(level.arrayIndices.values, "int64")
            repeats = np.diff(segments)
            current = {k: np.repeat(v, repeats) for k, v in current.items()}
            current[axis] = indices
            count = len(indices)
    where = [current[axis].copy() for axis in range(rank)]
    for inner, axis in block.items():
        where[axis] = where[axis] * sizes[inner] + current[inner]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(where)] = values[:count]
    return dense


def operator_name(root: Any, operator: Any) -> str:
    """The name of an operator's kind."""
    code = root.operatorCodes[operator.opcodeIndex]
    number = flatbuffer_utils.get_builtin_code_from_operator_code(code)
    # A newer runtime's operators have no names here yet.
    return enumeration_names(schema.BuiltinOperator).get(number, f"BUILTIN_{number}")


@functools.cache
def enumeration_names(enumeration: Any) -> dict[int, str]:
    """`{value: name}` of an enumeration of TFLite's schema."""
    return {value: name for name, value in vars(enumeration).items() if name.isupper()}


def pack(model: Any) -> bytes:
    """The bytes of a `ModelT`: buffers aligned, equal lists of numbers stored once.

    An int8 file has a list of zero points, all 0, for each kernel and each bias; of equal
    length they are equal, and take 8 bytes a channel. Readers see no difference.
    """

    class Buffer:
        """Stands in for a `BufferT`, which is written at any multiple of 4 bytes."""

        def __init__(self, data: Any) -> None:
            self.data = data

        def Pack(self, builder: Any) -> int:  # noqa: N802 - the schema's own name for it
            if self.data is not None:
                builder.Prep(ALIGNMENT, len(self.data))
                data = builder.CreateByteVector(bytes(self.data))
            schema.BufferStart(builder)
            if self.data is not None:
                schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    aligned = copy.copy(model)
    aligned.buffers = [Buffer(buffer.data) for buffer in model.buffers]
    builder = _SharingBuilder(1024)
    builder.Finish(aligned.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """A builder that writes equal vectors of numbers once."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[tuple, int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 - the library's name
        key = x.dtype.str, x.tobytes()
        if key not in self.written:
            self.written[key] = super().CreateNumpyVector(x)
        return self.written[key]
