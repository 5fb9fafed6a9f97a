"""Write one exported file in any format, and try formats on an untrained network.

The formats are in `cnn_l1.config.formats`.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cnn_l1.config.formats import chosen, format_of
from cnn_l1.config.loading import Config
from cnn_l1.export.copying import plain_copy
from cnn_l1.process.failures import is_of_the_disk, reason_of
from cnn_l1.shrink import fold
from cnn_l1.tflite.metadata import Description

SPARSE_IMAGES = 8  # on which a sparse file must equal the dense one
TRIED_IMAGES = 8  # that calibrate a trial


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a writer may need besides the model.

    Attributes:
        samples: Training examples that calibrate the formats that need them, or `None`.
        images: Examples on which a sparse file must equal the dense one, or `None`.
        io_type: Type of the inputs and outputs of an int8 file.
        description: What a TFLite file says of itself, or `None`.
    """

    samples: Any = None
    images: Any = None
    io_type: str = "int8"
    description: Description | None = None


def write_format(
    model: keras.Model,
    kind: str,
    path: pathlib.Path,
    config: Config,
    samples: Any = None,
    images: Any = None,
    description: Description | None = None,
) -> None:
    """Write one exported file.

    Args:
        model: A plain `keras.Model`.
        kind: One of `export.formats` that is made of the model: not `c`.
        path: Where to.
        config: The `Config`.
        samples: Training examples that calibrate the formats that need them.
        images: Examples on which a sparse file must equal the dense one.
        description: What a TFLite file says of itself. Default: nothing.

    Raises:
        ExportError: If the format cannot hold the network.
    """
    form = format_of(kind)
    form.write(model, path, form, Inputs(samples, images, config.export.io_type, description))


def try_formats(model: keras.Model, config: Config, samples: Any) -> dict[str, str]:
    """Which configured files the converter does not make, tried on the untrained network.

    Formats whose files depend on trained weights are not tried, nor SavedModels, which
    Keras writes of every network here.

    Args:
        model: The `keras.Model` before training. It is not changed.
        config: The `Config`.
        samples: Some inputs, `(count, …)`, in the data's range.

    Returns:
        `{file name: reason}`; empty where all can be written.
    """
    found: dict[str, str] = {}
    tried = [one for one in chosen(config.export.formats) if one.tried]
    if not tried:
        return found
    plain = plain_copy(model)
    if config.export.fold_batch_norm:
        plain = fold.fold_batch_norm(plain)
    with tempfile.TemporaryDirectory() as folder:
        for one in tried:
            path = pathlib.Path(folder) / one.file_name
            try:
                write_format(plain, one.name, path, config, samples[:TRIED_IMAGES])
            except Exception as error:
                if is_of_the_disk(error):
                    raise
                found[path.name] = reason_of(error)
    return found


def print_refused(refused: Mapping[str, str]) -> None:
    """Print what cannot be written, a line a file."""
    for name, reason in refused.items():
        told = reason.removeprefix(f"{pathlib.PurePath(name).name}: ")
        print(f"Not written: {name}: {told}")


def made_up_samples(input_shape: Sequence[int], count: int = TRIED_IMAGES) -> np.ndarray:
    """Inputs in the range of a data set that is not read: pixels, or standard features."""
    random = np.random.default_rng(0)
    if len(input_shape) == 3:
        return random.uniform(0, 255, (count, *input_shape)).astype("float32")
    return random.normal(size=(count, *input_shape)).astype("float32")
