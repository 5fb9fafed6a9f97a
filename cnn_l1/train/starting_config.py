"""A commented config to start from, by a look at the user's data and model."""

import contextlib
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from PIL import Image

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.data import sets
from cnn_l1.data.image_files import SUFFIXES
from cnn_l1.data.splits import Description
from cnn_l1.graph.reading import GraphError, read_graph
from cnn_l1.models.saved import LoadError, load_model
from cnn_l1.models.setup import Setup, configured
from cnn_l1.train.dry_run import range_of

TABLES = (".csv", ".parquet")
LARGEST_SIZE = 96  # of images, for a network that does not say which it takes
LOOKED_AT = 200  # images whose sizes are read
# Before the network: an int8 file has one step for all features.
STANDARDIZED = {"normalization": "none", "input_range": "standardized"}
SMALL = 32  # images of fewer rows or columns
STEPS = 2000  # of training, at least, in as many epochs as that takes
EPOCHS = 20  # at least
MOST_EPOCHS = 100


def starting_config(
    data: pathlib.Path,
    model: str | None,
    goals: Mapping[str, Any],
    folder: pathlib.Path,
    target: str | None = None,
) -> str:
    """A config for data and a model, as commented YAML.

    Args:
        data: A folder of images, an .npz, .csv or .parquet file, or a TFDS name.
        model: A .keras or .h5 file, or `None` for a new network.
        goals: `board`, `bytes` or `macs`; `None` for those that are not asked for.
        folder: Where the config will be, for relative paths.
        target: For a table: the column to predict.

    Raises:
        ConfigError: If data or model cannot be used.
    """
    shape = None if model is None else _input_shape(model)
    sections: dict[str, Any] = {
        "name": _name_of(data),
        "data": _data_section(data, shape, target),
        "model": {"name": "file", "path": model},
    }
    goal = {key: value for key, value in goals.items() if value is not None} or {"macs": 0.5}
    sections |= {
        "penalty": {"name": "group_l1", "l1_strength": 1e-4, "channel_cost": "macs"},
        "optimizer": {"learning_rate": 1e-3 if model else 3e-3},
        "training": {"epochs": EPOCHS, "batch_size": 128},
        "target": {**goal, "by_epochs": EPOCHS},
        "fine_tuning": {"epochs": EPOCHS},
        "export": {"formats": ["float32", "int8"]},
    }
    if model is None:
        described = _validated({**sections, "model": {"name": "linear"}}, folder)
        sections["model"] = new_network(sets.describe(described.data))
        if sections["model"]["name"] == "autoencoder":
            sections["training"]["task"] = "autoencoder"
    setup = configured(_validated(sections, folder))
    notes = _notes(setup)
    size = setup.dataset.train.size
    batch_size = 32 if size < 5_000 else 128
    epochs = min(MOST_EPOCHS, max(EPOCHS, round(STEPS * batch_size / size)))
    sections["training"] |= {"epochs": epochs, "batch_size": batch_size}
    sections["target"]["by_epochs"] = epochs * 3 // 4
    sections["fine_tuning"]["epochs"] = epochs // 2
    if model is not None:
        found = range_of(setup)
        if found is not None and found.name != "none":
            sections["model"]["input_range"] = found.name
            notes["input_range"] = (
                f"found: {found.better:.0%} of {found.examples} training examples are right at "
                f"this range, {found.now:.0%} as the data are"
            )
    for section in ("data", "model"):
        _make_relative(sections[section], folder)
    return _commented(sections, notes)


def _validated(sections: Mapping[str, Any], folder: pathlib.Path) -> Config:
    absolute = {
        key: {**value} if isinstance(value, dict) else value for key, value in sections.items()
    }
    for section in ("data", "model"):
        path = absolute[section].get("path")
        if path is not None:
            absolute[section]["path"] = str(pathlib.Path(path).resolve())
    return configs.validate(absolute, "the config")


