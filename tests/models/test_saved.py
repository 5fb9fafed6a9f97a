"""Saved models of others: older versions of Keras, damaged files, unknown layers."""

import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.models.saved import LoadError, MendedWarning, load_model


def values(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def old_h5(model, path, edit, version="2.11.0"):
    """Save a model as `.h5` with its config as an older Keras wrote it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        edit({layer["config"]["name"]: layer for layer in config["config"]["layers"]}, config)
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"] = version
    return path


def old_keras(model, path, edit, version="2.14.0"):
    """Save a model as `.keras` with its config as an older Keras wrote it."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    edit({layer["config"]["name"]: layer for layer in config["config"]["layers"]}, config)
    contents["config.json"] = json.dumps(config).encode()
    contents["metadata.json"] = json.dumps({"keras_version": version}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def one_layer(layer, shape):
    inputs = keras.Input(shape, name="x")
    model = keras.Model(inputs, layer(inputs))
    for variable in model.weights:
        variable.assign(values(*variable.shape))
    return model


def check_equal(model, loaded, *inputs):
    inputs = inputs[0] if len(inputs) == 1 else list(inputs)
    expected, received = (keras.tree.flatten(m(inputs)) for m in (model, loaded))
    for one, other in zip(expected, received, strict=True):
        # The same operations on the same weights.
        np.testing.assert_allclose(other, one, atol=1e-6)


KERNEL = {"kernel_initializer": {"class_name": "Zeros", "config": {}}, "kernel_constraint": None}
OLD = {
    "depthwise": (layers.DepthwiseConv2D(3, name="a"), (6, 6, 2), {"groups": 1}),
    "depthwise 1-D": (layers.DepthwiseConv1D(3, name="a"), (6, 2), {"groups": 1}),
    "transposed": (layers.Conv2DTranspose(3, 3, name="a"), (6, 6, 2), {"groups": 1}),
    "separable": (layers.SeparableConv2D(3, 3, name="a"), (6, 6, 2), {"groups": 1, **KERNEL}),
    "LSTM": (layers.LSTM(3, name="a"), (6, 2), {"time_major": False, "implementation": 2}),
    "GRU": (layers.GRU(3, name="a"), (6, 2), {"time_major": False}),
    "spatial dropout": (layers.SpatialDropout2D(0.5, name="a"), (6, 6, 2), {"trainable": True}),
}


@pytest.mark.parametrize("case", OLD)
@pytest.mark.parametrize("save", [old_h5, old_keras])
def test_settings_that_keras_3_has_no_more(case, save, tmp_path):
    layer, shape, settings = OLD[case]
    layer = type(layer).from_config(layer.get_config())
    model = one_layer(layer, shape)

    def edit(by_name, config):
        by_name["a"]["config"].update(settings)

    path = save(model, tmp_path / f"m.{save.__name__[4:]}", edit)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_model(path)
    check_equal(model, loaded, values(2, *shape))
    changed = {"groups", "time_major"} & set(settings)
    messages = [w.message for w in caught if isinstance(w.message, MendedWarning)]
    assert bool(messages) == bool(changed)
    for setting in changed:
        assert f"a ({type(layer).__name__})" in str(messages[0])
        assert setting in str(messages[0])
        assert any(setting in mend.change for mend in messages[0].mends)


def test_a_file_is_left_as_it_was(tmp_path):
    model = one_layer(layers.DepthwiseConv2D(3, name="a"), (6, 6, 2))
    edit = lambda by_name, config: by_name["a"]["config"].update(groups=1)  # noqa: E731
    path = old_h5(model, tmp_path / "m.h5", edit)
    before = path.read_bytes()
    with pytest.warns(MendedWarning):
        load_model(path)
    assert path.read_bytes() == before


def test_files_of_today_load_without_a_word(tmp_path):
    model = one_layer(layers.DepthwiseConv2D(3, name="a"), (6, 6, 2))
    model.save(tmp_path / "m.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_equal(model, load_model(tmp_path / "m.keras"), values(2, 6, 6, 2))


def test_a_file_is_recognised_by_its_content(tmp_path):
    model = one_layer(layers.Dense(3, name="a"), (4,))
    for saved, name in (("m.h5", "hdf5.keras"), ("m.keras", "zip.h5"), ("m.keras", "no_suffix")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(tmp_path / saved)
        (tmp_path / saved).rename(tmp_path / name)
        check_equal(model, load_model(tmp_path / name), values(2, 4))


@pytest.mark.parametrize("kind", ["Sequential", "Functional"])
def test_models_in_models_whose_calls_were_counted_from_1(kind, tmp_path):
    def part(name, units):
        inputs = keras.Input((4,))
        dense = layers.Dense(units)
        if kind == "Sequential":
            return keras.Sequential([inputs, dense], name=name)
        return keras.Model(inputs, dense(inputs), name=name)

    inputs = keras.Input((4,), name="x")
    encoder, decoder = part("encoder", 4), part("decoder", 2)
    added = layers.Subtract(name="minus")([encoder(inputs), encoder(encoder(inputs))])
    model = keras.Model(inputs, decoder(added))

    def edit(by_name, config):
        def references(node):
            if isinstance(node, list) and len(node) >= 3 and isinstance(node[0], str):
                yield node
            elif isinstance(node, (list, dict)):
                for item in node.values() if isinstance(node, dict) else node:
                    yield from references(item)

        for layer in config["config"]["layers"]:
            layer["inbound_nodes"] = [legacy(call) for call in layer["inbound_nodes"]]
        calls = [layer["inbound_nodes"] for layer in config["config"]["layers"]]
        outputs = config["config"]["output_layers"]
        config["config"]["output_layers"] = [outputs] if isinstance(outputs[0], str) else outputs
        for node in references([calls, config["config"]["output_layers"]]):
            if node[0] in ("encoder", "decoder"):
                node[1] += 1

    path = old_h5(model, tmp_path / "m.h5", edit)
    with pytest.warns(MendedWarning, match="counted from 0"):
        loaded = load_model(path)
    check_equal(model, loaded, values(3, 4))


def plain(value):
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        return value["config"]["keras_history"]
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def tensors_of(call):
    found = []

    def search(node):
        if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
            found.append(node["config"]["keras_history"])
        elif isinstance(node, (list, dict)):
            for one in node.values() if isinstance(node, dict) else node:
                search(one)

    search(call["args"])
    return found


def legacy(call):
    """A call as Keras 2 wrote it: a list of `[layer, call, output, keywords]`."""
    if isinstance(call, list):
        return call
    keywords = {name: plain(value) for name, value in call["kwargs"].items() if value is not None}
    return [[*tensor[:3], keywords] for tensor in tensors_of(call)]


def test_tensors_as_keywords(tmp_path):
    x, y = keras.Input((5, 4), name="x"), keras.Input((6, 4), name="y")
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model([x, y], attention(x, value=y))

    def edit(by_name, config):
        layer = by_name["attention"]
        layer["inbound_nodes"] = [[["x", 0, 0, {"value": ["y", 0, 0]}]]]
        layer["config"].update(query_shape=[None, 5, 4], key_shape=None, value_shape=None)

    path = old_h5(model, tmp_path / "m.h5", edit)
    with pytest.warns(MendedWarning, match="keywords"):
        loaded = load_model(path)
    check_equal(model, loaded, values(2, 5, 4), values(2, 6, 4))


def test_first_states_beside_the_input(tmp_path):
    x, h, c = (
        keras.Input((5, 4), name="x"),
        keras.Input((3,), name="h"),
        keras.Input((3,), name="c"),
    )
    model = keras.Model([x, h, c], layers.LSTM(3, name="a")(x, initial_state=[h, c]))

    def edit(by_name, config):
        by_name["a"]["inbound_nodes"] = [[["x", 0, 0, {}], ["h", 0, 0, {}], ["c", 0, 0, {}]]]

    path = old_h5(model, tmp_path / "m.h5", edit)
    with pytest.warns(MendedWarning):
        loaded = load_model(path)
    check_equal(model, loaded, values(2, 5, 4), values(2, 3), values(2, 3))


def test_slashes_in_names(tmp_path):
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(3, name="block_dense")(inputs)
    model = keras.Model(inputs, layers.BatchNormalization(name="block_norm")(hidden))

    def edit(by_name, config):
        def rename(node):
            if isinstance(node, dict):
                return {key: rename(value) for key, value in node.items()}
            if isinstance(node, list):
                return [rename(value) for value in node]
            return node.replace("block_", "block/") if isinstance(node, str) else node

        config["config"] = rename(config["config"])

    path = old_h5(model, tmp_path / "m.h5", edit)
    with pytest.warns(MendedWarning, match="block/dense: renamed block_dense"):
        loaded = load_model(path)
    check_equal(model, loaded, values(2, 4))


def test_policies_of_precision(tmp_path):
    model = one_layer(layers.Dense(3, name="a", dtype="mixed_float16"), (4,))
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    edit = lambda by_name, config: by_name["a"]["config"].update(dtype=policy)  # noqa: E731
    path = old_h5(model, tmp_path / "m.h5", edit)
    with pytest.warns(MendedWarning, match="mixed_float16"):
        loaded = load_model(path)
    assert loaded.get_layer("a").compute_dtype == "float16"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"time_major": True}, r"a \(LSTM\).*time_major=False.*Received: time_major=True"),
        ({"recurrent_activation": "hard_sigmoid"}, r"a \(LSTM\).*hard_sigmoid"),
        ({"activation": "hard_sigmoid"}, r"a \(LSTM\).*hard_sigmoid"),
    ],
)
@pytest.mark.parametrize("save", [old_h5, old_keras])
def test_what_keras_3_computes_otherwise_is_refused(settings, expected, save, tmp_path):
    model = one_layer(layers.LSTM(3, name="a"), (5, 4))
    edit = lambda by_name, config: by_name["a"]["config"].update(settings)  # noqa: E731
    path = save(model, tmp_path / f"m.{save.__name__[4:]}", edit)
    with pytest.raises(LoadError, match=expected):
        load_model(path)


