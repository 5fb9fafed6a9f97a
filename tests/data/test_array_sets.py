"""Arrays and series of `.npz` files: what their targets are, and what is refused."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.data import array_sets, sets


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def images(count, seed=0, channels=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 5, channels), "uint8")


def classes(count, of=2):
    return np.arange(count) % of


def config_of(folder, name="arrays", settings=(), **arrays):
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return DataConfig(name=name, path=str(path), **dict(settings))


def read(folder, name="arrays", settings=(), **arrays):
    return array_sets.read(config_of(folder, name, settings, **arrays))


def refusal(folder, name="arrays", **arrays):
    with pytest.raises(ConfigError) as caught:
        sets.load(config_of(folder, name, **arrays), seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("data.path: expected ")
    assert str(folder / "mine.npz") in message
    assert ". Received: " in message
    return message


def test_given_splits_come_as_they_are(tmp_path):
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) * 15).astype("uint8")
    parts = {"train": slice(0, 300), "validation": slice(300, 400), "test": slice(400, 500)}
    arrays = {f"x_{s}": x[rows] for s, rows in parts.items()}
    arrays |= {f"y_{s}": y[rows] for s, rows in parts.items()}
    data = sets.load(config_of(tmp_path, **arrays), seed=3)
    assert data.about.input_shape == (8, 8, 1)
    assert data.about.class_names == tuple("0123456789")
    assert data.about.kind == "classes"
    splits = {"train": data.train, "validation": data.validation, "test": data.load_test()}
    for split, rows in parts.items():
        np.testing.assert_array_equal(splits[split].inputs, x[rows])
        np.testing.assert_array_equal(splits[split].targets, y[rows])
        assert splits[split].inputs.dtype == "uint8"
        assert splits[split].targets.dtype == "int64"


def test_x_and_y_are_parted_alike_for_every_seed_of_the_test(tmp_path):
    config = config_of(tmp_path, x=noise(100, 3), y=classes(100))
    one, other = sets.load(config, seed=0), sets.load(config, seed=1)
    np.testing.assert_array_equal(one.load_test().inputs, other.load_test().inputs)
    assert one.load_test().size == 20
    assert one.validation.size == 8
    assert not np.array_equal(one.validation.inputs, other.validation.inputs)
    assert np.bincount(one.load_test().targets).tolist() == [10, 10]


@pytest.mark.parametrize(
    ("shape", "name", "dtype", "expected", "kept"),
    [
        ((9, 6, 5), "arrays", "uint8", (6, 5, 1), "uint8"),
        ((9, 6, 5, 3), "arrays", "float64", (6, 5, 3), "float32"),
        ((9, 6, 5, 3), "arrays", "int16", (6, 5, 3), "float32"),
        ((9, 7), "arrays", "uint8", (7,), "float32"),
        ((9, 7), "series", "float32", (7, 1), "float32"),
        ((9, 7, 2), "series", "uint8", (7, 2), "float32"),
    ],
)
def test_axes_and_types_of_inputs(tmp_path, shape, name, dtype, expected, kept):
    x = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    own = read(tmp_path, name, x=x, y=classes(9))
    assert own.about.input_shape == expected
    assert own.train.inputs.dtype == kept
    np.testing.assert_array_equal(own.train.inputs.reshape(shape), x)


def test_text_becomes_sorted_classes(tmp_path):
    y = np.array(["wolf", "cat", "wolf", "cat", "bee", "bee"])
    own = read(tmp_path, x=noise(6, 2), y=y)
    assert own.about.class_names == ("bee", "cat", "wolf")
    assert own.train.targets.tolist() == [2, 1, 2, 1, 0, 0]
    named = read(tmp_path, x=noise(6, 2), y=y, class_names=["wolf", "bee", "cat"])
    assert named.about.class_names == ("wolf", "bee", "cat")
    assert named.train.targets.tolist() == [0, 2, 0, 2, 1, 1]
    bytes_ = read(tmp_path, x=noise(6, 2), y=y.astype("S"))
    assert bytes_.about.class_names == ("bee", "cat", "wolf")


def test_booleans_one_hot_and_several_labels(tmp_path):
    x = noise(6, 2)
    own = read(tmp_path, x=x, y=np.array([True, False] * 3))
    assert (own.about.class_names, own.train.targets.tolist()) == (("False", "True"), [1, 0] * 3)
    own = read(tmp_path, x=x, y=np.eye(3)[[2, 0, 1, 2, 0, 1]])
    assert (own.about.kind, own.train.targets.tolist()) == ("classes", [2, 0, 1, 2, 0, 1])
    labels = np.array([[1, 1], [0, 0], [1, 0]] * 2)
    own = read(tmp_path, x=x, y=labels, class_names=["wet", "warm"])
    assert (own.about.kind, own.about.class_names) == ("multilabel", ("wet", "warm"))
    assert own.train.targets.dtype == "float32"
    np.testing.assert_array_equal(own.train.targets, labels)
    column = read(tmp_path, x=x, y=classes(6)[:, None])
    assert column.train.targets.tolist() == [0, 1] * 3


def test_floats_are_values_whole_numbers_too(tmp_path):
    for y, shape in (
        (np.array([0.0, 1.0] * 3), ()),
        (noise(6, 1), ()),
        (noise(6, 4), (4,)),
        (noise(6, 2, 3), (2, 3)),
    ):
        own = read(tmp_path, x=noise(6, 2), y=y)
        assert (own.about.kind, own.about.class_names) == ("values", None)
        assert own.about.target_count == np.prod(shape, dtype=int)
        assert own.train.targets.shape == (6, *shape)
        assert own.train.targets.dtype == "float32"


def test_a_class_a_pixel(tmp_path):
    masks = np.random.default_rng(1).integers(0, 3, (8, 6, 5))
    own = read(tmp_path, x=images(8), y=masks[..., None].astype("uint8"))
    assert (own.about.kind, own.about.class_names) == ("segmentation", ("0", "1", "2"))
    np.testing.assert_array_equal(own.train.targets, masks)
    assert own.train.targets.dtype == "int64"
    message = refusal(tmp_path, x=images(8), y=masks[:, :4])
    assert "a class for each pixel of an image of shape (6, 5, 1)" in message


def test_no_target(tmp_path):
    data = sets.load(config_of(tmp_path, x=images(20)), seed=0)
    assert data.about.kind == "none"
    assert data.train.targets.shape == (data.train.size,)
    inputs, targets = next(iter(data.train.training_batches(4, 0)))
    assert (inputs.shape, targets.shape) == ((4, 6, 5, 1), (4,))


def test_several_outputs_are_parted_alike(tmp_path):
    x, kind, size = noise(40, 3), classes(40, 4), noise(40, seed=1)
    config = config_of(
        tmp_path, x=x, y_kind=kind, y_size=size, class_names_kind=list("abcd"),
        feature_names=["u", "v", "w"],
    )  # fmt: skip
    data = sets.load(config, seed=0)
    assert data.about.outputs["kind"].class_names == tuple("abcd")
    assert data.about.outputs["size"].kind == "values"
    assert data.about.feature_names == ("u", "v", "w")
    for split in (data.train, data.validation, data.load_test()):
        rows = [np.flatnonzero((x == one).all(axis=1))[0] for one in split.inputs]
        np.testing.assert_array_equal(split.targets["kind"], kind[rows])
        np.testing.assert_array_equal(split.targets["size"], size[rows])


def test_sampling_rate_and_names_of_channels(tmp_path):
    own = read(
        tmp_path, "series", {"sampling_rate_hz": 50.0},
        x=noise(8, 10, 2), y=classes(8), feature_names=["x", "y"],
    )  # fmt: skip
    assert own.about.sampling_rate_hz == 50.0
    assert own.about.feature_names == ("x", "y")
    assert own.about.source == str(tmp_path / "mine.npz")


def test_duplicates_stay_on_one_side(tmp_path):
    x = np.repeat(noise(30, 3), 2, axis=0)
    data = sets.load(config_of(tmp_path, x=x, y=np.arange(60) // 2 % 2), seed=0)
    seen = [{row.tobytes() for row in s.inputs} for s in (data.train, data.validation)]
    seen.append({row.tobytes() for row in data.load_test().inputs})
    assert sum(map(len, seen)) == 30


def given(**changed):
    arrays = {
        "x_train": noise(10, 3), "y_train": classes(10),
        "x_test": noise(6, 3, seed=1), "y_test": classes(6),
    }  # fmt: skip
    return {key: value for key, value in (arrays | changed).items() if value is not None}


BAD = {
    "x_test": ({"x_test": None, "y_test": None}, "the key x_test .*: x_train, y_train"),
    "close": ({"x_test": None, "x_tset": noise(6, 3)}, r"Is 'x_tset' meant for x_test\?"),
    "both": ({"x": noise(3, 3)}, "not both"),
    "unknown": ({"z": classes(3)}, "unknown key 'z' among"),
    "alone": ({"y_validation": classes(3)}, "x_validation .* Received: y_validation alone"),
    "no targets": ({"y_test": None}, "targets of test as of train, one array.* Received: none"),
    "lengths": ({"y_train": classes(9)}, "in y_train as inputs in x_train, 10.* Received: 9"),
    "nan": ({"x_test": np.array([[0, 1, 2], [0, np.nan, 2]]), "y_test": [0, 1]},
            r"finite numbers in x_test.* Received: nan at \[1, 1\]"),
    "too large": ({"x_test": np.full((6, 3), 1e39)}, r"x_test.* Received: inf at \[0, 0\]"),
    "nan target": ({"y_train": np.full(10, np.nan), "y_test": np.zeros(6)},
                   r"finite numbers in y_train.* nan at \[0\]"),
    "empty": ({"x_train": noise(0, 3), "y_train": classes(0)}, "examples in x_train.*: none"),
    "rank": ({"x_train": noise(10)}, r"features \(examples, features\) in x_train.*shape \(10,\)"),
    "text": ({"x_train": np.full((10, 3), "a")}, "numbers in x_train.* Received: text"),
    "shapes": ({"x_test": noise(6, 4)}, r"x_train and x_test.* Received: \(3,\) and \(4,\)"),
    "types": ({"x_train": images(10), "x_test": images(6) / 255},
              "x_train and x_test.* Received: uint8 and float32"),
    "rare": ({"y_train": [0] * 9 + [1]}, "two examples .* in y_train.*: one example of class '1'"),
    "one class": ({"y_train": [0] * 10, "y_test": [0] * 6}, "two classes .*: the class '0' alone"),
    "gap": ({"y_train": classes(10) * 2}, r"class numbers 0 to K − 1.*: 0, 2 \(2 distinct values"),
    "from one": ({"y_train": classes(10) + 1}, "y_train.*Received: 1, 2 "),
    "new class": ({"y_test": classes(6, 3)}, "y_train alone, 0 to 1, in y_test.*class 2"),
    "new text": ({"y_train": ["a", "b"] * 5, "y_test": ["a", "c"] * 3}, "y_test.*the class 'c'"),
    "other kind": ({"y_test": classes(6) * 0.5}, "y_test like y_train, int64.*float64"),
    "counts": ({"y_train": classes(20).reshape(10, 2) + 3, "y_test": classes(12).reshape(6, 2)},
               r"or floats, in y_train.*int64 of shape \(10, 2\)"),
    "names": ({"class_names": ["a", "b", "c"]}, "class numbers 0 to 2.*y_train"),
    "feature names": ({"feature_names": ["a"]}, "3 feature names.*Received: 1"),
    "shared": ({"x_test": np.concatenate([noise(5, 3, seed=1), noise(10, 3)[7:8]])},
               r"both x_train and x_test.*the same example at x_train\[7\] and x_test\[5\]"),
    "objects": ({"x_train": np.array([{}, {}])}, "array of numbers or text as x_train.*ValueError"),
    "outputs": ({"y_train": None, "y_train_a": classes(10), "y_test": None, "y_test_b": classes(6)},
                "targets of test as of train, those of a.* Received: those of b"),
    "two forms": ({"y_train_a": classes(10)}, "y_train for one output, or y_train_<output>"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refusals(tmp_path, name):
    changed, expected = BAD[name]
    message = refusal(tmp_path, **given(**changed))
    assert re.search(expected, message), message


def test_series_of_one_axis_are_refused(tmp_path):
    message = refusal(tmp_path, "series", x=noise(6, 2, 3, 4), y=classes(6))
    assert "series (examples, steps, channels) or (examples, steps) in x in " in message


@pytest.mark.parametrize("content", ["nothing", "folder", "text", "npy", "cut"])
def test_files_that_are_no_npz(tmp_path, content):
    path = tmp_path / "mine.npz"
    if content == "folder":
        path.mkdir()
    elif content == "text":
        path.write_text("x,y\n1,2\n")
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, noise(3))
    elif content == "cut":
        np.savez(path, x=noise(100, 3), y=classes(100))
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ConfigError, match=r"^data\.path: expected a .*\.npz file.*mine\.npz") as e:
        sets.load(DataConfig(name="arrays", path=str(path)), seed=0)
    assert "\n" not in str(e.value)


def test_a_damaged_array_is_named(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=noise(100, 3), y=classes(100))
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"numbers or text as x in .*mine\.npz"):
        sets.load(DataConfig(name="arrays", path=str(path)), seed=0)
