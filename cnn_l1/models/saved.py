"""Saved Keras models, those of older versions too."""

import contextlib
import json
import pathlib
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras

from cnn_l1.errors import CnnL1Error
from cnn_l1.models.keras2_configs import Mend, OldConfigError, mend_model, mend_training

HDF5, ZIP, TFLITE = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"TFL3"


class LoadError(CnnL1Error, ValueError):
    """A file that holds no Keras model that can be loaded."""


class MendedWarning(UserWarning):
    """A model was saved by an older Keras, and differences of its config were mended.

    Attributes:
        mends: One `old_configs.Mend` a difference.
    """

    def __init__(self, message: str, mends: tuple[Mend, ...] = ()):
        super().__init__(message)
        self.mends = mends


def load_model(path: Any, custom_objects: dict | None = None, compile: bool = False) -> Any:
    """Load a `.keras` or `.h5` file, of Keras 3 or an older one.

    Keras 3 refuses some configs that Keras 2 wrote, for settings that change nothing:
    `groups=1` of a depthwise convolution, `time_major=False` of an LSTM, slashes in names.
    These are mended in a copy, with a `MendedWarning` that names them; the file stays as it
    is. A file is recognised by its content, whatever its name. No code in a file is run: a
    `Lambda` layer of a Python function is refused.

    Args:
        path: The file.
        custom_objects: `{name: class or function}` of layers and functions of your own,
            where `keras.saving.register_keras_serializable` has not registered them.
        compile: Whether to compile the model as it was. A `.keras` file gives the optimizer's
            state back; after an `.h5` file it begins anew. Default `False`: shrinking and
            export need neither.

    Returns:
        A `keras.Model`.

    Raises:
        LoadError: If there is no such file, it holds no whole model, or the model has
            layers that cannot be loaded; they are named.

    Example:
        >>> model = cnn_l1.load_model("old.h5")
    """
    path = pathlib.Path(path)
    form = _check_form(path)
    with tempfile.TemporaryDirectory(prefix="cnn_l1_") as folder:
        try:
            read = _mended_h5 if form == "h5" else _mended_keras
            loadable, config, mends = read(path, pathlib.Path(folder), compile)
        except OldConfigError as error:
            raise LoadError(f"{path}: {error}") from None
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            if isinstance(error, LoadError):
                raise
            raise LoadError(
                f"{path}: expected a whole file of a Keras model. Received: one that is cut short "
                f"or damaged ({_short(error)})"
            ) from None
        _check_classes(path, config, custom_objects or {})
        model = _load(path, loadable, custom_objects, compile)
    if form == "h5" and getattr(model, "optimizer", None) is not None:
        # Keras builds it without the model's variables, so that no step could be made.
        model.optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
    if mends:
        listed = "; ".join(dict.fromkeys(f"{mend.layer}: {mend.change}" for mend in mends))
        message = f"{path}: saved by an older Keras; mended as it was loaded: {listed}"
        warnings.warn(MendedWarning(message, tuple(mends)), stacklevel=2)
    return model


def check_file(path: Any) -> None:
    """Raise `LoadError` unless a path is a file that could be a Keras model."""
    _check_form(pathlib.Path(path))


def _check_form(path: pathlib.Path) -> str:
    """`"h5"` or `"keras"`, by a file's content."""
    expected = f"{path}: expected a .keras or .h5 file of a Keras model. Received: "
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            raise LoadError(
                f"{expected}the folder of a SavedModel, which has operations and no Keras layers. "
                "Save the model as .keras where it was made (in Keras 2: "
                'tf.keras.models.load_model(folder).save("model.h5")); '
                "keras.layers.TFSMLayer runs it as it is"
            )
        raise LoadError(f"{expected}a folder")
    try:
        with path.open("rb") as file:
            head = file.read(16)
            if not head.startswith(HDF5) and path.suffix in (".h5", ".hdf5"):
                for offset in (512, 1024, 2048):  # HDF5 may begin after a block of the user's
                    file.seek(offset)
                    if file.read(8) == HDF5:
                        return "h5"
    except FileNotFoundError:
        raise LoadError(f"{expected}no such file") from None
    except OSError as error:
        raise LoadError(f"{expected}one that cannot be read ({error.strerror})") from None
    if head.startswith(HDF5):
        return "h5"
    if head.startswith(ZIP):
        return "keras"
    if head[4:8] == TFLITE:
        raise LoadError(
            f"{expected}a TFLite file, which is converted already. measure_tflite, "
            "`python -m cnn_l1.benchmark` and `python -m cnn_l1.encode` take it"
        )
    if not head:
        raise LoadError(f"{expected}an empty file")
    raise LoadError(f"{expected}a file of another kind, or one that is damaged")


def _mended_h5(path: pathlib.Path, folder: pathlib.Path, compile: bool) -> tuple:
    def text(attributes: Any, name: str) -> str:
        value = attributes.get(name, "")
        return value.decode() if hasattr(value, "decode") else str(value)

    with h5py.File(path, "r") as file:
        config_text = text(file.attrs, "model_config")
        if not config_text:
            raise LoadError(
                f"{path}: expected a file of a whole model. Received: weights alone. Build the "
                "model in Python and call model.load_weights on it"
            )
        version = text(file.attrs, "keras_version")
        if "model_weights" in file:
            version = version or text(file["model_weights"].attrs, "keras_version")
        training_text = text(file.attrs, "training_config") if compile else ""
    config, mends = mend_model(json.loads(config_text), version)
    changed = {"model_config": config} if config != json.loads(config_text) else {}
    if training_text and not version.startswith("3"):
        training, training_mends = mend_training(json.loads(training_text))
        mends += training_mends
        if training != json.loads(training_text):
            changed["training_config"] = training
    if not changed and path.suffix in (".h5", ".hdf5"):
        return path, config, mends
    copied = folder / "model.h5"
    shutil.copyfile(path, copied)
    with h5py.File(copied, "r+") as file:
        for name, value in changed.items():
            file.attrs[name] = json.dumps(value).encode()
    return copied, config, mends


