"""Networks of the user's own: loaded, called, checked, scaled and frozen."""

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.own_code import OwnCodeError
from cnn_l1.data.splits import InputStatistics
from cnn_l1.export.tflite import export_tflite
from cnn_l1.models.own_models import given_model, own_model
from cnn_l1.models.untrained import new_network
from cnn_l1.sparsity.penalty import Penalty

IMAGE = (8, 8, 1)


def section(**settings):
    return configs.validate({"name": "a", "model": settings}).model


def images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("float32")


def network(input_shape=IMAGE, outputs=3, **head):
    """A small one with a nested model in it."""
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="relu", name="hidden")], name="inner"
    )
    inputs = keras.Input(input_shape, name="mine")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = inner(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    model = keras.Model(inputs, layers.Dense(outputs, name="out", **head)(x))
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.1, 1.0, w.shape) for w in model.get_weights()])
    return model


def saved(tmp_path, model, name="mine.keras"):
    model.save(tmp_path / name)
    return section(name="file", path=str(tmp_path / name))


def refusal(function, *args, kind=ConfigError):
    with pytest.raises(kind) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["mine.keras", "mine.h5"])
def test_a_file_gives_what_it_gave(tmp_path, name):
    model = network()
    model.compile("adam", "mse")
    found = own_model(saved(tmp_path, model, name), IMAGE, 3)
    pixels = images((4, *IMAGE))
    # The same layers on the same numbers.
    np.testing.assert_array_equal(found(pixels), model(pixels))
    assert "inner" not in [layer.name for layer in found.layers]
    assert not found.compiled
    assert found.input.name == "mine"


def test_a_file_that_does_not_fit(tmp_path):
    config = saved(tmp_path, network((6, 6, 3)))
    assert refusal(own_model, config, IMAGE, 3) == (
        "model.path: expected an input of shape (8, 8, 1), as the data have. "
        "Received: mine.keras with (6, 6, 3)"
    )
    config = saved(tmp_path, network())
    assert refusal(own_model, config, IMAGE, 10) == (
        "model.path: expected 10 outputs, as the targets need. Received: mine.keras with 3"
    )
    assert refusal(own_model, config, IMAGE, (8, 8, 3)) == (
        "model.path: expected values of shape (8, 8, 3), as the targets have. "
        "Received: mine.keras with (3,)"
    )
    assert refusal(own_model, config, IMAGE, {"a": 3, "b": 1}) == (
        "model.path: expected outputs of the names a, b, as the targets have. "
        "Received: mine.keras with out"
    )
    a, b = keras.Input(IMAGE), keras.Input(IMAGE)
    config = saved(tmp_path, keras.Model([a, b], layers.Flatten()(layers.Add()([a, b]))))
    assert refusal(own_model, config, IMAGE, 64) == (
        "model.path: expected a network with one input. Received: mine.keras with 2"
    )
    config = section(name="file", path=str(tmp_path / "none.keras"))
    assert refusal(own_model, config, IMAGE, 3).startswith("model.path: ")


def test_outputs_at_each_pixel_or_of_the_inputs_shape():
    inputs = keras.Input(IMAGE)
    model = keras.Model(inputs, layers.Conv2D(3, 1)(inputs))
    config = section(name="given")
    for outputs in (3, (8, 8, 3)):
        assert given_model(model, config, IMAGE, outputs).output_shape == (None, 8, 8, 3)
    same = keras.Model(inputs, layers.Conv2D(1, 1)(inputs))
    for outputs in (64, IMAGE):
        assert given_model(same, config, IMAGE, outputs).output_shape == (None, *IMAGE)
    assert refusal(given_model, model, config, IMAGE, 5) == (
        f"model: expected 5 outputs, as the targets need. Received: {model.name} with values of "
        "shape (8, 8, 3)"
    )


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_outputs_come_as_a_dict(form):
    inputs = keras.Input((4,))
    heads = [layers.Dense(2, name="kind")(inputs), layers.Dense(1, name="size")(inputs)]
    made = heads if form == "list" else dict(zip(["kind", "size"], heads, strict=True))
    model = keras.Model(inputs, made)
    found = given_model(model, section(name="given"), (4,), {"size": 1, "kind": 2})
    rows = np.random.default_rng(0).normal(size=(3, 4))
    kind, size = keras.tree.flatten(model(rows))
    result = found(rows)
    np.testing.assert_array_equal(result["kind"], kind)
    np.testing.assert_array_equal(result["size"], size)
    assert refusal(given_model, model, section(name="given"), (4,), {"size": 3, "kind": 2}) == (
        f"model: expected output 'size' of 3 outputs, as the targets need. Received: {model.name} "
        "with 1"
    )
    message = refusal(given_model, model, section(name="given"), (4,), 2)
    assert message.startswith("model: expected a network with one output. Received: ")


