"""Which inputs are read, and that the others change nothing."""

import csv
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.config import loading as configs
from cnn_l1.data import splits
from cnn_l1.graph import features
from cnn_l1.models import builders

KERNEL = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, -2.0], [0.0, 0.0], [-1.0, 0.5], [-0.0, 0.0]])
SELECTED = [False, True, True, False, True, False]


def dense_behind(*front, shape=(6,), kernel=KERNEL):
    """A network whose dense layer, behind some layers, has a given kernel."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            *front,
            layers.Dense(kernel.shape[1], name="first"),
            layers.Dense(3, name="second"),
        ]
    )
    model.get_layer("first").kernel.assign(kernel)
    return model


@pytest.mark.parametrize(
    ("front", "shape"),
    [
        ((), (6,)),
        ((layers.Rescaling(0.5),), (6,)),
        ((layers.Normalization(mean=[1.0] * 6, variance=[2.0] * 6),), (6,)),
        ((layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.Identity()), (6,)),
        ((layers.Flatten(),), (3, 2, 1)),
        ((layers.Rescaling(1 / 255), layers.Dropout(0.5), layers.Flatten()), (1, 3, 2)),
    ],
    ids=["bare", "rescaling", "normalization", "dropout", "flatten", "all"],
)
def test_inputs_are_read_through_layers_that_move_nothing(front, shape):
    found = features.read_features(dense_behind(*front, shape=shape))
    assert found.layer == "first"
    assert found.input_shape == shape
    np.testing.assert_array_equal(found.weights, KERNEL)
    assert found.selected.tolist() == SELECTED
    # −0.0 is zero. Sums of small dyadic numbers are exact.
    assert found.magnitudes.tolist() == [0.0, 1.5, 2.0, 0.0, 1.5, 0.0]


def test_a_nested_model_is_opened():
    inputs = keras.Input((6,))
    outer = keras.Model(inputs, dense_behind(layers.Rescaling(0.5))(inputs))
    assert features.read_features(outer).selected.tolist() == SELECTED


def test_convolutions_read_no_single_inputs():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)]
    )
    assert features.read_features(model) is None


def test_a_dense_layer_on_the_last_axis_of_an_image():
    model = keras.Sequential(
        [keras.Input((2, 2, 6)), layers.Dense(2), layers.Flatten(), layers.Dense(3)]
    )
    assert features.read_features(model) is None


@pytest.mark.parametrize(
    "layer", [layers.BatchNormalization(), layers.Activation("relu"), layers.Reshape((3, 2))]
)
def test_layers_that_are_not_looked_through(layer):
    model = keras.Sequential([keras.Input((6,)), layer, layers.Flatten(), layers.Dense(2)])
    assert features.read_features(model) is None


def test_channels_first_changes_the_places():
    """Such a Flatten lets the channels be last: a row of the kernel is another input."""
    front = layers.Flatten(data_format="channels_first")
    assert features.read_features(dense_behind(front, shape=(3, 2, 1))) is None


def test_several_readers():
    inputs = keras.Input((6,))
    outputs = layers.Concatenate()([layers.Dense(2)(inputs), layers.Dense(2)(inputs)])
    assert features.read_features(keras.Model(inputs, outputs)) is None


def test_an_input_that_is_an_output_too():
    inputs = keras.Input((6,))
    value = layers.Rescaling(0.5)(inputs)
    assert features.read_features(keras.Model(inputs, [layers.Dense(2)(value), value])) is None


def test_several_inputs():
    first, second = keras.Input((6,)), keras.Input((2,))
    outputs = layers.Add()([layers.Dense(2)(first), second])
    assert features.read_features(keras.Model([first, second], outputs)) is None


def test_no_reader():
    inputs = keras.Input((6,))
    assert features.read_features(keras.Model(inputs, layers.Rescaling(2.0)(inputs))) is None


@pytest.mark.parametrize(
    ("name", "shape"), [("linear", (12,)), ("linear", (4, 3, 1)), ("lenet_300_100", (4, 3, 1))]
)
def test_what_is_not_selected_changes_no_output(name, shape):
    config = configs.validate({"name": "a", "model": {"name": name, "dropout": 0.5}})
    statistics = splits.InputStatistics((1.0,) * shape[-1], (4.0,) * shape[-1])
    keras.utils.set_random_seed(0)
    model = builders.build(config, shape, 2, statistics)
    random = np.random.default_rng(0)
    first = next(layer for layer in model.layers if isinstance(layer, layers.Dense))
    kernel = np.array(first.kernel)
    kernel[random.permutation(12)[:5]] = 0.0
    kernel[:, 0] = 0.0  # an input is selected by any unit
    first.kernel.assign(kernel)
    selected = features.read_features(model).selected
    assert 0 < selected.sum() < 12
    inputs = random.normal(100.0, 50.0, (4, *shape)).astype("float32")
    before = np.asarray(model(inputs, training=False))
    for position, taken in enumerate(selected):
        changed = inputs.copy().reshape(4, 12)
        changed[:, position] += 100.0
        after = np.asarray(model(changed.reshape(inputs.shape), training=False))
        # 0 · x is 0 and adds nothing: equal to the bit.
        assert np.array_equal(after, before) == (not taken), position


def test_names():
    def of(shape):
        return features.Features(shape, "first", np.zeros((np.prod(shape), 1))).names()

    assert of((3,)) == ["0", "1", "2"]
    assert of((2, 2, 1)) == ["0,0", "0,1", "1,0", "1,1"]
    assert of((1, 2, 2)) == ["0,0,0", "0,0,1", "0,1,0", "0,1,1"]
    found = features.Features((2,), "first", np.zeros((2, 1)))
    assert found.names(("age", "sex")) == ["age", "sex"]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def written(tmp_path, weights, shape=None, names=None):
    weights = np.array(weights, "float32")
    found = features.Features(shape or (len(weights),), "first", weights)
    features.write_features(tmp_path / "features.csv", found, names)
    return rows_of(tmp_path / "features.csv")


def test_csv_of_one_unit(tmp_path: pathlib.Path):
    assert written(tmp_path, [[0.0], [-1.5]], names=("a", "b, or c")) == [
        ["feature", "selected", "magnitude", "weight"],
        ["a", "0", "0.0", "0.0"],
        ["b, or c", "1", "1.5", "-1.5"],
    ]


def test_csv_of_several_units(tmp_path):
    assert written(tmp_path, [[0.0, 0.0], [-1.5, 0.25]], shape=(2, 1, 1)) == [
        ["feature", "selected", "magnitude", "weight_0", "weight_1"],
        ["0,0", "0", "0.0", "0.0", "0.0"],
        ["1,0", "1", "1.75", "-1.5", "0.25"],
    ]


def test_csv_of_many_units_leaves_the_weights_out(tmp_path):
    rows = written(tmp_path, np.ones((2, 11)))
    assert rows == [["feature", "selected", "magnitude"], ["0", "1", "11.0"], ["1", "1", "11.0"]]


def test_weights_in_csv_are_exact(tmp_path):
    weights = np.random.default_rng(0).normal(size=(5, 1)).astype("float32")
    read = [float(row[3]) for row in written(tmp_path, weights)[1:]]
    np.testing.assert_array_equal(np.array(read, "float32"), weights[:, 0])


def test_support_recovery():
    found = features.Features((6,), "first", KERNEL)  # selects 1, 2 and 4
    recovered = features.support_recovery(found, [0.0, 2.0, 0.0, -1.0, 1e-9, 0.0])
    assert recovered == {"true": 3, "found": 2, "false": 1}
