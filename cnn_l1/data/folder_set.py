"""A folder of images of the user's own: every file checked at the start, then kept or streamed."""

import concurrent.futures
import dataclasses
import hashlib
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.data.duplicates import groups_of
from cnn_l1.data.folder_layout import FORMATS, ImageFile, Layout, layout_of
from cnn_l1.data.image_files import (
    BrokenImageError,
    decode,
    decode_mask,
    resize,
    resize_mask,
)
from cnn_l1.data.left_out import LeftOut
from cnn_l1.data.origin import Origin
from cnn_l1.data.own_sets import OwnSet
from cnn_l1.data.splits import Description, Split, at_positions
from cnn_l1.data.target_kinds import numbered, refuse_rare
from cnn_l1.data.tfds_sets import IN_MEMORY_BYTES

# A file that is in two splits is left out of the one that comes first here.
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass
class _Checked:
    """A file that was decoded once.

    Attributes:
        file: It.
        digest: SHA-256 of its bytes.
        shape: Rows, columns and channels, as it is.
        pixels: Resized, in its own channels; `None` if not kept.
        mask: Resized class numbers, or `None`.
    """

    file: ImageFile
    digest: bytes
    shape: tuple[int, ...]
    pixels: np.ndarray | None
    mask: np.ndarray | None


def read(config: DataConfig) -> OwnSet:
    """Read a folder of images.

    Args:
        config: A `DataConfig` of name `folder`.

    Raises:
        ConfigError: Naming the file or folder that cannot be used.
    """
    root = pathlib.Path(config.path or "")
    layout = layout_of(root)
    left_out = LeftOut(config.skip_broken, "images", "data.path")
    for path in layout.others:
        left_out.add("no images", f"image files ({FORMATS}) alone in class folders", path)
    checked = _check(layout, config, left_out)
    _leave_out_duplicates(checked, layout, left_out)
    names = {split: (f"{split} images", f"{split} masks") for split in SPLITS}
    origin = Origin("data.path", f" in {root}", names)
    for split in checked:
        if not checked[split]:
            raise origin.error(f"{split} images that can be read", "none")
    shape = _shape(checked, config)
    targets, class_names = _targets(checked, layout, origin)
    in_memory = config.in_memory
    if in_memory is None:
        in_memory = sum(map(len, checked.values())) * math.prod(shape) <= IN_MEMORY_BYTES
    splits = {
        split: _split(files, targets[split], shape, in_memory) for split, files in checked.items()
    }
    left_out.tell(sum(map(len, layout.files.values())) + len(layout.others))
    kind = "segmentation" if layout.class_names is None else "classes"
    return OwnSet(
        Description(str(root), shape, class_names, kind=kind),
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        groups_of([one.digest for one in checked["train"]]),
    )


def _check(layout: Layout, config: DataConfig, left_out: LeftOut) -> dict[str, list[_Checked]]:
    """Decode every file once, on all cores; what was decoded is kept while it fits."""
    limit = IN_MEMORY_BYTES if config.in_memory is None else math.inf if config.in_memory else -1
    keep = limit > 0
    grayscale = None if config.color_mode is None else config.color_mode == "grayscale"

    def check(file: ImageFile) -> _Checked | str:
        try:
            content = file.path.read_bytes()
            pixels = decode(content, grayscale)
            mask = None if file.mask is None else decode_mask(file.mask.read_bytes())
        except (BrokenImageError, OSError) as error:
            return " ".join(str(error).split())
        if mask is not None and mask.shape != pixels.shape[:2]:
            return f"an image of {_size(pixels.shape)} with a mask of {_size(mask.shape)} pixels"
        shape, size = pixels.shape, config.image_size
        if size is not None:
            pixels = resize(pixels, size) if keep else pixels
            mask = None if mask is None else resize_mask(mask, size)
        digest = hashlib.sha256(content).digest()
        return _Checked(file, digest, shape, pixels if keep else None, mask)

    checked: dict[str, list[_Checked]] = {split: [] for split in layout.files}
    size = 0
    # Pillow warns of odd metadata, file by file.
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        try:
            for split, files in layout.files.items():
                for file, found in zip(files, pool.map(check, files), strict=True):
                    if isinstance(found, str):
                        expected = f"an image that can be decoded ({FORMATS})"
                        left_out.add("broken", expected, file.path, found)
                        continue
                    checked[split].append(found)
                    size += 0 if found.pixels is None else found.pixels.nbytes
                    if keep and size > limit:
                        keep = False
                        _forget(checked)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not keep:
        _forget(checked)  # those that were on their way
    return checked


def _forget(checked: dict[str, list[_Checked]]) -> None:
    for files in checked.values():
        for one in files:
            one.pixels = None


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} × {shape[1]}"