def _name_of(data: pathlib.Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", data.resolve().stem)
    return name.lstrip("_.-") or "mine"


def _input_shape(model: str) -> tuple[int | None, ...]:
    try:
        inputs = read_graph(load_model(model)).inputs
    except (LoadError, GraphError) as error:
        raise ConfigError(f"--model: {error}") from None
    if len(inputs) != 1:
        raise ConfigError(f"--model: expected one input. Received: {model} with {len(inputs)}")
    return tuple(inputs[0].shape[1:])


def _data_section(
    data: pathlib.Path, shape: tuple[int | None, ...] | None, target: str | None
) -> dict[str, Any]:
    if data.is_dir():
        section: dict[str, Any] = {"name": "folder", "path": str(data)}
        rows, cols, channels = shape if shape is not None and len(shape) == 3 else (None,) * 3
        if rows is None or cols is None:
            rows, cols = usual_size(data)
        section["image_size"] = [rows, cols]
        if channels in (1, 3):
            section["color_mode"] = "grayscale" if channels == 1 else "rgb"
        return section
    suffix = data.suffix.lower()
    if suffix in TABLES:
        if target is None:
            raise ConfigError(
                f"--target: expected the column of {data} to predict. Received: nothing"
            )
        return {"name": "table", "path": str(data), "target": target}
    if suffix == ".npz":
        return {"name": _kind_of_arrays(data, shape), "path": str(data)}
    if data.exists():
        raise ConfigError(
            "--data: expected a folder of images, an .npz, .csv or .parquet file, or a TFDS name. "
            f"Received: {data}"
        )
    return {"name": str(data)}  # of TFDS, or an error that says so


def usual_size(folder: pathlib.Path) -> tuple[int, int]:
    """The median rows and columns of the images in a folder, up to 96."""
    sizes = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        with contextlib.suppress(OSError), Image.open(path) as image:  # reading says so
            sizes.append((image.height, image.width))
        if len(sizes) == LOOKED_AT:
            break
    if not sizes:
        return LARGEST_SIZE, LARGEST_SIZE
    rows, cols = np.median(sizes, axis=0)
    return min(round(float(rows)), LARGEST_SIZE), min(round(float(cols)), LARGEST_SIZE)


def new_network(about: Description) -> dict[str, Any]:
    """A `model` section of a network that suits the data's shape, small and without flattening."""
    last = {"type": "dense", "units": "outputs", "activation": "linear"}
    if about.kind == "none":
        return {"name": "autoencoder"}
    if about.kind == "segmentation":
        return {"name": "unet_small"}
    if len(about.input_shape) == 1:
        dense = [{"type": "dense", "units": units} for units in (64, 32)]
        return {"name": "cnn", "blocks": [*dense, last], **STANDARDIZED}
    if len(about.input_shape) == 2:
        convolutions = [
            {"type": "conv1d", "filters": filters, "kernel_size": 5, "strides": 2}
            for filters in (16, 32, 64)
        ]
        blocks = [*convolutions, {"type": "global_pool"}, last]
        return {"name": "cnn", "blocks": blocks, **STANDARDIZED}
    if min(about.input_shape[:2]) > SMALL:
        return {"name": "mobilenet_v1", "width": 0.25}
    normed: list[dict[str, Any]] = []
    for filters, strides in ((32, 1), (64, 2), (64, 1)):
        conv = {"type": "conv", "filters": filters, "strides": strides, "padding": "same"}
        normed += [{**conv, "activation": "linear"}, {"type": "batch_norm"}, {"type": "activation"}]
    return {"name": "cnn", "blocks": [*normed, {"type": "pool"}, {"type": "flatten"}, last]}


def _kind_of_arrays(data: pathlib.Path, shape: tuple[int | None, ...] | None) -> str:
    """`series` or `arrays`: by the model's input, else by what could be no image."""
    if shape is not None:
        return "series" if len(shape) == 2 else "arrays"
    try:
        with np.load(data, allow_pickle=False) as arrays:
            keys = set(arrays.files)
            name = "x_train" if "x_train" in keys else "x"
            inputs = arrays[name] if name in keys else np.zeros(0)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--data: expected an .npz file. Received: {data} ({error})") from None
    return "series" if inputs.ndim == 3 and inputs.dtype.kind == "f" else "arrays"


def _make_relative(section: dict[str, Any], folder: pathlib.Path) -> None:
    if "path" in section:
        path = os.path.relpath(pathlib.Path(section["path"]).resolve(), folder.resolve())
        section["path"] = pathlib.Path(path).as_posix()


def _notes(setup: Setup) -> dict[str, str]:
    """What was seen, by the setting that it belongs to."""
    about, dataset = setup.dataset.about, setup.dataset
    sizes = f"{dataset.train.size} to train on, {dataset.validation.size} to choose by"
    names = about.class_names
    shown = ""
    if names is not None:
        more = ", …" if len(names) > 6 else ""
        shown = f", {len(names)} classes ({', '.join(names[:6])}{more})"
    return {"data": f"{sizes}{shown}; the task is {setup.task.kind}"}


COMMENTS = {
    "name": "The run's folder is saved_models/ and this name.",
    "model": "Training starts from these weights; the model as it is stands in given/.",
    "penalty": "Whole channels go, those that help least at the multiply-adds that they cost.",
    "optimizer": "A model that is trained already wants a small learning rate.",
    "target": "What shall be left, met by this epoch; later epochs train without penalty.",
    "fine_tuning": "Epochs without penalty, zeros held; the best one is kept.",
    "export": "int8 for microcontrollers and phones, float32 to compare with.",
}
NEW_NETWORK = "A new network that suits the data's shape. Other builders: docs/configs.md."


def _commented(sections: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """Sections as YAML, each below a comment."""
    lines = ["# Written by cnn-l1 init. Every setting: docs/configs.md"]
    is_new = sections["model"]["name"] != "file"
    for key, value in sections.items():
        comment = NEW_NETWORK if key == "model" and is_new else COMMENTS.get(key)
        for text in filter(None, (comment, notes.get(key))):
            lines.append(f"# {text[0].upper()}{text[1:].rstrip('.')}.")
        flow = None if isinstance(value, dict) else False
        block = yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=flow).rstrip()
        lines += block.split("\n")
        if key == "model" and "input_range" in notes:
            lines.append(f"  # {notes['input_range']}")
    return "\n".join(lines) + "\n"
