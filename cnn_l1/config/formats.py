"""The registry of export formats: one line each. Nothing here imports TensorFlow.

To add a format, write a module with its writer (and its measuring function, if no other
format's fits), and add one line to `FORMATS`. Settings, checks, export, measuring and
verification read it from here.
"""

import dataclasses
import pathlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any

WRITE_TFLITE = "cnn_l1.export.tflite:write_tflite"
WRITE_SPARSE = "cnn_l1.export.sparse_file:write_sparse"
MEASURE_TFLITE = "cnn_l1.measure.measurement:measure_tflite"


@dataclasses.dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: As in `export.formats`.
        file_name: Of its file, or folder, in a run's folder. Of a format that is made of
            another's file, that file's suffix is replaced: `""`.
        writer: Where the function is that writes it, as `module:name`. Called as
            `writer(model, path, format, inputs)` with an `export.formats.Inputs`; of a
            format that is made of another's file as `writer(that file, path)`.
        measure: Where the function is that measures it; called as `measure_tflite`. `None`
            if it is not measured.
        packages: Optional packages that it needs, in `pip install 'cnn_l1[NAME]'`.
        runtimes: What runs it: `litert`, `tflite_micro`, `onnxruntime`, `tensorflow`, `keras`.
        kind: What the TFLite converter makes, such as `"int8"`; see `export_tflite`.
        calibrated: Whether training examples set its ranges.
        integers_only: Whether every operator must compute in integers.
        sparse: Whether it stores zeros as sparse tensors.
        encoded: Whether `export.encode_zeros` writes it a second time.
        tried: Whether it is tried on the untrained network, before training.
        always: Whether it is written always, and not chosen in `export.formats`.
        made_of: Formats of whose file it is made: the first that is chosen.
        suffixes: Of a format that is made of another's file: the suffixes of what it writes.
        also_read: Suffixes of other files that its measuring function reads.
    """

    name: str
    file_name: str
    writer: str
    measure: str | None
    packages: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    kind: str = ""
    calibrated: bool = False
    integers_only: bool = False
    sparse: bool = False
    encoded: bool = False
    tried: bool = False
    always: bool = False
    made_of: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    also_read: tuple[str, ...] = ()

    def write(self, *arguments: Any) -> Any:
        """Call its writer."""
        return pkgutil.resolve_name(self.writer)(*arguments)


def _tflite(name: str, **settings: Any) -> Format:
    """A format that TensorFlow's converter writes."""
    runtimes = ("litert", *settings.pop("also_run_by", ()))
    common: dict[str, Any] = {
        "writer": WRITE_TFLITE,
        "kind": name,
        "tried": not settings.get("sparse"),
    } | settings
    return Format(name, f"model_{name}.tflite", measure=MEASURE_TFLITE, runtimes=runtimes, **common)


# In the order of the settings' schema.
FORMATS = (
    Format(
        "saved_model",
        "saved_model",
        "cnn_l1.export.saved_model_file:write_saved_model",
        "cnn_l1.measure.measurement:measure_saved_model",
        runtimes=("tensorflow",),
    ),
    _tflite("float32", also_run_by=("tflite_micro",), encoded=True),
    _tflite("float16"),
    _tflite("dynamic_int8"),
    _tflite(
        "int8",
        also_run_by=("tflite_micro",),
        encoded=True,
        calibrated=True,
        integers_only=True,
    ),
    _tflite("int16x8", also_run_by=("tflite_micro",), calibrated=True, integers_only=True),
    _tflite("sparse_float32", writer=WRITE_SPARSE, kind="float32", sparse=True),
    _tflite("sparse_float16", writer=WRITE_SPARSE, kind="float16", sparse=True),
    Format(
        "keras",
        "model.keras",
        "cnn_l1.export.tflite:export_keras",
        "cnn_l1.measure.measurement:measure_keras",
        runtimes=("keras",),
        always=True,
        also_read=(".h5",),
    ),
    Format(
        "onnx",
        "model.onnx",
        "cnn_l1.export.onnx_file:write_onnx",
        "cnn_l1.measure.measurement:measure_onnx",
        packages=("onnx", "tf2onnx", "onnxruntime"),
        runtimes=("onnxruntime",),
        tried=True,
    ),
    Format(
        "c",
        "",
        "cnn_l1.export.firmware:write_c_source",
        None,
        made_of=("int8", "float32"),
        suffixes=(".h", ".cc"),
    ),
)

# The values of `export.formats`.
NAMES = tuple(one.name for one in FORMATS if not one.always)

_BY_NAME = {one.name: one for one in FORMATS}


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in _BY_NAME:
        raise ValueError(f"expected a format, one of {', '.join(_BY_NAME)}. Received: {name!r}")
    return _BY_NAME[name]


def chosen(names: Iterable[str]) -> list[Format]:
    """The formats of some names, in their order."""
    return [format_of(name) for name in names]


def source_of(one: Format, names: Iterable[str]) -> Format:
    """The format of whose file another is made: the first of `made_of` among names.

    Args:
        one: A format with `made_of`.
        names: The names that are chosen. Where none of `made_of` is among them, its last.
    """
    names = set(names)
    return format_of(next((n for n in one.made_of if n in names), one.made_of[-1]))


def format_of_file(path: str | pathlib.Path) -> Format | None:
    """The format whose file has a path's name, or `None`."""
    name = pathlib.PurePath(path).name
    return next((one for one in FORMATS if one.file_name == name), None)


def measuring_function(path: str | pathlib.Path) -> Callable[..., Any]:
    """The function that measures a file, by its suffix; a folder is a SavedModel.

    Raises:
        ValueError: If no format has such files.
    """
    path = pathlib.Path(path)
    by_suffix: dict[str, str] = {}
    for one in FORMATS:
        if one.measure is not None:
            for suffix in (pathlib.PurePath(one.file_name).suffix, *one.also_read):
                by_suffix.setdefault(suffix, one.measure)
    folder = by_suffix.pop("")
    if path.suffix not in by_suffix and not path.is_dir():
        *most, last = by_suffix
        raise ValueError(
            f"`path` must be a {', '.join(most)} or {last} file, or the folder of a SavedModel. "
            f"Received: {path}"
        )
    return pkgutil.resolve_name(by_suffix.get(path.suffix, folder))
