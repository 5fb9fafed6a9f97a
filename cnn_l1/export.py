"""Exported files: plain `.keras`, SavedModel, TFLite float32 and int8."""

import pathlib

import keras
import numpy as np

from cnn_l1.graph import settle
from cnn_l1.penalties import PACKAGE
from cnn_l1.silence import silenced
from cnn_l1.stored_zeros import check_tflite, file_layouts, lost_zeros  # noqa: F401
from cnn_l1.tflite_file import ExportError, TFLiteFile, pack, read_tflite  # noqa: F401


def plain_copy(model, drop_layers=(), batch_size=None):
    """A copy of a model that loads where `cnn_l1` is not installed.

    Penalties of ours are left out, and so is the optimizer. The copy is in
    float32, whatever dtype policy the model was trained under.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        drop_layers: Names of layers to leave out: those that act in training
            only, such as augmentation, and change no shape in sum.
        batch_size: Fix the batch axis at this size. Default: leave it open.

    Returns:
        A new, uncompiled `keras.Model` with equal weights.
    """

    def clone(layer):
        if isinstance(layer, keras.Model):
            return plain_copy(layer, drop_layers)
        layer_config = _without_ours(layer.get_config())
        layer_config["dtype"] = "float32"
        return type(layer).from_config(layer_config)

    def call(layer, *args, **kwargs):
        if layer.name in drop_layers:
            return args[0]
        return layer(*args, **kwargs)

    copy = _clone(model, clone, call if drop_layers else None)
    copy.set_weights(model.get_weights())
    settle(copy)
    # Keras compiles a clone like its model: with our optimizer, and its state saved.
    copy.optimizer, copy.compiled, copy._compile_config = None, False, None
    if batch_size is None:
        return copy
    inputs = [
        keras.Input(
            batch_shape=(batch_size, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
        )
        for tensor in copy.inputs
    ]
    return keras.Model(inputs, copy(inputs if len(inputs) > 1 else inputs[0]), name=model.name)


def _clone(model, clone, call):
    if call is None:
        return keras.models.clone_model(model, clone_function=clone)
    functional = model
    if isinstance(model, keras.Sequential):
        # The tensors themselves, not lists of one: the signature follows.
        functional = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.models.clone_model(functional, clone_function=clone, call_function=call)


def _without_ours(config):
    """A layer's config with every object of this package replaced by `None`."""
    if isinstance(config, dict):
        name = config.get("registered_name") or ""
        if str(name).startswith(f"{PACKAGE}>"):
            return None
        return {key: _without_ours(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_without_ours(value) for value in config)
    return config


def export_keras(model, path):
    """Write a plain `.keras` file, in Keras' own format."""
    model.save(path)


def export_saved_model(model, path):
    """Write a SavedModel with `serve` and `serving_default` signatures."""
    with silenced():
        model.export(path, format="tf_saved_model", verbose=False)


KINDS = ("float32", "float16", "dynamic_int8", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")


def file_name(kind):
    """The name of a format's file in a run's folder."""
    names = {"saved_model": "saved_model", "onnx": "model.onnx", "keras": "model.keras"}
    return names.get(kind, f"model_{kind}.tflite")


def export_tflite(model, path, calibration_images=None, kind=None, io_type="int8", strip=True):
    """Write a TFLite file: batch 1, builtin operators only.

    Args:
        model: A built `keras.Model`.
        path: Where to write.
        calibration_images: Float32 training inputs, `(count, …)`, in the model's input
            range; they set the ranges of `"int8"` and `"int16x8"`. Default `None`.
        kind: `"float32"`; `"float16"`, weights halved and computed with as float32;
            `"dynamic_int8"`, int8 weights, activations quantized as they come;
            `"int8"`, full-integer, weights per channel; `"int16x8"`, int16 activations
            and int8 weights. Default: `"int8"` with calibration images, else `"float32"`.
        io_type: Type of the input and output of an `"int8"` file: `"int8"` (default) or
            `"uint8"`, as a camera gives it.
        strip: Whether to leave out names of tensors and signatures, which no runtime
            needs; about 1 to 4 kB. Default `True`.

    Returns:
        The file's size in bytes.

    Raises:
        ExportError: If the converter gave a file that is not the model: other
            operators than builtin ones, weights left outside the file, or a zero
            that is none any more.
        ValueError: If `kind` or `io_type` is unknown, or images are missing.
    """
    kind = kind or ("float32" if calibration_images is None else "int8")
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: kind={kind!r}")
    if io_type not in ("int8", "uint8"):
        raise ValueError(f"`io_type` must be 'int8' or 'uint8'. Received: io_type={io_type!r}")
    if kind in CALIBRATED and calibration_images is None:
        raise ValueError(f"`calibration_images` must be given for kind={kind!r}. Received: None")
    fixed = plain_copy(model, batch_size=1)
    content = convert(fixed, kind, calibration_images, io_type)
    if strip:
        content = strip_names(content)
    tensors = read_tflite(content)
    check_tflite(tensors, fixed)
    pathlib.Path(path).write_bytes(content)
    return len(content)


def convert(model, kind="float32", calibration_images=None, io_type="int8", sparse=False):
    """The bytes of a model's TFLite file, unchecked: see `export_tflite`.

    Args:
        sparse: Whether to store tensors with some 30% zeros or more as sparse ones, whatever
            the network; `sparse_tflite` says where that is right. Default `False`.
    """
    import tensorflow as tf

    with silenced():
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        operators = tf.lite.OpsSet.TFLITE_BUILTINS
        optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else []
        if kind != "float32":
            optimizations.append(tf.lite.Optimize.DEFAULT)
        converter.optimizations = optimizations
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind in CALIBRATED:
            samples = np.asarray(calibration_images, "float32")
            converter.representative_dataset = lambda: ([one[None]] for one in samples)
        if kind == "int8":
            operators = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            converter.inference_input_type = getattr(tf, io_type)
            converter.inference_output_type = getattr(tf, io_type)
        if kind == "int16x8":
            weights_int8 = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
            operators = getattr(tf.lite.OpsSet, weights_int8)
            converter.inference_input_type = tf.int16
            converter.inference_output_type = tf.int16
        converter.target_spec.supported_ops = [operators]
        return converter.convert()


def strip_names(content):
    """A TFLite file without the names of its tensors, its signatures and its description.

    No interpreter needs them: inputs and outputs are found by their order.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    flatbuffer_utils.strip_strings(model)
    return pack(model)


def export_onnx(model, path):
    """Write an ONNX file by Keras' own exporter.

    Raises:
        ExportError: If the packages it needs are not installed, or it cannot.
    """
    try:
        with silenced():
            # Keras exports only what has been called since it was built.
            model(np.zeros((1, *model.input_shape[1:]), model.inputs[0].dtype))
            model.export(path, format="onnx", verbose=False)
    except Exception as error:  # whatever tf2onnx raises
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{pathlib.Path(path).name}: expected Keras' exporter to write it; it needs "
            f"pip install 'cnn_l1[onnx]'. Received: {type(error).__name__}: {reason}"
        ) from None