def test_a_hard_sigmoid_of_today_loads(tmp_path):
    model = one_layer(layers.Dense(3, activation="hard_sigmoid"), (4,))
    model.save(tmp_path / "m.keras")
    check_equal(model, load_model(tmp_path / "m.keras"), values(2, 4))


class Doubled(layers.Layer):
    """A layer that no one has registered."""

    def call(self, inputs):
        return 2.0 * inputs


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_unknown_layers_are_named(suffix, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Doubled(name="twice")(layers.Dense(3)(inputs)))
    path = tmp_path / f"m.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    with pytest.raises(LoadError, match=r"Doubled \(twice\).*custom_objects=\{\"Doubled\": Dou"):
        load_model(path)
    check_equal(model, load_model(path, custom_objects={"Doubled": Doubled}), values(2, 4))


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_python_code_in_a_file_is_not_run(suffix, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Lambda(lambda x: 2 * x, name="twice")(inputs))
    path = tmp_path / f"m.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    with pytest.raises(LoadError, match=r"Lambda.*twice"):
        load_model(path)


def test_operations_that_keras_2_wrote_as_layers(tmp_path):
    def edit(by_name, config):
        by_name["a"].update(class_name="TFOpLambda")
        by_name["a"]["config"] = {"name": "tf.math.add", "function": "math.add"}

    path = old_h5(one_layer(layers.Dense(3, name="a"), (4,)), tmp_path / "m.h5", edit)
    with pytest.raises(LoadError, match=r"operations of TensorFlow.*tf\.math\.add"):
        load_model(path)


