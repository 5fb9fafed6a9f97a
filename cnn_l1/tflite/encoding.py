"""Smaller `.tflite` files for TFLite Micro: a bit for each weight, and the nonzero ones.

    python -m cnn_l1.encode MODEL.tflite --output SMALL.tflite

TFLite Micro has an operator `TFLM_DECODE` that writes a stored tensor out in memory
before the operator that reads it. Of its formats this module writes "pruning" (type 2).
Each encoded tensor of n elements of s bytes, k of them other than zero, becomes two
constant tensors, uint8 and of rank 1:

    encoded     ⌈n/8⌉ bytes: bit i, the most significant of a byte first, is 1 where
                element i, in row-major order, is not its zero point; the rest are 0
    ancillary   16 bytes 02 01 00 00 01 00 … 00: type 2 and version 1 of the common
                header, 2 reserved bytes, version 1 of "pruning", 11 bytes not used;
                then the k other elements, k·s bytes, little-endian, in the same order

    size = ⌈n/8⌉ + 16 + k·s bytes, against n·s; and about 120 more for the two tensors, the
    operator and their alignment to 16 bytes, and 130 for each file

A float −0.0 is stored as 0.0: folding a batch-norm with a negative gamma turns all of
the zeros of its channel so. Sums of products begin at 0.0, which neither 0.0 nor −0.0 changes, so
the outputs are the same bit by bit. All else comes back as it was, NaN and all.

The tensor that was there keeps its index, name, shape and quantization, loses its
buffer, and is the output of a DECODE right in front of the operator that reads it. If
several operators read it, each has a DECODE of its own: what one decodes is promised to
last for the next operator only, since memory besides the arena is used again. One DECODE
decodes all that its operator reads.

Source: github.com/tensorflow/tflite-micro, tensorflow/lite/micro/kernels/decode.cc,
decode_state.h, decode_state_prune.cc (and xtensa/xtensa_decode_state_prune.cc: the same
layout), and tensorflow/lite/micro/compression/decode.py and decode_insert.py.

What it costs: a decoded tensor is in the arena while its operator runs, so the arena
grows to the largest one; and the weights are decoded again in each inference. A program
on the microcontroller may give memory besides the arena for it, such as a slower bank,
with `MicroInterpreter::SetDecompressionMemory`; `EncodeReport.decoded_bytes` says how much.
LiteRT and TensorFlow Lite do not know the operator: the file is for TFLite Micro alone.
Checked with its reference kernels. Optimized kernels that read weights as they prepare,
before anything is decoded, would have to be checked on their target.

Metadata `cnn_l1.crc32` of a file written here holds the CRC-32 of the file with those
four bytes zero: `decode_zeros` refuses it with any bit altered but those of that name.
TFLite Micro looks neither at that nor at any length (tflite-micro issue 3704): check a file
before it is flashed. A plain file has no checksum, and a weight that was altered in it is a weight.

The flatbuffer is edited with the schema of `ai_edge_litert`, which exported files are
read with as well, and not with `tflite_micro`'s own `model_editor` and `decode_insert`:
that package is a development version of the day, says that what its top does not export
is unsupported, and leaves the alignment to a compiled tool. The schema and the bytes above
are stable, since files in the field depend on them.
"""

import copy
import dataclasses
import gzip
import pathlib
import tempfile
import zlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.errors import CnnL1Error
from cnn_l1.process.silence import silenced
from cnn_l1.tflite import micro
from cnn_l1.tflite.file import ALIGNMENT, NUMPY_TYPES, ExportError, pack, parse
from cnn_l1.tflite.sample_inputs import id_bounds

OPERATOR = b"TFLM_DECODE"
HEADER = bytes([2, 1, 0, 0, 1, *[0] * 11])
CHECKSUM = b"cnn_l1.crc32"
# Kernels may read 16 bytes at once; the schema asks for it, and Python's builder forgets it.
EXAMPLES = 3

TENSOR, BUILTIN = schema.TensorType, schema.BuiltinOperator

# The types of weights and biases that the runtime decodes, by the bytes of an element.
# Elements are compared and copied as bits, but for −0.0.
ITEM_BYTES = {TENSOR.FLOAT32: 4, TENSOR.INT8: 1, TENSOR.INT16: 2, TENSOR.INT32: 4, TENSOR.INT64: 8}
WORDS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}

