"""Keras to ONNX: tf2onnx, repairs of what it writes, and the proof. Needs optional packages."""

import pathlib
from typing import Any

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx
from onnx import TensorProto, helper, load, numpy_helper

from cnn_l1.export.names import input_names, output_names
from cnn_l1.export.proof import failure_of, invented_examples
from cnn_l1.graph.reading import as_functional
from cnn_l1.process import keras_internals
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError

__all__ = ["convert", "load", "mend", "prove"]


def convert(model: keras.Model, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Write the file of tf2onnx; returns constants that it took for inputs, by name."""
    functional = as_functional(model)
    several = len(keras_internals.input_tensors(functional)) > 1
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=f"input_{n:04d}" if several else tensor.name)
        for n, tensor in enumerate(keras_internals.input_tensors(functional))
    ]

    @tf.function(input_signature=specs, autograph=False)
    def serve(*tensors: Any) -> Any:
        packed = keras.tree.pack_sequence_as(
            keras_internals.input_structure(functional), list(tensors)
        )
        outputs = keras.tree.flatten(model(packed, training=False))
        given = [id(tensor) for tensor in tensors]
        outputs = [tf.identity(one) if id(one) in given else one for one in outputs]
        if len(outputs) == 1:
            return outputs[0]
        return {f"output_{number:04d}": output for number, output in enumerate(outputs)}

    keras_internals.patch_tf2onnx()
    tf2onnx.convert.from_function(serve, specs, output_path=str(path))
    captures = serve.get_concrete_function().graph.captures
    return {
        inside.name: _array(outside.numpy())
        for outside, inside in captures
        if outside.dtype != tf.dtypes.resource
    }


def _array(value: Any) -> np.ndarray:
    """A tensor's value; a text alone comes as bytes."""
    return np.asarray(value, object) if isinstance(value, bytes) else np.asarray(value)


def mend(proto: Any, model: keras.Model, captured: dict[str, np.ndarray]) -> bool:
    """Give a file the model's inputs and outputs; returns whether anything was changed."""
    changed = False
    graph = proto.graph
    for node in [one for one in graph.node if one.op_type == "Erfc"]:
        # TensorFlow's exact gelu. ONNX has erf: erfc(x) = 1 − erf(x).
        place = list(graph.node).index(node)
        inner, one = f"{node.name}_erf", f"{node.name}_one"
        kind = _element_type(proto, node)
        graph.initializer.append(numpy_helper.from_array(np.ones((), kind), one))
        erf = helper.make_node("Erf", list(node.input), [inner], name=inner)
        rest = helper.make_node("Sub", [one, inner], list(node.output), name=f"{node.name}_sub")
        graph.node.remove(node)
        graph.node.insert(place, rest)
        graph.node.insert(place, erf)
        changed = True
    inputs = {one.name: one for one in graph.input}
    for name in set(inputs) & set(captured):
        graph.initializer.append(numpy_helper.from_array(captured[name], name))
        graph.input.remove(inputs.pop(name))
        changed = True
    for role, field, names in (
        ("input", graph.input, input_names(model)),
        ("output", graph.output, output_names(model)),
    ):
        if len(names) > 1:
            _order(graph, role, field, names)
            changed = True
    return changed


def _element_type(proto: Any, node: Any) -> str:
    kinds = {TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64"}
    found = {one.name: one.type.tensor_type.elem_type for one in proto.graph.value_info}
    return kinds.get(found.get(node.input[0], TensorProto.FLOAT), "float32")


def _order(graph: Any, role: str, field: Any, names: list[str]) -> None:
    """Put inputs or outputs in the model's order, under its names."""
    by_name = {one.name.split(":")[0]: one for one in field}
    keys = [f"{role}_{number:04d}" for number in range(len(names))]
    missing = [name for key, name in zip(keys, names, strict=True) if key not in by_name]
    if missing or len(by_name) != len(names):
        raise ExportError(
            f"The ONNX file: expected the model's {role}s {', '.join(names)}. "
            f"Received: {len(by_name)}, without {', '.join(missing) or 'names'}"
        )
    ordered = [by_name[key] for key in keys]
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    for value, name in zip(ordered, names, strict=True):
        old = value.name
        new = name
        while new in taken and new != old:
            new += "_"
        value.name = new
        for node in graph.node:
            for names_of in (node.input, node.output):
                for place, one in enumerate(names_of):
                    if one == old:
                        names_of[place] = new
        taken.add(new)
    copies = [type(value).FromString(value.SerializeToString()) for value in ordered]
    del field[:]
    field.extend(copies)


def prove(content: bytes, model: keras.Model, name: str, input_shape: Any) -> None:
    """Raise `ExportError` unless ONNX Runtime computes of a file what Keras does."""
    try:
        with silenced():
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{name}: expected a file that ONNX Runtime loads. Received: {reason}"
        ) from None
    sources = [source.name for source in session.get_inputs()]
    expected = input_names(model)
    if len(sources) != len(expected):
        raise ExportError(
            f"{name}: expected the model's inputs {', '.join(expected)}. "
            f"Received: {', '.join(sources)}"
        )
    examples = invented_examples(model, name, input_shape)
    columns = [np.stack(column) for column in zip(*examples, strict=True)]
    try:
        with silenced():
            outputs = session.run(None, dict(zip(sources, columns, strict=True)))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{name}: expected a file that ONNX Runtime runs. Received: {reason}"
        ) from None
    wrong = failure_of(outputs, model, examples, "float32", name)
    if wrong:
        raise ExportError(f"{name}: expected Keras' outputs. Received: {wrong}")
