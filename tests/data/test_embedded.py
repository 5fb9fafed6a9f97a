"""The embedded sets: prepared without a network, and what their sources say."""

import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.data import embedded, sets, tfds_sets

SIZES = {
    "digits": {"train": 1437, "test": 360},
    "xor": {"train": 4, "validation": 4, "test": 4},
    "diabetes": {"train": 354, "test": 88},
    "sparse_regression": {"train": 400, "test": 200},
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """An empty cache, and no network to fill it from."""

    def refuse(*arguments, **settings):
        raise OSError("Network is unreachable")

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(socket.socket, "connect", refuse)
        yield folder / "cnn_l1" / "tensorflow_datasets"


def whole(name):
    """`{split: (inputs, targets)}` of a set as it lies on the disk."""
    builder = tfds_sets.find_builder(DataConfig(name=name))
    keys = builder.info.supervised_keys
    found = {}
    for split in builder.info.splits:
        examples = list(builder.as_dataset(split=split).as_numpy_iterator())
        found[split] = tuple(np.array([example[key] for example in examples]) for key in keys)
    return found


def in_order(inputs, targets):
    """Rows in an order of their own: TFDS writes them in the order of a hash."""
    flat = inputs.reshape(len(inputs), -1)
    rows = np.lexsort((targets, *flat.T))
    return inputs[rows], targets[rows]


def check_equal(found, expected):
    for one, other in zip(in_order(*found), in_order(*expected), strict=True):
        np.testing.assert_array_equal(one, other)


DIABETES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")


def test_every_set_is_listed():
    assert set(embedded.BUILDERS) == set(tfds_sets.EMBEDDED) == set(SIZES)
    assert all(builder.name == name for name, builder in embedded.BUILDERS.items())


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_arrays(name, cache):
    found = whole(name)
    assert list((cache / name).rglob("dataset_info.json"))
    assert {split: len(inputs) for split, (inputs, _) in found.items()} == SIZES[name]
    sources = embedded.BUILDERS[name](data_dir=str(cache)).arrays()
    for split, (inputs, targets) in found.items():
        check_equal((inputs, targets), sources[split])
        labels = name in ("digits", "xor")
        assert inputs.dtype == ("uint8" if name == "digits" else "float32")
        assert targets.dtype == ("int64" if labels else "float32")


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.round(source.images * 255 / 16).astype("uint8")[..., None]
    parts = whole("digits").values()
    check_equal(
        [np.concatenate(part) for part in zip(*parts, strict=True)], (images, source.target)
    )


def test_diabetes_is_that_of_scikit_learn():
    from sklearn.datasets import load_diabetes

    source = load_diabetes(scaled=False)
    parts = whole("diabetes").values()
    found = [np.concatenate(part) for part in zip(*parts, strict=True)]
    # Numbers of a few digits, in float32 as in scikit-learn's float64 rounded once.
    check_equal(found, (source.data.astype("float32"), source.target.astype("float32")))
    about = sets.describe(DataConfig(name="diabetes"))
    assert about.feature_names == tuple(source.feature_names)


def test_xor_is_exclusive_or():
    for inputs, labels in whole("xor").values():
        assert labels.tolist() == [int(a != b) for a, b in inputs]
        assert {tuple(point) for point in inputs} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_sparse_regression_follows_its_coefficients():
    about = sets.describe(DataConfig(name="sparse_regression"))
    true = np.array(about.true_coefficients)
    np.testing.assert_array_equal(true, embedded.true_coefficients())
    support = true[true != 0]
    assert (len(true), len(support)) == (100, 10)
    assert np.abs(support).min() >= 1.0
    assert np.abs(support).max() <= 2.0
    assert set(np.sign(support)) == {-1.0, 1.0}
    for inputs, targets in whole("sparse_regression").values():
        noise = targets - inputs.astype("float64") @ true - 3.0
        # Mean 0 and deviation 1 to four standard errors, 1/√n and 1/√(2n).
        assert abs(noise.mean()) < 4 / np.sqrt(len(noise))
        assert abs(noise.std() - 1.0) < 4 / np.sqrt(2 * len(noise))
        # The features are independent of one another: 4,950 correlations of deviation
        # 1/√n, the largest of which lies below five deviations.
        correlations = np.corrcoef(inputs.T) - np.eye(100)
        assert np.abs(correlations).max() < 5 / np.sqrt(len(inputs))


def test_the_splits_of_sparse_regression_differ():
    found = whole("sparse_regression")
    assert not set(found["train"][1].tolist()) & set(found["test"][1].tolist())


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("digits", ((8, 8, 1), tuple("0123456789"), 1, None)),
        ("xor", ((2,), ("false", "true"), 1, ("a", "b"))),
        ("diabetes", ((10,), None, 1, DIABETES)),
        ("sparse_regression", ((100,), None, 1, tuple(f"x{n}" for n in range(100)))),
    ],
)
def test_description(name, description):
    about = sets.describe(DataConfig(name=name))
    found = about.input_shape, about.class_names, about.target_count, about.feature_names
    assert about.name == name
    assert found == description
    assert (about.true_coefficients is not None) == (name == "sparse_regression")


@pytest.mark.parametrize("name", ["xor", "diabetes", "sparse_regression"])
def test_names_and_coefficients_are_read_from_the_disk(name, cache):
    """Without the class that made the set, so from its files alone."""
    config = DataConfig(name=name)
    about = sets.describe(config)
    builder = tfds.builder_from_directory(str(cache / name / "1.0.0"))
    assert type(builder) is not embedded.BUILDERS[name]
    assert tfds_sets.description_of(builder, tfds_sets.keys_of(builder), config) == about
    assert about.feature_names is not None
