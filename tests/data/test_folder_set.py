"""Folders of images: real files of each format, what becomes of them, and what is refused."""

import re
import shutil

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.data import folder_set, image_files, sets, splits

DIGITS = load_digits()
PIXELS = np.round(DIGITS.images * 255 / 16).astype("uint8")


def digits_of(label):
    return PIXELS[DIGITS.target == label]


def write(path, pixels, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(pixels)).save(path, **settings)
    return path


def fill(root, count=4, classes=("one", "two"), start=0, suffix="png"):
    for label, name in enumerate(classes):
        for number, pixels in enumerate(digits_of(label)[start : start + count]):
            write(root / name / f"{start + number}.{suffix}", pixels)
    return root


def config_of(root, **settings):
    return DataConfig(name="folder", path=str(root), **settings)


def read(root, **settings):
    return folder_set.read(config_of(root, **settings))


def refusal(root, **settings):
    with pytest.raises(ConfigError) as caught:
        sets.load(config_of(root, **settings), seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert ". Received: " in message
    return message


def by_file(split):
    return {image.tobytes() for image in split.inputs}


@pytest.fixture
def photos(tmp_path):
    return fill(tmp_path / "photos")


# Formats and pixels


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [("png", {}), ("bmp", {}), ("gif", {}), ("webp", {"lossless": True}), ("PNG", {})],
)
def test_lossless_formats_give_every_pixel(tmp_path, suffix, settings):
    for label in (0, 1):
        for number, pixels in enumerate(digits_of(label)[:3]):
            write(tmp_path / f"class{label}" / f"{number}.{suffix}", pixels, **settings)
    own = read(tmp_path)
    assert own.about.input_shape == (8, 8, 1)
    assert own.about.class_names == ("class0", "class1")
    np.testing.assert_array_equal(own.train.inputs[:3, ..., 0], digits_of(0)[:3])
    np.testing.assert_array_equal(own.train.inputs[3:, ..., 0], digits_of(1)[:3])
    assert own.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert (own.train.inputs.dtype, own.train.targets.dtype) == ("uint8", "int64")


def test_jpeg_is_near(tmp_path):
    fill(tmp_path, suffix="jpg")
    found = read(tmp_path).train.inputs[:4, ..., 0].astype("int64")
    # Quality 75 of images of 8 × 8 pixels, one block of the cosine transform each.
    assert np.abs(found - digits_of(0)[:4]).mean() < 8


def content_of(tmp_path, pixels, suffix="png", **settings):
    return write(tmp_path / f"any.{suffix}", pixels, **settings).read_bytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_turns_the_image(tmp_path, orientation, suffix):
    # What each orientation says of the stored image, by EXIF 2.3, 4.6.4 A.
    turned = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
    }[orientation]  # fmt: skip
    # Blocks of 16 pixels of one value, which JPEG keeps but for rounding.
    stored = np.kron(np.array([[10, 80, 150], [60, 200, 250]], "uint8"), np.ones((16, 16), "uint8"))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    found = image_files.decode(content_of(tmp_path, stored, suffix, exif=exif))
    expected = turned(stored)[..., None]
    assert found.shape == expected.shape
    assert np.abs(found.astype("int64") - expected).max() <= 2


def test_sixteen_bits_are_scaled(tmp_path):
    wide = np.array([[0, 128, 129, 257], [255, 32768, 60000, 65535]], "uint16")
    found = image_files.decode(content_of(tmp_path, wide))[..., 0]
    assert found.tolist() == [[0, 0, 1, 1], [1, 128, 233, 255]]


def test_modes_of_color(tmp_path):
    def first(image, suffix="png", grayscale=None, **settings):
        image.save(tmp_path / f"any.{suffix}", **settings)
        content = (tmp_path / f"any.{suffix}").read_bytes()
        return image_files.decode(content, grayscale)[0, 0].tolist()

    color = PIL.Image.new("RGB", (4, 4), (10, 20, 30))
    assert first(color) == [10, 20, 30]
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    assert first(color, grayscale=True) == [18]
    assert first(color.quantize(2)) == [10, 20, 30]
    assert first(color.quantize(2), "gif") == [10, 20, 30]
    assert first(PIL.Image.new("RGBA", (4, 4), (10, 20, 30, 0))) == [10, 20, 30]
    assert first(PIL.Image.new("LA", (4, 4), (7, 0))) == [7]
    assert first(PIL.Image.new("L", (4, 4), 7), grayscale=False) == [7, 7, 7]
    assert first(PIL.Image.new("RGB", (4, 4), (7, 7, 7))) == [7]
    assert first(PIL.Image.new("1", (4, 4), 1)) == [255]
    assert first(PIL.Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "jpg", quality=100) == [0, 255, 255]
    frames = [PIL.Image.new("L", (4, 4), value) for value in (5, 200)]
    assert first(frames[0], "gif", save_all=True, append_images=frames[1:]) == [5]


