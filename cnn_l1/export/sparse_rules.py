"""Rules of XNNPACK's sparse path: what in a TFLite file keeps it off that path. No TensorFlow

The rules are a list of what is allowed: what is not known to run correctly is a finding.
docs/sparse.md has each rule, its source and its measurements.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.tflite.file import (
    enumeration_names,
    operator_name,
    parse,
    read_constant,
    stored_constants,
)

ENOUGH_ZEROS = 2 / 3

CHECK = "XNNPACK src/subgraph.c, xnn_check_nchw_compatibility"
REWRITE = "XNNPACK src/subgraph.c, xnn_subgraph_rewrite_for_nchw"
FUSION = "XNNPACK src/subgraph.c, xnn_subgraph_fusion"
DELEGATE = "LiteRT xnnpack_delegate.cc, Delegate::PrepareOpsToDelegate"
HINT = "LiteRT xnnpack_delegate.cc, Subgraph::Create"
MEASURED = "measured: docs/sparse.md"

HEAD = ("MUL", "ADD", "SUB")
# Elementwise, so blind to layout; those that were run under emulation.
ELEMENTWISE = ("RELU", "RELU6", "LEAKY_RELU", "ELU", "HARD_SWISH", "LOGISTIC", "TANH")
TAIL = ("FULLY_CONNECTED", "RESHAPE", "SOFTMAX")
FUSED = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One reason why a file would not run on XNNPACK's sparse path, or not rightly.

    Attributes:
        rule: Which rule: a key of `RULES`.
        where: The operator or tensor.
        expected: What the rule asks for.
        received: What is there.
    """

    rule: str
    where: str
    expected: str
    received: str

    @property
    def source(self) -> str:
        """The file and function, or the measurement, that the rule is read from."""
        return RULES[self.rule]

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}. Received: {self.received} ({self.source})"


RULES = {
    "graph": MEASURED,
    "type": CHECK,
    "input": CHECK,
    "first": CHECK,
    "padding": FUSION,
    "pointwise": CHECK,
    "depthwise": CHECK,
    "operator": CHECK,
    "add": CHECK,
    "activation": MEASURED,
    "pooling": REWRITE,
    "after_pooling": MEASURED,
    "output": REWRITE,
    "zeros": REWRITE,
    "storage": HINT,
}


def find(content: bytes) -> list[Finding]:
    """What keeps a TFLite file off XNNPACK's sparse path, or could make it wrong there.

    Args:
        content: The bytes of a `.tflite` file.

    Returns:
        A list of `Finding`; empty for a file that takes the sparse path on ARM. On x86 with
        AVX none does.

    Raises:
        ValueError: If the bytes are no TFLite file.
    """
    content = bytes(content)
    if content[4:8] != b"TFL3":
        raise ValueError(
            "`model` must be the bytes of a TFLite file, 'TFL3' at 4. "
            f"Received: {content[4:8]!r} in {len(content)} bytes"
        )
    return find_in(parse(content))


def find_in(root: Any) -> list[Finding]:
    """`find` in a file that is parsed already: its `ModelT`."""
    return _Linter(_Graph(root)).findings()


def count_zeros(content: bytes) -> tuple[int, int]:
    """`(zeros, weights)` of the 1×1 kernels in a TFLite file's bytes."""
    return count_zeros_in(parse(content))


def count_zeros_in(root: Any) -> tuple[int, int]:
    """`count_zeros` of a file that is parsed already: its `ModelT`."""
    return _Linter(_Graph(root)).pointwise_zeros()


def stored_kernels(root: Any) -> list[tuple[tuple[int, ...], bytes]]:
    """Shape and bytes of each kernel in a file's tables, decoded if it is stored sparse, sorted.

    −0.0 is written as 0.0: sparse storage loses a zero's sign, which changes no sum.
    """
    graph = _Graph(root)
    arrays = [graph.constant(index) for index in graph.kernels()]
    return sorted((array.shape, (array + 0).tobytes()) for array in arrays)


@dataclasses.dataclass(frozen=True)
class _Operator:
    position: int
    name: str
    inputs: list[int]
    outputs: list[int]
    raw: Any

    @property
    def options(self) -> Any:
        return self.raw.builtinOptions


