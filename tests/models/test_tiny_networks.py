"""Networks for microcontrollers: their counts, their shapes, and that they shrink."""

import keras
import numpy as np
import pytest

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.models import builders
from cnn_l1.shrink.removal import apply_shrink, check_same_output, plan_shrink


def build(name, input_shape, output_count, **settings):
    settings.setdefault("normalization", "none")
    config = configs.validate({"name": "a", "model": {"name": name, **settings}})
    return builders.build(config, input_shape, output_count)


def refusal(name, input_shape, output_count=2, **settings):
    with pytest.raises(ConfigError) as caught:
        build(name, input_shape, output_count, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "input_shape", "outputs", "parameters"),
    [
        # MLPerf Tiny's references, as their `model.summary()` counts them.
        # 40·64+64, four times 9·64+64 + 64·64+64, 64·12+12; 4 a channel of nine batch-norms.
        ("ds_cnn", (49, 10, 1), 12, 24_908),
        ("mobilenet_v1", (96, 96, 3), 2, 221_794),
        # 641·128 + 6·129·128 + 129·8 + 9·128 + 129·640; batch-norms of 8·128 and 8.
        ("autoencoder", (640,), 640, 269_992),
        # 9·(1·16 + 16·16 + 16·32 + 32·32 + 32·64 + 64·64) down; up 9·(64·32 + 64·32 +
        # 32·16 + 32·16); batch-norms 4·(2·16 + 2·32 + 2·64 + 2·32 + 2·16); last 17·3.
        ("unet_small", (16, 24, 1), 3, 71_568 + 46_080 + 1_280 + 51),
    ],
)
def test_parameter_counts(name, input_shape, outputs, parameters):
    assert build(name, input_shape, outputs).count_params() == parameters


def test_first_convolutions_are_the_references():
    conv = build("ds_cnn", (49, 10, 1), 12).get_layer("conv")
    assert (conv.kernel.shape, conv.strides) == ((10, 4, 1, 64), (2, 2))
    conv = build("mobilenet_v1", (96, 96, 3), 2).get_layer("conv")
    assert (conv.kernel.shape, conv.strides) == ((3, 3, 3, 8), (2, 2))
    model = build("mobilenet_v1", (96, 96, 3), 2)
    assert model.get_layer("pointwise_13_relu").output.shape == (None, 3, 3, 256)


def test_width():
    assert build("mobilenet_v1", (32, 32, 3), 2, width=0.5).get_layer("conv").filters == 16
    assert build("ds_cnn", (49, 10, 1), 12, width=0.5).get_layer("pointwise_4").filters == 32
    unet = build("unet_small", (8, 8, 1), 2, width=0.25)
    assert unet.get_layer("bottom_conv_1").filters == 16


@pytest.mark.parametrize(
    ("input_shape", "layers"),
    [((20,), []), ((6, 2), ["flatten", "reshape"]), ((4, 4, 1), ["flatten", "reshape"])],
)
def test_autoencoder_gives_its_input(input_shape, layers):
    model = build("autoencoder", input_shape, 1, normalization="auto")
    assert model.output_shape == (None, *input_shape)
    names = [layer.name for layer in model.layers]
    assert [name for name in ("rescale", "standardize", "flatten", "reshape") if name in names] == (
        layers
    )


def test_unet_gives_classes_at_each_pixel():
    assert build("unet_small", (8, 12, 3), 5).output_shape == (None, 8, 12, 5)
    assert build("unet_small", (8, 12, 3), (8, 12, 5)).output_shape == (None, 8, 12, 5)


def test_what_does_not_fit():
    assert refusal("unet_small", (10, 8, 1)) == (
        "model: expected a network that fits 10x8x1 images. Received: unet_small, which does "
        "not: it halves rows and columns twice, and 4 must divide 10x8"
    )
    assert refusal("ds_cnn", (49, 10)) == (
        "model: expected a network that fits 49x10 series. Received: ds_cnn, which does not: it "
        "reads rows, columns and channels, not a shape of (49, 10)"
    )
    assert refusal("ds_cnn", (49, 10, 1), (49, 10, 2)) == (
        "model.name: expected a network that gives values of shape (49, 10, 2) an example, as "
        "the targets have. Received: ds_cnn, which gives (2,)"
    )


NETWORKS = {
    "ds_cnn": ((12, 10, 1), {"width": 0.125}, "pointwise_2"),
    "mobilenet_v1": ((32, 32, 3), {"width": 0.0625}, "pointwise_5"),
    "autoencoder": ((12,), {}, "dense_3"),
    "unet_small": ((8, 8, 1), {"width": 0.25}, "down_1_conv_2"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_of_zeros_are_removed(name):
    input_shape, settings, layer_name = NETWORKS[name]
    keras.utils.set_random_seed(1)
    model = build(name, input_shape, 2, **settings)
    rng = np.random.default_rng(0)
    for layer in model.layers:  # statistics and shifts as after training
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    layer, norm = model.get_layer(layer_name), model.get_layer(f"{layer_name}_norm")
    for variable in (layer.kernel, norm.gamma, norm.beta):
        values = variable.numpy()
        values[..., 0] = 0
        variable.assign(values)
    small = apply_shrink(model, plan_shrink(model))
    assert small.get_layer(layer_name).kernel.shape[-1] == layer.kernel.shape[-1] - 1
    samples = rng.normal(size=(3, *input_shape)).astype("float32")
    check_same_output(model, small, samples)
