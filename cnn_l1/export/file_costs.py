"""What the int8 file of a model takes once its channels of zeros are removed: flash and RAM."""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cnn_l1.export import tflite
from cnn_l1.export.proof import invented_examples
from cnn_l1.shrink import fold
from cnn_l1.shrink.planning import plan_shrink
from cnn_l1.shrink.removal import apply_shrink
from cnn_l1.sparsity.budgets import set_default_measure
from cnn_l1.sparsity.targets import TargetSparsity
from cnn_l1.tflite import micro
from cnn_l1.tflite.metadata import Description

BIASES = ("bias", "beta")

__all__ = ["TargetSparsity", "int8_costs"]


def int8_costs(
    model: keras.Model,
    names: Sequence[str] = ("bytes", "ram_bytes"),
    *,
    samples: Any = None,
    round_to: int = 1,
    allow_empty: bool = False,
    fold_batch_norm: bool = False,
    io_type: str = "int8",
    description: Description | None = None,
) -> dict[str, int]:
    """Bytes of a model's shrunk int8 file, and of its arena; the file is not kept.

    Neither depends on the weights' values, nor on the data that calibrate them: but for
    biases that are all zero, as before training. A file leaves them out; here they count.

    Args:
        model: A built Functional or Sequential `keras.Model`. It is not changed.
        names: Which figures: `"bytes"`, the file's, and `"ram_bytes"`, the arena's in TFLite
            Micro.
        samples: Inputs that calibrate, as `export_tflite` takes them. Default: made up.
        round_to, allow_empty: As `plan_shrink` takes them.
        fold_batch_norm: Whether batch-norms are folded before the export.
        io_type: As `export_tflite` takes it.
        description: What the file says of itself. Default: nothing.

    Returns:
        `{name: bytes}`.

    Raises:
        ExportError: If the model cannot be written as such a file.
        MicroError: If TFLite Micro does not run the file, with `"ram_bytes"`.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2)]
        >>> sorted(cnn_l1.int8_costs(keras.Sequential(layers)))
        ['bytes', 'ram_bytes']
    """
    plan = plan_shrink(model, round_to, allow_empty)
    if plan.removes_anything:
        model = apply_shrink(model, plan)
    model = tflite.plain_copy(model)
    _fill_biases(model)
    if fold_batch_norm:
        model = fold.fold_batch_norm(model)
    if samples is None:
        samples = _made_up(model)
    content = tflite.int8_content(model, samples, io_type, description)
    found = {}
    if "bytes" in names:
        found["bytes"] = len(content)
    if "ram_bytes" in names:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model_int8.tflite")
            path.write_bytes(content)
            found["ram_bytes"] = micro.arena_bytes(path)
    return found


def _fill_biases(model: keras.Model) -> None:
    """Give biases that are all zero values that differ, as training will."""
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.name in BIASES and not keras.ops.convert_to_numpy(variable).any():
            variable.assign(random.uniform(0.01, 0.1, variable.shape))


def _made_up(model: keras.Model) -> Any:
    columns = zip(*invented_examples(model, "model_int8.tflite", None), strict=True)
    arrays = [np.stack(column) for column in columns]
    return arrays[0] if len(arrays) == 1 else arrays


# `cnn_l1.TargetSparsity` comes from here, so that it can measure; cnn_l1.sparsity may not
# import what writes files.
set_default_measure(int8_costs)
