"""SavedModels for inference, proved to be the model."""

import os
import pathlib
import shutil
import tempfile
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnn_l1.config.formats import Format
from cnn_l1.export.calibration import input_specs
from cnn_l1.export.copying import copy_with_safe_names
from cnn_l1.export.formats import Inputs
from cnn_l1.export.names import identifier
from cnn_l1.export.proof import failure_of, invented_examples
from cnn_l1.graph.reading import as_functional
from cnn_l1.process import keras_internals
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError


def export_saved_model(model: keras.Model, path: str | os.PathLike, *, check: bool = True) -> None:
    """Write a SavedModel with `serve` and `serving_default` signatures, proved to be the model.

    It computes as in inference: `model.export` leaves augmentation and noise on. It is loaded
    and run on seeded inputs before it stands at `path`; every output must be Keras' within the
    tolerance of a float32 file: see `export_tflite`. Models that take strings are not run.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        path: The folder to write. One that is there is replaced.
        check: Whether to prove the SavedModel. Default `True`.

    Raises:
        ExportError: If the model cannot be traced, or if the SavedModel is not the model.
            What was at `path` stays then.

    Example:
        >>> cnn_l1.export.tflite.export_saved_model(model, "saved_model")
        >>> loaded = tf.saved_model.load("saved_model")
        >>> outputs = loaded.serve(x)
    """
    path = pathlib.Path(path)
    if as_functional(model) is None:
        raise ExportError(
            f"{path.name}: expected a built Functional or Sequential Keras model. "
            f"Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it is moved there at once.
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        try:
            with silenced():
                _write(copy_with_safe_names(model), folder / "new")
        except Exception as error:  # whatever Keras and TensorFlow raise
            reason = " ".join(str(error).split())[:200]
            raise ExportError(
                f"{path.name}: expected TensorFlow to trace the model. Received: "
                f"{type(error).__name__}: {reason}"
            ) from None
        if check:
            _prove(folder / "new", model, path.name)
        if path.exists():
            path.replace(folder / "old")
        try:
            (folder / "new").replace(path)
        except OSError:
            if (folder / "old").exists():
                (folder / "old").replace(path)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_saved_model(model: keras.Model, path: pathlib.Path, form: Format, inputs: Inputs) -> None:
    """Write a run's SavedModel: see `export_saved_model`."""
    export_saved_model(model, path)


def _write(model: keras.Model, folder: pathlib.Path) -> None:
    functional = as_functional(model)
    tensors = keras_internals.input_tensors(functional)
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=identifier(tensor.name, number))
        for number, tensor in enumerate(tensors)
    ]
    packed = keras.tree.pack_sequence_as(keras_internals.input_structure(functional), specs)

    def serve(inputs: Any) -> Any:
        given = [id(tensor) for tensor in keras.tree.flatten(inputs)]
        outputs = model(inputs, training=False)
        # An input that is passed on.
        return keras.tree.map_structure(
            lambda one: tf.identity(one) if id(one) in given else one, outputs
        )

    archive = keras.export.ExportArchive()
    archive.track(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.add_endpoint("serve", serve, [packed])
    archive.write_out(str(folder), verbose=False)


def _prove(folder: pathlib.Path, model: keras.Model, name: str) -> None:
    if any(spec.dtype == "string" for spec in input_specs(model)):
        return
    functional = as_functional(model)
    examples = invented_examples(model, name, None)
    with silenced():
        loaded = tf.saved_model.load(str(folder))
    columns = [tf.constant(np.stack(column)) for column in zip(*examples, strict=True)]
    outputs = loaded.serve(
        keras.tree.pack_sequence_as(keras_internals.input_structure(functional), columns)
    )
    received = [
        (tf.cast(one, tf.float32) if one.dtype == tf.bfloat16 else one).numpy()
        for one in keras.tree.flatten(outputs)
    ]
    failure = failure_of(received, model, examples, "float32", name)
    if failure:
        raise ExportError(f"{name}: expected Keras' outputs. Received: {failure}")
