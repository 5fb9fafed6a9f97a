"""Exported files: plain `.keras`, SavedModel and TFLite."""

import os
import pathlib
from typing import Any

import keras

from cnn_l1.config.formats import FORMATS, WRITE_TFLITE, Format, format_of
from cnn_l1.export import names
from cnn_l1.export.calibration import read_examples
from cnn_l1.export.conversion import CALIBRATED, convert_model, convert_tables
from cnn_l1.export.copying import copy_for_file, plain_copy
from cnn_l1.export.formats import Inputs
from cnn_l1.export.names import strip_names  # noqa: F401
from cnn_l1.export.onnx_file import export_onnx  # noqa: F401
from cnn_l1.export.proof import prove_tflite
from cnn_l1.export.saved_model_file import export_saved_model  # noqa: F401
from cnn_l1.export.stored_zeros import check_tflite, file_layouts, lost_zeros  # noqa: F401
from cnn_l1.export.writing import write_whole
from cnn_l1.process import keras_internals
from cnn_l1.tflite.file import (  # noqa: F401
    ExportError,
    TFLiteFile,
    float_operators_of,
    pack,
    read_tables,
    read_tflite,
)
from cnn_l1.tflite.metadata import Description, append_files, describe

# The kinds of TFLite files that `export_tflite` writes.
KINDS = tuple(one.kind for one in FORMATS if one.writer == WRITE_TFLITE)


def export_keras(model: keras.Model, path: str | os.PathLike, *_: Any) -> None:
    """Write a plain `.keras` file, in Keras' own format."""
    model.save(path)


def file_name(kind: str) -> str:
    """The name of a format's file in a run's folder, e.g. `model_int8.tflite` of `int8`."""
    return format_of(kind).file_name


def write_tflite(model: keras.Model, path: pathlib.Path, form: Format, inputs: Inputs) -> None:
    """Write a run's TFLite file: the writer of the formats that the converter makes.

    Raises:
        ExportError: If the model cannot be converted, or if a format of integers leaves an
            operator in float.
    """
    examples = inputs.samples if form.calibrated else None
    description = inputs.description
    content, root = _build(
        model, path.name, examples, form.kind, inputs.io_type, description=description
    )
    floats = float_operators_of(root) if form.integers_only else ()
    if floats:
        raise ExportError(
            f"{path.name}: expected every operator in integers. Received: "
            f"{', '.join(floats)} in float, which has no integer form in this format. Take "
            "another activation, or the formats float32, float16 or dynamic_int8"
        )
    write_whole(path, content if description is None else append_files(content, description))


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    calibration_data: Any = None,
    kind: str | None = None,
    io_type: str = "int8",
    strip: bool = True,
    *,
    input_shape: Any = None,
    check: bool = True,
    calibration_images: Any = None,
) -> int:
    """Write a TFLite file: batch 1, builtin operators only, proved to be the model.

    The file is run in LiteRT and compared with Keras before it is written to `path`: on
    eight of the calibration examples, else on eight seeded inputs in the range that the
    first layers take. Every output is compared, by position. In a floating-point file the
    largest difference may be 1e-3 (`"float32"`) or 5e-2 (`"float16"`) of the output's
    largest value. In an integer file the root mean square of the differences may be 0.6 of
    the output's standard deviation, or 8 quantization steps with none over 48.

    Inputs and outputs have the model's order, flattened as `model.inputs` and
    `model.outputs` are. A file with several of them keeps their names and a signature.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        path: Where to write.
        calibration_data: Training inputs in the model's input range; they set the ranges of
            `"int8"` and `"int16x8"`. An array `(count, …)`; for several inputs a list or
            tuple of arrays in the model's order, or a dict by the inputs' names. Or a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, or a function that
            makes one, of batches or of single examples; of `(x, y)` pairs `x` is used, and
            for several inputs `x` is a tuple, a list or a dict. The first 500 examples of
            these are taken, and all of an array. Default `None`.
        kind: `"float32"`; `"float16"`, weights halved and computed with as float32;
            `"dynamic_int8"`, int8 weights, activations quantized as they come;
            `"int8"`, full-integer, weights per channel; `"int16x8"`, int16 activations
            and int8 weights. Default: `"int8"` with calibration data, else `"float32"`.
        io_type: Type of the inputs and outputs of an `"int8"` file: `"int8"` (default) or
            `"uint8"`, as a camera gives it. Integer inputs keep their
            type, and inputs of floats that only an Embedding reads become int32.
        strip: Whether to leave out names of tensors and signatures, which no runtime
            needs; about 1 to 4 kB. Default `True`.
        input_shape: Shape of an example, to fix sizes that the model leaves open, e.g.
            `(96, 96, 3)`; see `plain_copy`. Default: they stay open, and an interpreter
            must be told them (`resize_tensor_input`).
        check: Whether to prove the file. Default `True`.
        calibration_images: Older name of `calibration_data`.

    Returns:
        The file's size in bytes.

    Raises:
        ExportError: If the model cannot be converted, or if the file is not the model:
            other outputs, other operators than builtin ones, weights left outside the file,
            or a zero that is none any more. Nothing is written then.
        ValueError: If an argument is wrong, or calibration data are missing, empty, not
            finite or of another shape than the model's inputs.

    Example:
        >>> cnn_l1.export_tflite(model, "model_int8.tflite", x[:500])  # bytes of the file
        1952
    """
    argument = "calibration_data"
    if calibration_images is not None:
        if calibration_data is not None:
            raise ValueError(
                "`calibration_data` and its older name `calibration_images` must not both be "
                "given. Received: both"
            )
        calibration_data, argument = calibration_images, "calibration_images"
    kind = kind or ("float32" if calibration_data is None else "int8")
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: kind={kind!r}")
    if io_type not in ("int8", "uint8"):
        raise ValueError(f"`io_type` must be 'int8' or 'uint8'. Received: io_type={io_type!r}")
    if kind in CALIBRATED and calibration_data is None:
        raise ValueError(f"`calibration_data` must be given for kind={kind!r}. Received: None")
    path = pathlib.Path(path)
    content, _ = _build(
        model, path.name, calibration_data, kind, io_type, strip, input_shape, check, argument
    )
    write_whole(path, content)
    return len(content)


