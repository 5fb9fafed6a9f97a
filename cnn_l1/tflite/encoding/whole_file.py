"""Files as tables: read once they are known to be whole, compared, packed with a checksum.

Metadata `cnn_l1.crc32` holds the CRC-32 of the encoded file, computed with those four bytes
zero. Any altered bit shows, except in that metadata's name.

The flatbuffer is edited with the schema of `ai_edge_litert`, which also reads exported files,
rather than with `tflite_micro`'s own `model_editor` and `decode_insert`: that package is a
daily development version whose inner modules are declared unsupported, and it leaves the
alignment to a compiled tool. The schema and the bytes of `bits` are stable, since files in the
field depend on them.
"""

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.process.silence import silenced
from cnn_l1.tflite.encoding.bits import ITEM_BYTES, OPERATOR, element_count
from cnn_l1.tflite.encoding.reports import EncodeError
from cnn_l1.tflite.file import ExportError, pack, parse

CHECKSUM = b"cnn_l1.crc32"


# --- Reading -------------------------------------------------------------------------


def read(content: bytes) -> Any:
    """A file's tables (`ModelT`), once it is known to be whole.

    Raises:
        EncodeError: If the file is cut short or altered, or keeps tensors outside of it.
    """
    try:
        root = parse(content)
        check_indices(root)
        _verify(content, plain=decode_opcode(root) is None)
    except EncodeError:
        raise
    except ExportError as error:
        raise EncodeError(str(error)) from None
    except Exception as error:  # of many kinds: the schema's reader checks nothing
        reason = " ".join(str(error).split())[:100]
        raise EncodeError(
            "Expected a whole .tflite file. Received: one that was cut short or altered, or "
            f"that LiteRT does not read ({type(error).__name__}: {reason})"
        ) from None
    return root


