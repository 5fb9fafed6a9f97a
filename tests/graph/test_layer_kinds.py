"""The registry of layer kinds: kernels, multiply-adds and places in a TFLite file."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import cnn_l1
from cnn_l1.export import stored_zeros
from cnn_l1.export import tflite as export
from cnn_l1.graph import layer_kinds
from cnn_l1.graph.channel_rules import RULES
from cnn_l1.graph.coupling import analyse
from cnn_l1.graph.layer_kinds import LAYER_KINDS, Kernel, LayerKind, is_kernel, kind_of
from cnn_l1.sparsity import counting

IMAGE, STEPS = (8, 8, 4), (6, 4)


def model_of(shape, function, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype, batch_size=1)
    return keras.Model(inputs, function(inputs))


# Each with its kernel shapes and its multiply-adds, worked out by hand.
CASES = {
    "Conv1D": (STEPS, lambda x: layers.Conv1D(5, 3)(x), [(3, 4, 5)], 4 * 60),
    "grouped Conv2D": (
        IMAGE, lambda x: layers.Conv2D(6, 3, groups=2)(x), [(3, 3, 2, 6)], 36 * 108,
    ),
    "Conv3D": ((4, 4, 4, 2), lambda x: layers.Conv3D(3, 3)(x), [(3, 3, 3, 2, 3)], 8 * 162),
    "DepthwiseConv1D": (
        STEPS, lambda x: layers.DepthwiseConv1D(3, depth_multiplier=2)(x), [(3, 4, 2)], 4 * 24,
    ),
    "SeparableConv1D": (
        STEPS, lambda x: layers.SeparableConv1D(5, 3)(x), [(3, 4, 1), (1, 4, 5)], 4 * 32,
    ),
    "Conv1DTranspose": (
        STEPS, lambda x: layers.Conv1DTranspose(5, 3, strides=2)(x), [(3, 5, 4)], 6 * 60,
    ),
    "Conv3DTranspose": (
        (4, 4, 4, 2), lambda x: layers.Conv3DTranspose(3, 2)(x), [(2, 2, 2, 3, 2)], 64 * 48,
    ),
    "Dense on steps": (STEPS, lambda x: layers.Dense(3)(x), [(4, 3)], 6 * 12),
    "EinsumDense": (
        STEPS, lambda x: layers.EinsumDense("abc,cde->abde", (6, 3, 2))(x), [(4, 3, 2)], 6 * 24,
    ),
    "EinsumDense with an ellipsis": (
        (2, *STEPS), lambda x: layers.EinsumDense("...x,xy->...y", (3,))(x), [(4, 3)], 12 * 12,
    ),
    # Projections of 6 steps each, and two products of 6 x 6 pairs.
    "MultiHeadAttention": (
        STEPS,
        lambda x: layers.MultiHeadAttention(2, 3)(x, x),
        [(4, 2, 3)] * 3 + [(2, 3, 4)],
        6 * 4 * 24 + 2 * 36 * 6,
    ),
    "Attention": (STEPS, lambda x: layers.Attention()([x, x]), [], 2 * 36 * 4),
    "LSTM": (STEPS, lambda x: layers.LSTM(3)(x), [(4, 12), (3, 12)], 6 * 84),
    "Bidirectional GRU": (
        STEPS,
        lambda x: layers.Bidirectional(layers.GRU(3))(x),
        [(4, 9), (3, 9)] * 2,
        2 * 6 * 63,
    ),
    "RNN of two cells": (
        STEPS,
        lambda x: layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)])(x),
        [(4, 12), (3, 12), (3, 2), (2, 2)],
        6 * (84 + 10),
    ),
    "ConvLSTM2D": (
        (5, *IMAGE), lambda x: layers.ConvLSTM2D(2, 3)(x), [(3, 3, 4, 8), (3, 3, 2, 8)],
        5 * 36 * (288 + 144),
    ),
    "TimeDistributed": (
        (5, *IMAGE),
        lambda x: layers.TimeDistributed(layers.Conv2D(3, 3))(x),
        [(3, 3, 4, 3)],
        5 * 36 * 108,
    ),
    "SpectralNormalization": (
        (8,), lambda x: layers.SpectralNormalization(layers.Dense(3))(x), [(8, 3)], 24,
    ),
    "Dot": ((8,), lambda x: layers.Dot(1)([x, x]), [], 8),
    "ops.matmul": (STEPS, lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), [], 36 * 4),
    "ops.einsum": (STEPS, lambda x: ops.einsum("bij,bkj->bik", x, x), [], 36 * 4),
    "PReLU": (IMAGE, lambda x: layers.PReLU()(x), [], 0),
    "LayerNormalization": (STEPS, lambda x: layers.LayerNormalization(axis=(1, 2))(x), [], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_kernels_and_multiply_adds_of_a_kind(name):
    shape, function, kernels, macs = CASES[name]
    model = model_of(shape, function)
    assert [layer.shape for layer in cnn_l1.count(model).layers] == kernels
    assert sum(cnn_l1.count_macs(model).values()) == macs
    penalised = cnn_l1.attach(model, cnn_l1.L1(1e-3))
    assert len(penalised) == len(kernels)


def test_an_embedding_is_a_table_and_multiplies_nothing():
    model = model_of((5,), lambda x: layers.Embedding(10, 3)(x), "int32")
    assert [layer.shape for layer in cnn_l1.count(model).layers] == [(10, 3)]
    assert cnn_l1.count_macs(model) == {}


def test_layers_inside_a_layer_have_names_of_their_own():
    model = model_of(STEPS, lambda x: layers.MultiHeadAttention(2, 3, name="mha")(x, x))
    names = [name for name, _ in counting.kernels(model)]
    assert names == [f"mha/{part}/kernel" for part in ("query", "key", "value", "attention_output")]


class Scaled(layers.Layer):
    """A custom layer with a weight that has a name of its own."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")

    def call(self, x):
        return x @ self.w