# The inputs that hold weights and biases. Reference kernels read no values of these
# before the operator runs, as they do of shapes and paddings.
WEIGHT_INPUTS = {
    BUILTIN.CONV_2D: (1, 2),
    BUILTIN.DEPTHWISE_CONV_2D: (1, 2),
    BUILTIN.FULLY_CONNECTED: (1, 2),
    BUILTIN.TRANSPOSE_CONV: (1, 3),
}


class EncodeError(CnnL1Error, ValueError):
    """A file that cannot be encoded, or is not what it should be."""


@dataclasses.dataclass(frozen=True)
class EncodedTensor:
    """A tensor that is stored encoded.

    Attributes:
        name: Its name in the file.
        elements: How many elements it has.
        zeros: How many are its zero point, and take a bit each.
        bytes_before: Its size as it was.
        bytes_after: Its size now: bits, header and values.
    """

    name: str
    elements: int
    zeros: int
    bytes_before: int
    bytes_after: int


@dataclasses.dataclass(frozen=True)
class KeptTensor:
    """Weights that are stored as they were, and why."""

    name: str
    bytes: int
    reason: str


@dataclasses.dataclass(frozen=True)
class EncodeReport:
    """What encoding gains and costs.

    Attributes:
        bytes_before: Size of the file as it was: flash.
        bytes_after: Size of the file now; the same if nothing pays.
        gzip_before: Of the file as it was, gzipped at level 9: what an update over the air
            would send. Flash holds the file as it is, unless a loader unpacks it to RAM.
        gzip_after: Of the file now, gzipped.
        encoded: What is stored encoded.
        kept: Weights that are not.
        decoded_bytes: The most that one DECODE writes at once, each tensor rounded up to
            16 bytes: what `SetDecompressionMemory` needs to keep it out of the arena.
        arena_before: Arena of the file as it was, in bytes, on this host: RAM. See
            `micro.arena_bytes`. `None` where neither file was run.
        arena_after: Arena of the file now.
        arena_alternate: Arena of the file now, besides `decoded_bytes` of other memory.
    """

    bytes_before: int
    bytes_after: int
    gzip_before: int
    gzip_after: int
    encoded: tuple[EncodedTensor, ...]
    kept: tuple[KeptTensor, ...]
    decoded_bytes: int
    arena_before: int | None = None
    arena_after: int | None = None
    arena_alternate: int | None = None

    def __str__(self):
        lines = [
            f"encoded  {one.name}: {one.bytes_before} -> {one.bytes_after} bytes, "
            f"{one.zeros} of {one.elements} zero"
            for one in self.encoded
        ]
        lines += [f"kept     {one.name}: {one.bytes} bytes, {one.reason}" for one in self.kept]
        part = self.bytes_after / self.bytes_before
        lines.append(f"flash    {self.bytes_before} -> {self.bytes_after} bytes ({part:.1%})")
        lines.append(f"gzip     {self.gzip_before} -> {self.gzip_after} bytes")
        if self.arena_before is not None:
            line = f"arena    {self.arena_before} -> {self.arena_after} bytes"
            if self.encoded:
                line += f", or {self.arena_alternate} besides {self.decoded_bytes} of other memory"
            lines.append(line)
        if not self.encoded:
            lines.append("No tensor pays: the file is as it was.")
        return "\n".join(lines)


