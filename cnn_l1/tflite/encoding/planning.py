"""Which tensors to encode: the set that makes the whole file smallest, step by step."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.tflite.encoding import assembly, bits
from cnn_l1.tflite.encoding.assembly import Candidate, Plans
from cnn_l1.tflite.encoding.reports import EncodeError, KeptTensor
from cnn_l1.tflite.encoding.whole_file import as_list, data_of, name_of, new_buffer, pack_sealed

BUILTIN = schema.BuiltinOperator

# The inputs that hold weights and biases. Reference kernels do not read their values before
# the operator runs; those of shapes and paddings they do.
WEIGHT_INPUTS = {
    BUILTIN.CONV_2D: (1, 2),
    BUILTIN.DEPTHWISE_CONV_2D: (1, 2),
    BUILTIN.FULLY_CONNECTED: (1, 2),
    BUILTIN.TRANSPOSE_CONV: (1, 3),
}


def plan(root: Any, decoded_limit: int | None) -> tuple[Plans, list[KeptTensor]]:
    """What may be encoded.

    Args:
        root: The file's tables.
        decoded_limit: The largest tensor to encode, in bytes as decoded, or `None`.

    Returns:
        `(plans, kept)`: for each buffer the candidates that share it, all of them or
        none, since one that is not encoded keeps the buffer in the file; and the weights
        that may not be.
    """
    plans: Plans = {}
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
                kept.append(KeptTensor(name_of(tensor), len(data_of(root, tensor)), str(error)))
                held.add(tensor.buffer)
            else:
                plans.setdefault(tensor.buffer, []).append(one)
    for buffer in sorted(held & set(plans)):
        kept += [
            KeptTensor(name_of(one.tensor), one.bytes_before, "shares its bytes with one kept")
            for one in plans.pop(buffer)
        ]
    return plans, kept


def _candidate(root: Any, number: int, index: int, decoded_limit: int | None) -> Candidate:
    tensor = root.subgraphs[number].tensors[index]
    data = data_of(root, tensor)
    if decoded_limit is not None and len(data) > decoded_limit:
        raise EncodeError(f"more than {decoded_limit} bytes decoded")
    points = bits.zero_points(tensor)
    stored = bits.without_signs_of_zeros(data) if tensor.type == bits.TENSOR.FLOAT32 else data
    words = np.frombuffer(stored, points.dtype)
    zeros = int(np.count_nonzero(words == points))
    return Candidate(number, index, tensor, len(data), zeros, *bits.pack_zeros(words, points))


def _weights(root: Any, graph: Any) -> list[int]:
    """Indices of constant tensors that are read as weights and biases, and as nothing else."""
    found: set[int] = set()
    others: set[int] = set()
    for tensors in (graph.inputs, graph.outputs):
        others |= set(as_list(tensors))
    for operator in graph.operators or []:
        code = root.operatorCodes[operator.opcodeIndex]
        places = WEIGHT_INPUTS.get(max(code.builtinCode, code.deprecatedBuiltinCode), ())
        for place, index in enumerate(as_list(operator.inputs)):
            (found if place in places else others).add(index)
    return [
        index
        for index in sorted(found)
        if index >= 0
        and index not in others
        and not graph.tensors[index].isVariable
        and graph.tensors[index].sparsity is None
        and data_of(root, graph.tensors[index])
    ]


def choose(root: Any, plans: Plans) -> tuple[frozenset[int], bytes]:
    """The buffers to encode, and the file's bytes then.

    The set is one that no single buffer, taken out or in, makes smaller: alignment, tensors,
    operators and metadata count.
    """
    worth = {}
    for buffer, ones in plans.items():
        contents = {content for one in ones for content in (one.encoded, one.ancillary)}
        worth[buffer] = ones[0].bytes_before - sum(len(content) for content in contents)
    # Those whose own bytes do not shrink cannot pay: what comes with them only adds.
    order = sorted((buffer for buffer in plans if worth[buffer] > 0), key=worth.__getitem__)
    chosen = frozenset(order)
    best = pack_sealed(assembly.assemble(root, plans, chosen))
    changed = True
    while changed:
        changed = False
        for buffer in order:
            other = chosen ^ {buffer}
            content = pack_sealed(assembly.assemble(root, plans, other))
            # Of two sets of one size that with less to decode.
            if (len(content), len(other)) < (len(best), len(chosen)):
                chosen, best, changed = other, content, True
    return chosen, best


def without_signs(root: Any, plans: Plans, chosen: Iterable[int]) -> Any:
    """A file's tables with 0.0 for −0.0 in what is encoded, and in nothing else."""
    model = copy.copy(root)
    model.buffers = list(root.buffers)
    for buffer in chosen:
        if all(one.tensor.type == bits.TENSOR.FLOAT32 for one in plans[buffer]):
            data = bits.without_signs_of_zeros(bytes(root.buffers[buffer].data))
            model.buffers[buffer] = new_buffer(data)
    return model