def test_a_custom_layer_is_unknown_and_named_until_it_is_registered(monkeypatch):
    model = model_of((8,), lambda x: Scaled(name="mine")(x))
    counted = cnn_l1.count(model)
    assert counted.layers == ()
    assert counted.unknown == ("mine (Scaled)",)
    assert counted.other_weights == 24
    with pytest.raises(ValueError, match=r"mine \(Scaled\)"):
        cnn_l1.count_macs(model)
    monkeypatch.setattr(layer_kinds, "LAYER_KINDS", dict(LAYER_KINDS))
    kind = LayerKind((Kernel("w", (-2,), (-1,)),), lambda layer, inputs, outputs: 1)
    cnn_l1.register_layer_kind(Scaled, kind)
    assert [layer.shape for layer in cnn_l1.count(model).layers] == [(8, 3)]
    assert cnn_l1.count_macs(model) == {"mine": 24}


def test_registering_what_is_no_layer_or_no_kernel_is_refused():
    with pytest.raises(ValueError, match="layer_class"):
        cnn_l1.register_layer_kind(int, LayerKind())
    with pytest.raises(ValueError, match="bias"):
        cnn_l1.register_layer_kind(Scaled, LayerKind((Kernel("bias", (), ()),)))


def test_a_subclass_has_its_bases_kernel_but_unknown_multiply_adds_once_it_acts_otherwise():
    class Plain(layers.Dense):
        pass

    class Doubled(layers.Dense):
        def call(self, x):
            return 2 * super().call(x)

    assert cnn_l1.count_macs(model_of((8,), lambda x: Plain(3, name="p")(x))) == {"p": 24}
    model = model_of((8,), lambda x: Doubled(3)(x))
    assert cnn_l1.count(model).weights == 24
    with pytest.raises(ValueError, match="Doubled"):
        cnn_l1.count_macs(model)


def test_lambda_layers_and_open_sizes_are_named():
    with pytest.raises(ValueError, match="Lambda"):
        cnn_l1.count_macs(model_of((8,), lambda x: layers.Lambda(lambda t: t * 2)(x)))
    open_steps = keras.Sequential([keras.Input((None, 4)), layers.GRU(3, name="g")])
    with pytest.raises(ValueError, match="g: expected fixed sizes"):
        cnn_l1.count_macs(open_steps)


def test_frozen_kernels_are_counted_with_a_mark_and_not_thresholded():
    model = model_of((8,), lambda x: layers.Dense(3, name="b")(layers.Dense(6, name="a")(x)))
    model.get_layer("a").trainable = False
    before = np.array(model.get_layer("a").kernel)
    counts = cnn_l1.count(model)
    assert [(layer.layer, layer.frozen) for layer in counts.layers] == [("a", True), ("b", False)]
    assert counts.weights == 48 + 18
    assert counts.other_weights == 9
    cnn_l1.apply_threshold(model, 10.0)
    np.testing.assert_array_equal(before, np.array(model.get_layer("a").kernel))
    assert cnn_l1.count(model).layers[1].zeros == 18


def test_factors_slopes_and_positions_are_no_kernels():
    dense = layers.Dense(4)
    dense.build((None, 6))
    dense.enable_lora(2)
    assert [v.name for v in dense.weights if is_kernel(v)] == ["kernel"]
    model = model_of((6,), lambda x: dense(x))
    counts = cnn_l1.count(model)
    assert [(layer.shape, layer.frozen) for layer in counts.layers] == [((6, 4), True)]


