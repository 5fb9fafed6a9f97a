"""Back to the plain file: DECODE operators taken out, tensors stored as constants again."""

import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.tflite.encoding.bits import TENSOR, element_count, unpack_zeros, zero_points
from cnn_l1.tflite.encoding.reports import EncodeError
from cnn_l1.tflite.encoding.whole_file import (
    CHECKSUM,
    as_list,
    check_checksum,
    data_of,
    decode_opcode,
    name_of,
    new_buffer,
    operators_of,
    tree,
)


def restore(content: bytes, root: Any) -> bool:
    """Make the tables of an encoded file those of the plain one, in place.

    Args:
        content: The file's bytes, for its checksum.
        root: Its tables.

    Returns:
        Whether there was anything to restore: DECODE operators, or a checksum.

    Raises:
        EncodeError: See `decode_zeros`.
    """
    opcode = decode_opcode(root)
    seal = [entry for entry in root.metadata or [] if entry.name == CHECKSUM]
    if seal:
        check_checksum(content, seal[0].buffer)
        root.metadata = [entry for entry in root.metadata if entry is not seal[0]] or None
    elif opcode is None:
        return False
    dropped = {entry.buffer for entry in seal}
    slots: dict[bytes, int] = {}
    for graph in root.subgraphs:
        dropped |= _restore_graph(root, graph, opcode, slots)
    if opcode is not None:
        del root.operatorCodes[opcode]
        for operator in operators_of(root):
            operator.opcodeIndex -= operator.opcodeIndex > opcode
    _drop_buffers(root, dropped)
    return True


def _restore_graph(root: Any, graph: Any, opcode: int | None, slots: dict[bytes, int]) -> set[int]:
    """Take the DECODE operators out of a graph; returns the buffers that they alone read."""
    rest: list[Any] = []
    homes: dict[int, int] = {}
    outputs_of: dict[tuple[int, int], list[int]] = {}
    for operator in graph.operators or []:
        if operator.opcodeIndex != opcode:
            rest.append(operator)
            continue
        inputs, outputs = as_list(operator.inputs), as_list(operator.outputs)
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
                    f"{name_of(graph.tensors[output])}: expected one DECODE for each tensor. "
                    "Received: two"
                )
            homes[output] = home
            same = copy.copy(graph.tensors[output])
            same.name = graph.tensors[home].name
            if tree(same, root) != tree(graph.tensors[home], root):
                raise EncodeError(
                    f"{name_of(graph.tensors[home])}: expected all that it decodes to alike. "
                    "Received: different shapes, types or quantizations"
                )
    for home, content in contents.items():
        if content not in slots:
            slots[content] = len(root.buffers)
            root.buffers.append(new_buffer(content))
        graph.tensors[home].buffer = slots[content]
    removed = {index for pair in outputs_of for index in pair}
    removed |= {output for output, home in homes.items() if output != home}
    graph.operators = rest
    return _remove_tensors(root, graph, removed, homes)


def _restored(root: Any, graph: Any, pair: tuple[int, int], home: int) -> bytes:
    """The bytes of a tensor that a DECODE writes."""
    tensor, name = graph.tensors[home], name_of(graph.tensors[home])
    stored = [graph.tensors[index] for index in pair]
    for one in stored:
        data = data_of(root, one)
        if one.type != TENSOR.UINT8 or element_count(one) != len(data) or not data:
            raise EncodeError(
                f"{name}: expected constant uint8 tensors to decode. Received: type {one.type}, "
                f"{element_count(one)} elements in {len(data)} bytes"
            )
    if data_of(root, tensor) or tensor.isVariable or tensor.sparsity is not None:
        raise EncodeError(f"{name}: expected no values of its own. Received: some")
    encoded, ancillary = (data_of(root, one) for one in stored)
    size = element_count(tensor)
    # Before anything of that size is made: a shape may be altered, too.
    if len(encoded) != -(-size // 8):
        raise EncodeError(
            f"{name}: expected {-(-size // 8)} bytes of bits, one bit for each of {size} "
            f"elements. Received: {len(encoded)}"
        )
    try:
        points = zero_points(tensor)
    except EncodeError as error:
        raise EncodeError(f"{name}: {error}") from None
    return unpack_zeros(encoded, ancillary, points, name)


def _remove_tensors(root: Any, graph: Any, removed: set[int], homes: dict[int, int]) -> set[int]:
    """Take tensors out of a graph; returns the buffers that they were stored in."""
    places = {-1: -1}
    left: list[schema.TensorT] = []
    for index, tensor in enumerate(graph.tensors):
        if index not in removed:
            places[index] = len(left)
            left.append(tensor)

    def moved(indices: Any) -> Any:
        if indices is None:
            return None
        indices = [homes.get(index, index) for index in as_list(indices)]
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


def _drop_buffers(root: Any, dropped: set[int]) -> None:
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