def test_layers_of_the_users_own(tmp_path, monkeypatch):
    """They are registered by a module that `modules` names, and functions come from it too."""
    (tmp_path / "my_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
        "def build(input_shape, outputs, units=3):\n"
        "    layers = keras.layers\n"
        "    return keras.Sequential([keras.Input(input_shape), Twice(), layers.Flatten(),\n"
        "        layers.Dense(units), layers.Dense(outputs)])\n"
        "def nothing(input_shape, outputs):\n"
        "    return 3\n"
        "def broken(input_shape, outputs):\n"
        "    raise KeyError('size')\n"
        "def unbuilt(input_shape, outputs):\n"
        "    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(outputs)])\n"
        "def too_small(input_shape, outputs):\n"
        "    return keras.Sequential([keras.layers.Conv2D(2, 9)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = section(name="function", function="my_layers:build", arguments={"units": 7})
    model = own_model(config, IMAGE, 3)
    assert model.count_params() == 65 * 7 + 8 * 3
    model.save(tmp_path / "mine.keras")
    config = section(name="file", path=str(tmp_path / "mine.keras"), modules=["my_layers"])
    pixels = images((2, *IMAGE))
    np.testing.assert_array_equal(own_model(config, IMAGE, 3)(pixels), model(pixels))

    def of(name):
        return section(name="function", function=f"my_layers:{name}")

    assert own_model(of("unbuilt"), IMAGE, 3).output_shape == (None, 3)
    assert refusal(own_model, of("nothing"), IMAGE, 3, kind=OwnCodeError) == (
        "model.function: expected a function that returns a keras.Model. "
        "Received: my_layers:nothing, which returns int"
    )
    assert refusal(own_model, of("broken"), IMAGE, 3, kind=OwnCodeError).endswith(
        "Received: my_layers:broken raised KeyError: 'size'"
    )
    message = refusal(own_model, of("too_small"), IMAGE, 3)
    assert message.startswith(
        "model.function: my_layers:too_small: expected a model that can be called on inputs of "
        "shape (8, 8, 1). Received: Sequential, which raises "
    )
    config = section(name="file", path=str(tmp_path / "mine.keras"), modules=["no_such_module"])
    message = refusal(own_model, config, IMAGE, 3, kind=OwnCodeError)
    assert message.startswith("model.modules: expected a Python module 'no_such_module'")


def test_a_layer_that_nothing_registers(tmp_path):
    @keras.saving.register_keras_serializable("gone")
    class Gone(layers.Layer):
        def call(self, x):
            return 2 * x

    config = saved(tmp_path, keras.Sequential([keras.Input((3,)), Gone()]))
    for registry in (keras.saving.get_custom_objects(),):
        registry.pop("gone>Gone")
    message = refusal(own_model, config, (3,), 3)
    assert "gone>Gone" in message
    assert message.endswith("Name the module that registers them in model.modules")


def test_a_range_is_put_in_front(tmp_path):
    model = network()
    model.save(tmp_path / "mine.keras")
    pixels = images((4, *IMAGE))
    ranges = {
        "0-1": pixels / 255,
        "-1-1": pixels / 127.5 - 1,
        "standardized": (pixels - 100) / 50,
        "0-255": pixels,
    }
    statistics = InputStatistics((100.0,), (2500.0,))
    for input_range, scaled in ranges.items():
        config = section(name="file", path=str(tmp_path / "mine.keras"), input_range=input_range)
        found = own_model(config, IMAGE, 3, statistics)
        np.testing.assert_allclose(found(pixels), model(scaled), rtol=1e-5)
        config = config.model_copy(update={"normalization": "none"})
        found = own_model(config, IMAGE, 3, statistics)
        np.testing.assert_array_equal(found(scaled), model(scaled))


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        (False, ["conv", "norm", "hidden", "out"]),
        ("conv", ["norm", "hidden", "out"]),
        ("[cn]*", ["hidden", "out"]),
    ],
)
def test_freeze(freeze, trained):
    model = network()
    found = given_model(model, section(name="given", freeze=freeze), IMAGE, 3)
    assert [x.name for x in found.layers if x.trainable_weights] == trained
    assert len(model.trainable_weights) == 8  # the given one stays as it is


