"""C sources: the same bytes, and numbers that a compiler reads as the interpreter does."""

import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from cnn_l1.export import firmware, tflite
from cnn_l1.process.silence import silenced
from cnn_l1.tflite import metadata
from cnn_l1.tflite.file import ExportError

COMPILER = shutil.which("g++") or shutil.which("clang++")

# Methods that register a builtin operator, of tensorflow/tflite-micro,
# tensorflow/lite/micro/micro_mutable_op_resolver.h, at commit
# 933f830139560b2f9a47b5418439350c728a796f; then those that later versions of it add and the
# converter may ask for.
METHOD_NAMES = """
AddAbs AddAdd AddAddN AddArgMax AddArgMin AddAssignVariable AddAveragePool2D AddBatchToSpaceNd
AddBroadcastArgs AddBroadcastTo AddCallOnce AddCast AddCeil AddConcatenation AddConv2D AddCos
AddCumSum AddDepthToSpace AddDepthwiseConv2D AddDequantize AddElu AddEqual AddExp AddExpandDims
AddFill AddFloor AddFloorDiv AddFloorMod AddFullyConnected AddGather AddGatherNd AddGreater
AddGreaterEqual AddHardSwish AddIf AddL2Normalization AddL2Pool2D AddLeakyRelu AddLess
AddLessEqual AddLog AddLogicalAnd AddLogicalNot AddLogicalOr AddLogistic AddMaximum AddMaxPool2D
AddMirrorPad AddMean AddMinimum AddMul AddNeg AddNotEqual AddPack AddPad AddPadV2 AddPrelu
AddQuantize AddReadVariable AddReduceMax AddRelu AddRelu6 AddReshape AddResizeBilinear
AddResizeNearestNeighbor AddRound AddRsqrt AddShape AddSin AddSlice AddSoftmax AddSpaceToBatchNd
AddSpaceToDepth AddSplit AddSplitV AddSqueeze AddSqrt AddSquare AddStridedSlice AddSub AddSvdf
AddTanh AddTransposeConv AddTranspose AddUnpack AddUnidirectionalSequenceLSTM AddVarHandle
AddWhile AddZerosLike
"""
LATER_METHOD_NAMES = """
AddBatchMatMul AddDiv AddDynamicUpdateSlice AddEmbeddingLookup AddLogSoftmax AddSquaredDifference
AddSum
"""
METHODS, LATER_METHODS = METHOD_NAMES.split(), LATER_METHOD_NAMES.split()


def test_each_method_is_the_name_of_one_operator():
    operators = [name for name in vars(schema.BuiltinOperator) if name.isupper()]
    named = {firmware.resolver_method(name): name for name in operators}
    assert len(named) == len(operators)
    assert sorted({*METHODS, *LATER_METHODS} - named.keys()) == []


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("MAX_POOL_2D", "AddMaxPool2D"),
        ("RELU6", "AddRelu6"),
        ("PADV2", "AddPadV2"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
    ],
)
def test_methods_by_hand(operator, method):
    assert firmware.resolver_method(operator) == method


@pytest.fixture(scope="module", params=["float32", "int8", "uint8"])
def written(request, tmp_path_factory):
    """A TFLite file with metadata, and its header."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    path = tmp_path_factory.mktemp("firmware") / "m.tflite"
    images = np.random.default_rng(0).uniform(0, 255, (20, 6, 6, 2)).astype("float32")
    if request.param == "float32":
        tflite.export_tflite(model, path)
    else:
        tflite.export_tflite(model, path, images, io_type=request.param)
    path.write_bytes(metadata.add_metadata(path.read_bytes(), "m", "in", "out", ["a"], "x: 1\n"))
    firmware.write_c_source(path, path.with_suffix(".h"), name="net")
    return path


def test_the_array_is_the_file_without_its_metadata(written):
    content = firmware.read_c_source(written.with_suffix(".cc"))
    assert content == metadata.remove_metadata(written.read_bytes())
    assert len(content) < written.stat().st_size


PROGRAM = """
#include <cstdint>
#include <cstdio>
#include "m.h"

struct Resolver {
  int count = 0;
METHODS
};