def _mended_keras(path: pathlib.Path, folder: pathlib.Path, compile: bool) -> tuple:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise LoadError(
                f"{path}: expected a .keras or .h5 file of a Keras model. Received: a zip file "
                "without config.json"
            )
        damaged = archive.testzip()
        if damaged:
            raise LoadError(f"{path}: expected a whole file. Received: one whose {damaged} is not")
        original = json.loads(archive.read("config.json"))
        metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
        version = str(metadata.get("keras_version", ""))
        training = original.pop("compile_config", None)
        config, mends = mend_model(original, version)
        if training is not None and compile:
            if not version.startswith("3"):
                training, training_mends = mend_training(training)
                mends += training_mends
            config["compile_config"] = training
        if (
            path.suffix == ".keras"
            and (config == original or version.startswith("3"))
            and (not mends)
        ):
            return path, config, mends
        copied = folder / "model.keras"
        with zipfile.ZipFile(copied, "w", zipfile.ZIP_STORED) as new:
            for name in names:
                content = json.dumps(config) if name == "config.json" else archive.read(name)
                new.writestr(name, content)
    return copied, config, mends


def _check_classes(path: pathlib.Path, config: dict, custom_objects: dict) -> None:
    """Refuse layers that cannot be loaded, all by name."""
    unknown: dict[str, str] = {}
    lambdas, operations = [], []
    for node in _layers_in(config):
        kind, settings = node["class_name"], node["config"]
        name = settings.get("name", "") if isinstance(settings, dict) else ""
        if kind == "Lambda" and _is_code(settings):
            lambdas.append(name or kind)
        if kind in ("TensorFlowOpLayer", "TFOpLambda", "SlicingOpLambda"):
            operations.append(name or kind)
            continue
        registered = node.get("registered_name") or kind
        given = custom_objects.keys() & {kind, registered}
        if given or keras.saving.get_registered_object(registered, custom_objects=custom_objects):
            continue
        if keras.saving.get_registered_object(kind) or hasattr(keras.layers, kind):
            continue
        if kind in ("Functional", "Model", "Sequential") or hasattr(keras, kind):
            continue
        module = str(node.get("module") or "")
        if module.startswith("keras.") and module != "keras.layers":
            continue  # operations of a model in Keras 3
        unknown.setdefault(registered, f"{registered} ({name})" if name else registered)
    if lambdas:
        raise LoadError(
            f"{path}: expected layers whose config makes them anew. Received: Lambda layers with "
            f"Python code in them, which is not run from a file: {_listed(lambdas)}. Build the "
            "model in Python and load its weights, or put a layer of your own in their place"
        )
    if operations:
        raise LoadError(
            f"{path}: expected Keras layers. Received: operations of TensorFlow, which Keras 2 "
            f"wrote as layers and Keras 3 cannot read: {_listed(operations)}. Build the model "
            "in Python and load its weights"
        )
    if unknown:
        example = next(iter(unknown))
        raise LoadError(
            f"{path}: expected layers of Keras, or classes in `custom_objects`. Received: "
            f"{_listed(list(unknown.values()))}. "
            f'Pass custom_objects={{"{example}": {example.rpartition(">")[2]}}}'
        )


def _listed(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _layers_in(config: Any) -> Iterator[dict]:
    """The configs of all layers in a model's config, nested ones too."""
    if isinstance(config, list):
        for item in config:
            yield from _layers_in(item)
    if not isinstance(config, dict):
        return
    if isinstance(config.get("class_name"), str) and isinstance(config.get("config"), (dict, list)):
        yield config
    settings = config.get("config")
    if isinstance(settings, dict):
        for key in ("layers", "layer", "cell", "cells", "forward_layer", "backward_layer"):
            yield from _layers_in(settings.get(key))
    elif isinstance(settings, list):
        yield from _layers_in(settings)


def _is_code(settings: Any) -> bool:
    function = settings.get("function") if isinstance(settings, dict) else None
    if isinstance(function, dict):
        return function.get("class_name") == "__lambda__"
    return not isinstance(function, str)


def _load(path: pathlib.Path, loadable: pathlib.Path, custom_objects: Any, compile: bool) -> Any:
    try:
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.models.load_model(
                str(loadable), custom_objects=custom_objects, compile=compile, safe_mode=True
            )
    except Exception as error:  # Keras raises many kinds for a file that it cannot read
        advice = " compile=False loads it without its optimizer." if compile else ""
        raise LoadError(
            f"{path}: expected a Keras model that loads. "
            f"Received: {type(error).__name__}: {_short(error)}.{advice}"
        ) from None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Keras puts whole configs into messages; the reason comes last.
    text = text.rpartition("Exception encountered:")[2].partition("Full object config")[0].strip()
    return text[:300].rstrip(".")