def test_int4_kernels_are_counted_by_weight_not_by_byte():
    model = model_of((8,), lambda x: layers.Dense(6)(x))
    kernel = np.ones((8, 6), "float32")
    kernel[:3] = 0
    model.layers[-1].kernel.assign(kernel)
    model.quantize("int4")
    counts = cnn_l1.count(model)
    assert (counts.weights, counts.zeros) == (48, 18)


def test_a_layer_without_a_kernel_is_known():
    assert kind_of(layers.ReLU()) == kind_of(layers.MaxPooling2D())
    assert kind_of(layers.Lambda(lambda x: x)) is None


@pytest.mark.parametrize("layer_class", [c for c in RULES if c in LAYER_KINDS])
def test_axes_are_those_by_which_channels_are_removed(layer_class):
    """The registry and the rules of channel removal say the same of a kernel's axes."""
    rank = {"1D": 3, "2D": 4, "3D": 5}.get(layer_class.__name__.removesuffix("Transpose")[-2:], 2)
    if rank == 2 and layer_class.__name__.startswith("Dense"):
        layer, shape = layer_class(5, name="it"), (6,)
    elif "Depthwise" in layer_class.__name__:
        layer, shape = layer_class(2, name="it"), (6,) * (rank - 2) + (4,)
    else:
        layer, shape = layer_class(5, 2, name="it"), (6,) * (rank - 2) + (4,)
    function = layers.Dense(4)  # so that the layer's inputs are channels too
    model = model_of(shape, lambda x: layers.Dense(2)(layers.ReLU()(layer(function(x)))))
    found = analyse(model)
    call = next(call for call in found.graph.calls if call.operation is layer)
    kinds = {kernel.name: kernel for kernel in LAYER_KINDS[layer_class].kernels}
    for part in found.slices(call):
        if part.variable.name not in kinds:
            continue
        kernel = kinds[part.variable.name]
        axis = part.axis - len(part.variable.shape)
        assert axis in (kernel.outputs if part.role == "own" else kernel.inputs)


WITH_KERNELS = [name for name in CASES if CASES[name][2]]
SPLIT = ["LSTM", "EinsumDense", "Conv3DTranspose", "Bidirectional GRU"]  # in unusual layouts
STORED = [(name, "float32") for name in WITH_KERNELS]
STORED += [(name, kind) for name in SPLIT for kind in ("dynamic_int8", "float16")]


SLOW_TO_CONVERT = (*SPLIT[2:], "LSTM", "ConvLSTM2D", "RNN of two cells", "Conv3D")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*pair, marks=pytest.mark.slow if pair[0] in SLOW_TO_CONVERT else [])
        for pair in STORED
    ],
)
def test_the_files_zeros_are_the_models(name, kind):
    """Exact zeros counted in the file equal those counted in Keras."""
    shape, function, _, _ = CASES[name]
    model = model_of(shape, function)
    plant_zeros(model)
    tflite = export.read_tflite(export.convert(model, kind))
    assert stored_zeros.lost_zeros(tflite, model) == []
    counts = cnn_l1.count(model)
    assert tflite.weight_count == counts.weights
    if kind == "float32":
        assert tflite.zeros == counts.zeros
    else:  # what is below half a step, or float16's least, rounds to zero
        assert tflite.zeros >= counts.zeros


def plant_zeros(model):
    generator = np.random.default_rng(0)
    for _, variable in counting.kernels(model):
        value = np.array(variable)
        value[generator.random(value.shape) < 0.4] = 0
        variable.assign(value)


def test_a_lost_zero_is_found_in_every_layout():
    """A file of another model, whose zeros lie elsewhere, is not taken for this one's."""
    model = model_of(STEPS, lambda x: layers.DepthwiseConv1D(3, depth_multiplier=2)(x))
    plant_zeros(model)
    tflite = export.read_tflite(export.convert(model))
    kernel = counting.kernels(model)[0][1]
    value = np.array(kernel)
    moved = np.zeros(value.size, bool)
    moved[np.flatnonzero(value)[:1]] = True  # one more zero in the model than in the file
    kernel.assign(np.where(moved.reshape(value.shape), 0.0, value))
    assert len(stored_zeros.lost_zeros(tflite, model)) == 1


def test_an_embedding_of_ids_keeps_its_zeros():
    model = model_of((5,), lambda x: layers.Dense(3)(layers.Embedding(10, 3)(x)), "int32")
    plant_zeros(model)
    tflite = export.read_tflite(export.convert(model))
    assert stored_zeros.lost_zeros(tflite, model) == []
    assert tflite.zeros == cnn_l1.count(model).zeros
    assert tflite.weight_count == math.prod((10, 3)) + 9
