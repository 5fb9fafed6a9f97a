"""Data sets: what is loaded, how it is parted, in which order it comes."""

import os
import socket

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.data import sets, splits, tfds_sets

TRAIN_IMAGES, TEST_IMAGES = 1437, 360


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """An empty cache, in which `digits` is prepared anew."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def digits(cache):
    return sets.load(DataConfig(), seed=0)


@pytest.fixture(scope="module")
def streamed(cache):
    return sets.load(DataConfig(in_memory=False), seed=0)


def refusal(seed=0, **settings):
    with pytest.raises(ConfigError) as caught:
        sets.load(DataConfig(**settings), seed)
    message = str(caught.value)
    assert "\n" not in message
    return message


def as_set(images):
    return {image.tobytes() for image in np.asarray(images, "float32")}


def collect(batches):
    images, labels = zip(*[(x.numpy(), y.numpy()) for x, y in batches], strict=True)
    return np.concatenate(images), np.concatenate(labels)


def numbered(size):
    """A split whose images tell their own number."""
    images = np.arange(size, dtype="uint8").reshape(size, 1, 1, 1)
    return splits.Split(size, images, np.arange(size))


def streaming(split):
    def stream():
        return tf.data.Dataset.from_tensor_slices((split.inputs, split.targets))

    return splits.Split(split.size, None, split.targets, stream)


def test_digits_are_prepared_in_the_cache(digits, cache):
    assert list((cache / "cnn_l1").rglob("dataset_info.json"))
    about = splits.Description("digits", (8, 8, 1), tuple("0123456789"))
    assert sets.describe(DataConfig()) == about == digits.about


def test_digits_sizes(digits):
    test = digits.load_test()
    assert digits.train.size + digits.validation.size == TRAIN_IMAGES
    assert test.size == TEST_IMAGES
    assert digits.validation.size == 144  # a tenth, rounded up
    assert digits.about.input_shape == (8, 8, 1)
    assert digits.about.class_names == tuple("0123456789")
    for split in (digits.train, digits.validation, test):
        assert split.inputs.shape == (split.size, 8, 8, 1)
        assert split.inputs.dtype == "uint8"
        assert split.targets.shape == (split.size,)
        assert split.targets.dtype == "int64"
    assert (digits.train.inputs.min(), digits.train.inputs.max()) == (0, 255)


def test_digits_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    expected = {
        (image.tobytes(), label)
        for image, label in zip(
            np.round(source.images * 255 / 16).astype("uint8"), source.target, strict=True
        )
    }
    found = [
        (image.tobytes(), label)
        for split in (digits.train, digits.validation, digits.load_test())
        for image, label in zip(split.inputs, split.targets, strict=True)
    ]
    assert set(found) == expected
    assert len(found) == len(source.target)


@pytest.mark.parametrize("in_memory", [True, False])
def test_parting_is_disjoint_and_whole(in_memory):
    config = DataConfig(in_memory=in_memory, validation_fraction=0.25)
    whole, labels = collect(
        tfds_sets.read_split(
            tfds_sets.find_builder(config), ("image", "label"), (8, 8, 1), config, "train"
        ).evaluation_batches()
    )
    parted = sets.load(config, seed=3)
    train, train_labels = collect(parted.train.evaluation_batches())
    validation, validation_labels = collect(parted.validation.evaluation_batches())
    # No two of these images are alike, so sets of them can be compared.
    assert len(as_set(whole)) == len(whole) == TRAIN_IMAGES
    assert not as_set(train) & as_set(validation)
    assert as_set(train) | as_set(validation) == as_set(whole)
    assert (len(train), len(validation)) == (parted.train.size, parted.validation.size)
    np.testing.assert_array_equal(parted.train.targets, train_labels)
    np.testing.assert_array_equal(parted.validation.targets, validation_labels)
    assert sorted([*train_labels, *validation_labels]) == sorted(labels)


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_parting_is_stratified(fraction):
    parted = sets.load(DataConfig(validation_fraction=fraction), seed=1)
    held = np.bincount(parted.validation.targets, minlength=10)
    whole = held + np.bincount(parted.train.targets, minlength=10)
    # A class' share is seldom a whole number of images: up to one off.
    assert np.abs(held - whole * fraction).max() <= 1


def test_test_split_is_stratified(digits):
    labels = digits.load_test().targets
    counts = np.bincount(np.concatenate([digits.train.targets, digits.validation.targets]))
    share = TEST_IMAGES / (TRAIN_IMAGES + TEST_IMAGES)
    # As above: up to one image off.
    assert np.abs(np.bincount(labels) - (counts + np.bincount(labels)) * share).max() <= 1


def test_parting_is_seeded(digits):
    again = sets.load(DataConfig(), seed=0)
    np.testing.assert_array_equal(again.train.inputs, digits.train.inputs)
    np.testing.assert_array_equal(again.validation.targets, digits.validation.targets)
    other = sets.load(DataConfig(), seed=1)
    assert as_set(other.validation.inputs) != as_set(digits.validation.inputs)
    # The test split never moves.
    np.testing.assert_array_equal(other.load_test().inputs, digits.load_test().inputs)


def test_streamed_images_are_those_in_memory(digits, streamed):
    assert streamed.train.inputs is None
    pairs = (
        (streamed.train, digits.train),
        (streamed.validation, digits.validation),
        (streamed.load_test(), digits.load_test()),
    )
    for stream, memory in pairs:
        assert stream.size == memory.size
        images, labels = collect(stream.evaluation_batches())
        np.testing.assert_array_equal(images, memory.inputs)
        np.testing.assert_array_equal(labels, memory.targets)
        np.testing.assert_array_equal(stream.targets, memory.targets)
        np.testing.assert_array_equal(stream.sample(7), memory.sample(7))


def test_evaluation_batches_are_float_pixels_in_order(digits):
    images, labels = collect(digits.train.evaluation_batches())
    assert images.dtype == "float32"
    np.testing.assert_array_equal(images, digits.train.inputs)
    np.testing.assert_array_equal(labels, digits.train.targets)


@pytest.mark.parametrize("kind", [lambda split: split, streaming], ids=["memory", "stream"])
class TestTrainingBatches:
    def epochs(self, split, batch_size, seed, count=3):
        batches = split.training_batches(batch_size, seed)
        return [collect(batches)[1].tolist() for _ in range(count)]

    def test_every_image_at_most_once_an_epoch(self, kind):
        split = kind(numbered(53))
        for epoch in self.epochs(split, 10, seed=0):
            assert len(epoch) == len(set(epoch)) == 50

    def test_every_image_once_where_batches_are_full(self, kind):
        for epoch in self.epochs(kind(numbered(50)), 10, seed=0):
            assert sorted(epoch) == list(range(50))

    def test_images_keep_their_labels(self, kind):
        images, labels = collect(kind(numbered(50)).training_batches(10, seed=0))
        assert images.dtype == "float32"
        np.testing.assert_array_equal(images.ravel(), labels)

    def test_new_order_every_epoch(self, kind):
        first, second, third = self.epochs(kind(numbered(50)), 10, seed=0)
        assert first != second != third != first
        assert list(range(50)) not in (first, second, third)

    def test_seed_fixes_the_orders(self, kind):
        split = kind(numbered(50))
        assert self.epochs(split, 10, seed=4) == self.epochs(split, 10, seed=4)
        assert self.epochs(split, 10, seed=4) != self.epochs(split, 10, seed=5)

    def test_other_images_are_left_out_each_epoch(self, kind):
        left_out = [set(range(13)) - set(e) for e in self.epochs(kind(numbered(13)), 5, 0, 6)]
        assert {len(images) for images in left_out} == {3}
        assert len(set(map(frozenset, left_out))) > 1

    def test_drops_the_remainder(self, kind):
        split = kind(numbered(53))
        sizes = [len(labels) for _, labels in split.training_batches(10, seed=0)]
        assert sizes == [10] * split.batches_per_epoch(10) == [10] * 5

    def test_batch_larger_than_the_split(self, kind):
        split = kind(numbered(7))
        (epoch,) = self.epochs(split, 100, seed=0, count=1)
        assert sorted(epoch) == list(range(7))
        assert split.batches_per_epoch(100) == 1


@pytest.mark.parametrize("in_memory", [True, False])
def test_image_size_resizes(in_memory, digits):
    config = DataConfig(image_size=(4, 12), in_memory=in_memory)
    resized = sets.load(config, seed=0)
    assert resized.about.input_shape == (4, 12, 1)
    assert sets.describe(config).input_shape == (4, 12, 1)
    images, labels = collect(resized.train.evaluation_batches())
    assert images.shape == (digits.train.size, 4, 12, 1)
    np.testing.assert_array_equal(images, np.round(images))
    assert images.min() >= 0
    assert images.max() <= 255
    np.testing.assert_array_equal(labels, digits.train.targets)
    # Antialiased resizing keeps the brightness but for edges and rounding.
    assert abs(images.mean() - digits.train.inputs.mean()) < 0.05 * 255


def test_image_size_as_it_is_changes_nothing(digits):
    same = sets.load(DataConfig(image_size=(8, 8)), seed=0)
    np.testing.assert_array_equal(same.train.inputs, digits.train.inputs)


@pytest.mark.parametrize("kind", [lambda split: split, streaming], ids=["memory", "stream"])
def test_statistics_are_those_of_numpy(kind):
    # More images than one part of the sum has, and channels unlike each other.
    values = np.random.default_rng(0).integers(0, 256, (2500, 3, 2, 3)) // (1, 2, 50)
    split = kind(splits.Split(2500, values.astype("uint8"), np.zeros(2500, "int64")))
    about = splits.Description("a", (3, 2, 3), ("a",))
    held = splits.Data(about, split, split, lambda: split)
    found = held.statistics()
    # float64 sums of whole numbers below 2^53: only the last division rounds.
    np.testing.assert_allclose(found.mean, values.mean((0, 1, 2)), rtol=1e-12)
    # In a stream the sums run in float64 too; the mean's square cancels some digits.
    np.testing.assert_allclose(found.variance, values.var((0, 1, 2)), rtol=1e-9)


def test_statistics_of_digits(digits, streamed):
    assert digits.statistics() == streamed.statistics()
    # As above.
    np.testing.assert_allclose(digits.statistics().mean, digits.train.inputs.mean(), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digitz", " Did you mean 'digits'?"),
        ("fashion_mnsit", " Did you mean 'fashion_mnist'?"),
        ("qqqqqqqqqqqq", ""),
        ("no name!", ""),
        ("", ""),
        ("mnist/none", " Did you mean 'mnist'?"),
        ("mnist:9.9.9", " Did you mean 'mnist'?"),
        ("kaggle:mnist", " Did you mean 'kmnist'?"),
        ("huggingface:", ""),
    ],
)
def test_unknown_data_set(name, hint, tmp_path):
    assert refusal(name=name, data_dir=str(tmp_path)) == (
        "data.name: expected one of digits, xor, diabetes, sparse_regression, the name of a "
        "TFDS data set, huggingface:NAME, or data of your own: folder, arrays, series, table, "
        f"function. Received: {name!r}.{hint}"
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("imgs", "folder"), ("a.csv", "table"), ("a.npz", "arrays")]
)
def test_a_path_as_a_name_is_told_where_it_goes(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    hint = f"Received: {name!r}. For data of your own: name: {kind}, path: {name}"
    assert refusal(name=name).endswith(hint)


@pytest.fixture
def no_network(monkeypatch):
    asked = []

    def refuse(address, *_, **__):
        asked.append(address)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_data_set_that_is_not_there(tmp_path, no_network):
    message = refusal(name="mnist", data_dir=str(tmp_path))
    assert f"data.name: expected 'mnist' prepared for TFDS in {tmp_path}." in message
    assert "Received: no such data there." in message
    for remedy in ("TFDS_DATA_DIR", "data.data_dir", "data.download=true"):
        assert remedy in message
    assert not no_network  # not even asked
    assert list(tmp_path.iterdir()) == []


def test_data_dir_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_environment"))
    assert str(tmp_path / "from_environment") in refusal(name="mnist")
    given = tmp_path / "given"
    assert f"in {given}." in refusal(name="mnist", data_dir=str(given))


def test_download_without_a_network(tmp_path, no_network):
    message = refusal(name="mnist", data_dir=str(tmp_path), download=True)
    assert "data.download: expected a network to fetch 'mnist'" in message
    assert str(tmp_path) in message
    assert "Network is unreachable" in message
    assert no_network == [tfds_sets.NETWORK_PROBE]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["train_split", "test_split"])
@pytest.mark.parametrize(
    "split", ["trian", "train[:0]", "train[:80%", "train[99999:]", "train[:200%]", ""]
)
def test_bad_split(setting, split):
    message = refusal(**{setting: split})
    assert message.startswith(f"data.{setting}: expected a split of 'digits' with examples (")
    assert "train, test" in message
    assert message.endswith(f"Received: {split!r}")


def test_part_of_a_split():
    parted = sets.load(DataConfig(train_split="train[:50%]", test_split="test[:100]"), seed=0)
    assert parted.train.size + parted.validation.size == round(TRAIN_IMAGES / 2)
    assert parted.load_test().size == 100


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_validation_part_without_every_class(fraction):
    message = refusal(validation_fraction=fraction)
    assert message.startswith("data.validation_fraction: expected a part that holds and leaves")
    assert "examples of every class. " in message
    assert f"Received: {fraction} of 1437 (" in message


class TinyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES: tfds.features.FeaturesDict
    KEYS: tuple[str, str] | None

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=self.FEATURES, supervised_keys=self.KEYS
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}


class CnnL1TinyNumbers(TinyBuilder):
    """One number by another: no row of features."""

    FEATURES = tfds.features.FeaturesDict({"x": tf.float32, "y": tf.float32})
    KEYS = ("x", "y")

    def _generate_examples(self):
        for i in range(4):
            yield i, {"x": float(i), "y": float(i)}


class CnnL1TinyText(TinyBuilder):
    """Words with a label."""

    FEATURES = tfds.features.FeaturesDict(
        {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    )
    KEYS = ("text", "label")

    def _generate_examples(self):
        for i in range(4):
            yield i, {"text": "word", "label": i % 2}


class CnnL1TinyTokens(TinyBuilder):
    """Rows of integers, which may as well be the numbers of categories."""

    FEATURES = tfds.features.FeaturesDict(
        {"x": tfds.features.Tensor(shape=(3,), dtype=np.int64), "y": tf.float32}
    )
    KEYS = ("x", "y")

    def _generate_examples(self):
        for i in range(4):
            yield i, {"x": np.full(3, i), "y": float(i)}


class CnnL1TinyCounts(TinyBuilder):
    """Features with an integer that is no class."""

    FEATURES = tfds.features.FeaturesDict(
        {"x": tfds.features.Tensor(shape=(3,), dtype=np.float32), "y": tf.int64}
    )
    KEYS = ("x", "y")

    def _generate_examples(self):
        for i in range(4):
            yield i, {"x": np.full(3, i, "float32"), "y": i}


class CnnL1TinyLengths(TinyBuilder):
    """Rows that differ in length."""

    FEATURES = tfds.features.FeaturesDict(
        {"x": tfds.features.Tensor(shape=(None,), dtype=np.float32), "y": tf.float32}
    )
    KEYS = ("x", "y")

    def _generate_examples(self):
        for i in range(4):
            yield i, {"x": np.zeros(i + 1, "float32"), "y": float(i)}


class CnnL1TinyPairs(TinyBuilder):
    """Rows of three features with two values each to predict."""

    FEATURES = tfds.features.FeaturesDict(
        {
            "x": tfds.features.Tensor(shape=(3,), dtype=np.float64),
            "y": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        }
    )
    KEYS = ("x", "y")

    def _generate_examples(self):
        for i in range(8):
            yield i, {"x": np.full(3, i / 3), "y": np.float32([i, -i])}


class CnnL1TinyUnlabelled(TinyBuilder):
    """Images without a label."""

    FEATURES = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(2, 2, 1))})
    KEYS = None

    def _generate_examples(self):
        for i in range(4):
            yield i, {"image": np.full((2, 2, 1), i, "uint8")}


class CnnL1TinySizes(TinyBuilder):
    """Images that differ in size, each of one shade."""

    FEATURES = tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "kind": tfds.features.ClassLabel(names=["dark", "bright"]),
        }
    )
    KEYS = ("picture", "kind")

    def _generate_examples(self):
        for i in range(8):
            shade = 20 * i + 100 * (i % 2)
            yield i, {"picture": np.full((3 + i, 9 - i, 3), shade, "uint8"), "kind": i % 2}


def prepare(builder_class, folder):
    builder = builder_class(data_dir=str(folder))
    builder.download_and_prepare()
    return {"name": builder.name, "data_dir": str(folder)}


@pytest.mark.parametrize(
    ("builder_class", "features"),
    [
        (CnnL1TinyNumbers, "x, y"),
        (CnnL1TinyText, "text, label"),
        (CnnL1TinyTokens, "x, y"),
        (CnnL1TinyCounts, "x, y"),
        (CnnL1TinyLengths, "x, y"),
        (CnnL1TinyUnlabelled, "image"),
    ],
)
def test_data_set_with_nothing_to_learn(builder_class, features, tmp_path):
    settings = prepare(builder_class, tmp_path)
    assert refusal(**settings) == (
        "data.name: expected a data set with an image or a row of floats, and a class label or "
        f"floats to predict. Received: {settings['name']!r} with {features}"
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_several_values_to_predict(in_memory, tmp_path):
    settings = prepare(CnnL1TinyPairs, tmp_path)
    pairs = sets.load(DataConfig(**settings, in_memory=in_memory, validation_fraction=0.25), seed=0)
    assert pairs.about == splits.Description(settings["name"], (3,), None, target_count=2)
    assert (pairs.train.size, pairs.validation.size) == (6, 2)
    inputs, targets = collect(pairs.train.evaluation_batches())
    assert inputs.dtype == targets.dtype == pairs.train.targets.dtype == "float32"
    np.testing.assert_array_equal(targets, pairs.train.targets)
    assert targets.shape == (6, 2)
    # float64 features are rounded to float32 once.
    np.testing.assert_array_equal(inputs[:, 0], (targets[:, 0] / 3.0).astype("float32"))
    np.testing.assert_array_equal(targets[:, 1], -targets[:, 0])


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_that_differ_in_size(in_memory, tmp_path):
    settings = prepare(CnnL1TinySizes, tmp_path)
    settings |= {"in_memory": in_memory, "validation_fraction": 0.25}
    message = refusal(**settings)
    assert message.startswith("data.image_size: expected [rows, columns], for images in ")
    assert message.endswith("Received: nothing")
    parted = sets.load(DataConfig(**settings, image_size=(4, 6)), seed=0)
    assert parted.about.input_shape == (4, 6, 3)
    assert parted.about.class_names == ("dark", "bright")
    images, labels = collect(parted.train.evaluation_batches())
    assert images.shape == (6, 4, 6, 3)
    # An image of one shade stays so, and keeps it, at any size.
    assert (images == images[:, :1, :1, :1]).all()
    shades = {(20.0 * i + 100 * (i % 2), i % 2) for i in range(8)}
    assert set(zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True)) < shades
    assert np.bincount(parted.validation.targets).tolist() == [1, 1]


# Rows of features.


@pytest.mark.parametrize("name", ["xor", "diabetes", "sparse_regression"])
def test_streamed_features_are_those_in_memory(name):
    settings = {"name": name, "fold": (0, 2)}
    memory, stream = (
        sets.load(DataConfig(**settings, in_memory=kept), seed=0) for kept in (True, False)
    )
    assert stream.train.inputs is None
    pairs = (
        (stream.train, memory.train),
        (stream.validation, memory.validation),
        (stream.load_test(), memory.load_test()),
    )
    for streamed, held in pairs:
        inputs, targets = collect(streamed.evaluation_batches())
        assert inputs.dtype == held.inputs.dtype == "float32"
        np.testing.assert_array_equal(inputs, held.inputs)
        np.testing.assert_array_equal(targets, held.targets)
        np.testing.assert_array_equal(streamed.targets, held.targets)
        assert targets.dtype == held.targets.dtype == streamed.targets.dtype
        np.testing.assert_array_equal(streamed.sample(3), held.sample(3))
    assert memory.train.targets.dtype == ("int64" if name == "xor" else "float32")
    assert stream.statistics() == memory.statistics()
    assert stream.about == memory.about


def test_statistics_of_features():
    diabetes = sets.load(DataConfig(name="diabetes"), seed=0)
    inputs = diabetes.train.inputs.astype("float64")
    found = diabetes.statistics()
    # float64 sums of some hundreds of values.
    np.testing.assert_allclose(found.mean, inputs.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, inputs.var(axis=0), rtol=1e-9)


def test_image_size_of_features_is_refused():
    assert refusal(name="diabetes", image_size=(4, 4)) == (
        "data.image_size: expected nothing, for 'diabetes' holds rows of features, not images. "
        "Received: [4, 4]"
    )


# Parting: folds, and a split of its own.


def rows_of(split):
    """The examples of a split, as a set; no two of `diabetes` or `digits` are alike."""
    return {
        (value.tobytes(), float(target))
        for value, target in zip(split.inputs, split.targets, strict=True)
    }


def whole_of(name):
    """The training split, before it is parted."""
    config = DataConfig(name=name)
    builder = tfds_sets.find_builder(config)
    keys = tfds_sets.keys_of(builder)
    return tfds_sets.read_split(builder, keys, sets.describe(config).input_shape, config, "train")


@pytest.mark.parametrize("name", ["diabetes", "digits"])
def test_folds_are_disjoint_and_cover_the_training_split(name):
    folds = [sets.load(DataConfig(name=name, fold=(number, 4)), seed=2) for number in range(4)]
    whole = whole_of(name)
    expected = rows_of(whole)
    assert len(expected) == whole.size
    for fold in folds:
        assert fold.train.size + fold.validation.size == whole.size
        assert not rows_of(fold.train) & rows_of(fold.validation)
        assert rows_of(fold.train) | rows_of(fold.validation) == expected
    assert sum(fold.validation.size for fold in folds) == whole.size
    assert set().union(*(rows_of(fold.validation) for fold in folds)) == expected


@pytest.mark.parametrize("name", ["diabetes", "digits"])
@pytest.mark.parametrize("seed", [0, 5])
def test_folds_are_those_of_scikit_learn(name, seed):
    from sklearn.model_selection import KFold, StratifiedKFold

    whole = whole_of(name)
    kind = StratifiedKFold if name == "digits" else KFold
    splitter = kind(5, shuffle=True, random_state=seed)
    parts = list(splitter.split(whole.inputs, whole.targets))
    for number in (0, 3):
        fold = sets.load(DataConfig(name=name, fold=(number, 5)), seed)
        for split, rows in zip((fold.train, fold.validation), parts[number], strict=True):
            np.testing.assert_array_equal(split.inputs, whole.inputs[rows])
            np.testing.assert_array_equal(split.targets, whole.targets[rows])


def test_folds_are_stratified_by_label():
    counts = [
        np.bincount(sets.load(DataConfig(fold=(k, 3)), seed=0).validation.targets, minlength=10)
        for k in range(3)
    ]
    # A class' third is seldom a whole number of images: up to one off.
    assert np.ptp(counts, axis=0).max() <= 1


def test_values_are_not_stratified():
    """A stratified parting would refuse values of which most are there once."""
    parted = sets.load(DataConfig(name="diabetes", validation_fraction=0.25), seed=0)
    assert parted.validation.size == 89  # a quarter of 354, rounded up
    assert not rows_of(parted.train) & rows_of(parted.validation)


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"name": "xor", "fold": (0, 3)}, "examples of every class. Received: 3 folds of 4 "),
        ({"name": "diabetes", "fold": (0, 400)}, "examples. Received: 400 folds of 354 examples"),
    ],
)
def test_folds_without_examples_are_refused(settings, received):
    message = refusal(**settings)
    assert message.startswith("data.fold: expected folds that hold ")
    assert received in message


def test_a_fraction_that_leaves_nothing_to_learn_values_from():
    message = refusal(name="diabetes", validation_fraction=0.999)
    assert message.startswith(
        "data.validation_fraction: expected a part that holds and leaves examples. Received: "
    )


def test_validation_split():
    xor = sets.load(DataConfig(name="xor", validation_split="validation"), seed=0)
    assert rows_of(xor.train) == rows_of(xor.validation) == rows_of(xor.load_test())
    assert len(rows_of(xor.train)) == xor.train.size == 4
    parts = {"train_split": "train[:300]", "validation_split": "train[300:]"}
    diabetes = sets.load(DataConfig(name="diabetes", **parts), seed=0)
    assert (diabetes.train.size, diabetes.validation.size) == (300, 54)
    assert rows_of(diabetes.train) | rows_of(diabetes.validation) == rows_of(whole_of("diabetes"))
    # Nothing is drawn, so nothing moves with the seed.
    other = sets.load(DataConfig(name="diabetes", **parts), seed=1)
    np.testing.assert_array_equal(other.train.inputs, diabetes.train.inputs)


def test_bad_validation_split():
    message = refusal(name="diabetes", validation_split="validation")
    assert message.startswith("data.validation_split: expected a split of 'diabetes' with examples")
    assert message.endswith("Received: 'validation'")


@pytest.mark.parametrize(
    ("name", "shape", "train", "test"),
    [
        ("mnist", (28, 28, 1), 60_000, 10_000),
        ("fashion_mnist", (28, 28, 1), 60_000, 10_000),
        ("cifar10", (32, 32, 3), 50_000, 10_000),
    ],
)
def test_real_data_set(name, shape, train, test):
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not os.path.isdir(os.path.join(folder, name)):
        pytest.skip(f"no {name} in TFDS_DATA_DIR")
    assert sets.describe(DataConfig(name=name)).input_shape == shape
    whole = tfds.builder(name, data_dir=folder).info.splits
    assert (whole["train"].num_examples, whole["test"].num_examples) == (train, test)
    # A part is enough to see the images, and does not take half a minute.
    config = DataConfig(name=name, train_split="train[:1000]", test_split="test[:100]")
    parted = sets.load(config, seed=0)
    assert (parted.train.size, parted.validation.size) == (900, 100)
    assert parted.train.inputs.shape == (900, *shape)
    assert (parted.train.inputs.min(), parted.train.inputs.max()) == (0, 255)
    assert parted.load_test().inputs.shape == (100, *shape)
    assert len(parted.about.class_names) == 10