def test_freeze_that_leaves_nothing_or_matches_none():
    assert refusal(given_model, network(), section(name="given", freeze="cnov*"), IMAGE, 3) == (
        "model.freeze: expected a pattern that matches one of the layers with weights, conv, "
        "norm, hidden, out. Received: cnov*"
    )
    many = keras.Sequential(
        [keras.Input((3,)), *(layers.Dense(3, name=f"d{i}") for i in range(10))]
    )
    message = refusal(given_model, many, section(name="given", freeze="e*"), (3,), 3)
    assert message.endswith("d0, d1, d2, d3, d4, d5, d6, d7 and 2 more. Received: e*")
    for freeze, text in ((True, "true"), ("*", "*")):
        model = network()
        assert refusal(given_model, model, section(name="given", freeze=freeze), IMAGE, 3) == (
            "model.freeze: expected a pattern that leaves layers to be trained. Received: "
            f"{text}, which freezes all of {model.name}"
        )


def test_new_network_puts_the_penalty_on_what_is_trained(tmp_path):
    network().save(tmp_path / "mine.keras")
    settings = {"name": "file", "path": str(tmp_path / "mine.keras"), "freeze": "conv"}
    config = configs.validate(
        {"name": "a", "model": settings, "penalty": {"name": "l1", "l1_strength": 1e-3}}
    )
    model = new_network(config, IMAGE, 3)
    carry = [v.path for v in model.weights if isinstance(v.regularizer, Penalty)]
    assert carry == ["hidden/kernel", "out/kernel"]
    config = configs.validate({"name": "a", "model": {"name": "linear"}})
    message = refusal(new_network, config, IMAGE, {"a": 1, "b": 2})
    assert message.startswith("model.name: expected a network of your own")


def test_a_range_in_front_is_in_the_file(tmp_path):
    """`export_tflite` compares the file with the model on raw pixels."""
    found = given_model(network(), section(name="given", input_range="-1-1"), IMAGE, 3)
    export_tflite(found, tmp_path / "a.tflite", calibration_data=images((8, *IMAGE)))


def test_paths_are_those_of_the_configs_folder(tmp_path):
    for given, expected in (
        ("weights: imagenet", "imagenet"),
        ("weights: mine.weights.h5", str(tmp_path / "mine.weights.h5")),
    ):
        (tmp_path / "a.yaml").write_text(
            f"name: a\nmodel: {{name: application, application: VGG16, {given}}}\n"
        )
        assert configs.load(tmp_path / "a.yaml").model.weights == expected


def test_a_policy_that_would_change_nothing_is_refused():
    config = section(name="given", dtype_policy="mixed_bfloat16")
    assert refusal(given_model, network(), config, IMAGE, 3) == (
        "model.dtype_policy: expected none for name given, whose layers have their own. "
        "Received: mixed_bfloat16"
    )


def test_what_is_no_model():
    message = refusal(given_model, "mine.keras", section(name="given"), IMAGE, 3)
    assert message == "model: expected a keras.Model. Received: str"
    message = refusal(own_model, section(name="given"), IMAGE, 3)
    assert message.startswith("model.name: expected file, function or application")
