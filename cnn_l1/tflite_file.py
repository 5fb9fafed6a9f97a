"""What is in a `.tflite` file: operators, weights, multiply-adds. No TensorFlow here."""

import dataclasses
import math

import numpy as np


class ExportError(RuntimeError):
    """A conversion went wrong: the file would not be what it should."""


# What the weights of an operator look like: the input that holds them, and how
# the Keras kernel's axes lie in the file.
WEIGHT_INPUT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "CONV_3D": 1,
    "BATCH_MATMUL": 1,
}


@dataclasses.dataclass(frozen=True)
class TFLiteFile:
    """What is in a TFLite file.

    Attributes:
        operators: Names of the operators, in order; `"FLEX"` for a TensorFlow
            operator and `"CUSTOM"` for any other custom one.
        weights: The constant weights of convolutions and dense layers, in order,
            as arrays of the stored dtype, each once.
    """

    operators: tuple[str, ...]
    weights: tuple[np.ndarray, ...]

    @property
    def zeros(self):
        """How many weights decode to exactly 0 (their zero point is 0)."""
        return sum(int(np.count_nonzero(tensor == 0)) for tensor in self.weights)

    @property
    def is_finite(self):
        """Whether no weight is NaN or infinite."""
        return all(bool(np.all(np.isfinite(tensor))) for tensor in self.weights)

    @property
    def weight_count(self):
        return sum(tensor.size for tensor in self.weights)


NUMPY_TYPES = {0: "float32", 1: "float16", 2: "int32", 9: "int8", 3: "uint8", 7: "int16"}


def read_tflite(content):
    """Read operators and weights out of a TFLite file's bytes.

    Raises:
        ExportError: If a weight tensor has a zero point other than 0.
    """
    from ai_edge_litert import schema_py_generated as schema

    root = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    operators, weights, seen = [], [], set()
    for graph in root.subgraphs:
        halved = _dequantized(root, graph)
        for operator in graph.operators:
            code = root.operatorCodes[operator.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name == "CUSTOM":
                custom = (code.customCode or b"").decode()
                name = "FLEX" if custom.startswith("Flex") else "CUSTOM"
            operators.append(name)
            if name not in WEIGHT_INPUT:
                continue
            index = operator.inputs[WEIGHT_INPUT[name]]
            tensor = graph.tensors[halved.get(index, index)]
            data = root.buffers[tensor.buffer].data
            if data is None or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            quantization = tensor.quantization
            zero_points = None if quantization is None else quantization.zeroPoint
            if zero_points is not None and np.any(np.asarray(zero_points)):
                raise ExportError(
                    f"Weights of {name} expected with zero point 0. "
                    f"Received: {[int(point) for point in zero_points[:4]]}"
                )
            dtype = NUMPY_TYPES[tensor.type]
            weights.append(np.frombuffer(bytes(data), dtype).reshape(tensor.shape))
    return TFLiteFile(tuple(operators), tuple(weights))


def _dequantized(root, graph):
    """Tensors that are constants dequantized, as float16 weights are: `{it: constant}`."""
    from ai_edge_litert import schema_py_generated as schema

    kind = schema.BuiltinOperator.DEQUANTIZE
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in root.operatorCodes]
    found = [o for o in graph.operators if codes[o.opcodeIndex] == kind]
    return {int(o.outputs[0]): int(o.inputs[0]) for o in found}


def count_tflite_macs(content):
    """Multiply-adds of one run of a TFLite file.

    Of convolutions, dense layers and matrix products, padding included, as `count_macs`
    counts them in Keras; a weight that is zero counts like any other.
    """
    from ai_edge_litert import schema_py_generated as schema

    root = schema.ModelT.InitFromPackedBuf(content, 0)
    total = 0
    for graph in root.subgraphs:
        for operator in graph.operators:
            name = _operator_name(root, operator)
            if name not in WEIGHT_INPUT:
                continue
            weights = graph.tensors[operator.inputs[WEIGHT_INPUT[name]]].shape
            outputs = graph.tensors[operator.outputs[0]].shape
            if name == "TRANSPOSE_CONV":  # each input pixel meets each weight
                inputs = graph.tensors[operator.inputs[2]].shape
                total += math.prod(inputs[:-1]) * math.prod(weights)
            elif name == "DEPTHWISE_CONV_2D":
                total += math.prod(outputs) * math.prod(weights[1:3])
            elif name == "CONV_3D":  # (depth, rows, cols, in, out)
                total += math.prod(outputs) * math.prod(weights[:-1])
            elif name == "BATCH_MATMUL":
                total += math.prod(outputs) * graph.tensors[operator.inputs[0]].shape[-1]
            else:  # the first axis is the outputs
                total += math.prod(outputs) * math.prod(weights[1:])
    return int(total)


def _operator_name(root, operator):
    """The name of an operator's kind."""
    from ai_edge_litert import schema_py_generated as schema

    code = root.operatorCodes[operator.opcodeIndex]
    return _names(schema)[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _names(schema):
    return {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