def test_smaller_images_are_averaged():
    stripes = np.tile(np.array([0, 255], "uint8"), (64, 32))[..., None]
    small = image_files.resize(stripes, (4, 4))
    # Every second pixel would be all 0 or all 255. The triangle of bilinear filtering weighs both
    # alike but at the border.
    assert np.abs(small.astype("int64") - 127.5).max() < 8
    flat = image_files.resize(np.full((7, 9, 3), 200, "uint8"), (12, 5))
    assert flat.shape == (12, 5, 3)
    assert (flat == 200).all()


def test_masks_are_never_mixed():
    numbers = np.kron(np.array([[0, 7], [3, 0]]), np.ones((4, 4), int))
    small = image_files.resize_mask(numbers, (2, 2))
    assert small.tolist() == [[0, 7], [3, 0]]
    assert set(np.unique(image_files.resize_mask(numbers, (5, 3)))) == {0, 3, 7}


# The folder


def test_gray_and_colored_images_of_any_size(tmp_path):
    write(tmp_path / "a" / "1.png", digits_of(0)[0])
    write(tmp_path / "a" / "2.jpg", np.full((20, 30, 3), (250, 0, 0), "uint8"))
    write(tmp_path / "b" / "1.webp", np.full((9, 8), 30, "uint8"))
    write(tmp_path / "b" / "2.bmp", np.full((5, 5, 3), (1, 2, 3), "uint8"))
    own = read(tmp_path, image_size=(6, 5))
    assert own.about.input_shape == (6, 5, 3)
    assert (own.train.inputs[3] == (1, 2, 3)).all()
    assert (own.train.inputs[0] == own.train.inputs[0][..., :1]).all()
    gray = read(tmp_path, image_size=(6, 5), color_mode="grayscale")
    assert gray.about.input_shape == (6, 5, 1)
    assert (gray.train.inputs[2] == 30).all()
    message = refusal(tmp_path)
    assert message.startswith(
        "data.image_size: expected [rows, columns], for images differ in size"
    )
    assert "8 × 8 pixels in " in message
    assert "20 × 30 in " in message


def test_digits_are_gray_unless_asked_for(photos):
    assert read(photos).about.input_shape == (8, 8, 1)
    colored = read(photos, color_mode="rgb")
    assert colored.about.input_shape == (8, 8, 3)
    assert (colored.train.inputs == read(photos).train.inputs).all()


def test_given_splits(tmp_path):
    for number, name in enumerate(("train", "val", "test")):
        fill(tmp_path / name, start=10 * number)
    own = read(tmp_path)
    for split, start in ((own.train, 0), (own.validation, 10), (own.test, 20)):
        np.testing.assert_array_equal(split.inputs[:4, ..., 0], digits_of(0)[start : start + 4])
        assert split.targets.tolist() == [0] * 4 + [1] * 4
    shutil.rmtree(tmp_path / "val")
    shutil.rmtree(tmp_path / "test")
    alone = read(tmp_path)
    assert (alone.validation, alone.test) == (None, None)
    assert alone.train.size == 8


def streamed_pairs(split):
    inputs, targets = zip(*[(x.numpy(), y.numpy()) for x, y in split.stream()], strict=True)
    return np.stack(inputs), np.stack(targets)


def test_the_stream_is_what_memory_holds(tmp_path):
    fill(tmp_path, count=30)
    write(tmp_path / "one" / "x.png", np.full((20, 30, 3), (9, 8, 7), "uint8"))
    settings = {"image_size": (5, 6)}
    kept = sets.load(config_of(tmp_path, **settings), seed=1)
    streamed = sets.load(config_of(tmp_path, in_memory=False, **settings), seed=1)
    assert kept.about == streamed.about
    for one, other in (
        (kept.train, streamed.train),
        (kept.validation, streamed.validation),
        (kept.load_test(), streamed.load_test()),
    ):
        assert other.inputs is None
        for _ in range(2):  # it starts anew
            inputs, targets = streamed_pairs(other)
            np.testing.assert_array_equal(inputs, one.inputs)
            np.testing.assert_array_equal(targets, one.targets)
        np.testing.assert_array_equal(other.sample(3), one.sample(3))
        assert inputs.dtype == "uint8"


def test_a_stream_is_shuffled_whole_and_alike_by_seed(tmp_path):
    fill(tmp_path, count=30)
    split = read(tmp_path, in_memory=False).train
    memory = read(tmp_path).train

    def epochs(of, count=2):
        batches = of.training_batches(20, seed=4)
        return [np.concatenate([x.numpy() for x, _ in batches]) for _ in range(count)]

    first, second = epochs(split)
    assert {x.tobytes() for x in first} == {x.tobytes() for x in memory.inputs.astype("float32")}
    assert not np.array_equal(first, second)
    # In the same order as from memory: the way of reading leaves the result as it is.
    np.testing.assert_array_equal(np.stack(epochs(memory)), np.stack([first, second]))