def encode_zeros(
    content: bytes, decoded_limit: int | None = None, run: bool = True
) -> tuple[bytes, EncodeReport]:
    """Store the zeros of a `.tflite` file in a bit each, where that makes it smaller.

    Which tensors are encoded is chosen by the size of the whole file, alignment, tensors,
    operators and metadata counted: no one of them could be left out, or taken in, and the
    file be smaller. What comes out is decoded again and compared with what went in: all of
    it is the same, but for a float −0.0 that becomes 0.0 in an encoded tensor.

    Args:
        content: The bytes of a `.tflite` file of plain tensors.
        decoded_limit: The largest tensor to encode, in bytes as decoded: the arena grows
            to the largest one. Default: no limit.
        run: Run both files in TFLite Micro on random inputs, compare the outputs bit by
            bit and measure the arenas. Takes processes of their own, seconds.

    Returns:
        `(encoded, report)`: the bytes of the file and an `EncodeReport`. The very bytes
            that were given, if nothing pays.

    Raises:
        EncodeError: If the file is cut short, altered, encoded already, or not one that
            can be edited.
        micro.MicroError: If TFLite Micro does not run the file as it was.
    """
    content = bytes(content)
    root = _read(content)
    _check_plain(root)
    plans, kept = _plan(root, decoded_limit)
    chosen = _choose(root, plans)
    result = _pack(_assemble(root, plans, chosen)) if chosen else content
    if len(result) >= len(content):
        result, chosen = content, frozenset()
    kept += [
        KeptTensor(_name(one.tensor), one.bytes_before, "no smaller encoded")
        for buffer, ones in plans.items()
        for one in ones
        if buffer not in chosen
    ]
    report = EncodeReport(
        bytes_before=len(content),
        bytes_after=len(result),
        gzip_before=len(gzip.compress(content, 9)),
        gzip_after=len(gzip.compress(result, 9)),
        encoded=tuple(one.summary() for buffer in sorted(chosen) for one in plans[buffer]),
        kept=tuple(kept),
        decoded_bytes=_largest_decoded(_read(result)) if chosen else 0,
    )
    if chosen and _tree(_read(decode_zeros(result))) != _tree(_without_signs(root, plans, chosen)):
        raise EncodeError(
            "Expected a file that decodes to the one that was given. Received: another; "
            "its layout is one that this module does not know."
        )
    return result, _run(content, result, root, report) if run else report


def decode_zeros(content: bytes) -> bytes:
    """The plain file of an encoded one, with the same tensors and operators.

    Args:
        content: The bytes of a `.tflite` file. Its DECODE operators are to be of type
            "pruning", of whatever program's writing; the checksum is checked if it has one.

    Returns:
        The bytes of a file without DECODE operators; the very bytes that were given, if
            there are none in it.

    Raises:
        EncodeError: If the file is cut short or altered, or an encoded tensor is not what
            the module's text says: header, lengths, or number of bits set.
    """
    content = bytes(content)
    root = _read(content)
    opcode = _decode_opcode(root)
    seal = [entry for entry in root.metadata or [] if entry.name == CHECKSUM]
    if seal:
        _check_seal(content, seal[0].buffer)
        root.metadata = [entry for entry in root.metadata if entry is not seal[0]] or None
    elif opcode is None:
        return content
    dropped = {entry.buffer for entry in seal}
    slots: dict[bytes, int] = {}
    for graph in root.subgraphs:
        dropped |= _restore(root, graph, opcode, slots)
    if opcode is not None:
        del root.operatorCodes[opcode]
        for operator in _operators(root):
            operator.opcodeIndex -= operator.opcodeIndex > opcode
    _drop_buffers(root, dropped)
    return _pack(root)


# --- Reading -------------------------------------------------------------------------


def _read(content):
    """A file's tables, once it is known to be whole."""
    try:
        root = parse(content)
        _check_indices(root)
        _verify(content, plain=_decode_opcode(root) is None)
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


def _verify(content, plain):
    """Let LiteRT check that every offset of a flatbuffer lies inside it.

    It must also load a plain file. An encoded one is not for it: others leave the bits of a
    tensor the quantization of the tensor.
    """
    from ai_edge_litert import interpreter

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


def _check_indices(root):
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
            data, item = _data(root, tensor), ITEM_BYTES.get(tensor.type)
            if tensor.sparsity is not None:
                continue  # fewer values than elements
            if len(data) and item and len(data) != _size(tensor) * item:
                raise EncodeError(
                    f"{_name(tensor)}: expected {_size(tensor)} elements, "
                    f"{_size(tensor) * item} bytes. Received: {len(data)} bytes"
                )
        for operator in graph.operators or []:
            _check_index("operator codes", [operator.opcodeIndex], len(root.operatorCodes))
            _check_index("operator inputs", operator.inputs, count, least=-1)
            _check_index("operator outputs", operator.outputs, count)


def _check_index(what, indices, count, least=0):
    for index in _list(indices):
        if not least <= index < count:
            raise EncodeError(
                f"Expected {what} from {least} to {count - 1}. Received: {index}, in a file "
                "that was altered"
            )


def _check_plain(root):
    """Raise `EncodeError` if a file is one that more tensors cannot be put into."""
    if _decode_opcode(root) is not None:
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


