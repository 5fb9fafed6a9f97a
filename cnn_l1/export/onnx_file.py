"""ONNX files, by Keras' exporter and tf2onnx, proved in ONNX Runtime."""

import os
import pathlib
import tempfile
from typing import Any

import keras

from cnn_l1.config.formats import Format
from cnn_l1.export.copying import copy_with_safe_names, plain_copy
from cnn_l1.export.formats import Inputs
from cnn_l1.export.writing import write_whole
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError

PACKAGES = "pip install 'cnn_l1[onnx]'"


def export_onnx(
    model: keras.Model, path: str | os.PathLike, *, input_shape: Any = None, check: bool = True
) -> None:
    """Write an ONNX file, proved to be the model.

    The file is loaded and run in ONNX Runtime on seeded inputs before it is written to
    `path`; every output must be Keras' within the tolerance of a float32 file: see
    `export_tflite`. Its inputs and outputs are the model's, in its order.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        path: Where to write.
        input_shape: Fix sizes that the model leaves open; see `plain_copy`. Default: they
            stay open, as the batch axis does.
        check: Whether to prove the file. Default `True`.

    Raises:
        ExportError: If a package that it needs is not installed, if the model cannot be
            converted, or if the file is not the model. Nothing is written then.
        ValueError: If `input_shape` does not fit the model.

    Example:
        >>> export_onnx(model, "model.onnx")
    """
    path = pathlib.Path(path)
    try:
        # Here, for it needs optional packages, of the extra `onnx`.
        from cnn_l1.export import onnx_conversion
    except ImportError as error:
        raise ExportError(
            f"{path.name}: expected the packages that ONNX files need: {PACKAGES}. "
            f"Received: {error}"
        ) from None
    fixed = plain_copy(model, input_shape=input_shape)
    with tempfile.TemporaryDirectory() as folder:
        raw = pathlib.Path(folder) / "model.onnx"
        try:
            with silenced():
                captured = onnx_conversion.convert(copy_with_safe_names(fixed), raw)
        except Exception as error:  # whatever Keras, TensorFlow or tf2onnx raise
            reason = " ".join(str(error).split())[:200]
            raise ExportError(
                f"{path.name}: expected tf2onnx to convert the model. Received: "
                f"{type(error).__name__}: {reason}"
            ) from None
        proto = onnx_conversion.load(raw)
        content = raw.read_bytes()
    if onnx_conversion.mend(proto, fixed, captured):
        content = proto.SerializeToString()
    if check:
        onnx_conversion.prove(content, fixed, path.name, input_shape)
    write_whole(path, content)


def write_onnx(model: keras.Model, path: pathlib.Path, form: Format, inputs: Inputs) -> None:
    """Write a run's ONNX file: see `export_onnx`."""
    export_onnx(model, path)