def test_a_stream_reads_no_other_files(tmp_path):
    fill(tmp_path, count=10)
    split = read(tmp_path, in_memory=False).train
    chosen = splits.select(splits.select(split, np.arange(10)), np.array([1, 4]))
    expected = streamed_pairs(split)[0][[1, 4]]
    for number in (0, 2, 3, 5, 6, 7, 8, 9):
        (tmp_path / "one" / f"{number}.png").unlink()
    np.testing.assert_array_equal(streamed_pairs(chosen)[0], expected)


def test_larger_than_the_limit_is_streamed(photos, monkeypatch):
    monkeypatch.setattr(folder_set, "IN_MEMORY_BYTES", 8 * 64)
    assert read(photos).train.inputs is not None
    assert read(photos, color_mode="rgb").train.inputs is None
    assert read(photos, color_mode="rgb", in_memory=True).train.inputs is not None
    monkeypatch.setattr(folder_set, "IN_MEMORY_BYTES", 8 * 64 - 1)
    assert read(photos).train.inputs is None


def test_equal_files_stay_on_one_side(tmp_path):
    fill(tmp_path, count=10)
    for name in ("one", "two"):
        for number in range(10):
            source = tmp_path / name / f"{number}.png"
            shutil.copy(source, source.with_name(f"copy{number}.png"))
    own = read(tmp_path)
    assert own.groups.tolist() == [*range(10), *range(10), *range(10, 20), *range(10, 20)]
    data = sets.load(config_of(tmp_path), seed=0)
    parts = [by_file(one) for one in (data.train, data.validation, data.load_test())]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    assert read(fill(tmp_path / "other")).groups is None


# Refused


def broken(root):
    content = (root / "one" / "2.png").read_bytes()
    (root / "one" / "2.png").write_bytes(content[:-30])


def not_an_image(root):
    (root / "two" / "1.png").write_text("no image")


def empty_file(root):
    (root / "two" / "3.png").write_bytes(b"")


def text_among_them(root):
    (root / "two" / "labels.txt").write_text("1")


def one_class(root):
    shutil.rmtree(root / "two")


def no_class(root):
    one_class(root)
    shutil.rmtree(root / "one")


def empty_class(root):
    (root / "three").mkdir()
    (root / "three" / ".DS_Store").write_bytes(b"1")


def one_example(root):
    write(root / "three" / "1.png", digits_of(2)[0])


def inner_folder(root):
    write(root / "two" / "more" / "1.png", digits_of(2)[0])


def loose(root):
    write(root / "1.png", digits_of(2)[0])
    write(root / "2.png", digits_of(2)[0])


def two_classes(root):
    shutil.copy(root / "one" / "1.png", root / "two" / "same.png")


def gone(root):
    shutil.rmtree(root)


def a_file(root):
    gone(root)
    root.write_text("1")


BAD = {
    broken: r"an image that can be decoded .*one/2\.png \(image file is truncated.*skip_broken",
    not_an_image: r"two/1\.png \(no PNG, JPEG, BMP, GIF or WebP in it\)",
    empty_file: r"two/3\.png \(no PNG",
    text_among_them: r"image files \(.*\) alone in class folders\. Received: .*two/labels\.txt;",
    one_class: r"two classes or more in .*photos\. Received: one alone",
    no_class: r"two classes or more in .*photos\. Received: no folder in it",
    empty_class: r"in each class folder\. Received: .*/three \(none\)",
    one_example: r"two examples .* of each class in train images.*one example of class 'three'",
    inner_folder: r"image files alone in .*two\. Received: the folder more in it",
    loose: r"not loose in .*photos\. Received: 1\.png and 1 more",
    two_classes: r"each image in one class\. Received: .*one/1\.png and .*two/same\.png",
    gone: r"a folder of images\. Received: .*photos \(no such folder\)",
    a_file: r"a folder of images\. Received: .*photos \(a file\)",
}


@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_refusals(photos, change):
    change(photos)
    message = refusal(photos)
    assert message.startswith("data.path: expected ")
    assert re.search(BAD[change], message), message


def other_class(root):
    (root / "test" / "two").rename(root / "test" / "too")


def other_folder(root):
    write(root / "more" / "1.png", digits_of(2)[0])


def no_train(root):
    (root / "train").rename(root / "training")


def leak(root):
    shutil.copy(root / "train" / "one" / "1.png", root / "test" / "one" / "same.png")