def _leave_out_duplicates(
    checked: dict[str, list[_Checked]], layout: Layout, left_out: LeftOut
) -> None:
    """One image has one class and is in one split; copies of it there are a group."""
    same: dict[bytes, list[tuple[str, _Checked]]] = {}
    for split in SPLITS:
        for one in checked.get(split, []):
            same.setdefault(one.digest, []).append((split, one))
    gone: set[int] = set()
    for found in same.values():
        (split, one), *copies = found
        for other_split, other in copies:
            both = f"{one.file.path} and {other.file.path}"
            if other.file.label != one.file.label:
                expected = "each image in one class"
                for _, each in found:
                    left_out.add("in two classes", expected, each.file.path, both)
                    gone.add(id(each))
                break
            if other_split != split:
                last = found[-1][0]
                for its_split, each in found:
                    if its_split != last:
                        expected = f"no image in both {split} and {other_split}"
                        left_out.add("in two splits", expected, each.file.path, both)
                        gone.add(id(each))
                break
    for split, files in checked.items():
        checked[split] = [one for one in files if id(one) not in gone]


def _all(checked: dict[str, list[_Checked]]) -> Iterator[_Checked]:
    return (one for files in checked.values() for one in files)


def _shape(checked: dict[str, list[_Checked]], config: DataConfig) -> tuple[int, int, int]:
    if config.color_mode is None:
        channels = max(one.shape[2] for one in _all(checked))
    else:
        channels = 1 if config.color_mode == "grayscale" else 3
    if config.image_size is not None:
        return (*config.image_size, channels)
    first = next(_all(checked))
    for one in _all(checked):
        if one.shape[:2] != first.shape[:2]:
            raise Origin("data.image_size").error(
                "[rows, columns], for images differ in size",
                f"nothing, with {_size(first.shape)} pixels in {first.file.path} and "
                f"{_size(one.shape)} in {one.file.path}",
            )
    return first.shape[0], first.shape[1], channels


def _targets(
    checked: dict[str, list[_Checked]], layout: Layout, origin: Origin
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    if layout.class_names is None:
        masks = {
            split: np.stack([one.mask for one in files if one.mask is not None])
            for split, files in checked.items()
        }
        names = numbered(masks, None, origin)
        if len(names) < 2:
            raise origin.error("two classes or more in train masks", "class 0 alone")
        return masks, names
    labels = {
        split: np.array([one.file.label for one in files], "int64")
        for split, files in checked.items()
    }
    of_images = Origin(origin.setting, origin.place, {"train": ("", "train images")})
    refuse_rare(labels["train"], layout.class_names, of_images)
    return labels, layout.class_names


def _split(
    files: list[_Checked], targets: np.ndarray, shape: tuple[int, int, int], in_memory: bool
) -> Split:
    if not in_memory:
        return _streamed([one.file for one in files], targets, shape)
    inputs = np.empty((len(files), *shape), "uint8")
    for row, one in zip(inputs, files, strict=True):
        # A gray image among colored ones is the same in all channels.
        pixels = _pixels(one.file.path, shape) if one.pixels is None else one.pixels
        row[:] = pixels
        one.pixels = None  # no second copy of them all
    return Split(len(files), inputs, targets)


def _pixels(path: pathlib.Path | str, shape: tuple[int, int, int]) -> np.ndarray:
    pixels = decode(pathlib.Path(path).read_bytes(), grayscale=shape[2] == 1)
    return resize(pixels, (shape[0], shape[1]))


def _streamed(files: list[ImageFile], targets: np.ndarray, shape: tuple[int, int, int]) -> Split:
    """Images are decoded as they are needed, on all cores, in order."""
    with_masks = files[0].mask is not None
    size = shape[:2]

    def load(path: bytes, mask: bytes) -> tuple[np.ndarray, np.ndarray]:
        pixels = _pixels(os.fsdecode(path), shape)
        numbers = decode_mask(pathlib.Path(os.fsdecode(mask)).read_bytes())
        return pixels, resize_mask(numbers, size)

    def at(positions: tf.data.Dataset) -> tf.data.Dataset:
        paths = tf.constant([os.fsencode(one.path) for one in files])
        masks = tf.constant([os.fsencode(one.mask or b"") for one in files])
        labels = tf.constant(targets if not with_masks else np.zeros(0, "int64"))

        def pair(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if with_masks:
                given = (paths[position], masks[position])
                pixels, target = tf.numpy_function(load, given, (tf.uint8, tf.int64))
                target.set_shape(size)
            else:
                read_one: Callable = lambda path: _pixels(os.fsdecode(path), shape)  # noqa: E731
                pixels = tf.numpy_function(read_one, (paths[position],), tf.uint8)
                target = labels[position]
            pixels.set_shape(shape)
            return pixels, target

        return positions.map(pair, tf.data.AUTOTUNE, deterministic=True)

    return at_positions(len(files), targets, at)
