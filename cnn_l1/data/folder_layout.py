"""Which files of a folder are which examples: a subfolder a class, or images and masks.

Three layouts:

- `photos/cat/1.jpg`: a folder a class;
- `photos/train/cat/1.jpg`, and `photos/validation/` (or `val/`) and `photos/test/` alike;
- `photos/images/1.jpg` with `photos/masks/1.png`, also below `train/` and so on.

Hidden files, `Thumbs.db`, `desktop.ini` and `__MACOSX` are passed over everywhere, and files that
are no images beside the class folders, such as a README. Inside them they are refused, for an
image of a format that is not read would be lost unseen.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from cnn_l1.data.image_files import SUFFIXES
from cnn_l1.data.origin import Origin

SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
IMAGES_AND_MASKS = ["images", "masks"]
PASSED_OVER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
FORMATS = "PNG, JPEG, BMP, GIF or WebP"


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One example: its file, and the number of its class or the file of its mask."""

    path: pathlib.Path
    label: int = -1
    mask: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """The examples of a folder.

    Attributes:
        class_names: Names of the class folders, sorted; `None` for images with masks.
        files: By split, in the order of their paths; `"train"` alone if nothing is parted.
        others: Files in class folders that are no images by their name.
    """

    class_names: tuple[str, ...] | None
    files: dict[str, list[ImageFile]]
    others: list[pathlib.Path]


def layout_of(root: pathlib.Path) -> Layout:
    """Find the examples of a folder. Opens no file.

    Raises:
        ConfigError: If it has none of the layouts.
    """
    origin = Origin("data.path")
    if not root.is_dir():
        kind = "a file" if root.exists() else "no such folder"
        raise origin.error("a folder of images", f"{root} ({kind})")
    folders = _folders(root)
    names = [one.name for one in folders]
    splits = [one for one in folders if one.name in SPLITS]
    if not splits:
        return _one(root, origin)
    others = [name for name in names if name not in SPLITS]
    if "train" not in names or others or {"val", "validation"} <= set(names):
        raise origin.error(
            f"train, and validation (or val) and test if there are, alone in {root}",
            ", ".join(names),
        )
    _refuse_loose(root, origin)
    layouts = {SPLITS[one.name]: (one, _one(one, origin)) for one in splits}
    folder, train = layouts["train"]
    for split_folder, layout in layouts.values():
        if layout.class_names != train.class_names:
            raise origin.error(
                f"the classes of {folder} in {split_folder} too",
                _difference(train.class_names, layout.class_names),
            )
    return Layout(
        train.class_names,
        {split: layouts[split][1].files["train"] for split in SPLITS if split in layouts},
        [path for _, layout in layouts.values() for path in layout.others],
    )


def _one(root: pathlib.Path, origin: Origin) -> Layout:
    """The layout of a folder without splits, all as `train`."""
    folders = _folders(root)
    _refuse_loose(root, origin)
    if [one.name for one in folders] == IMAGES_AND_MASKS:
        return _with_masks(folders[0], folders[1], origin)
    if len(folders) < 2:
        received = f"{folders[0].name} alone" if folders else "no folder in it"
        raise origin.error(
            f"a folder of images for each of two classes or more in {root}", received
        )
    files: list[ImageFile] = []
    others: list[pathlib.Path] = []
    for label, folder in enumerate(folders):
        images, odd = _files(folder, origin)
        if not images:
            raise origin.error(f"images ({FORMATS}) in each class folder", f"{folder} (none)")
        files += [ImageFile(path, label) for path in images]
        others += odd
    return Layout(tuple(one.name for one in folders), {"train": files}, others)


def _with_masks(images: pathlib.Path, masks: pathlib.Path, origin: Origin) -> Layout:
    of_images, others = _files(images, origin)
    of_masks, odd = _files(masks, origin)
    if not of_images:
        raise origin.error(f"images ({FORMATS}) in {images}", "none")
    by_stem: dict[str, pathlib.Path] = {}
    for path in of_masks:
        if path.stem in by_stem:
            raise origin.error(f"one mask an image in {masks}", f"{by_stem[path.stem]} and {path}")
        by_stem[path.stem] = path
    stems = [path.stem for path in of_images]
    alone = [path for path in of_images if path.stem not in by_stem]
    known = set(stems)
    alone += [path for path in of_masks if path.stem not in known]
    if alone or len(known) < len(stems):
        twice = [path for path in of_images if stems.count(path.stem) > 1]
        received = f"{alone[0]} alone" if alone else f"{twice[0]} and {twice[1]}"
        raise origin.error(f"an image and a mask of each name in {images.parent}", received)
    files = [ImageFile(path, mask=by_stem[path.stem]) for path in of_images]
    return Layout(None, {"train": files}, others + odd)


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted((one for one in root.iterdir() if one.is_dir() and _counts(one)), key=_name)


def _files(folder: pathlib.Path, origin: Origin) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Images of a folder and other files in it, each sorted."""
    entries = sorted(filter(_counts, folder.iterdir()), key=_name)
    inner = [one for one in entries if one.is_dir()]
    if inner:
        raise origin.error(f"image files alone in {folder}", f"the folder {inner[0].name} in it")
    images = [one for one in entries if _is_image(one)]
    return images, [one for one in entries if not _is_image(one)]


def _refuse_loose(root: pathlib.Path, origin: Origin) -> None:
    loose = sorted(one for one in root.iterdir() if _is_image(one) and _counts(one))
    if loose:
        raise origin.error(
            f"every image in a folder of its class, not loose in {root}",
            loose[0].name + (f" and {len(loose) - 1} more" if loose[1:] else ""),
        )


def _name(path: pathlib.Path) -> str:
    return path.name


def _counts(path: pathlib.Path) -> bool:
    return not path.name.startswith(".") and path.name.lower() not in PASSED_OVER


def _is_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _difference(one: Sequence[str] | None, other: Sequence[str] | None) -> str:
    if one is None or other is None:
        return "class folders in one, images and masks in the other"
    missing, more = sorted(set(one) - set(other)), sorted(set(other) - set(one))
    parts = [f"no {missing[0]!r}"] if missing else []
    return ", ".join(parts + ([f"{more[0]!r}, which is not there"] if more else []))