def _decode_opcode(root):
    """The index of DECODE among a file's operator codes, or `None`."""
    for index, code in enumerate(root.operatorCodes or []):
        if code.customCode == OPERATOR:
            return index
    return None


def _operators(root):
    return [operator for graph in root.subgraphs for operator in graph.operators or []]


def _data(root, tensor):
    data = root.buffers[tensor.buffer].data
    return b"" if data is None else bytes(data)


def _size(tensor):
    return 1 if tensor.shape is None else int(np.prod(tensor.shape, dtype=np.int64))


def _name(tensor):
    return (tensor.name or b"a tensor without a name").decode(errors="replace")


def _list(indices):
    return [] if indices is None else [int(index) for index in indices]


def _padded(count):
    return -(-count // ALIGNMENT) * ALIGNMENT


def _tree(value, root=None):
    """A file's tables as plain values to compare: contents, in place of their indices."""
    if isinstance(value, schema.ModelT):
        names = ("version", "description", "subgraphs", "metadata", "signatureDefs")
        return [_tree(getattr(value, name), value) for name in names]
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.tobytes())
    if isinstance(value, list):
        return [_tree(item, root) for item in value] or None  # an empty list is as good as none
    if not hasattr(value, "__dict__"):
        return value
    fields = dict(vars(value))
    if isinstance(value, (schema.TensorT, schema.MetadataT)):
        fields["buffer"] = _data(root, value)
    elif isinstance(value, schema.OperatorT):
        fields["opcodeIndex"] = vars(root.operatorCodes[value.opcodeIndex])
    return (type(value).__name__, {name: _tree(field, root) for name, field in fields.items()})


# --- One tensor ----------------------------------------------------------------------


