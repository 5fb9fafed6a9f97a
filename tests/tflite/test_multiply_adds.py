"""Multiply-adds of TFLite files: large ones, loops, matrix products, unknown operators."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import INT4, pack, read_constant
from cnn_l1.tflite.multiply_adds import FileMacs, count_tflite_macs, file_macs


def convert(model, **attributes):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in attributes.items():
        setattr(converter, name, value)
    with silenced():
        return converter.convert()


def convert_function(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    with silenced():
        concrete = tf.function(function, input_signature=specs).get_concrete_function()
        return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


# Each above 2³¹, in the products of its shapes.
LARGE = {
    "conv": (lambda: layers.Conv2D(64, 5, padding="same"), 256 * 256 * 64 * 25 * 64),
    "transposed": (lambda: layers.Conv2DTranspose(64, 5, padding="same"), 256**2 * 64 * 25 * 64),
    "depthwise": (lambda: layers.DepthwiseConv2D(25, padding="same"), 256 * 256 * 64 * 625),
    "dense": (lambda: layers.Dense(600), 256 * 256 * 64 * 600),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_layers(name):
    make, expected = LARGE[name]
    content = convert(keras.Sequential([keras.Input((256, 256, 64)), make()]))
    assert expected > 2**31
    assert count_tflite_macs(content) == expected


def test_a_batch_that_is_open_hides_no_pixels():
    """Dense layers on pixels, and layers on each step, are flattened into the first axis."""
    inputs = keras.Input((4, 6, 5, 2))
    x = layers.TimeDistributed(layers.Conv2D(3, 3, padding="same"))(inputs)
    x = layers.Dense(8)(layers.Dense(7, activation="relu")(x))
    content = convert(keras.Model(inputs, layers.Dense(9)(layers.Flatten()(x))))
    pixels = 4 * 6 * 5
    expected = pixels * (9 * 2 * 3 + 3 * 7 + 7 * 8) + pixels * 8 * 9
    assert file_macs(content) == FileMacs(expected)


def test_a_grouped_convolution():
    content = convert(keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(4, 3, groups=2)]))
    assert file_macs(content) == FileMacs(6 * 6 * 4 * 9 * 3)


def test_transposed_volumes():
    layer = layers.Conv3DTranspose(2, 2, strides=2)
    content = convert(keras.Sequential([keras.Input((3, 4, 5, 6)), layer]))
    assert file_macs(content) == FileMacs(3 * 4 * 5 * 6 * 8 * 2)


RECURRENT = {
    "lstm": (lambda: layers.LSTM(7), 20 * 4 * 7 * (5 + 7)),
    "gru": (lambda: layers.GRU(4), 20 * 3 * 4 * (5 + 4)),
    "rnn": (lambda: layers.SimpleRNN(3), 20 * 3 * (5 + 3)),
    "both ways": (lambda: layers.Bidirectional(layers.SimpleRNN(3)), 2 * 20 * 3 * (5 + 3)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_loop_counts_as_often_as_it_runs(name):
    make, expected = RECURRENT[name]
    inputs = keras.Input(batch_shape=(1, 20, 5))
    assert file_macs(convert(keras.Model(inputs, make()(inputs)))) == FileMacs(expected)


def test_a_loop_of_unknown_length_is_named():
    weights = tf.constant(np.eye(3, dtype="float32"))

    def halve(x):
        return tf.while_loop(
            lambda value: tf.reduce_sum(value) > 1.0, lambda value: (value @ weights / 2,), (x,)
        )[0]

    found = file_macs(convert_function(halve, (1, 3)))
    assert found.total == 9
    (unknown,) = found.unknown
    assert unknown.startswith("WHILE")


@pytest.mark.parametrize(
    ("first", "second", "adjoints"),
    [
        ((2, 3, 5), (2, 5, 7), (False, False)),
        ((2, 5, 3), (2, 5, 7), (True, False)),
        ((2, 3, 5), (2, 7, 5), (False, True)),
        ((4, 1, 3, 5), (2, 5, 7), (False, False)),
    ],
)
def test_products_of_two_inputs(first, second, adjoints):
    content = convert_function(
        lambda a, b: tf.matmul(a, b, adjoint_a=adjoints[0], adjoint_b=adjoints[1]), first, second
    )
    each = 3 * 5 * 7
    matrices = 8 if len(first) == 4 else 2
    assert file_macs(content) == FileMacs(matrices * each)


def test_an_operator_of_others_is_named():
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(tf.linalg.det).get_concrete_function(tf.TensorSpec((1, 3, 3)))]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    with silenced():
        found = file_macs(converter.convert())
    assert found.total == 0
    assert "FlexMatrixDeterminant" in found.unknown


def test_an_open_size_is_named_and_can_be_given():
    content = convert(keras.Sequential([keras.Input((None, 6, 2)), layers.Conv2D(3, 3)]))
    assert file_macs(content).unknown == ("CONV_2D of an open size",)
    root = schema.ModelT.InitFromPackedBuf(content, 0)
    (output,) = root.subgraphs[0].outputs
    given = {int(index): (1, 5, 4, 3) for index in [output]}
    found = file_macs(content, given)
    # What is not given is as the file has it.
    assert found.total == 5 * 4 * 3 * 9 * 2


def test_a_recurrent_operator_counts_each_weight_at_each_step():
    """One operator for a whole layer, as older converters write it."""
    root = schema.ModelT()
    root.version = 3
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    code.deprecatedBuiltinCode = code.builtinCode
    root.operatorCodes, root.buffers = [code], [schema.BufferT()]
    graph, operator = schema.SubGraphT(), schema.OperatorT()
    graph.tensors = []

    def tensor(shape, constant):
        one = schema.TensorT()
        one.shape, one.type, one.buffer = np.array(shape, np.int32), 0, 0
        if constant:
            buffer = schema.BufferT()
            buffer.data = np.zeros(4 * int(np.prod(shape)), np.uint8)
            one.buffer = len(root.buffers)
            root.buffers.append(buffer)
        graph.tensors.append(one)
        return len(graph.tensors) - 1

    inputs = [tensor((1, 20, 5), False)]
    inputs += [tensor((7, 5), True) for _ in range(4)] + [tensor((7, 7), True) for _ in range(4)]
    inputs += [-1] * 3 + [tensor((7,), True) for _ in range(4)] + [-1] * 2
    inputs += [tensor((1, 7), False), tensor((1, 7), False)]
    operator.inputs, operator.outputs = inputs, [tensor((1, 20, 7), False)]
    graph.inputs, graph.outputs, graph.operators = inputs[:1], operator.outputs, [operator]
    root.subgraphs = [graph]
    assert file_macs(pack(root)) == FileMacs(20 * 4 * 7 * (5 + 7))


def test_four_bit_weights_are_read():
    root = schema.ModelT()
    buffer, tensor = schema.BufferT(), schema.TensorT()
    # Two a byte, the lower half first: 1, −2 | 7, −8 | 0.
    buffer.data = np.array([0xE1, 0x87, 0x00], np.uint8)
    root.buffers = [buffer]
    tensor.type, tensor.shape, tensor.buffer = INT4, np.array([5], np.int32), 0
    assert read_constant(root, tensor).tolist() == [1, -2, 7, -8, 0]
