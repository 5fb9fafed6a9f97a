"""The plan and the smaller model: figures, printing, settings, names, precisions."""

import keras
import numpy as np
import pytest
from keras import layers
from random_models import random_inputs, randomize, zero_outputs
from shrink_models import (
    ROUNDING,
    assert_same_outputs,
    channels,
    dense,
    entry,
    functional,
    line,
    nothing_to_remove,
    outputs_of,
    same,
    sandwich,
    shrink,
)

from cnn_l1.shrink.removal import ShrinkError, apply_shrink, plan_shrink


@pytest.fixture(scope="module")
def example():
    """A model with a bit of everything: its plan and the smaller one."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(6, 3, name="stem", kernel_regularizer="l2")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.Conv2D(6, 1, use_bias=False, name="pointwise")(y)
    x = layers.Add()([x, y])
    x = layers.Flatten()(layers.MaxPooling2D(name="pool")(x))
    x = layers.Dense(10, activation="sigmoid", name="hidden")(x)
    model = functional(inputs, layers.Dense(4, use_bias=False, name="logits")(x))
    zero_outputs(model.get_layer("stem_bn"), [0, 1, 2])
    zero_outputs(model.get_layer("depthwise"), [0, 1, 2])
    zero_outputs(model.get_layer("pointwise"), [0, 1, 3])
    zero_outputs(model.get_layer("hidden"), [7, 8, 9])
    plan, small = shrink(model)
    return model, plan, small


def test_figures_of_the_plan(example):
    """Counted by hand."""
    model, plan, small = example
    left = {"stem": 4, "stem_bn": 4, "depthwise": 4, "pointwise": 4, "hidden": 7, "logits": 4}
    assert channels(plan) == left
    assert [layer.name for layer in plan.layers] == list(left)
    assert [layer.kind for layer in plan.layers[:3]] == [
        "Conv2D",
        "BatchNormalization",
        "DepthwiseConv2D",
    ]
    # 6x6 positions after the stem, 3x3 after the pool.
    expected = {
        "stem": (36 * 27 * 6, 36 * 27 * 4, 27 * 6 + 6, 27 * 4 + 4),
        "stem_bn": (0, 0, 4 * 6, 4 * 4),
        "depthwise": (36 * 9 * 6, 36 * 9 * 4, 9 * 6 + 6, 9 * 4 + 4),
        "pointwise": (36 * 36, 36 * 16, 36, 16),
        "hidden": (540, 36 * 7, 550, 36 * 7 + 7),
        # Three sigmoids of a bias go into a bias that was not there.
        "logits": (40, 28, 40, 28 + 4),
    }
    for layer in plan.layers:
        figures = (
            layer.macs_before,
            layer.macs_after,
            layer.parameters_before,
            layer.parameters_after,
        )
        assert figures == expected[layer.name], layer.name
    totals = plan.macs_before, plan.macs_after, plan.parameters_before, plan.parameters_after
    assert totals == tuple(sum(column) for column in zip(*expected.values(), strict=True))
    assert (model.count_params(), small.count_params()) == totals[2:]


def test_printing_the_plan(example):
    _, plan, _ = example
    text = str(plan)
    for layer in plan.layers:
        assert layer.name in text
        if layer.channels_after < layer.channels_before:
            assert f"{layer.channels_before} → {layer.channels_after}" in text
    assert f"{plan.parameters_after:,}" in text
    assert f"{plan.macs_after:,}" in text
    held_back = entry(plan, "pointwise").held_back
    assert held_back
    # The last column breaks its lines; its first words are in one.
    assert " ".join(held_back.split()[:2]) in text


def test_the_model_stays_as_it_was(example):
    model, plan, small = example
    weights, config = model.get_weights(), model.get_config()
    other = apply_shrink(model, plan)
    other.set_weights([np.zeros_like(value) for value in other.get_weights()])
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert model.get_config() == config
    assert not {id(v) for v in model.weights} & {id(v) for v in small.weights}
    assert not {id(x) for x in model.layers} & {id(x) for x in small.layers}
    assert any(value.any() for value in small.get_weights())


def test_the_small_model_is_a_plain_keras_model(example, tmp_path):
    model, _, small = example
    assert type(small) is keras.Model or type(small).__name__ == "Functional"
    assert small.input_shape == model.input_shape
    assert small.output_shape == model.output_shape
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    images = random_inputs(model)
    # The same operations on the same weights.
    np.testing.assert_array_equal(outputs_of(loaded, images)[0], outputs_of(small, images)[0])
    # It trains on.
    loaded.compile("sgd", "mse")
    loaded.fit(images, np.zeros((3, 4)), verbose=0)


def test_every_layer_keeps_its_settings(example):
    model, _, small = example
    changed = {"filters", "units", "use_bias", "build_config", "name"}
    for layer in small.layers:
        ours, theirs = layer.get_config(), model.get_layer(layer.name).get_config()
        differ = {key for key in theirs if ours[key] != theirs[key]}
        assert differ <= changed, layer.name
    assert small.get_layer("stem").kernel_regularizer is not None


def test_a_plan_belongs_to_its_model(example):
    model, plan, _ = example
    copy = keras.models.clone_model(model)
    with pytest.raises(ShrinkError, match="plan_shrink"):
        apply_shrink(copy, plan)
    copy.set_weights(model.get_weights())
    with pytest.raises(ShrinkError, match="plan_shrink"):
        apply_shrink(sandwich(), plan)
    stem = model.get_layer("stem")
    before = np.array(stem.kernel)
    try:
        stem.kernel.assign(before + 1.0)
        with pytest.raises(ShrinkError, match="plan_shrink"):
            apply_shrink(model, plan)
    finally:
        stem.kernel.assign(before)
    apply_shrink(model, plan)


def test_a_model_with_nothing_to_remove_is_copied():
    model, _ = nothing_to_remove()
    plan, small = shrink(model)
    assert not plan.removes_anything
    assert plan.unsupported == ()
    for before, after in zip(model.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [layer.name for layer in model.layers] == [layer.name for layer in small.layers]


def test_a_sequential_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="a"), layers.Flatten(), dense()]
    )
    randomize(model)
    zero_outputs(model.get_layer("a"), [0, 1])
    assert channels(shrink(model)[0]) == {"a": 4, "b": 3}


def test_inputs_and_outputs_by_name():
    inputs = {"first": keras.Input((5,), name="first"), "second": keras.Input((4,), name="second")}
    a, b = (layers.Dense(6, activation="relu", name=name) for name in "ab")
    x = layers.Concatenate()([a(inputs["first"]), b(inputs["second"])])
    model = functional(inputs, {"out": layers.Dense(3, name="c")(x), "other": a(inputs["first"])})
    zero_outputs(a, [0])
    zero_outputs(b, [0])
    random = np.random.default_rng(0)
    batch = {"first": random.normal(size=(3, 5)), "second": random.normal(size=(3, 4))}
    plan, small = shrink(model, inputs={k: v.astype("float32") for k, v in batch.items()})
    assert channels(plan) == {"a": 6, "b": 5, "c": 3}
    assert set(small(batch)) == {"out", "other"}


def test_names_that_repeat_in_nested_models():
    def block(name):
        return keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, activation="relu", name="dense")], name=name
        )

    first, second = block("first"), block("second")
    model = keras.Sequential([keras.Input((6,)), first, second, layers.Dense(3, name="last")])
    randomize(model)
    zero_outputs(first.get_layer("dense"), [0, 1])
    zero_outputs(second.get_layer("dense"), [0, 1, 2])
    plan, small = shrink(model)
    assert [layer.channels_after for layer in plan.layers] == [4, 3, 3]
    assert len({layer.name for layer in plan.layers}) == 3
    assert [layer.name for layer in small.layers[1:]] == [layer.name for layer in plan.layers]


def test_names_that_repeat_once_models_are_opened():
    """An input of the outer model and a layer of the inner one."""
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="x")], name="inner")
    inputs = keras.Input((6,), name="x")
    model = functional(inputs, dense()(inner(inputs)))
    zero_outputs(inner.get_layer("x"), [0, 1])
    plan, _ = shrink(model)
    assert [layer.channels_after for layer in plan.layers] == [4, 3]


def test_operations_that_repeat_in_nested_models():
    """Models made in two sessions have operations of one name."""

    def block(name):
        keras.backend.clear_session()
        x = keras.Input((6,))
        y = keras.ops.relu(layers.Dense(6, name=f"dense_{name}")(x) + 0.5)
        return keras.Model(x, y, name=name)

    blocks = block("first"), block("second")
    inputs = keras.Input((6,))
    model = functional(inputs, dense()(blocks[1](blocks[0](inputs))))
    zero_outputs(blocks[0].get_layer("dense_first"), [0, 1])
    plan, _ = shrink(model)
    assert channels(plan) == {"dense_first": 4, "dense_second": 6, "b": 3}


def test_a_fixed_batch_of_integers():
    """What an exported model takes: uint8 images, so many at a time."""
    inputs = keras.Input(batch_shape=(4, 8, 8, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255.0)(inputs)
    model = functional(inputs, same()(layers.Conv2D(6, 3, name="a")(x)))
    zero_outputs(model.get_layer("a"), [0, 1])
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("uint8")
    plan, small = shrink(model, images)
    assert channels(plan) == {"a": 4, "b": 3}
    assert small.inputs[0].shape == (4, 8, 8, 3)
    assert small.inputs[0].dtype == "uint8"
    assert small.inputs[0].name == "images"


def test_an_output_given_twice_and_an_input_given_back():
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, name="a")
    x = layers.Conv2D(4, 3, name="b")(a(inputs))
    model = functional(inputs, [x, inputs, x])
    zero_outputs(a, [0, 1])
    zero_outputs(model.get_layer("b"), [0])
    assert channels(shrink(model)[0]) == {"a": 4, "b": 4}


def test_low_rank_adapters_are_kept_or_refused():
    """With LoRA the kernel is a sum of weights, none of which is the kernel."""
    model = line((8, 8, 3), layers.Conv2D(6, 3, name="a"), dense())
    zero_outputs(model.get_layer("a"), [0, 1])
    model.get_layer("b").enable_lora(2)
    for variable in (model.get_layer("b").lora_kernel_a, model.get_layer("b").lora_kernel_b):
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    try:
        small = apply_shrink(model, plan_shrink(model))
    except ShrinkError:
        return
    assert_same_outputs(model, small)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, activation="sigmoid", name="a", dtype=policy)
    x = layers.BatchNormalization(name="bn", dtype=policy)(a(inputs))
    model = functional(inputs, layers.Conv2D(3, 3, name="b", dtype=policy)(x))
    zero_outputs(a, [0, 1], 0.5)
    # bfloat16 has 8 bits, and constants are summed with more.
    plan, small = shrink(model, rounding=0.05 if policy == "mixed_bfloat16" else ROUNDING)
    assert channels(plan) == {"a": 4, "bn": 4, "b": 3}
    for layer in small.layers[1:]:
        assert layer.dtype_policy.name == policy


def test_open_image_sizes():
    """Multiply-adds are not known; channels are."""
    model = line(
        (None, None, 3),
        layers.Conv2D(6, 3, name="a"),
        layers.GlobalAveragePooling2D(),
        dense(),
    )
    zero_outputs(model.get_layer("a"), [0, 1])
    plan = plan_shrink(model)
    assert channels(plan) == {"a": 4, "b": 3}
    assert not plan.macs_known
    assert "unknown" in str(plan)
    images = np.random.default_rng(0).normal(size=(3, 9, 7, 3)).astype("float32")
    assert_same_outputs(model, apply_shrink(model, plan), images)


def test_frozen_layers_stay_frozen():
    model = sandwich()
    model.get_layer("a").trainable = False
    _, small = shrink(model)
    assert not small.get_layer("a").trainable
    assert small.get_layer("b").trainable


def test_an_initializer_of_the_old_shape_does_not_stand_in_the_way():
    inputs = keras.Input((5,))
    values = keras.initializers.Constant(np.ones((5, 6)).tolist())
    a = layers.Dense(6, kernel_initializer=values, name="fixed")
    model = functional(inputs, dense()(a(inputs)))
    zero_outputs(a, [0])
    _, small = shrink(model)
    assert small.get_layer("fixed").units == 5
