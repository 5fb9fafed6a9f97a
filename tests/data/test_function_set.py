"""Data that a function returns, in each of their forms; and data given in Python."""

import re
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnn_l1.config import loading
from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.own_code import OwnCodeError
from cnn_l1.data import given_arrays, sets
from cnn_l1.data.given_arrays import own_set


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def classes(count, of=2):
    return np.arange(count) % of


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), "uint8")


def refusal(*forms, **settings):
    with pytest.raises(ConfigError) as caught:
        own_set(*forms, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("data: expected ")
    assert ". Received: " in message
    return message


def pairs_of(split):
    inputs, targets = zip(*[(x.numpy(), y.numpy()) for x, y in split.stream()], strict=True)
    return np.stack(inputs), np.stack(targets)


class Batches(keras.utils.PyDataset):
    """Batches of four, the last of what is left."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 4)

    def __getitem__(self, number):
        rows = slice(4 * number, 4 * number + 4)
        return self.x[rows], self.y[rows]


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module beside a config, which is imported anew in each test."""
    path = list(sys.path)
    (tmp_path / "my_data.py").write_text(
        textwrap.dedent(
            """
            import numpy as np

            def load(count=40, test=True):
                random = np.random.default_rng(0)
                x, y = random.normal(size=(count, 3)), np.arange(count) % 2
                return (x, y), None, (random.normal(size=(10, 3)), np.arange(10) % 2)

            def fail():
                raise KeyError("no table")

            def two():
                return 1, 2
            """
        )
    )
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("my_data", None)


def config_of(folder, data):
    (folder / "config.yaml").write_text(f"name: mine\ndata: {data}\n")
    return loading.load(folder / "config.yaml").data


def test_a_function_beside_the_config(own_module):
    config = config_of(
        own_module, "{name: function, function: 'my_data:load', arguments: {count: 50}}"
    )
    data = sets.load(config, seed=0)
    assert data.about.name == "my_data:load"
    assert (data.train.size, data.validation.size, data.load_test().size) == (45, 5, 10)
    assert sets.describe(config) == data.about


@pytest.mark.parametrize(
    ("function", "expected", "kind"),
    [
        ("my_data:lod", "data.function: expected a function 'lod' in .*load, fail", OwnCodeError),
        ("my_dat:load", "data.function: expected a Python module 'my_dat'", OwnCodeError),
        ("my_data:fail", "my_data:fail raised KeyError: 'no table'", OwnCodeError),
        ("my_data:two", r"\(train, validation, test\) from my_data:two.*: tuple of 2", ConfigError),
    ],
)
def test_functions_that_cannot_be_used(own_module, function, expected, kind):
    config = config_of(own_module, f"{{name: function, function: '{function}'}}")
    with pytest.raises(kind, match=expected) as caught:
        sets.load(config, seed=0)
    assert caught.value.exit_code == 2


FORMS = {
    "arrays": lambda x, y: (x, y),
    "single": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)),
    "batches": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(4),
    "PyDataset": Batches,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("targets", ["numbers", "text", "one-hot", "values"])
def test_every_form_gives_the_same(form, targets):
    x, y = images(10), classes(10)
    y = {
        "numbers": y,
        "text": np.array(["no", "yes"])[y],
        "one-hot": np.eye(2)[y],
        "values": noise(10, 3),
    }[targets]
    expected = own_set((x, y))
    found = own_set(FORMS[form](x, y))
    assert found.about == expected.about
    np.testing.assert_array_equal(found.train.inputs, x)
    np.testing.assert_array_equal(found.train.targets, expected.train.targets)
    assert found.train.targets.dtype == expected.train.targets.dtype
    if form == "arrays":
        return
    streamed = own_set(FORMS[form](x, y), in_memory=False)
    assert streamed.train.inputs is None
    for _ in range(2):  # it starts anew
        inputs, of_them = pairs_of(streamed.train)
        np.testing.assert_array_equal(inputs, x)
        np.testing.assert_array_equal(of_them, expected.train.targets)
        assert (inputs.dtype, of_them.dtype) == (x.dtype, expected.train.targets.dtype)


def test_several_outputs_streamed():
    x, y = images(10), {"kind": np.array(["b", "a"] * 5), "size": noise(10)}
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
    split = own_set(dataset, in_memory=False).train
    element = next(iter(split.evaluation_batches()))
    np.testing.assert_array_equal(element[0], x)
    np.testing.assert_array_equal(element[1]["kind"], [1, 0] * 5)
    np.testing.assert_array_equal(element[1]["size"], y["size"])


@pytest.mark.parametrize("in_memory", [True, False])
def test_inputs_alone(in_memory):
    x = images(6)
    for form in (
        x,
        (x, None),
        tf.data.Dataset.from_tensor_slices(x),
        tf.data.Dataset.from_tensor_slices(x).batch(4),
        tf.data.Dataset.from_tensor_slices(x).map(lambda one: (one, None)),
    ):
        own = own_set(form, in_memory=in_memory)
        assert (own.about.kind, own.train.size) == ("none", 6)
        inputs, targets = next(iter(own.train.evaluation_batches()))
        np.testing.assert_array_equal(inputs, x)
        assert targets.shape == (6,)


