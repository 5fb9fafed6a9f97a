"""Multiply-adds of a TFLite file, operator by operator. No TensorFlow here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.tflite.file import operator_name, parse, reads_a_file

# Of these each weight meets each step of the input once; their weights are the constants
# of rank 2. Peepholes, states and biases have other ranks, or no constant values.
RECURRENT = {
    "LSTM",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM",
    "RNN",
    "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_RNN",
}
# Products of matrices, or operators that may be anything, that are not counted.
UNCOUNTED = {
    "CUSTOM",
    "DELEGATE",
    "STABLEHLO_CONVOLUTION",
    "STABLEHLO_CUSTOM_CALL",
    "STABLEHLO_DOT_GENERAL",
    "STABLEHLO_REDUCE",
    "STABLEHLO_REDUCE_WINDOW",
}
# Operators whose output may have another first axis than their input's.
MOVES = {
    "TRANSPOSE",
    "STRIDED_SLICE",
    "SLICE",
    "GATHER",
    "SPLIT",
    "SPLIT_V",
    "TILE",
    "BROADCAST_TO",
}


@dataclasses.dataclass(frozen=True)
class FileMacs:
    """Multiply-adds of a TFLite file.

    Attributes:
        total: Of one run, as far as they are known.
        unknown: What could not be counted, each once: operators, loops whose number of
            steps the file does not say, and operators of open sizes.
    """

    total: int
    unknown: tuple[str, ...] = ()


@reads_a_file
def file_macs(content: bytes, shapes: Mapping[int, Sequence[int]] | None = None) -> FileMacs:
    """Multiply-adds of one run of a TFLite file, and what could not be counted.

    Of convolutions, dense layers, matrix products and recurrent layers, padding included;
    a weight that is zero counts like any other. A loop counts as often as it runs.

    Args:
        content: The bytes of a `.tflite` file.
        shapes: Shapes of tensors of the main graph, by index, where sizes are open in the
            file. Default: those in the file.
    """
    root = parse(content)
    counter = _Counter(root, dict(shapes or {}))
    total = counter.graph(0) if root.subgraphs else 0
    return FileMacs(total, tuple(dict.fromkeys(counter.unknown)))


def count_tflite_macs(content: bytes) -> int:
    """Multiply-adds of one run of a TFLite file: `file_macs(content).total`."""
    return file_macs(content).total


class _Counter:
    def __init__(self, root: Any, shapes: Mapping[int, Sequence[int]]) -> None:
        self.root = root
        self.shapes = shapes
        self.unknown: list[str] = []
        self.first: dict[tuple[int, int], int] = {}

    def graph(self, number: int, within: tuple[int, ...] = ()) -> int:
        """Multiply-adds of one run of a subgraph."""
        if number in within or not 0 <= number < len(self.root.subgraphs):
            self.unknown.append("a subgraph that calls itself or is not there")
            return 0
        graph = self.root.subgraphs[number]
        self.first.update(_first_sizes(self.root, graph, number))
        return sum(
            self.operator(number, graph, operator, (*within, number))
            for operator in graph.operators or []
        )

    def operator(self, number: int, graph: Any, operator: Any, within: tuple[int, ...]) -> int:
        name = operator_name(self.root, operator)
        options = operator.builtinOptions
        if name == "WHILE":
            once = self.graph(options.bodySubgraphIndex, within)
            once += self.graph(options.condSubgraphIndex, within)
            steps = _steps(self.root, graph, operator) if once else 0
            if steps is None:
                self.unknown.append("WHILE, whose number of steps the file does not say")
                return once
            return once * steps
        if name == "IF":
            branches = [
                self.graph(index, within)
                for index in (options.thenSubgraphIndex, options.elseSubgraphIndex)
            ]
            if branches[0] != branches[1]:
                self.unknown.append("IF, whose branches differ")
            return max(branches)
        if name == "CALL":
            return self.graph(options.subgraph, within)
        if name == "STABLEHLO_COMPOSITE":
            return self.graph(operator.builtinOptions2.decompositionSubgraphIndex, within)
        if name in UNCOUNTED:
            code = self.root.operatorCodes[operator.opcodeIndex].customCode
            self.unknown.append(code.decode(errors="replace") if code else name)
            return 0
        return self.product(number, graph, operator, name)

    def product(self, number: int, graph: Any, operator: Any, name: str) -> int:
        """Multiply-adds of an operator that multiplies matrices; 0 of any other."""

        def shape(index: Any) -> list[int]:
            return self.shape(number, graph, int(index), name)

        inputs, outputs = operator.inputs, operator.outputs
        if name in ("CONV_2D", "FULLY_CONNECTED"):  # the first axis of weights is the outputs
            return math.prod(shape(outputs[0])) * math.prod(shape(inputs[1])[1:])
        if name == "DEPTHWISE_CONV_2D":
            return math.prod(shape(outputs[0])) * math.prod(shape(inputs[1])[1:3])
        if name == "CONV_3D":  # (depth, rows, cols, in, out)
            return math.prod(shape(outputs[0])) * math.prod(shape(inputs[1])[:-1])
        if name in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):  # each pixel meets each weight
            return math.prod(shape(inputs[2])[:-1]) * math.prod(shape(inputs[1]))
        if name == "BATCH_MATMUL":
            first = shape(inputs[0])
            adjoint = operator.builtinOptions is not None and operator.builtinOptions.adjX
            return math.prod(shape(outputs[0])) * first[-2 if adjoint else -1]
        if name == "SVDF":
            batch = math.prod(shape(inputs[0])[:-1])
            return batch * (math.prod(shape(inputs[1])) + math.prod(shape(inputs[2])))
        if name in RECURRENT:
            return math.prod(shape(inputs[0])[:-1]) * sum(
                math.prod(_shape(graph.tensors[index]))
                for index in inputs[1:]
                if index >= 0
                and len(_shape(graph.tensors[index])) == 2
                and _constant(self.root, graph.tensors[index]) is not None
            )
        return 0

    def shape(self, number: int, graph: Any, index: int, name: str) -> list[int]:
        tensor = graph.tensors[index]
        if number == 0 and index in self.shapes:
            return [int(size) for size in self.shapes[index]]
        signature = [] if tensor.shapeSignature is None else list(tensor.shapeSignature)
        if -1 in signature[1:]:
            self.unknown.append(f"{name} of an open size")
        shape = _shape(tensor)
        return [self.first.get((number, index), shape[0]), *shape[1:]] if shape else shape


def _first_sizes(root: Any, graph: Any, number: int) -> dict[tuple[int, int], int]:
    """Sizes of first axes at a batch of 1, where a file with an open batch has 1 for them.

    The first axis may hold more than the batch, such as all pixels of a dense layer's input.
    """
    sizes: dict[int, int] = {}

    def shape(index: int) -> list[int]:
        found = _shape(graph.tensors[index])
        return [sizes.get(index, found[0]), *found[1:]] if found else found

    for operator in graph.operators or []:
        given = [int(i) for i in (operator.inputs if operator.inputs is not None else []) if i >= 0]
        values = [i for i in given if _constant(root, graph.tensors[i]) is None]
        for output in map(int, operator.outputs):
            signature = graph.tensors[output].shapeSignature
            if signature is None or not len(signature) or signature[0] != -1 or not values:
                continue
            rest = math.prod(_shape(graph.tensors[output])[1:])
            source, name = shape(values[0]), operator_name(root, operator)
            if name == "FULLY_CONNECTED":
                width = _shape(graph.tensors[given[1]])[-1]
                rest, count = rest * width, math.prod(source) * _shape(graph.tensors[given[1]])[0]
                sizes[output] = max(1, count // rest) if rest else 1
            elif name == "RESHAPE":
                sizes[output] = max(1, math.prod(source) // rest) if rest else 1
            elif len(source) == len(signature) and name not in MOVES:
                sizes[output] = source[0]
    return {(number, index): size for index, size in sizes.items()}


def _steps(root: Any, graph: Any, operator: Any) -> int | None:
    """How often a WHILE runs: of a counter from a constant, by a constant, below another."""
    options = operator.builtinOptions
    condition = root.subgraphs[options.condSubgraphIndex]
    body = root.subgraphs[options.bodySubgraphIndex]
    makers = {int(o.outputs[0]): o for o in condition.operators or []}
    found = []
    wanted = [int(condition.outputs[0])]
    while wanted:
        maker = makers.get(wanted.pop())
        if maker is None:
            return None
        name = operator_name(root, maker)
        if name == "LOGICAL_AND":
            wanted += [int(index) for index in maker.inputs]
            continue
        places = [int(index) for index in condition.inputs]
        counter = int(maker.inputs[0])
        if name != "LESS" or counter not in places:
            return None
        place = places.index(counter)
        limit = _number(root, condition, maker.inputs[1])
        start = _number(root, graph, operator.inputs[place])
        step = _increment(root, body, place)
        if limit is None or start is None or not step or step < 0:
            return None
        found.append(max(0, math.ceil((limit - start) / step)))
    return min(found)


def _increment(root: Any, body: Any, place: int) -> int | None:
    """What a loop's body adds to one of its values, or `None`."""
    for operator in body.operators or []:
        if int(operator.outputs[0]) == int(body.outputs[place]):
            if operator_name(root, operator) != "ADD":
                return None
            inputs = [int(index) for index in operator.inputs]
            counter = int(body.inputs[place])
            if counter not in inputs:
                return None
            inputs.remove(counter)
            return _number(root, body, inputs[0])
    return None


def _number(root: Any, graph: Any, index: Any) -> int | None:
    """The value of a constant tensor of one integer, or `None`."""
    tensor = graph.tensors[int(index)]
    data = _constant(root, tensor)
    dtype = {schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}.get(tensor.type)
    if data is None or dtype is None or len(data) != np.dtype(dtype).itemsize:
        return None
    return int(np.frombuffer(data, dtype)[0])


def _constant(root: Any, tensor: Any) -> bytes | None:
    data = root.buffers[tensor.buffer].data
    return None if data is None or not len(data) else bytes(data)


def _shape(tensor: Any) -> list[int]:
    """A tensor's shape in Python's integers, which do not overflow."""
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]