def int8_content(
    model: keras.Model, samples: Any, io_type: str, description: Description | None
) -> bytes:
    """The bytes of a run's int8 file, not proved: for its size, whatever its outputs.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        samples: Inputs that calibrate.
        io_type: As `export_tflite` takes it.
        description: What it says of itself, or `None`.
    """
    content, _ = _build(
        model, file_name("int8"), samples, "int8", io_type, check=False, description=description
    )
    return content if description is None else append_files(content, description)


def _build(
    model: keras.Model,
    name: str,
    calibration_data: Any,
    kind: str,
    io_type: str,
    without_names: bool = True,
    input_shape: Any = None,
    check: bool = True,
    argument: str = "calibration_data",
    description: Description | None = None,
) -> tuple[bytes, Any]:
    """The bytes and the tables of a proved TFLite file: converted, edited, packed once, checked."""
    fixed = copy_for_file(model, input_shape, whole_ids=kind in CALIBRATED)
    examples = None
    if calibration_data is not None:
        examples = read_examples(calibration_data, fixed, argument)
    content, root, edited = convert_tables(fixed, kind, examples, io_type)
    if without_names:
        names.strip(root)
    if description is not None:
        describe(root, description)
    if without_names or edited or description is not None:
        content = pack(root)
    if check:
        check_tflite(read_tables(root), fixed)
        reference = model if _computes_in_float32(model) else plain_copy(model)
        prove_tflite(content, reference, kind, examples, name, input_shape)
    return content, root


def _computes_in_float32(model: keras.Model) -> bool:
    dtypes = {str(layer.compute_dtype) for layer in keras_internals.flatten_layers(model)}
    return not dtypes & {"float16", "bfloat16", "float64"}


def convert(
    model: keras.Model,
    kind: str = "float32",
    calibration_data: Any = None,
    io_type: str = "int8",
    sparse: bool = False,
) -> bytes:
    """The bytes of a model's TFLite file, unchecked: see `export_tflite`.

    Args:
        model: A plain copy with a batch size of 1.
        sparse: Whether to store tensors with some 30% zeros or more as sparse ones, whatever
            the network; `sparse_tflite` says where that is right. Default `False`.
    """
    examples = None
    if kind in CALIBRATED:
        examples = read_examples(calibration_data, model)
    return convert_model(model, kind, examples, io_type, sparse)
