"""TFLite files that store zeros as sparse tensors: off by default, and only where they pay.

    python -m cnn_l1.export.sparse_tflite MODEL.tflite

prints what keeps a file off XNNPACK's sparse path, and exits with 1 if anything does.
docs/sparse.md has the rules, what each one stands on, and what was measured.
"""

import argparse
import dataclasses
import pathlib
import sys
import zlib

import numpy as np

from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import (
    enumeration_names,
    operator_name,
    parse,
    read_constant,
    stored_constants,
)

# cnn_l1.export.tflite and TensorFlow load where they are needed: to lint a file takes neither.

KINDS = ("float32", "float16")
ENOUGH_ZEROS = 2 / 3
# Between the dense and the sparse file, of the largest output. The same operations on the
# same numbers; kernels for sparse weights may sum in another order, as float32 rounds.
ROUNDING = 1e-5

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
    def source(self):
        """The file and function, or the measurement, that the rule is read from."""
        return RULES[self.rule]

    def __str__(self):
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
    "behind": MEASURED,
    "output": REWRITE,
    "zeros": REWRITE,
    "storage": HINT,
}


@dataclasses.dataclass(frozen=True)
class SparseFile:
    """What a sparse file came to.

    Attributes:
        bytes: Size of the file.
        dense_bytes: Size of the file of the same kind with dense weights.
        deflated_bytes: Of the file after zlib level 9, as a zipped package ships it.
        dense_deflated_bytes: Of the dense file after zlib level 9.
        zeros: Zeros in the 1×1 kernels.
        weights: Weights in the 1×1 kernels.
        max_difference: Largest difference of an output from the dense file's, here.
    """

    bytes: int
    dense_bytes: int
    deflated_bytes: int
    dense_deflated_bytes: int
    zeros: int
    weights: int
    max_difference: float


def export_sparse_tflite(model, path, kind="float32", images=None, strip=True):
    """Write a TFLite file with sparse weights, for XNNPACK's sparse path on ARM.

    Args:
        model: A built `keras.Model`.
        path: Where to write; nothing is written unless every check passes.
        kind: `"float32"` (default) or `"float16"`, weights halved, computed as float32.
        images: Inputs `(count, …)` on which to compare with the dense file. Default: eight
            of random pixels, 0-255.
        strip: Whether to leave out names, which no runtime needs. Default `True`.

    Returns:
        A `SparseFile`.

    Raises:
        ExportError: If `lint` has findings, if a decoded weight is not the dense file's,
            or if outputs differ from the dense file's or do not depend on the input.
        ValueError: If `kind` is one whose sparse file would not load.
    """
    from cnn_l1.export.tflite import ExportError, convert, plain_copy, strip_names

    if kind not in KINDS:
        raise ValueError(
            f"`kind` must be one of {', '.join(KINDS)}: XNNPACK's sparse path computes in "
            "floating point, and LiteRT 2.3 does not load sparse int8 or dynamic-range files. "
            f"Received: kind={kind!r}"
        )
    fixed = plain_copy(model, batch_size=1)
    content = convert(fixed, kind, sparse=True)
    findings = lint(content)
    name = pathlib.Path(path).name
    if findings:
        raise ExportError(
            f"{name}: expected a network for XNNPACK's sparse path. Received: "
            + "; ".join(map(str, findings))
        )
    dense = convert(fixed, kind)
    if strip:
        content, dense = strip_names(content), strip_names(dense)
    _check_weights(name, content, dense)
    difference = _check_outputs(name, content, dense, images)
    zeros, weights = count_zeros(content)
    pathlib.Path(path).write_bytes(content)
    return SparseFile(
        bytes=len(content),
        dense_bytes=len(dense),
        deflated_bytes=len(zlib.compress(content, 9)),
        dense_deflated_bytes=len(zlib.compress(dense, 9)),
        zeros=zeros,
        weights=weights,
        max_difference=difference,
    )


def _check_weights(name, content, dense):
    """Every weight, decoded here, is the dense file's."""
    from cnn_l1.export.tflite import ExportError

    counts = [_stored(part) for part in (content, dense)]
    if counts[0] != counts[1]:
        raise ExportError(
            f"{name}: expected sparse weights that decode to the dense file's. Received: others"
        )