def test_what_is_no_model_is_said(tmp_path):
    model = one_layer(layers.Dense(300, name="a"), (400,))
    model.save(tmp_path / "whole.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "whole.h5")
    model.save_weights(tmp_path / "only.weights.h5")
    for name in ("whole.keras", "whole.h5"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(content[: len(content) // 2])
    damaged = bytearray((tmp_path / "whole.keras").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "damaged.keras").write_bytes(damaged)
    (tmp_path / "empty.keras").write_bytes(b"")
    (tmp_path / "text.h5").write_text("not a model")
    (tmp_path / "model.tflite").write_bytes(b"\0\0\0\0TFL3" + bytes(20))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("a.txt", "")
    for name, expected in {
        "missing.keras": "no such file",
        "cut_whole.keras": "cut short or damaged",
        "cut_whole.h5": "cut short or damaged",
        "damaged.keras": "not|damaged",
        "empty.keras": "an empty file",
        "text.h5": "another kind",
        "model.tflite": "a TFLite file",
        "saved": "SavedModel.*TFSMLayer",
        "folder": "a folder",
        "zip.keras": "config.json",
        "only.weights.h5": "weights alone",
    }.items():
        with pytest.raises(LoadError, match=expected) as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_compiled_again_with_the_names_of_today(tmp_path):
    model = one_layer(layers.Dense(3, activation="softmax", name="a"), (4,))
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(keras.optimizers.SGD(0.125, momentum=0.5), loss, ["accuracy"])
    path = old_h5(model, tmp_path / "m.h5", lambda by_name, config: None)
    settings = {"name": "SGD", "lr": 0.125, "momentum": 0.5, "decay": 0.0, "nesterov": False}
    training = {
        "loss": {
            "class_name": "SparseCategoricalCrossentropy",
            "config": {
                "reduction": "auto",
                "name": "loss",
                "fn": "sparse_categorical_crossentropy",
            },
        },
        "metrics": [["accuracy"]],
        "weighted_metrics": None,
        "loss_weights": None,
        "optimizer_config": {"class_name": "SGD", "config": settings},
    }
    with h5py.File(path, "r+") as file:
        file.attrs["training_config"] = json.dumps(training).encode()
    with pytest.warns(MendedWarning, match="lr became learning_rate"):
        loaded = load_model(path, compile=True)
    assert float(loaded.optimizer.learning_rate) == 0.125
    assert loaded.optimizer.momentum == 0.5
    assert loaded.loss.reduction == "sum_over_batch_size"
    loaded.fit(values(8, 4), np.arange(8) % 3, verbose=0)
    assert not load_model(tmp_path / "m.h5").compiled


@pytest.mark.parametrize("name", ["new.keras", "new.h5"])
def test_batch_norm_of_this_keras_needs_no_mending(name, tmp_path):
    """Keras 3.15 writes `renorm`, as Keras 2 did, and has it."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    model.save(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MendedWarning)
        load_model(tmp_path / name)
