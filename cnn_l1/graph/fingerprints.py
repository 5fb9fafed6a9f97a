"""What a graph computes, in short: two graphs with the same fingerprint are the same."""

import json
import types
import zlib
from typing import Any

import keras
import numpy as np

from cnn_l1.graph.layer_copies import held_functions
from cnn_l1.graph.reading import Call, Graph, Value

Fingerprint = tuple[tuple[str, str, str, tuple[int, ...]], ...]


def fingerprint(graph: Graph) -> Fingerprint:
    """One entry a call: `(layer, settings, place in the graph, checksums of its weights)`.

    Settings are its class, its config, functions that it holds and its plain arguments.
    The first entry stands for the inputs, the last one for the outputs.
    """
    numbers: dict[Value, int] = {}
    for value in graph.inputs:
        numbers[value] = len(numbers)
    shapes = [(value.shape, str(value.tensor.dtype)) for value in graph.inputs]
    entries: list[tuple[str, str, str, tuple[int, ...]]] = [("inputs", repr(shapes), "", ())]
    known: dict[int, tuple[str, tuple[int, ...]]] = {}
    for call in graph.calls:
        key = id(call.operation)
        if key not in known:
            known[key] = (_settings(call.operation), _weights(call.operation))
        settings, weights = known[key]
        for value in call.outputs:
            numbers[value] = len(numbers)
        place = f"{_arguments(call, numbers)} {call.training}"
        entries.append((call.name, settings, place, weights))
    outputs = repr([numbers[value] for value in graph.outputs])
    entries.append(("outputs", "", outputs, ()))
    return tuple(entries)


def difference(planned: Fingerprint, received: Fingerprint) -> str:
    """Where two fingerprints differ, in words; `""` where they do not."""
    for before, after in zip(planned, received, strict=False):
        if before == after:
            continue
        names = ("name", "settings", "inputs", "weights")
        at = next(i for i in range(4) if before[i] != after[i])
        if at == 0:
            return f"{after[0]} is in the place of {before[0]}"
        return f"the {names[at]} of {before[0]} differ"
    if len(planned) != len(received):
        return f"there are {len(received) - 2} calls of layers, not {len(planned) - 2}"
    return ""


def _settings(operation: Any) -> str:
    kind = type(operation)
    try:
        config = operation.get_config()
    except Exception:  # a layer of others may have none, or raise
        config = {"at": id(operation)}
    text = json.dumps(config, sort_keys=True, default=_plain)
    functions = [f"{name} {_function(value)}" for _, name, value in held_functions(operation)]
    return f"{kind.__module__}.{kind.__qualname__} {text} {functions}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
        value = np.asarray(value)
        return [str(value.dtype), value.shape, zlib.crc32(value.tobytes())]
    return repr(value)


def _function(function: types.FunctionType) -> str:
    """A function's name; of one that is not of Keras, what it does too."""
    name = f"{function.__module__}.{function.__qualname__}"
    if function.__module__.startswith("keras."):
        return name
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    code = function.__code__
    return f"{name} {code.co_code!r} {code.co_consts!r} {function.__defaults__!r} {cells!r}"


def _weights(operation: Any) -> tuple[int, ...]:
    checksums = []
    for variable in getattr(operation, "weights", ()):
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        start = zlib.crc32(f"{value.dtype} {value.shape} {variable.trainable}".encode())
        checksums.append(zlib.crc32(np.ascontiguousarray(value).tobytes(), start))
    return tuple(checksums)


def _arguments(call: Call, numbers: dict[Value, int]) -> str:
    """A call's arguments, tensors by their numbers."""
    arguments = call.arguments({value: value for value in call.inputs})

    def plain(argument: Any) -> Any:
        return f"#{numbers[argument]}" if isinstance(argument, Value) else _plain(argument)

    return repr(keras.tree.map_structure(plain, arguments))