int main() {
  Resolver resolver;
  const bool added = net_add_operators(resolver);
  unsigned long sum = 0;
  for (std::size_t i = 0; i < net_size; ++i) sum = (sum * 31 + net_data[i]) % 1000000007;
  std::printf("{\\"size\\": %zu, \\"sum\\": %lu, \\"misaligned\\": %d, \\"added\\": %d,", net_size,
              sum, static_cast<int>(reinterpret_cast<std::uintptr_t>(net_data) % 16), added);
  std::printf("\\"operators\\": [%u, %d],", net_operator_count, resolver.count);
  std::printf("\\"input\\": [%zu, %.17g, %d],", net_input_count, double(net_input_scale),
              static_cast<int>(net_input_zero_point));
  std::printf("\\"output\\": [%zu, %.17g, %d]}\\n", net_output_count, double(net_output_scale),
              static_cast<int>(net_output_zero_point));
}
"""


@pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")
def test_a_program_reads_what_the_interpreter_does(written, tmp_path):
    methods = "\n".join(f"  int {m}() {{ ++count; return 0; }}" for m in METHODS)
    (tmp_path / "main.cc").write_text(PROGRAM.replace("METHODS", methods), encoding="utf-8")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{written.parent}"]
    sources = [str(tmp_path / "main.cc"), str(written.with_suffix(".cc"))]
    program = tmp_path / "program"
    subprocess.run([COMPILER, *flags, *sources, "-o", str(program)], check=True)
    printed = json.loads(subprocess.run([program], capture_output=True, check=True).stdout)
    content = metadata.remove_metadata(written.read_bytes())
    total = 0
    for byte in content:
        total = (total * 31 + byte) % 1000000007
    assert (printed["size"], printed["sum"]) == (len(content), total)
    assert (printed["misaligned"], printed["added"]) == (0, 1)
    operators = set(tflite.read_tflite(content).operators)
    assert printed["operators"] == [len(operators)] * 2
    interpreter = Interpreter(model_content=content)
    for key, details in (
        ("input", interpreter.get_input_details()),
        ("output", interpreter.get_output_details()),
    ):
        scale, zero_point = details[0]["quantization"]
        # The interpreter has scale 0 for "not quantized"; as a formula that is scale 1.
        expected = [int(np.prod(details[0]["shape"])), scale or 1.0, zero_point]
        assert printed[key] == expected  # the scale to the last bit


def test_every_float_comes_back_exactly():
    random = np.random.default_rng(0).integers(0, 2**31 - 2**24, 2000, dtype="uint32")
    for value in [*random.view("float32"), np.float32(1), np.float32(1e10), np.float32(0)]:
        text = firmware.c_float(float(value))
        assert re.fullmatch(r"[\d.]+(e[+-]\d+)?f", text)
        assert re.search(r"[.e]", text)  # 1f is no C
        assert np.float32(text[:-1]) == value


@pytest.mark.parametrize("name", ["", "2d", "a-b", "a b"])
def test_a_name_that_is_none_in_c(written, tmp_path, name):
    with pytest.raises(ValueError, match=r"`name` must be a C identifier. Received: name="):
        firmware.write_c_source(written, tmp_path / "m.h", name)
    assert list(tmp_path.iterdir()) == []


def test_several_inputs_and_outputs_are_told_in_order(tmp_path):
    with silenced():
        concrete = tf.function(lambda a, b: (a + 1, b[:, :2])).get_concrete_function(
            tf.TensorSpec((1, 3), name="a"), tf.TensorSpec((1, 5), name="b")
        )
        content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    (tmp_path / "m.tflite").write_bytes(content)
    firmware.write_c_source(tmp_path / "m.tflite", tmp_path / "m.h")
    text = (tmp_path / "m.h").read_text(encoding="utf-8")
    inputs, outputs, _ = firmware.read_facts(content)
    assert sorted(one.shape for one in inputs) == [(1, 3), (1, 5)]
    for label, facts in (("input", inputs), ("output", outputs)):
        for number, one in enumerate(facts):
            assert f"model_{label}_{number}_count = {one.shape[1]};" in text
            assert f"model_{label}_{number}_scale = 1.0f;" in text


def test_strings_and_operators_of_others_are_refused():
    def convert(function, spec, operators):
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [tf.function(function).get_concrete_function(spec)]
        )
        converter.target_spec.supported_ops = [operators]
        with silenced():
            return converter.convert()

    builtin, select = tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS
    with pytest.raises(ExportError, match=r"expected an input or output of numbers"):
        firmware.read_facts(convert(tf.shape, tf.TensorSpec((1,), tf.string), builtin))
    with pytest.raises(ExportError, match=r"that TFLite Micro has\. Received: FlexMatrixDet"):
        firmware.read_facts(convert(tf.linalg.det, tf.TensorSpec((1, 3, 3)), select))
