"""Rules for operations and rarer layers: what is removed changes no output.

Each is between two layers, after channels that are zero, constant or alive. Planted values are
0, 0.7 and -0.6, so that an operation that treats one of them otherwise shows.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.applications import convnext, inception_resnet_v2

from cnn_l1.shrink.removal import apply_shrink, plan_shrink

IMAGE = (8, 8, 3)


def unary(name):
    function = getattr(ops, name)
    return lambda x: function(x)


def clip(x):
    return ops.clip(x, 0.1, 0.5)


def scaled_sum(x):
    return inception_resnet_v2.CustomScaleLayer(0.2)([x, layers.ReLU()(x)])


CASES = {
    name: unary(name)
    for name in (
        "negative", "absolute", "square", "sin", "cos", "expm1", "sign", "floor", "ceil", "celu",
        "selu", "softsign", "log_sigmoid", "sparse_sigmoid", "soft_shrink", "hard_shrink",
        "hard_tanh", "tanh_shrink", "squareplus", "relu6", "leaky_relu", "elu", "gelu", "silu",
        "hard_silu", "softplus", "exp",
    )
} | {
    "sqrt": lambda x: ops.sqrt(ops.absolute(x)),
    "log1p": lambda x: ops.log1p(ops.absolute(x)),
    "clip": clip,
    "divide": lambda x: x / 2.0,
    "power": lambda x: ops.power(ops.absolute(x), 2.0),
    "cast": lambda x: ops.cast(ops.cast(x, "int32"), "float32"),
    "mean over rows": lambda x: ops.mean(x, axis=1, keepdims=True),
    "sum over columns": lambda x: ops.sum(x, axis=2, keepdims=True),
    "max over rows": lambda x: ops.max(x, axis=1, keepdims=True),
    "slice of rows": lambda x: x[:, 2:, ::2, :],
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "expand and squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0))),
    "pad with ones": lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=1.0),
    "concatenate": lambda x: ops.concatenate([x, layers.ReLU()(x)], axis=-1),
    "layer scale": lambda x: convnext.LayerScale(1.0, x.shape[-1])(x),
    "scaled sum": scaled_sum,
    "where greater": lambda x: ops.where(x > 0.0, x, x * 0.1),
    "where less or equal": lambda x: ops.where(ops.less_equal(x, 0.7), 2.0, x),
    "where not equal": lambda x: ops.where(ops.not_equal(x, 0.0), x, 3.0),
    "where equal, of two tensors": lambda x: ops.where(ops.equal(x, layers.ReLU()(x)), x, -x),
    "resizing": layers.Resizing(5, 6),
    "center crop": layers.CenterCrop(4, 5),
    "adaptive average": layers.AdaptiveAveragePooling2D(3),
    "adaptive maximum": layers.AdaptiveMaxPooling2D((3, 2)),
}  # fmt: skip
for _name in ("RandomFlip", "RandomShear", "RandomErasing", "RandomInvert", "RandomGaussianBlur"):
    CASES[_name] = lambda x, name=_name: getattr(layers, name)()(x)


@pytest.mark.parametrize("name", CASES)
def test_what_is_removed_changes_no_output(name):
    keras.utils.set_random_seed(0)
    make = CASES[name]
    inputs = keras.Input(IMAGE)
    first = layers.Conv2D(8, 3, name="first")
    x = make(first(inputs))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(x)))
    model = keras.Model(inputs, outputs)
    kernel, bias = np.array(first.kernel), np.array(first.bias)
    kernel[..., :3] = 0
    bias[:3] = 0.0, 0.7, -0.6
    first.kernel.assign(kernel)
    first.bias.assign(bias)
    # Not one after another, so that means over an image show a shift of it.
    images = np.random.default_rng(0).normal(size=(4, *IMAGE)).astype("float32")
    plan = plan_shrink(model)
    small = apply_shrink(model, plan)
    expected = np.asarray(model(images, training=False))
    received = np.asarray(small(images, training=False))
    # float32 sums in another order, constants added beforehand.
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)
    small.compile("sgd", "mse")
    small.fit(images, np.zeros((4, 3)), verbose=0)


def test_a_repeated_vector():
    inputs = keras.Input((5,))
    first = layers.Dense(6, name="first")
    x = layers.RepeatVector(4)(first(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    kernel, bias = np.array(first.kernel), np.array(first.bias)
    kernel[:, :2] = 0
    bias[:2] = 0.0, 0.7
    first.kernel.assign(kernel)
    first.bias.assign(bias)
    values = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    small = apply_shrink(model, plan_shrink(model))
    assert small.get_layer("first").units == 4
    np.testing.assert_allclose(np.asarray(small(values)), np.asarray(model(values)), rtol=1e-5)