def _stored(content):
    graph = _Graph(content)
    arrays = [graph.constant(index) for index in graph.kernels()]
    # The sign of a zero is lost, and matters to no sum: −0 + 0 is 0.
    return sorted((array.shape, (array + 0).tobytes()) for array in arrays)


def _check_outputs(name, content, dense, images):
    from ai_edge_litert.interpreter import Interpreter

    from cnn_l1.export.tflite import ExportError

    outputs = []
    for part in (dense, content):
        try:
            with silenced():
                runner = Interpreter(model_content=part, num_threads=1)
                runner.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ExportError(
                f"{name}: expected a file that LiteRT loads. Received: {reason}"
            ) from None
        given, taken = runner.get_input_details()[0], runner.get_output_details()[0]
        if images is None:
            random = np.random.default_rng(0)
            images = random.uniform(0, 255, (8, *given["shape"][1:])).astype("float32")
        rows = []
        for image in np.asarray(images, "float32"):
            runner.set_tensor(given["index"], image[None])
            runner.invoke()
            rows.append(runner.get_tensor(taken["index"]).copy())
        outputs.append(np.stack(rows))
    expected, received = outputs
    largest = float(np.abs(expected).max())
    # Outputs that do not move would equal the dense file's in a broken one as well.
    if not np.isfinite(largest) or np.ptp(expected, axis=0).max() <= 1e-3 * largest:
        raise ExportError(
            f"{name}: expected outputs that depend on the input, or the comparison with the "
            f"dense file says nothing. Received: the same for {len(expected)} inputs"
        )
    difference = float(np.abs(received - expected).max())
    if not difference <= ROUNDING * largest:
        raise ExportError(
            f"{name}: expected the dense file's outputs. Received: a difference of {difference:g}"
        )
    return difference


def lint(model):
    """Find what keeps a network off XNNPACK's sparse path, or could make it wrong there.

    The rules are an allowlist: what is not known to run rightly is a finding. A file
    without findings takes the sparse path on ARM; on x86 with AVX none does.

    Args:
        model: The bytes of a `.tflite` file, or a built `keras.Model`, which is judged
            as its sparse float32 file.

    Returns:
        A list of `Finding`, empty if nothing is in the way.

    Raises:
        ValueError: If the bytes are no TFLite file.
    """
    content = model
    if not isinstance(model, (bytes, bytearray, memoryview)):
        from cnn_l1.export.tflite import convert, plain_copy

        content = convert(plain_copy(model, batch_size=1), sparse=True)
    content = bytes(content)
    if content[4:8] != b"TFL3":
        raise ValueError(
            "`model` must be the bytes of a TFLite file, 'TFL3' at 4. "
            f"Received: {content[4:8]!r} in {len(content)} bytes"
        )
    return _Linter(_Graph(content)).findings()


def count_zeros(content):
    """`(zeros, weights)` of the 1×1 kernels in a TFLite file's bytes."""
    return _Linter(_Graph(content)).pointwise_zeros()


class _Graph:
    """The operators of a file, the storage of constants (sparse, halved) seen through."""

    def __init__(self, content):
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.root = parse(content)
        self.subgraph = self.root.subgraphs[0]
        self.tensors = self.subgraph.tensors
        self.origin = stored_constants(self.root, self.subgraph)
        self.operators = []
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

    def is_constant(self, index):
        if index in self.origin:
            return True
        return self.root.buffers[self.tensors[index].buffer].data is not None

    def shape(self, index):
        shape = self.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def type_name(self, index):
        kinds = enumeration_names(self.schema.TensorType)
        return kinds[self.tensors[self.origin.get(index, index)].type]

    def consumers(self, index):
        return [operator for operator in self.operators if index in operator.inputs]

    def kernels(self):
        """The constants that convolutions and dense layers read, each once."""
        readers = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        found = [o.inputs[1] for o in self.operators if o.name in readers]
        return list(dict.fromkeys(self.origin.get(index, index) for index in found))

    def constant(self, index):
        """A constant as an array, decoded if it is stored sparse."""
        return read_constant(self.root, self.tensors[self.origin.get(index, index)])


@dataclasses.dataclass(frozen=True)
class _Operator:
    position: int
    name: str
    inputs: list
    outputs: list
    raw: object

    @property
    def options(self):
        return self.raw.builtinOptions  # type: ignore[attr-defined]