class _Graph:
    """The operators of a file, the storage of constants (sparse, halved) seen through."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.subgraph = self.root.subgraphs[0]
        self.tensors = self.subgraph.tensors
        self.origin = stored_constants(self.root, self.subgraph)
        self.operators: list[_Operator] = []
        for position, operator in enumerate(self.subgraph.operators):
            inputs = [int(index) for index in operator.inputs if index >= 0]
            outputs = [int(index) for index in operator.outputs]
            if outputs[0] not in self.origin:
                name = operator_name(self.root, operator)
                self.operators.append(_Operator(position, name, inputs, outputs, operator))
        self.encoded = {
            index for index, tensor in enumerate(self.tensors) if tensor.sparsity is not None
        }
        self.inputs = [int(index) for index in self.subgraph.inputs]
        self.outputs = [int(index) for index in self.subgraph.outputs]

    def is_constant(self, index: int) -> bool:
        if index in self.origin:
            return True
        return self.root.buffers[self.tensors[index].buffer].data is not None

    def shape(self, index: int) -> tuple[int, ...]:
        shape = self.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def type_name(self, index: int) -> str:
        kinds = enumeration_names(schema.TensorType)
        return kinds[self.tensors[self.origin.get(index, index)].type]

    def consumers(self, index: int) -> list[_Operator]:
        return [operator for operator in self.operators if index in operator.inputs]

    def kernels(self) -> list[int]:
        """The constants that convolutions and dense layers read, each once."""
        readers = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        found = [o.inputs[1] for o in self.operators if o.name in readers]
        return list(dict.fromkeys(self.origin.get(index, index) for index in found))

    def constant(self, index: int) -> np.ndarray:
        """A constant as an array, decoded if it is stored sparse."""
        return read_constant(self.root, self.tensors[self.origin.get(index, index)])


class _Linter:
    """Walks the operators in order; each tensor is of the head, the sparse part or the tail."""

    def __init__(self, graph: _Graph) -> None:
        self.graph = graph
        self.found: list[Finding] = []
        self.stage: dict[int, str] = {}
        self.pointwise: list[int] = []
        self.dense: list[int] = []
        self.activations = enumeration_names(schema.ActivationFunctionType)

    def findings(self) -> list[Finding]:
        self._walk()
        return self.found

    def pointwise_zeros(self) -> tuple[int, int]:
        self._walk()
        return self._zeros(self.pointwise)

    def _zeros(self, kernels: Iterable[int]) -> tuple[int, int]:
        arrays = [self.graph.constant(index) for index in kernels]
        return sum(int((a == 0).sum()) for a in arrays), sum(a.size for a in arrays)

    def _note(self, rule: str, operator: _Operator | str, expected: str, received: str) -> None:
        where = operator if isinstance(operator, str) else self._where(operator)
        self.found.append(Finding(rule, where, expected, received))

    def _where(self, operator: _Operator) -> str:
        tensor = self.graph.tensors[operator.outputs[0]]
        name = (tensor.name or b"").decode(errors="replace")
        return f"{operator.name} (operator {operator.position})" + (f" {name!r}" if name else "")

    def _walk(self) -> None:
        graph = self.graph
        if len(graph.root.subgraphs) != 1 or len(graph.inputs) != 1:
            self._note(
                "graph", "the file", "one subgraph with one input",
                f"{len(graph.root.subgraphs)} subgraphs, {len(graph.inputs)} inputs",
            )  # fmt: skip
        for index in graph.inputs:
            self.stage[index] = "head"
            shape = graph.shape(index)
            if len(shape) != 4 or shape[-1] != 3:
                self._note("input", "the input", "images of 3 channels", f"shape {shape}")
        for operator in graph.operators:
            self._visit(operator)
        if "tail" not in self.stage.values():
            self._note(
                "pooling", "the end", "MEAN over rows and columns, as global average pooling",
                "none",
            )  # fmt: skip
        for index in graph.outputs:
            if self.stage.get(index) == "sparse":
                self._note(
                    "output", "the outputs", "outputs after the global pooling",
                    f"tensor {index} before it",
                )  # fmt: skip
        self._check_zeros()

    def _visit(self, operator: _Operator) -> None:
        graph = self.graph
        flows = [index for index in operator.inputs if not graph.is_constant(index)]
        stages = {self.stage.get(index, "head") for index in flows}
        stage = "head"
        if stages:
            stage = next(iter(stages)) if len(stages) == 1 else "mixed"
        self._check_types(operator)
        if stage == "mixed":
            names = ", ".join(sorted(stages))
            self._note(
                "operator", operator,
                "inputs all before the first convolution, all between it and the pooling, "
                "or all after it", names,
            )  # fmt: skip
            stage = "sparse" if "sparse" in stages else "tail"
        visit = {"head": self._head, "sparse": self._sparse, "tail": self._tail}[stage]
        after = visit(operator)
        for index in operator.outputs:
            self.stage[index] = after

    def _check_types(self, operator: _Operator) -> None:
        used = {*operator.inputs[:1], *operator.outputs}
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            used |= set(operator.inputs)
        wrong = {self.graph.type_name(index) for index in used} - {"FLOAT32", "FLOAT16"}
        if wrong:
            self._note("type", operator, "FLOAT32 or FLOAT16 throughout", ", ".join(sorted(wrong)))

    def _head(self, operator: _Operator) -> str:
        name = operator.name
        if name == "CONV_2D":
            self._first(operator)
            return "sparse"
        if name == "PAD":
            readers = self.graph.consumers(operator.outputs[0])
            if len(readers) == 1 and readers[0].name == "CONV_2D":
                return "head"  # judged with the convolution it belongs to
        elif name in HEAD:
            constants = [i for i in operator.inputs if self.graph.is_constant(i)]
            if len(constants) == 1:
                return "head"
        self._note(
            "operator", operator,
            f"only {', '.join(HEAD)} by constants and the PAD before the first convolution",
            name,
        )  # fmt: skip
        return "head"

    def _first(self, operator: _Operator) -> None:
        options = operator.options
        kernel = self.graph.shape(operator.inputs[1])
        strides = (options.strideH, options.strideW)
        dilations = (options.dilationHFactor, options.dilationWFactor)
        wanted = "a first convolution of 3x3, stride 2, dilation 1, over 3 input channels"
        if kernel[1:] != (3, 3, 3) or strides != (2, 2) or dilations != (1, 1):
            self._note(
                "first", operator, wanted,
                f"{kernel[1]}x{kernel[2]}, stride {strides[0]}x{strides[1]}, dilation "
                f"{dilations[0]}x{dilations[1]}, over {kernel[3]} channels",
            )  # fmt: skip
        self._check_padding(operator, 1, same=False)
        self._check_activation(operator)

    def _check_padding(self, operator: _Operator, size: int, same: bool) -> None:
        """Padding of `size` on each side, by a PAD of its own before it; or SAME, if it may."""
        expected = f"padding {size} on each side, by a PAD of zeros before it, read by it alone" + (
            ", or SAME" if same else ""
        )
        pad = next((o for o in self.graph.operators if operator.inputs[0] in o.outputs), None)
        is_same = operator.options.padding == schema.Padding.SAME
        if is_same:
            if not same or (pad is not None and pad.name == "PAD"):
                # PAD of an odd size at stride 2 is SAME, and the converter makes it so.
                self._note(
                    "padding", operator, f"{expected}, on even rows and columns",
                    "SAME, which the converter also makes of zero padding on odd sizes",
                )  # fmt: skip
            return
        if pad is None or pad.name != "PAD":
            self._note("padding", operator, expected, "VALID without a PAD")
            return
        amounts = self.graph.constant(pad.inputs[1]).tolist()
        if amounts != [[0, 0], [size, size], [size, size], [0, 0]]:
            self._note("padding", operator, expected, f"PAD of {amounts}")
        elif len(self.graph.consumers(pad.outputs[0])) != 1:
            self._note("padding", operator, expected, "a PAD that others read too")

    def _check_activation(self, operator: _Operator) -> None:
        fused = self.activations[operator.options.fusedActivationFunction]
        if fused not in FUSED:
            self._note("activation", operator, f"one of {', '.join(FUSED)} fused", fused)

    def _sparse(self, operator: _Operator) -> str:
        graph, name = self.graph, operator.name
        if name == "MEAN":
            axes = sorted(int(a) % 4 for a in graph.constant(operator.inputs[1]).ravel())
            if axes != [1, 2]:
                self._note("pooling", operator, "a mean over axes 1 and 2", f"over {axes}")
            return "tail"
        if name == "CONV_2D":
            self._pointwise(operator)
        elif name == "DEPTHWISE_CONV_2D":
            self._depthwise(operator)
        elif name == "ADD":
            shapes = [graph.shape(index) for index in operator.inputs]
            constant = any(graph.is_constant(index) for index in operator.inputs)
            if constant or len(shapes[0]) != 4 or shapes[0] != shapes[1]:
                self._note(
                    "add", operator, "two activations of one shape, of 4 axes",
                    f"{shapes[0]} and {shapes[1]}" + (", a constant" if constant else ""),
                )  # fmt: skip
            self._check_activation(operator)
        elif name == "PAD":
            readers = graph.consumers(operator.outputs[0])
            if not readers or any(o.name != "DEPTHWISE_CONV_2D" for o in readers):
                self._note(
                    "padding", operator, "a PAD read by one depthwise convolution alone",
                    f"one read by {', '.join(o.name for o in readers) or 'none'}",
                )  # fmt: skip
        elif name not in ELEMENTWISE:
            known = ("CONV_2D of 1x1", "DEPTHWISE_CONV_2D", "ADD", *ELEMENTWISE, "MEAN")
            self._note(
                "operator", operator,
                f"only {', '.join(known)} after the first convolution", name,
            )  # fmt: skip
        return "sparse"

    def _pointwise(self, operator: _Operator) -> None:
        options = operator.options
        kernel = self.graph.shape(operator.inputs[1])
        channels = self.graph.shape(operator.inputs[0])[-1]
        strides = (options.strideH, options.strideW)
        dilations = (options.dilationHFactor, options.dilationWFactor)
        fits = kernel[1:3] == (1, 1) and strides == (1, 1) and dilations == (1, 1)
        if not fits or kernel[3] != channels:
            self._note(
                "pointwise", operator, "a 1x1 convolution, stride 1, dilation 1, one group",
                f"{kernel[1]}x{kernel[2]}, stride {strides[0]}x{strides[1]}, dilation "
                f"{dilations[0]}x{dilations[1]}, {channels // kernel[3]} groups",
            )  # fmt: skip
        if kernel[1:3] == (1, 1):
            self.pointwise.append(operator.inputs[1])
        self._check_activation(operator)

    def _depthwise(self, operator: _Operator) -> None:
        options = operator.options
        _, rows, columns, outputs = self.graph.shape(operator.inputs[1])
        channels = self.graph.shape(operator.inputs[0])[-1]
        strides = (options.strideH, options.strideW)
        dilations = (options.dilationHFactor, options.dilationWFactor)
        square = (rows, columns) in ((3, 3), (5, 5))
        if (
            not square
            or strides not in ((1, 1), (2, 2))
            or dilations != (1, 1)
            or outputs != channels
        ):
            self._note(
                "depthwise", operator,
                "3x3 or 5x5, stride 1 or 2, dilation 1, as many outputs as channels",
                f"{rows}x{columns}, stride {strides[0]}x{strides[1]}, dilation "
                f"{dilations[0]}x{dilations[1]}, {outputs} outputs of {channels} channels",
            )  # fmt: skip
        if square:
            self._check_padding(operator, rows // 2, same=strides == (1, 1))
        self._check_activation(operator)

    def _tail(self, operator: _Operator) -> str:
        if operator.name == "FULLY_CONNECTED":
            if self.graph.is_constant(operator.inputs[1]):
                self.dense.append(operator.inputs[1])
            self._check_activation(operator)
        elif operator.name not in TAIL:
            self._note(
                "after_pooling", operator, f"only {', '.join(TAIL)} after the global pooling",
                operator.name,
            )  # fmt: skip
        return "tail"

    def _check_zeros(self) -> None:
        if not self.pointwise:
            self._note("zeros", "the file", "1x1 convolutions, which are the sparse part", "none")
            return
        # Later versions count the dense layers after the pooling among the 1x1 kernels.
        for kernels, what in (
            (self.pointwise, "the 1x1 kernels"),
            (self.pointwise + self.dense, "the 1x1 kernels and the dense layers together"),
        ):
            zeros, weights = self._zeros(kernels)
            if zeros * 3 <= weights * 2:
                self._note(
                    "zeros", what, f"zeros in more than {ENOUGH_ZEROS:.1%} of the weights",
                    f"{zeros} of {weights}, {zeros / max(weights, 1):.1%}",
                )  # fmt: skip
                break
        if not self.graph.encoded:
            self._note(
                "storage", "the file", "weights stored sparse, for XNNPACK to look for zeros",
                "dense weights alone",
            )  # fmt: skip
