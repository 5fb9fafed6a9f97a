"""Run the plain and the encoded file in TFLite Micro: equal outputs, and their arenas."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import numpy as np

from cnn_l1.tflite import micro
from cnn_l1.tflite.encoding.bits import TENSOR
from cnn_l1.tflite.encoding.reports import EncodeError, EncodeReport
from cnn_l1.tflite.encoding.whole_file import as_list, name_of
from cnn_l1.tflite.file import NUMPY_TYPES
from cnn_l1.tflite.sample_inputs import id_bounds

EXAMPLES = 3


def run_both(content: bytes, result: bytes, root: Any, report: EncodeReport) -> EncodeReport:
    """A report with arenas, once both files gave the same outputs in TFLite Micro.

    Args:
        content: The plain file.
        result: The encoded file; not run where nothing is encoded.
        root: The tables of the plain file.
        report: What is known before.

    Raises:
        EncodeError: If an output differs in a bit, or an input is of a type that no random
            values are made for.
        micro.MicroError: If TFLite Micro does not run a file.
    """
    random = np.random.default_rng(0)
    graph = root.subgraphs[0]
    rows = id_bounds(content)
    inputs = [
        _examples(random, graph.tensors[index], rows.get(index)) for index in as_list(graph.inputs)
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


def _examples(random: np.random.Generator, tensor: Any, rows: int | None = None) -> np.ndarray:
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
            f"{name_of(tensor)}: expected an input of float32, integers or bool. "
            f"Received: type {tensor.type}; `run=False` does without."
        )
    limits = np.iinfo(names[tensor.type])
    return random.integers(limits.min, limits.max, shape, limits.dtype, endpoint=True)