class _Linter:
    """Walks the operators in order; each tensor is of the head, the sparse part or the tail."""

    def __init__(self, graph):
        self.graph = graph
        self.found: list[Finding] = []
        self.stage: dict[int, str] = {}
        self.pointwise: list[int] = []
        self.dense: list[int] = []
        self.activations = enumeration_names(graph.schema.ActivationFunctionType)

    def findings(self):
        self._walk()
        return self.found

    def pointwise_zeros(self):
        self._walk()
        return self._zeros(self.pointwise)

    def _zeros(self, kernels):
        arrays = [self.graph.constant(index) for index in kernels]
        return sum(int((a == 0).sum()) for a in arrays), sum(a.size for a in arrays)

    def _note(self, rule, operator, expected, received):
        where = operator if isinstance(operator, str) else self._where(operator)
        self.found.append(Finding(rule, where, expected, received))

    def _where(self, operator):
        tensor = self.graph.tensors[operator.outputs[0]]
        name = (tensor.name or b"").decode(errors="replace")
        return f"{operator.name} (operator {operator.position})" + (f" {name!r}" if name else "")

    def _walk(self):
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
                    "output", "the outputs", "outputs behind the global pooling",
                    f"tensor {index} in front of it",
                )  # fmt: skip
        self._check_zeros()

    def _visit(self, operator):
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
                "inputs all in front of the first convolution, all between it and the pooling, "
                "or all behind", names,
            )  # fmt: skip
            stage = "sparse" if "sparse" in stages else "tail"
        visit = {"head": self._head, "sparse": self._sparse, "tail": self._tail}[stage]
        after = visit(operator)
        for index in operator.outputs:
            self.stage[index] = after

    def _check_types(self, operator):
        used = {*operator.inputs[:1], *operator.outputs}
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            used |= set(operator.inputs)
        wrong = {self.graph.type_name(index) for index in used} - {"FLOAT32", "FLOAT16"}
        if wrong:
            self._note("type", operator, "FLOAT32 or FLOAT16 throughout", ", ".join(sorted(wrong)))

    def _head(self, operator):
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
            f"only {', '.join(HEAD)} by constants and the PAD in front of the first convolution",
            name,
        )  # fmt: skip
        return "head"

    def _first(self, operator):
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

    def _check_padding(self, operator, size, same):
        """Padding of `size` on each side, from a PAD of its own in front; or SAME, if it may."""
        expected = f"padding {size} on each side, by a PAD of zeros in front read by it alone" + (
            ", or SAME" if same else ""
        )
        pad = next((o for o in self.graph.operators if operator.inputs[0] in o.outputs), None)
        is_same = operator.options.padding == self.graph.schema.Padding.SAME
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

    def _check_activation(self, operator):
        fused = self.activations[operator.options.fusedActivationFunction]
        if fused not in FUSED:
            self._note("activation", operator, f"one of {', '.join(FUSED)} fused", fused)

    def _sparse(self, operator):
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
                f"only {', '.join(known)} behind the first convolution", name,
            )  # fmt: skip
        return "sparse"

    def _pointwise(self, operator):
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

    def _depthwise(self, operator):
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

    def _tail(self, operator):
        if operator.name == "FULLY_CONNECTED":
            if self.graph.is_constant(operator.inputs[1]):
                self.dense.append(operator.inputs[1])
            self._check_activation(operator)
        elif operator.name not in TAIL:
            self._note(
                "behind", operator, f"only {', '.join(TAIL)} behind the global pooling",
                operator.name,
            )  # fmt: skip
        return "tail"

    def _check_zeros(self):
        if not self.pointwise:
            self._note("zeros", "the file", "1x1 convolutions, which are the sparse part", "none")
            return
        # Later versions count the dense layers behind the pooling among the 1x1 kernels.
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


def main(arguments=None):
    """Print the findings of a file; exit status 1 if there are any, 2 if it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_l1.export.sparse_tflite",
        description="Print what keeps a TFLite file off XNNPACK's sparse path.",
    )
    parser.add_argument("file", type=pathlib.Path, metavar="MODEL.tflite")
    path = parser.parse_args(arguments).file
    try:
        findings = lint(path.read_bytes())
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    if not findings:
        zeros, weights = count_zeros(path.read_bytes())
        print(f"{path}: nothing in the way; {zeros / weights:.1%} zeros in the 1x1 kernels")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