def _zero_points(tensor):
    """What the runtime writes where a bit is 0, for each element, as its bits.

    Per tensor or per channel, as the tensor's quantization says.

    Raises:
        EncodeError: If the runtime does not decode such a tensor.
    """
    if tensor.type not in ITEM_BYTES:
        raise EncodeError(f"expected float32 or int8 to int64. Received: type {tensor.type}")
    words = WORDS[ITEM_BYTES[tensor.type]]
    size, quantization = _size(tensor), tensor.quantization
    if quantization is None:
        return np.zeros(size, words)
    if quantization.detailsType:
        raise EncodeError("expected affine quantization. Received: another")
    scales = [] if quantization.scale is None else list(quantization.scale)
    points = [] if quantization.zeroPoint is None else list(quantization.zeroPoint)
    if not scales or not points:
        return np.zeros(size, words)
    channels, axis, shape = len(scales), quantization.quantizedDimension, list(tensor.shape)
    last = channels > 1 and axis == len(shape) - 1
    if axis != 0 and not last:
        # So for one channel too: the runtime counts its scales first.
        raise EncodeError(
            f"expected channels on the first axis, or several on the last. Received: {channels} "
            f"on axis {axis} of {len(shape)}"
        )
    if len(points) not in (1, channels) or (channels > 1 and shape[axis] != channels):
        raise EncodeError(
            f"expected a scale and a zero point for each of {shape[axis] if shape else 1} "
            f"channels. Received: {channels} scales and {len(points)} zero points"
        )
    least, most = (-128, 127) if tensor.type == TENSOR.INT8 else (0, 0)
    if min(points) < least or max(points) > most:
        raise EncodeError(
            f"expected zero points from {least} to {most}. Received: {min(points)} to {max(points)}"
        )
    each = np.broadcast_to(np.array(points, np.int64), channels).astype(words)
    return np.tile(each, size // channels) if last else np.repeat(each, size // channels)


def _pack_zeros(words, zero_points):
    """`(encoded, ancillary)` of a tensor's bits, as the module's text has them."""
    others = words != zero_points
    return np.packbits(others).tobytes(), HEADER + words[others].tobytes()


def _unpack_zeros(encoded, ancillary, zero_points, name):
    """The bytes of a tensor, once what it is stored in is known to be right."""
    size, item = len(zero_points), zero_points.itemsize
    if ancillary[: len(HEADER)] != HEADER:
        raise EncodeError(
            f"{name}: expected the header {HEADER.hex()}. "
            f"Received: {ancillary[: len(HEADER)].hex() or 'nothing'}"
        )
    bits = np.unpackbits(np.frombuffer(encoded, np.uint8)).astype(bool)
    if bits[size:].any():
        raise EncodeError(
            f"{name}: expected no bit set beyond its {size} elements. "
            f"Received: {np.count_nonzero(bits[size:])}"
        )
    values = ancillary[len(HEADER) :]
    count = np.count_nonzero(bits)
    if len(values) != count * item:
        raise EncodeError(
            f"{name}: expected {count} values of {item} bytes, one for each bit set. "
            f"Received: {len(values)} bytes"
        )
    words = zero_points.copy()
    words[bits[:size]] = np.frombuffer(values, zero_points.dtype)
    return words.tobytes()


# --- Encoding ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A tensor that may be encoded, and what it would be stored in."""

    graph: int
    index: int
    tensor: schema.TensorT
    bytes_before: int
    zeros: int
    encoded: bytes
    ancillary: bytes

    def summary(self):
        after = len(self.encoded) + len(self.ancillary)
        return EncodedTensor(
            _name(self.tensor), _size(self.tensor), self.zeros, self.bytes_before, after
        )


def _plan(root, decoded_limit):
    """What may be encoded.

    Returns:
        `(plans, kept)`: for each buffer the candidates that share it, all of them or
        none, since one that is not encoded keeps the buffer in the file; and the weights
        that may not be.
    """
    plans: dict[int, list[_Candidate]] = {}
    kept: list[KeptTensor] = []
    held = {entry.buffer for entry in root.metadata or []}
    for number, graph in enumerate(root.subgraphs):
        weights = _weights(root, graph)
        held |= {t.buffer for i, t in enumerate(graph.tensors) if i not in weights}
        for index in weights:
            tensor = graph.tensors[index]
            try:
                one = _candidate(root, number, index, decoded_limit)
            except EncodeError as error:
                kept.append(KeptTensor(_name(tensor), len(_data(root, tensor)), str(error)))
                held.add(tensor.buffer)
            else:
                plans.setdefault(tensor.buffer, []).append(one)
    for buffer in sorted(held & set(plans)):
        kept += [
            KeptTensor(_name(one.tensor), one.bytes_before, "shares its bytes with one kept")
            for one in plans.pop(buffer)
        ]
    return plans, kept


def _candidate(root, number, index, decoded_limit):
    tensor = root.subgraphs[number].tensors[index]
    data = _data(root, tensor)
    if decoded_limit is not None and len(data) > decoded_limit:
        raise EncodeError(f"more than {decoded_limit} bytes decoded")
    points = _zero_points(tensor)
    words = np.frombuffer(_positive(data) if tensor.type == TENSOR.FLOAT32 else data, points.dtype)
    zeros = int(np.count_nonzero(words == points))
    return _Candidate(number, index, tensor, len(data), zeros, *_pack_zeros(words, points))


def _positive(data):
    """The bytes of float32 values with 0.0 for −0.0."""
    words = np.frombuffer(data, "<u4")
    return np.where(words == 1 << 31, 0, words).astype("<u4").tobytes()


def _without_signs(root, plans, chosen):
    """A file's tables with 0.0 for −0.0 in what is encoded, and in nothing else."""
    model = copy.copy(root)
    model.buffers = list(root.buffers)
    for buffer in chosen:
        if all(one.tensor.type == TENSOR.FLOAT32 for one in plans[buffer]):
            model.buffers[buffer] = _buffer(_positive(bytes(root.buffers[buffer].data)))
    return model


def _weights(root, graph):
    """Indices of constant tensors that are read as weights and biases, and as nothing else."""
    found: set[int] = set()
    others: set[int] = set()
    for tensors in (graph.inputs, graph.outputs):
        others |= set(_list(tensors))
    for operator in graph.operators or []:
        code = root.operatorCodes[operator.opcodeIndex]
        places = WEIGHT_INPUTS.get(max(code.builtinCode, code.deprecatedBuiltinCode), ())
        for place, index in enumerate(_list(operator.inputs)):
            (found if place in places else others).add(index)
    return [
        index
        for index in sorted(found)
        if index >= 0
        and index not in others
        and not graph.tensors[index].isVariable
        and graph.tensors[index].sparsity is None
        and _data(root, graph.tensors[index])
    ]


def _choose(root, plans):
    """The buffers to encode: a set that no single one, taken out or in, makes smaller."""

    worth = {}
    for buffer, ones in plans.items():
        contents = {content for one in ones for content in (one.encoded, one.ancillary)}
        worth[buffer] = ones[0].bytes_before - sum(len(content) for content in contents)
    # Those whose own bytes do not shrink cannot pay: what comes with them only adds.
    order = sorted((buffer for buffer in plans if worth[buffer] > 0), key=worth.__getitem__)
    chosen = frozenset(order)
    least = len(_pack(_assemble(root, plans, chosen)))
    changed = True
    while changed:
        changed = False
        for buffer in order:
            other = chosen ^ {buffer}
            size = len(_pack(_assemble(root, plans, other)))
            # Of two sets of one size that with less to decode.
            if (size, len(other)) < (least, len(chosen)):
                chosen, least, changed = other, size, True
    return chosen


def _assemble(root, plans, chosen):
    """A file's tables with some buffers encoded; `root` stays as it is."""
    if not chosen:
        return root
    model = copy.copy(root)
    model.buffers = list(root.buffers)
    model.subgraphs = [copy.copy(graph) for graph in root.subgraphs]
    model.operatorCodes = [*root.operatorCodes, _decode_code()]
    slots: dict[bytes, int] = {}
    for buffer in sorted(chosen):
        # The first takes the place of what it replaces, so that no index moves.
        slots.setdefault(plans[buffer][0].encoded, buffer)
        model.buffers[buffer] = _buffer(None)
    for content, buffer in slots.items():
        model.buffers[buffer] = _buffer(content)
    for number, graph in enumerate(model.subgraphs):
        ones = [one for buffer in sorted(chosen) for one in plans[buffer] if one.graph == number]
        _insert_decodes(model, graph, sorted(ones, key=lambda one: one.index), slots)
    model.metadata = [*(root.metadata or []), _checksum_entry(len(model.buffers))]
    model.buffers.append(_buffer(bytes(4)))
    return model


def _insert_decodes(model, graph, candidates, slots):
    """Store candidates encoded, and decode them in front of each operator that reads them."""
    graph.tensors = list(graph.tensors)
    pairs, plain = {}, {}
    for one in candidates:
        pairs[one.index] = len(graph.tensors), len(graph.tensors) + 1
        for content in (one.encoded, one.ancillary):
            graph.tensors.append(_stored(content, _slot(model, slots, content)))
        decoded = copy.copy(one.tensor)
        decoded.buffer = 0
        graph.tensors[one.index] = plain[one.index] = decoded
    operators, used = [], set()
    for operator in graph.operators or []:
        # In the order of the inputs, each once.
        read = dict.fromkeys(index for index in _list(operator.inputs) if index in pairs)
        outputs = {}
        for index in read:
            outputs[index] = index
            if index in used:
                outputs[index] = len(graph.tensors)
                again = copy.copy(plain[index])
                again.name = None
                graph.tensors.append(again)
            used.add(index)
        if outputs:
            decode = schema.OperatorT()
            decode.opcodeIndex = len(model.operatorCodes) - 1
            decode.inputs = np.array([i for index in read for i in pairs[index]], np.int32)
            decode.outputs = np.array(list(outputs.values()), np.int32)
            operators.append(decode)
            operator = copy.copy(operator)
            operator.inputs = np.array(
                [outputs.get(index, index) for index in _list(operator.inputs)], np.int32
            )
        operators.append(operator)
    graph.operators = operators


def _slot(model, slots, content):
    """The buffer that holds some bytes, one for all tensors with the same."""
    if content not in slots:
        slots[content] = len(model.buffers)
        model.buffers.append(_buffer(content))
    return slots[content]


def _stored(content, buffer):
    tensor = schema.TensorT()
    tensor.shape = np.array([len(content)], np.int32)
    tensor.type = TENSOR.UINT8
    tensor.buffer = buffer
    return tensor


def _decode_code():
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = BUILTIN.CUSTOM
    code.customCode = OPERATOR
    code.version = 1
    return code


def _largest_decoded(root):
    """The most that one DECODE of a file writes, each tensor rounded up to 16 bytes."""
    opcode = _decode_opcode(root)
    return max(
        sum(
            _padded(_size(graph.tensors[index]) * ITEM_BYTES[graph.tensors[index].type])
            for index in operator.outputs
        )
        for graph in root.subgraphs
        for operator in graph.operators or []
        if operator.opcodeIndex == opcode
    )


def _run(content, result, root, report):
    """A report with arenas, once both files gave the same in TFLite Micro."""
    random = np.random.default_rng(0)
    graph = root.subgraphs[0]
    rows = id_bounds(content)
    inputs = [
        _examples(random, graph.tensors[index], rows.get(index)) for index in _list(graph.inputs)
    ]
    with tempfile.TemporaryDirectory() as folder:
        before, after = pathlib.Path(folder, "plain.tflite"), pathlib.Path(folder, "coded.tflite")
        before.write_bytes(content)
        after.write_bytes(result)
        plain = micro.run(before, inputs)
        if not report.encoded:
            return dataclasses.replace(
                report, arena_before=plain.arena_bytes, arena_after=plain.arena_bytes
            )
        coded = micro.run(after, inputs)
        alternate = micro.run(after, inputs, report.decoded_bytes)
    for outputs in (coded.outputs, alternate.outputs):
        for expected, received in zip(plain.outputs, outputs, strict=True):
            if expected.tobytes() != received.tobytes():
                raise EncodeError(
                    "Expected the outputs of the file that was given, bit by bit, in TFLite "
                    f"Micro. Received: {np.count_nonzero(expected != received)} others of "
                    f"{expected.size}"
                )
    return dataclasses.replace(
        report,
        arena_before=plain.arena_bytes,
        arena_after=coded.arena_bytes,
        arena_alternate=alternate.arena_bytes,
    )


def _examples(random, tensor, rows=None):
    """Random inputs; of ids that choose from a table, below its number of rows."""
    shape = (EXAMPLES, *([] if tensor.shape is None else tensor.shape))
    if rows is not None and tensor.type in NUMPY_TYPES:
        return random.integers(0, max(1, rows), shape).astype(NUMPY_TYPES[tensor.type])
    if tensor.type == TENSOR.FLOAT32:
        return random.standard_normal(shape).astype("float32")
    if tensor.type == TENSOR.BOOL:
        return random.random(shape) < 0.5
    names = {
        TENSOR.INT8: "int8",
        TENSOR.UINT8: "uint8",
        TENSOR.INT16: "int16",
        TENSOR.INT32: "int32",
        TENSOR.INT64: "int64",
    }
    if tensor.type not in names:
        raise EncodeError(
            f"{_name(tensor)}: expected an input of float32, integers or bool. "
            f"Received: type {tensor.type}; `run=False` does without."
        )
    limits = np.iinfo(names[tensor.type])
    return random.integers(limits.min, limits.max, shape, limits.dtype, endpoint=True)


# --- Decoding ------------------------------------------------------------------------


def _restore(root, graph, opcode, slots):
    """Take the DECODE operators out of a graph; returns the buffers that they alone read."""
    rest: list[schema.OperatorT] = []
    homes: dict[int, int] = {}
    outputs_of: dict[tuple[int, int], list[int]] = {}
    for operator in graph.operators or []:
        if operator.opcodeIndex != opcode:
            rest.append(operator)
            continue
        inputs, outputs = _list(operator.inputs), _list(operator.outputs)
        if not outputs or len(inputs) != 2 * len(outputs):
            raise EncodeError(
                "Expected DECODE operators with two inputs for each output. "
                f"Received: {len(inputs)} and {len(outputs)}"
            )
        for place, output in enumerate(outputs):
            pair = inputs[2 * place], inputs[2 * place + 1]
            outputs_of.setdefault(pair, []).append(output)
    contents = {}
    for pair, outputs in outputs_of.items():
        home = min(outputs)
        contents[home] = _restored(root, graph, pair, home)
        for output in outputs:
            if output in homes:
                raise EncodeError(
                    f"{_name(graph.tensors[output])}: expected one DECODE for each tensor. "
                    "Received: two"
                )
            homes[output] = home
            same = copy.copy(graph.tensors[output])
            same.name = graph.tensors[home].name
            if _tree(same, root) != _tree(graph.tensors[home], root):
                raise EncodeError(
                    f"{_name(graph.tensors[home])}: expected all that it decodes to alike. "
                    "Received: different shapes, types or quantizations"
                )
    for home, content in contents.items():
        if content not in slots:
            slots[content] = len(root.buffers)
            root.buffers.append(_buffer(content))
        graph.tensors[home].buffer = slots[content]
    removed = {index for pair in outputs_of for index in pair}
    removed |= {output for output, home in homes.items() if output != home}
    graph.operators = rest
    return _remove_tensors(root, graph, removed, homes)


def _restored(root, graph, pair, home):
    """The bytes of a tensor that a DECODE writes."""
    tensor, name = graph.tensors[home], _name(graph.tensors[home])
    stored = [graph.tensors[index] for index in pair]
    for one in stored:
        data = _data(root, one)
        if one.type != TENSOR.UINT8 or _size(one) != len(data) or not data:
            raise EncodeError(
                f"{name}: expected constant uint8 tensors to decode. Received: type {one.type}, "
                f"{_size(one)} elements in {len(data)} bytes"
            )
    if _data(root, tensor) or tensor.isVariable or tensor.sparsity is not None:
        raise EncodeError(f"{name}: expected no values of its own. Received: some")
    encoded, ancillary = (_data(root, one) for one in stored)
    size = _size(tensor)
    # Before anything of that size is made: a shape may be altered, too.
    if len(encoded) != -(-size // 8):
        raise EncodeError(
            f"{name}: expected {-(-size // 8)} bytes of bits, one bit for each of {size} "
            f"elements. Received: {len(encoded)}"
        )
    try:
        points = _zero_points(tensor)
    except EncodeError as error:
        raise EncodeError(f"{name}: {error}") from None
    return _unpack_zeros(encoded, ancillary, points, name)


def _remove_tensors(root, graph, removed, homes):
    """Take tensors out of a graph; returns the buffers that they were stored in."""
    places = {-1: -1}
    left: list[schema.TensorT] = []
    for index, tensor in enumerate(graph.tensors):
        if index not in removed:
            places[index] = len(left)
            left.append(tensor)

    def moved(indices):
        if indices is None:
            return None
        indices = [homes.get(index, index) for index in _list(indices)]
        if not places.keys() >= set(indices):
            raise EncodeError(
                "Expected encoded tensors that DECODE operators alone read. "
                "Received: one that is read as something else, too"
            )
        return np.array([places[index] for index in indices], np.int32)

    for operator in graph.operators:
        operator.inputs, operator.outputs = moved(operator.inputs), moved(operator.outputs)
        operator.intermediates = moved(operator.intermediates)
    graph.inputs, graph.outputs = moved(graph.inputs), moved(graph.outputs)
    for signature in root.signatureDefs or []:
        if root.subgraphs[signature.subgraphIndex] is graph:
            for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
                entry.tensorIndex = int(moved([entry.tensorIndex])[0])
    dropped = {graph.tensors[index].buffer for index in removed}
    graph.tensors = left
    return dropped - {0}


def _drop_buffers(root, dropped):
    """Take buffers out of a file that nothing reads any more."""
    holders = [tensor for graph in root.subgraphs for tensor in graph.tensors]
    holders += root.metadata or []
    dropped = dropped - {holder.buffer for holder in holders}
    places: dict[int, int] = {}
    for index in range(len(root.buffers)):
        if index not in dropped:
            places[index] = len(places)
    root.buffers = [root.buffers[index] for index in places]
    for holder in holders:
        holder.buffer = places[holder.buffer]
    if root.metadataBuffer is not None:
        kept = [places[index] for index in root.metadataBuffer if index in places]
        root.metadataBuffer = np.array(kept, np.int32)


# --- Writing -------------------------------------------------------------------------


def _buffer(data):
    buffer = schema.BufferT()
    buffer.data = data
    return buffer


def _pack(root):
    """The bytes of a file, with its checksum if it is to have one."""
    content = bytearray(pack(root))
    for entry in root.metadata or []:
        if entry.name == CHECKSUM:
            place = _place(content, entry.buffer)
            place[:] = np.frombuffer(_checksum(content), np.uint8)
    return bytes(content)


def _checksum_entry(buffer):
    entry = schema.MetadataT()
    entry.name, entry.buffer = CHECKSUM, buffer
    return entry


def _checksum(content):
    return zlib.crc32(content).to_bytes(4, "little")


def _place(content, buffer):
    """A view of a buffer's bytes in those of a file, to write to."""
    return schema.Model.GetRootAs(content).Buffers(buffer).DataAsNumpy()


def _check_seal(content, buffer):
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


# --- Command line --------------------------------------------------------------------
