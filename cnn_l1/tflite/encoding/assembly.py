"""The encoded file: constants replaced by their bits and values, DECODE operators put in.

The tensor that was there keeps its index, name, shape and quantization, loses its buffer, and
becomes the output of a DECODE right before the operator that reads it. If several operators
read it, each has a DECODE of its own: TFLite Micro keeps what one decodes for the next operator
only, since memory besides the arena is used again. One DECODE decodes everything that its
operator reads.
"""

import copy
import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.tflite.encoding.bits import ITEM_BYTES, OPERATOR, TENSOR, element_count
from cnn_l1.tflite.encoding.reports import EncodedTensor
from cnn_l1.tflite.encoding.whole_file import (
    as_list,
    checksum_entry,
    decode_opcode,
    name_of,
    new_buffer,
)
from cnn_l1.tflite.file import ALIGNMENT


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A tensor that may be encoded, and what it would be stored in.

    Attributes:
        graph: Number of the subgraph.
        index: Of the tensor in it.
        tensor: The `TensorT`.
        bytes_before: Its size as it is.
        zeros: How many elements equal their zero point.
        encoded, ancillary: See `bits`.
    """

    graph: int
    index: int
    tensor: Any
    bytes_before: int
    zeros: int
    encoded: bytes
    ancillary: bytes

    def summary(self) -> EncodedTensor:
        """What a report says of it."""
        return EncodedTensor(
            name=name_of(self.tensor),
            elements=element_count(self.tensor),
            zeros=self.zeros,
            bytes_before=self.bytes_before,
            bytes_after=len(self.encoded) + len(self.ancillary),
        )


# By buffer: several tensors may share one.
Plans = dict[int, list[Candidate]]


def assemble(root: Any, plans: Plans, chosen: Collection[int]) -> Any:
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
        model.buffers[buffer] = new_buffer(None)
    for content, buffer in slots.items():
        model.buffers[buffer] = new_buffer(content)
    for number, graph in enumerate(model.subgraphs):
        ones = [one for buffer in sorted(chosen) for one in plans[buffer] if one.graph == number]
        _insert_decodes(model, graph, sorted(ones, key=lambda one: one.index), slots)
    model.metadata = [*(root.metadata or []), checksum_entry(len(model.buffers))]
    model.buffers.append(new_buffer(bytes(4)))
    return model


def _insert_decodes(
    model: Any, graph: Any, candidates: list[Candidate], slots: dict[bytes, int]
) -> None:
    """Store candidates encoded, and decode them before each operator that reads them."""
    graph.tensors = list(graph.tensors)
    pairs: dict[int, tuple[int, int]] = {}
    plain: dict[int, Any] = {}
    for one in candidates:
        pairs[one.index] = len(graph.tensors), len(graph.tensors) + 1
        for content in (one.encoded, one.ancillary):
            graph.tensors.append(_stored(content, _slot(model, slots, content)))
        decoded = copy.copy(one.tensor)
        decoded.buffer = 0
        graph.tensors[one.index] = plain[one.index] = decoded
    operators: list[Any] = []
    used: set[int] = set()
    for operator in graph.operators or []:
        # In the order of the inputs, each once.
        read = dict.fromkeys(index for index in as_list(operator.inputs) if index in pairs)
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
                [outputs.get(index, index) for index in as_list(operator.inputs)], np.int32
            )
        operators.append(operator)
    graph.operators = operators


def _slot(model: Any, slots: dict[bytes, int], content: bytes) -> int:
    """The buffer that holds some bytes, one for all tensors with the same."""
    if content not in slots:
        slots[content] = len(model.buffers)
        model.buffers.append(new_buffer(content))
    return slots[content]


def _stored(content: bytes, buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.shape = np.array([len(content)], np.int32)
    tensor.type = TENSOR.UINT8
    tensor.buffer = buffer
    return tensor


def _decode_code() -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = OPERATOR
    code.version = 1
    return code


def largest_decoded(root: Any) -> int:
    """The most that one DECODE of a file writes, in bytes, each tensor rounded up to 16."""
    opcode = decode_opcode(root)
    return max(
        sum(
            _padded(element_count(graph.tensors[index]) * ITEM_BYTES[graph.tensors[index].type])
            for index in operator.outputs
        )
        for graph in root.subgraphs
        for operator in graph.operators or []
        if operator.opcodeIndex == opcode
    )


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
