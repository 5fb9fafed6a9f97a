"""Counts of exact zeros, against weights set by hand."""

import keras
import numpy as np
import pytest

from cnn_l1.sparsity.counting import ModelCount, count, count_zeros, kernels, penalty_value
from cnn_l1.sparsity.penalties import L1, attach


def set_kernel(variable, zeros):
    """Fill with ones, the first `zeros` values with 0."""
    value = np.ones(int(np.prod(variable.shape)), "float32")
    value[:zeros] = 0.0
    variable.assign(value.reshape(variable.shape))


def test_exact_counts_and_totals():
    model = keras.Sequential(
        [
            keras.layers.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="dense"),
        ]
    )
    set_kernel(model.get_layer("conv").kernel, 10)
    set_kernel(model.get_layer("dense").kernel, 7)
    model.get_layer("dense").bias.assign([0.0, 1.0, 0.0, 2.0])
    model.get_layer("conv").bias.assign([1.0, 1.0, 1.0])
    counts = count(model)
    conv, dense = counts.layers
    assert (conv.layer, conv.shape, conv.weights, conv.zeros) == ("conv", (3, 3, 2, 3), 54, 10)
    assert (dense.layer, dense.shape, dense.weights, dense.zeros) == ("dense", (48, 4), 192, 7)
    assert conv.nonzero == 44
    assert conv.sparsity == 10 / 54
    assert (counts.weights, counts.zeros, counts.nonzero) == (246, 17, 229)
    table = str(counts).splitlines()
    assert table[0].strip() == "Exact zeros"
    assert any("all kernels" in line and "246" in line and "17" in line for line in table)
    # From the totals, not the mean of the layers' fractions.
    assert counts.sparsity == 17 / 246
    assert (counts.other_weights, counts.other_zeros) == (7, 2)
    assert counts.parameters == 253 == model.count_params()
    assert counts.nonzero_parameters == 253 - 17 - 2


def test_negative_zero_counts_and_tiny_values_do_not():
    tiny = np.finfo("float32").tiny  # the smallest normal float32
    assert count_zeros(np.array([0.0, -0.0, tiny, -tiny, 1.0, np.nan], "float32")) == 2


def test_nested_models_are_opened_and_repeated_names_kept():
    def block(name):
        return keras.Sequential(
            [keras.layers.Input((4,)), keras.layers.Dense(4, name="dense")], name=name
        )

    inner = keras.Sequential([keras.layers.Input((4,)), block("first"), block("second")])
    model = keras.Sequential(
        [keras.layers.Input((4,)), inner, keras.layers.Dense(2, name="dense")], name="outer"
    )
    for zeros, (_, variable) in enumerate(kernels(model), start=1):
        set_kernel(variable, zeros)
    counts = count(model)
    assert [layer.layer for layer in counts.layers] == ["dense", "dense#2", "dense#3"]
    assert [layer.zeros for layer in counts.layers] == [1, 2, 3]
    assert counts.weights == 16 + 16 + 8
    assert counts.parameters == model.count_params()


def test_a_shared_layer_counts_once():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    nested = keras.Sequential([keras.layers.Input((4,)), shared], name="nested")
    outputs = shared(shared(inputs)) + nested(inputs)
    model = keras.Model(inputs, outputs)
    set_kernel(shared.kernel, 5)
    counts = count(model)
    assert [(layer.layer, layer.zeros) for layer in counts.layers] == [("shared", 5)]
    assert (counts.weights, counts.parameters) == (16, 20)


def test_batch_norm_is_in_others_and_its_statistics_in_none():
    model = keras.Sequential(
        [
            keras.layers.Input((3,)),
            keras.layers.Dense(2, use_bias=False, name="dense"),
            keras.layers.BatchNormalization(),
        ]
    )
    counts = count(model)
    assert [layer.layer for layer in counts.layers] == ["dense"]
    # gamma (ones) and beta (zeros); the moving averages are not trained.
    assert (counts.other_weights, counts.other_zeros) == (4, 2)


def test_a_layer_with_two_kernels():
    model = keras.Sequential(
        [keras.layers.Input((6, 6, 2)), keras.layers.SeparableConv2D(3, 3, name="separable")]
    )
    set_kernel(model.get_layer("separable").depthwise_kernel, 4)
    set_kernel(model.get_layer("separable").pointwise_kernel, 2)
    counts = count(model)
    assert [(layer.layer, layer.weights, layer.zeros) for layer in counts.layers] == [
        ("separable/depthwise_kernel", 18, 4),
        ("separable/pointwise_kernel", 6, 2),
    ]
    assert (counts.other_weights, counts.zeros) == (3, 6)


def test_kernels_inside_a_wrapping_layer_are_found():
    inner = keras.layers.Dense(2, name="inner")
    model = keras.Sequential([keras.layers.Input((5, 3)), keras.layers.TimeDistributed(inner)])
    set_kernel(inner.kernel, 6)
    assert (count(model).weights, count(model).sparsity) == (6, 1.0)


def test_a_model_without_kernels():
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.BatchNormalization()])
    assert count(model).sparsity == 0.0
    assert ModelCount((), 0, 0).parameters == 0


def test_penalty_value_is_the_sum_of_all_regularizers():
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(3, name="a", bias_regularizer=keras.regularizers.L2(2.0)),
            keras.layers.Dense(2, name="b"),
        ]
    )
    assert penalty_value(model) == 0.0  # the biases start at zero
    attach(model, lambda v: L1(0.5) if "b/" in v.path else None)
    set_kernel(model.get_layer("b").kernel, 2)
    model.get_layer("a").bias.assign([1.0, 2.0, 0.0])
    assert penalty_value(model) == pytest.approx(0.5 * 4 + 2.0 * 5.0)  # small dyadic numbers
    assert penalty_value(model) == pytest.approx(float(sum(model.losses)))