BAD_SPLITS = {
    other_class: r"the classes of .*train in .*test too\. Received: no 'two', 'too'",
    other_folder: r"train, and validation .* alone in .*\. Received: more, test, train",
    no_train: r"train, and validation .* alone in .*\. Received: test, training",
    leak: r"no image in both train and test\. Received: .*train/one/1\.png and .*one/same\.png",
}


@pytest.mark.parametrize("change", BAD_SPLITS, ids=lambda change: change.__name__)
def test_refusals_of_splits(tmp_path, change):
    fill(tmp_path / "train")
    fill(tmp_path / "test", start=10)
    change(tmp_path)
    message = refusal(tmp_path)
    assert re.search(BAD_SPLITS[change], message), message


def test_harmless_files_are_passed_over(photos):
    (photos / "README.md").write_text("mine")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._1.png"):
        (photos / "one" / name).write_bytes(b"1")
    (photos / "__MACOSX").mkdir()
    (photos / ".cache").mkdir()
    assert read(photos).train.size == 8


def test_left_out_is_counted(tmp_path, capsys):
    fill(tmp_path / "train", count=6)
    fill(tmp_path / "test", start=10)
    broken(tmp_path / "train")
    not_an_image(tmp_path / "train")
    text_among_them(tmp_path / "train")
    leak(tmp_path)
    own = read(tmp_path, skip_broken=True)
    line = capsys.readouterr().out
    assert re.fullmatch(
        r"Left out: 4 of 22 images: 1 no images \(first: .*labels\.txt\), 2 broken \(first: "
        r".*one/2\.png\), 1 in two splits \(first: .*train/one/1\.png\)\n",
        line,
    ), line
    # The copy in test stays: what is tested is not chosen by what is trained on.
    assert (own.train.size, own.test.size) == (9, 9)
    assert not by_file(own.train) & by_file(own.test)
    read(tmp_path / "test", skip_broken=True)
    assert capsys.readouterr().out == ""


def test_left_out_of_two_classes(photos, capsys):
    two_classes(photos)
    own = read(photos, skip_broken=True)
    assert own.train.targets.tolist() == [0] * 3 + [1] * 4
    assert "2 in two classes" in capsys.readouterr().out


# Masks


def with_masks(root, count=6, start=0):
    for number in range(start, start + count):
        pixels = digits_of(0)[number]
        write(root / "images" / f"{number}.png", pixels)
        write(root / "masks" / f"{number}.png", (pixels > 80).astype("uint8") + (pixels > 200))
    return root


def test_masks(tmp_path):
    own = read(with_masks(tmp_path))
    assert (own.about.kind, own.about.class_names) == ("segmentation", ("0", "1", "2"))
    pixels = digits_of(0)[:6]
    np.testing.assert_array_equal(own.train.inputs[..., 0], pixels)
    np.testing.assert_array_equal(own.train.targets, (pixels > 80).astype(int) + (pixels > 200))
    assert own.train.targets.dtype == "int64"


def test_masks_of_palettes_resized_and_streamed(tmp_path):
    for name, start in (("train", 0), ("test", 10)):
        with_masks(tmp_path / name, start=start)
        for path in (tmp_path / name / "masks").iterdir():
            mask = PIL.Image.open(path)
            mask.load()
            mask.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
            mask.save(path)
    kept = read(tmp_path, image_size=(6, 4))
    streamed = read(tmp_path, image_size=(6, 4), in_memory=False)
    assert set(np.unique(kept.train.targets)) == {0, 1, 2}
    for one, other in ((kept.train, streamed.train), (kept.test, streamed.test)):
        inputs, targets = streamed_pairs(other)
        assert targets.shape == (6, 6, 4)
        np.testing.assert_array_equal(inputs, one.inputs)
        np.testing.assert_array_equal(targets, one.targets)


def test_refusals_of_masks(tmp_path):
    mask = with_masks(tmp_path) / "masks" / "3.png"
    kept = mask.read_bytes()
    write(mask, np.zeros((8, 7), "uint8"))
    assert "an image of 8 × 8 with a mask of 8 × 7 pixels" in refusal(tmp_path)
    write(mask, np.zeros((8, 8, 3), "uint8"))
    assert "mode RGB, not one class number a pixel" in refusal(tmp_path)
    write(mask, np.full((8, 8), 255, "uint8"))
    assert "in train masks in " in refusal(tmp_path)
    assert "0, 1, 2, 255" in refusal(tmp_path)
    mask.unlink()
    assert re.search(r"an image and a mask of each name.*images/3\.png alone", refusal(tmp_path))
    mask.write_bytes(kept)
    write(tmp_path / "images" / "3.bmp", digits_of(0)[20])
    assert re.search(r"images/3\.bmp and .*images/3\.png", refusal(tmp_path))
