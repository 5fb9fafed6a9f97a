"""What each export format needs, and whether a network can have it: known before training."""

import importlib.util
import pathlib
import tempfile

import numpy as np

from cnn_l1.config.loading import Config, ConfigError

# Formats that store zeros as sparse tensors, and what they compute in.
SPARSE = {"sparse_float32": "float32", "sparse_float16": "float16"}
SPARSE_IMAGES = 8  # on which a sparse file must equal the dense one
TRIED_IMAGES = 8  # that calibrate a trial
# Whose operators all compute in integers.
ALL_INTEGER = ("int8", "int16x8")


def check_packages(config: Config) -> None:
    """Raise `ConfigError` where a package is missing that the config asks for.

    Imports none of them, and no TensorFlow.
    """
    if "onnx" in config.export.formats:
        missing = [n for n in ("onnx", "tf2onnx", "onnxruntime") if not _is_installed(n)]
        if missing:
            raise ConfigError(
                "export.formats: expected the packages of format onnx to be installed "
                f"(pip install 'cnn_l1[onnx]'). Received: no {', no '.join(missing)}"
            )
    if (config.measure.ram or config.measure.micro_examples) and not _is_installed("tflite_micro"):
        setting = "ram" if config.measure.ram else "micro_examples"
        raise ConfigError(
            f"measure.{setting}: expected tflite-micro to be installed, of which there are "
            "packages for Linux on x86-64. Received: no such package"
        )


def _is_installed(name):
    return importlib.util.find_spec(name) is not None


def write_format(model, kind, path, config, samples=None, images=None):
    """Write one exported file.

    Args:
        model: A plain `keras.Model`.
        kind: One of `export.formats`, but `c`.
        path: Where to.
        config: The `Config`.
        samples: Training examples that calibrate the formats that need them.
        images: Examples on which a sparse file must equal the dense one.

    Raises:
        ExportError: If the format cannot hold the network.
    """
    from cnn_l1.export import sparse_file, tflite
    from cnn_l1.tflite.file import ExportError, float_operators

    if kind == "saved_model":
        tflite.export_saved_model(model, path)
    elif kind == "onnx":
        tflite.export_onnx(model, path)
    elif kind in SPARSE:
        sparse_file.export_sparse_tflite(model, path, SPARSE[kind], images)
    else:
        given = samples if kind in tflite.CALIBRATED else None
        tflite.export_tflite(model, path, given, kind, config.export.io_type)
        floats = float_operators(path.read_bytes()) if kind in ALL_INTEGER else ()
        if floats:
            raise ExportError(
                f"{path.name}: expected every operator in integers. Received: "
                f"{', '.join(floats)} in float, which has no integer form in this format. Take "
                "another activation, or the formats float32, float16 or dynamic_int8"
            )


def try_formats(model, config, samples):
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
    from cnn_l1.export import tflite
    from cnn_l1.process.failures import is_of_the_disk, reason_of
    from cnn_l1.shrink import fold

    found: dict[str, str] = {}
    tried = [k for k in config.export.formats if k in tflite.KINDS or k == "onnx"]
    if not tried:
        return found
    plain = tflite.plain_copy(model)
    if config.export.fold_batch_norm:
        plain = fold.fold_batch_norm(plain)
    with tempfile.TemporaryDirectory() as folder:
        for kind in tried:
            path = pathlib.Path(folder) / tflite.file_name(kind)
            try:
                write_format(plain, kind, path, config, samples[:TRIED_IMAGES])
            except Exception as error:
                if is_of_the_disk(error):
                    raise
                found[path.name] = reason_of(error)
    return found


def print_refused(refused):
    """Print what cannot be written, a line a file."""
    for name, reason in refused.items():
        told = reason.removeprefix(f"{pathlib.PurePath(name).name}: ")
        print(f"Not written: {name}: {told}")


def made_up_samples(input_shape, count=TRIED_IMAGES):
    """Inputs in the range of a data set that is not read: pixels, or standard features."""
    random = np.random.default_rng(0)
    if len(input_shape) == 3:
        return random.uniform(0, 255, (count, *input_shape)).astype("float32")
    return random.normal(size=(count, *input_shape)).astype("float32")
