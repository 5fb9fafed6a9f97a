"""Smaller `.tflite` files for TFLite Micro: a bit for each weight, and the nonzero ones.

    python -m cnn_l1.encode MODEL.tflite --output SMALL.tflite

The weights are stored as one bit each (zero or not) plus the values that are not zero. TFLite
Micro's operator `TFLM_DECODE` writes them out in memory before the operator that reads them:
less flash, more RAM and some time. LiteRT and TensorFlow Lite do not know that operator, so the
file is for TFLite Micro only. `bits` has the format, byte by byte.

What it costs: a decoded tensor is in the arena while its operator runs, so the arena grows by
about the largest one, and weights are decoded again in every inference. A program on the
microcontroller may give other memory for it, such as a slower bank, with
`MicroInterpreter::SetDecompressionMemory`; `EncodeReport.decoded_bytes` says how much.

Checked with TFLite Micro's reference kernels. Check optimized kernels on your own chip: those
that read weights while they prepare, before anything is decoded, would read garbage.

Encoded files carry a CRC-32, which `decode_zeros` checks. TFLite Micro does not check it, nor any
length (tflite-micro issue 3704): check a file before you flash it. A plain file has no
checksum, so a corrupted weight in it goes unnoticed.
"""

from cnn_l1.tflite.encoding.codec import decode_zeros, encode_zeros
from cnn_l1.tflite.encoding.reports import (
    EncodedTensor,
    EncodeError,
    EncodeReport,
    KeptTensor,
)

__all__ = [
    "EncodeError",
    "EncodeReport",
    "EncodedTensor",
    "KeptTensor",
    "decode_zeros",
    "encode_zeros",
]
