"""Names and order of a file's inputs and outputs: the model's, or none where none are needed."""

import keyword
import re
from typing import Any

import keras
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

from cnn_l1.graph.reading import as_functional, input_name
from cnn_l1.process import keras_internals
from cnn_l1.tflite.file import ExportError, pack, parse


def has_several(model: keras.Model) -> bool:
    """Whether a model has several inputs or several outputs."""
    functional = as_functional(model)
    return (
        len(keras_internals.input_tensors(functional)) > 1
        or len(keras_internals.output_tensors(functional)) > 1
    )


def input_names(model: keras.Model) -> list[str]:
    """The names of a model's inputs, in its order."""
    return [input_name(tensor) for tensor in keras_internals.input_tensors(as_functional(model))]


def output_names(model: keras.Model) -> list[str]:
    """Names of a model's outputs, in its order, each once.

    The keys of a dict; else the names of the layers that give them.
    """
    functional = as_functional(model)
    paths = [
        path
        for path, _ in keras.tree.flatten_with_path(keras_internals.output_structure(functional))
    ]
    names = []
    for path, tensor in zip(paths, keras_internals.output_tensors(functional), strict=True):
        keyed = all(isinstance(part, str) for part in path) and path
        names.append("/".join(path) if keyed else keras_internals.maker_of(tensor)[0].name)
    unique: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            candidate, number = f"{name}_{number}", number + 1
        unique.append(candidate)
    return unique


def identifier(name: str, number: int = 0) -> str:
    """An input's name if it can be that of an argument, else `input_0` and so on."""
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and not keyword.iskeyword(name)
    return name if is_plain else f"input_{number}"


def put_in_order(root: Any, model: keras.Model) -> None:
    """Give a file's inputs and outputs the model's order and names, in place.

    Args:
        root: The tables of a file whose signature has names by number, as `trace` gives them.
        model: The model.

    Raises:
        ExportError: If the file lacks an input or an output.
    """
    signature, graph = root.signatureDefs[0], root.subgraphs[0]
    graph.inputs = _rename(signature.inputs, input_names(model), graph, "input", graph.inputs)
    graph.outputs = _rename(signature.outputs, output_names(model), graph, "output", graph.outputs)


def _rename(maps: list[Any], names: list[str], graph: Any, role: str, found: Any) -> list[int]:
    by_name = {one.name.decode(): one for one in maps}
    order = []
    for number, name in enumerate(names):
        entry = by_name.get(f"{role}_{number:04d}")
        if entry is None or entry.tensorIndex not in found:
            raise ExportError(
                f"The TFLite file: expected the model's {role} {name!r} in it. Received: "
                f"{len(by_name)} {role}s without it"
            )
        entry.name = name.encode()
        graph.tensors[entry.tensorIndex].name = name.encode()
        order.append(entry)
    maps[:] = order
    return [entry.tensorIndex for entry in order]


def strip(root: Any) -> None:
    """Take the names of tensors, the signatures and the description out of a file, in place.

    No interpreter needs them: inputs and outputs are found by their order. A file with
    several inputs or outputs keeps their names and its signature.
    """
    graph = root.subgraphs[0]
    # `pack` stores equal arrays once, but not lists.
    graph.inputs = np.asarray(graph.inputs, np.int32)
    graph.outputs = np.asarray(graph.outputs, np.int32)
    several = len(graph.inputs) > 1 or len(graph.outputs) > 1
    signatures = root.signatureDefs
    kept = {int(i): graph.tensors[i].name for i in (*graph.inputs, *graph.outputs)}
    flatbuffer_utils.strip_strings(root)
    if several:
        root.signatureDefs = signatures
        for index, name in kept.items():
            graph.tensors[index].name = name


def strip_names(content: bytes) -> bytes:
    """A TFLite file without names that no interpreter needs: see `strip`."""
    root = parse(content)
    strip(root)
    return pack(root)