def test_larger_than_memory_is_streamed(monkeypatch):
    from cnn_l1.data import given_streams

    monkeypatch.setattr(given_streams, "IN_MEMORY_BYTES", 10 * 16)
    assert own_set(FORMS["batches"](images(10), classes(10))).train.inputs is not None
    assert own_set(FORMS["batches"](images(11), classes(11))).train.inputs is None


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ((None, 8), (None,), True),
        ((None, 8, 8, 3), (None, 2), True),
        ((32, 8, 8, 3), (32, 2), True),
        ((8, 8, 3), (), False),
        ((8,), (3,), False),
        ((8, 8, 3), (8, 8), None),
        ((32, 8), (32,), None),
        ((50, 2), (3,), False),
        ((8, 8, 3), None, False),
        ((8, 8), None, None),
    ],
)
def test_batches_are_told_from_examples(x, y, expected):
    from cnn_l1.data import given_streams

    targets = [] if y is None else [tf.TensorShape(y)]
    assert given_streams._is_batched(tf.TensorShape(x), targets) is expected


def test_three_axes():
    x = noise(8, 6, 5)
    assert own_set((x, classes(8))).about.input_shape == (6, 5, 1)
    assert own_set((x, classes(8)), series=True).about.input_shape == (6, 5)
    assert own_set((x, classes(8)), series=None).about.input_shape == (6, 5)
    message = refusal((images(8)[..., 0], classes(8)), series=None)
    assert "images with an axis for channels" in message


def test_columns_of_a_table_name_the_features():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1.0, 2, 3, 4], "b": [0, 1, 0, 1]})
    assert own_set((table, pandas.Series(["x", "y"] * 2))).about.feature_names == ("a", "b")


def _shuffled(count=300):
    pairs = tf.data.Dataset.from_tensor_slices((noise(count, 3), classes(count)))
    return pairs.shuffle(count).batch(10)


def test_training_data_may_be_shuffled_where_nothing_is_parted():
    others = [(noise(10, 3, seed=seed), classes(10)) for seed in (1, 2)]
    assert own_set(_shuffled(), *others).train.size == 300
    assert "the same order each time" in refusal(_shuffled(), others[0])


class Failing(Batches):
    def __getitem__(self, number):
        return super().__getitem__(number) if number < 2 else self.nothing


def _of(x, y=None):
    return tf.data.Dataset.from_tensor_slices(x if y is None else (x, y))


BAD = {
    "endless": (lambda: _of(noise(4, 3), classes(4)).repeat(), "with an end for train"),
    "empty": (lambda: _of(noise(4, 3), classes(4)).take(0), "examples for train.*an empty data"),
    "open": (lambda: _of(noise(8, 3), classes(8)).batch(4, drop_remainder=True),
             r"elements of \(float32\(4, 3\), int64\(4,\)\).*add \.unbatch\(\)"),
    "weights": (lambda: tf.data.Dataset.from_tensors((noise(3), 1, 1.0)),
                r"\(input, target\).*elements of \(float32\(3,\), int32\(\), float32\(\)\)"),
    "sizes": (lambda: tf.data.Dataset.from_generator(
        lambda: iter([]), output_signature=(tf.TensorSpec((None, 3)), tf.TensorSpec(()))),
        r"examples of one shape for train.*float32\(None, 3\)"),
    "nan": (lambda: _of(np.r_[noise(300, 3), [[0, 0, np.nan]]], classes(301)),
            r"finite numbers in train inputs.*nan at \[300, 2\]"),
    "cut off": (lambda: _of(noise(4, 3), classes(4)).map(
        lambda x, y: (tf.debugging.check_numerics(x / 0, "bad"), y)),
        "read to its end.*InvalidArgumentError"),
    "list": (lambda: [[1, 2], [3, 4]], r"\(inputs, targets\) arrays.*list of 2"),
    "text": (lambda: "train", r"\(inputs, targets\) arrays.*Received: str"),
    "weights of arrays": (lambda: (noise(3, 2), classes(3), classes(3)), "tuple of 3"),
    "raises": (lambda: Failing(noise(12, 3), classes(12)), "batch 2 raised AttributeError"),
    "one short": (lambda: (noise(4, 3), {"a": classes(4), "b": classes(3)}),
                  "train targets of 'b' as inputs in train inputs, 4.*Received: 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refusals(name):
    make, expected = BAD[name]
    message = refusal(make())
    assert re.search(expected, message), message


def test_names_of_classes_must_fit():
    data = noise(4, 3), {"a": classes(4), "b": noise(4)}
    assert "by output" in refusal(data, class_names=["x", "y"])
    assert "'c'" in refusal(data, class_names={"c": ["x", "y"]})
    assert "targets of 'b' are values" in refusal(data, class_names={"b": ["x", "y"]})
    own = given_arrays.own_set(data, class_names={"a": ["x", "y"]})
    assert own.about.outputs["a"].class_names == ("x", "y")
    assert own.about.outputs["b"].kind == "values"


def test_given_data_are_in_no_config():
    with pytest.raises(ConfigError, match="that a config can name"):
        sets.load(DataConfig(name="given"), seed=0)
