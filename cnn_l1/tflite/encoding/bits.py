"""The format that TFLite Micro's DECODE reads: a bit an element, a header, the nonzero values.

Of DECODE's formats this package writes "pruning" (type 2). A tensor of n elements of s bytes
each, k of them not zero, becomes two constant tensors, uint8 and of rank 1:

    encoded     ⌈n/8⌉ bytes: bit i, the most significant of a byte first, is 1 where
                element i, in row-major order, is not its zero point; the rest are 0
    ancillary   16 bytes 02 01 00 00 01 00 … 00: type 2 and version 1 of the common
                header, 2 reserved bytes, version 1 of "pruning", 11 bytes not used;
                then the k other elements, k·s bytes, little-endian, in the same order

    size = ⌈n/8⌉ + 16 + k·s bytes, instead of n·s; and about 120 bytes more for the two
    tensors, the operator and their alignment to 16 bytes, and 130 for each file

A float −0.0 is stored as 0.0 (folding a batch-norm with a negative gamma makes −0.0 of a
channel's zeros). The outputs stay the same bit by bit: a sum of products begins at 0.0, which
neither 0.0 nor −0.0 changes. Everything else comes back as it was, NaN included.

Source: github.com/tensorflow/tflite-micro, tensorflow/lite/micro/kernels/decode.cc,
decode_state.h, decode_state_prune.cc (and xtensa/xtensa_decode_state_prune.cc: the same
layout), and tensorflow/lite/micro/compression/decode.py and decode_insert.py.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.tflite.encoding.reports import EncodeError

OPERATOR = b"TFLM_DECODE"
HEADER = bytes([2, 1, 0, 0, 1, *[0] * 11])

TENSOR = schema.TensorType

# The types of weights and biases that the runtime decodes, by the bytes of an element.
# Elements are compared and copied as bits, except for −0.0.
ITEM_BYTES = {TENSOR.FLOAT32: 4, TENSOR.INT8: 1, TENSOR.INT16: 2, TENSOR.INT32: 4, TENSOR.INT64: 8}
WORDS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def element_count(tensor: Any) -> int:
    """How many elements a `TensorT` has."""
    return 1 if tensor.shape is None else int(np.prod(tensor.shape, dtype=np.int64))


def zero_points(tensor: Any) -> np.ndarray:
    """What the runtime writes where a bit is 0, for each element, as its bits.

    Per tensor or per channel, as the tensor's quantization says.

    Args:
        tensor: A `TensorT`.

    Returns:
        `(elements,)` of an unsigned type as wide as the tensor's.

    Raises:
        EncodeError: If the runtime does not decode such a tensor.
    """
    if tensor.type not in ITEM_BYTES:
        raise EncodeError(f"expected float32 or int8 to int64. Received: type {tensor.type}")
    words = WORDS[ITEM_BYTES[tensor.type]]
    size, quantization = element_count(tensor), tensor.quantization
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


def pack_zeros(words: np.ndarray, points: np.ndarray) -> tuple[bytes, bytes]:
    """`(encoded, ancillary)` of a tensor's bits: see the module's text.

    Args:
        words: The elements, as unsigned integers of their width.
        points: See `zero_points`.
    """
    others = words != points
    return np.packbits(others).tobytes(), HEADER + words[others].tobytes()


def unpack_zeros(encoded: bytes, ancillary: bytes, points: np.ndarray, name: str) -> bytes:
    """The bytes of a tensor, once what it is stored in is known to be right.

    Args:
        encoded: The bits.
        ancillary: The header and the values that are not zero.
        points: See `zero_points`.
        name: The tensor's name, for errors.

    Raises:
        EncodeError: If header, lengths or number of bits do not fit.
    """
    size, item = len(points), points.itemsize
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
    words = points.copy()
    words[bits[:size]] = np.frombuffer(values, points.dtype)
    return words.tobytes()


def without_signs_of_zeros(data: bytes) -> bytes:
    """The bytes of float32 values with 0.0 for −0.0."""
    words = np.frombuffer(data, "<u4")
    return np.where(words == 1 << 31, 0, words).astype("<u4").tobytes()
