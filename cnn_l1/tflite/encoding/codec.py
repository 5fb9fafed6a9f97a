"""Encode the zeros of a `.tflite` file for TFLite Micro, and decode them again."""

import gzip

from cnn_l1.tflite.encoding import assembly, planning, restoring, trial
from cnn_l1.tflite.encoding.reports import EncodeError, EncodeReport, KeptTensor
from cnn_l1.tflite.encoding.whole_file import check_plain, name_of, pack_sealed, read, tree


def encode_zeros(
    content: bytes, decoded_limit: int | None = None, run: bool = True
) -> tuple[bytes, EncodeReport]:
    """Store the zeros of a `.tflite` file in one bit each, where that makes it smaller.

    Which tensors are encoded is chosen by the size of the whole file: taking any single one
    out, or in, would not make it smaller. The result is decoded again and compared with what
    was given: everything is the same, except that a float −0.0 becomes 0.0 in an encoded
    tensor, which changes no output.

    Args:
        content: The bytes of a `.tflite` file that is not encoded yet.
        decoded_limit: The largest tensor to encode, in bytes as decoded, 1 or more: the
            arena grows to the largest one. Default: no limit.
        run: Whether to run both files in TFLite Micro on random inputs, compare the outputs
            bit by bit and measure the arenas. Takes seconds. Default `True`.

    Returns:
        `(encoded, report)`: the bytes of the file and an `EncodeReport`. `content` itself if
            encoding does not make it smaller.

    Raises:
        EncodeError: If the file is cut short, altered, encoded already, or not one that
            can be edited.
        micro.MicroError: If TFLite Micro does not run the file as it was.

    Example:
        >>> import pathlib
        >>> small, report = encode_zeros(pathlib.Path("model_int8.tflite").read_bytes())
        >>> print(report)
    """
    content = bytes(content)
    root = read(content)
    check_plain(root)
    plans, kept = planning.plan(root, decoded_limit)
    chosen, result = planning.choose(root, plans)
    if not chosen or len(result) >= len(content):
        result, chosen = content, frozenset()
    kept += [
        KeptTensor(name_of(one.tensor), one.bytes_before, "no smaller encoded")
        for buffer, ones in plans.items()
        for one in ones
        if buffer not in chosen
    ]
    decoded_bytes = 0
    if chosen:
        # Read back from the bytes: what is checked is what a user gets.
        written = read(result)
        decoded_bytes = assembly.largest_decoded(written)
        restoring.restore(result, written)
        if tree(written) != tree(planning.without_signs(root, plans, chosen)):
            raise EncodeError(
                "Expected a file that decodes to the one that was given. Received: another; "
                "its layout is one that this module does not know."
            )
    report = EncodeReport(
        bytes_before=len(content),
        bytes_after=len(result),
        gzip_before=len(gzip.compress(content, 9)),
        gzip_after=len(gzip.compress(result, 9)),
        encoded=tuple(one.summary() for buffer in sorted(chosen) for one in plans[buffer]),
        kept=tuple(kept),
        decoded_bytes=decoded_bytes,
    )
    return result, trial.run_both(content, result, root, report) if run else report


def decode_zeros(content: bytes) -> bytes:
    """The plain file of an encoded one, with the same tensors and operators.

    Args:
        content: The bytes of a `.tflite` file. Its DECODE operators must be of type
            "pruning", written by any program; a checksum is checked if the file has one.

    Returns:
        The bytes of a file without DECODE operators; `content` itself if it has none.

    Raises:
        EncodeError: If the file is cut short or altered, or if an encoded tensor has a wrong
            header, wrong lengths or a wrong number of bits set: see `bits`.

    Example:
        >>> import pathlib
        >>> content = pathlib.Path("model_int8.tflite").read_bytes()
        >>> small, _ = encode_zeros(content)
        >>> len(decode_zeros(small)) == len(content)
        True
    """
    content = bytes(content)
    root = read(content)
    return pack_sealed(root) if restoring.restore(content, root) else content
