"""Inputs that any TFLite file takes: random ones, ids within the tables they choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_l1.tflite.file import ExportError, operator_name, parse, reads_a_file
from cnn_l1.tflite.runner import TFLiteRunner

# Where an operator takes ids, and the table they choose from: (ids, table).
LOOKUPS = {"GATHER": (1, 0), "GATHER_ND": (1, 0), "EMBEDDING_LOOKUP": (0, 1)}
# Operators through which an id stays one, give or take the table's size.
CARRIERS = {
    "ADD",
    "CAST",
    "CONCATENATION",
    "EXPAND_DIMS",
    "FLOOR",
    "MAXIMUM",
    "MINIMUM",
    "PACK",
    "RESHAPE",
    "SELECT",
    "SELECT_V2",
    "SLICE",
    "SPLIT",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TRANSPOSE",
    "UNPACK",
}
OPEN_SIZES = (32, 64, 128, 256, 16, 8, 4, 2, 1)  # tried in turn


@reads_a_file
def id_bounds(content: bytes) -> dict[int, int]:
    """How many rows an input's ids choose from: `{tensor index: rows}` of the main graph."""
    root = parse(content)
    graph = root.subgraphs[0]
    makers = {int(out): one for one in graph.operators or [] for out in one.outputs}
    bounds: dict[int, int] = {}
    for operator in graph.operators or []:
        name = operator_name(root, operator)
        if name not in LOOKUPS:
            continue
        ids, table = LOOKUPS[name]
        axis = getattr(operator.builtinOptions, "axis", 0) if name == "GATHER" else 0
        shape = graph.tensors[operator.inputs[table]].shape
        if shape is None or not len(shape):
            continue
        rows = int(shape[axis])
        wanted, seen = [int(operator.inputs[ids])], set()
        while wanted:
            index = wanted.pop()
            if index in seen or index < 0:
                continue
            seen.add(index)
            if index in graph.inputs:
                bounds[index] = min(rows, bounds.get(index, rows))
            maker = makers.get(index)
            if maker is not None and operator_name(root, maker) in CARRIERS:
                wanted += [int(one) for one in maker.inputs]
    return bounds


def random_inputs(
    interpreter: Any, bounds: Mapping[int, int] | None = None, zeros: bool = False
) -> None:
    """Set inputs that are not all equal, for some kernels are faster on zeros.

    Args:
        interpreter: LiteRT's interpreter, its memory allocated.
        bounds: See `id_bounds`.
        zeros: Whether integers without a scale, which may be ids, are 0. Default `False`.
    """
    random = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        dtype, shape = np.dtype(detail["dtype"]), detail["shape"]
        rows = (bounds or {}).get(detail["index"])
        if rows is not None:
            values = random.integers(0, max(1, rows), shape)
        elif np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            low, high = max(limits.min, -(2**15)), min(limits.max, 2**15 - 1)
            values = random.integers(low, high, shape, endpoint=True)
            if zeros and not detail["quantization"][0]:
                values = np.zeros(shape)
        elif dtype == np.bool_:
            values = random.integers(0, 2, shape)
        else:
            values = random.uniform(0, 1, shape)
        interpreter.set_tensor(detail["index"], np.asarray(values).astype(dtype))


def run_once(runner: TFLiteRunner, content: bytes) -> tuple[int, ...] | None:
    """Run a file once on random inputs, and leave them set.

    Args:
        runner: A `TFLiteRunner` of the file.
        content: The file's bytes.

    Returns:
        The shape that the first input of an open size was given, or `None`.

    Raises:
        ExportError: If LiteRT does not run it.
    """
    interpreter = runner.interpreter
    details = runner.inputs
    signatures = [tuple(map(int, detail["shape_signature"])) for detail in details]
    is_open = [-1 in signature[1:] for signature in signatures]
    bounds = id_bounds(content)
    failure: Exception = ExportError("no size")
    for size in OPEN_SIZES if any(is_open) else OPEN_SIZES[:1]:
        shapes = [
            tuple((1 if place == 0 else size) if n == -1 else n for place, n in enumerate(shape))
            for shape in signatures
        ]
        for zeros in (False, True):
            try:
                for detail, shape, changed in zip(details, shapes, is_open, strict=True):
                    if changed:
                        interpreter.resize_tensor_input(detail["index"], shape)
                interpreter.allocate_tensors()
                random_inputs(interpreter, bounds, zeros)
                interpreter.invoke()
            except (RuntimeError, ValueError) as error:
                failure = error
            else:
                return next((s for s, one in zip(shapes, is_open, strict=True) if one), None)
    reason = " ".join(str(failure).split())
    raise ExportError(f"{runner.name}: expected a file that LiteRT runs. Received: {reason}")