def _verify(content: bytes, plain: bool) -> None:
    """Let LiteRT check that every offset of a flatbuffer lies inside it.

    It must also load a plain file. Of an encoded one LiteRT's other errors do not count: other
    programs leave the tensor's quantization on its bits, which LiteRT refuses.
    """
    resolvers = interpreter.OpResolverType
    try:
        with silenced():
            interpreter.Interpreter(
                model_content=content,
                experimental_op_resolver_type=resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
    except (RuntimeError, ValueError) as error:
        if plain or "not a valid Flatbuffer" in str(error):
            raise


def check_indices(root: Any) -> None:
    """Raise `EncodeError` unless all that a file points to is there, and of its size."""
    if root.externalBuffers or any(buffer.offset or buffer.size for buffer in root.buffers):
        raise EncodeError(
            "Expected a .tflite file with its tensors inside the flatbuffer. "
            "Received: one that keeps them outside of it"
        )
    for entry in root.metadata or []:
        _check_index("metadata", [entry.buffer], len(root.buffers))
    for graph in root.subgraphs:
        count = len(graph.tensors)
        _check_index("graph inputs", graph.inputs, count)
        _check_index("graph outputs", graph.outputs, count)
        for tensor in graph.tensors:
            _check_index("buffers", [tensor.buffer], len(root.buffers))
            data, item = data_of(root, tensor), ITEM_BYTES.get(tensor.type)
            if tensor.sparsity is not None:
                continue  # fewer values than elements
            if len(data) and item and len(data) != element_count(tensor) * item:
                raise EncodeError(
                    f"{name_of(tensor)}: expected {element_count(tensor)} elements, "
                    f"{element_count(tensor) * item} bytes. Received: {len(data)} bytes"
                )
        for operator in graph.operators or []:
            _check_index("operator codes", [operator.opcodeIndex], len(root.operatorCodes))
            _check_index("operator inputs", operator.inputs, count, least=-1)
            _check_index("operator outputs", operator.outputs, count)


def _check_index(what: str, indices: Iterable[Any] | None, count: int, least: int = 0) -> None:
    for index in as_list(indices):
        if not least <= index < count:
            raise EncodeError(
                f"Expected {what} from {least} to {count - 1}. Received: {index}, in a file "
                "that was altered"
            )


def check_plain(root: Any) -> None:
    """Raise `EncodeError` if a file is one that no tensors can be added to."""
    if decode_opcode(root) is not None:
        raise EncodeError(
            "Expected a file that is not encoded. Received: one with DECODE operators; "
            "decode it first."
        )
    for entry in root.metadata or []:
        if entry.name in (b"OfflineMemoryAllocation", CHECKSUM):
            raise EncodeError(
                "Expected a file without a memory plan or checksum of its own, which would "
                f"hold no longer. Received: metadata {entry.name.decode()}"
            )


def decode_opcode(root: Any) -> int | None:
    """The index of DECODE among a file's operator codes, or `None`."""
    for index, code in enumerate(root.operatorCodes or []):
        if code.customCode == OPERATOR:
            return index
    return None


def operators_of(root: Any) -> list[Any]:
    """All operators of a file."""
    return [operator for graph in root.subgraphs for operator in graph.operators or []]


def data_of(root: Any, tensor: Any) -> bytes:
    """The bytes that a tensor is stored in; none where it is not a constant."""
    data = root.buffers[tensor.buffer].data
    return b"" if data is None else bytes(data)


def name_of(tensor: Any) -> str:
    """A tensor's name, for what is told."""
    return (tensor.name or b"a tensor without a name").decode(errors="replace")


def as_list(indices: Iterable[Any] | None) -> list[int]:
    """Indices as Python's integers; none where the file has no list."""
    return [] if indices is None else [int(index) for index in indices]


def tree(value: Any, root: Any = None) -> Any:
    """A file's tables as plain values to compare: contents, in place of their indices."""
    if isinstance(value, schema.ModelT):
        names = ("version", "description", "subgraphs", "metadata", "signatureDefs")
        return [tree(getattr(value, name), value) for name in names]
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.tobytes())
    if isinstance(value, list):
        return [tree(item, root) for item in value] or None  # an empty list is as good as none
    if not hasattr(value, "__dict__"):
        return value
    fields = dict(vars(value))
    if isinstance(value, (schema.TensorT, schema.MetadataT)):
        fields["buffer"] = data_of(root, value)
    elif isinstance(value, schema.OperatorT):
        fields["opcodeIndex"] = vars(root.operatorCodes[value.opcodeIndex])
    return (type(value).__name__, {name: tree(field, root) for name, field in fields.items()})


# --- Writing -------------------------------------------------------------------------


def new_buffer(data: Any) -> Any:
    """A `BufferT` with some bytes, or with `None`."""
    buffer = schema.BufferT()
    buffer.data = data
    return buffer


def pack_sealed(root: Any) -> bytes:
    """The bytes of a file, with its checksum if it has an entry for one."""
    content = bytearray(pack(root))
    for entry in root.metadata or []:
        if entry.name == CHECKSUM:
            place = _place(content, entry.buffer)
            place[:] = np.frombuffer(_checksum(content), np.uint8)
    return bytes(content)


def checksum_entry(buffer: int) -> Any:
    """The metadata that says which buffer holds the checksum."""
    entry = schema.MetadataT()
    entry.name, entry.buffer = CHECKSUM, buffer
    return entry


def check_checksum(content: bytes, buffer: int) -> None:
    """Raise `EncodeError` unless a file's checksum, in some buffer, is that of its bytes."""
    writable = bytearray(content)
    place = np.asarray(_place(writable, buffer))
    received = place.tobytes()
    if len(received) == 4:
        place[:] = 0
    expected = _checksum(writable)
    if received != expected:
        raise EncodeError(
            f"Expected the file that was written: CRC-32 {expected[::-1].hex()}. "
            f"Received: {received[::-1].hex()}, in a file that was altered"
        )


def _checksum(content: bytes | bytearray) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def _place(content: bytearray, buffer: int) -> Any:
    """A view of a buffer's bytes in those of a file, to write to."""
    return schema.Model.GetRootAs(content).Buffers(buffer).DataAsNumpy()
