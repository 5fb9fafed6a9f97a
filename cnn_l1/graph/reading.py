"""A Keras model as one flat list of calls, nested models opened, and back again."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.ops.core import Cast

from cnn_l1.errors import CnnL1Error
from cnn_l1.graph.layer_copies import copy_operation, settle

__all__ = [
    "Call", "Graph", "GraphError", "Value", "as_functional", "copy_operation", "input_name",
    "new_input", "read_graph", "settle",
]  # fmt: skip


class GraphError(CnnL1Error, ValueError):
    """A model whose layers cannot be read as a graph."""


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor in the graph.

    Attributes:
        shape: With the batch axis, `None` where a size is open.
        tensor: The `keras.KerasTensor` it was first seen as.
    """

    shape: tuple[int | None, ...]
    tensor: Any


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer or an operation.

    Attributes:
        operation: The layer or operation, one object for all of its calls.
        inputs: `Value`s it reads, in the order of its arguments.
        outputs: `Value`s it makes.
        arguments: From a mapping `Value -> tensor` to `(args, kwargs)`.
        name: Name of the operation, unique in the graph, one for all calls.
        training: Whether the layer is told to act as in training, or is not told by a
            plain `False`.
    """

    operation: Any
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    arguments: Callable[[dict[Value, Any]], tuple[tuple, dict]]
    name: str
    training: bool = False

    @property
    def kind(self):
        return type(self.operation).__name__


@dataclasses.dataclass(eq=False)
class Graph:
    """A model, flat: `calls` in an order in which they can be made.

    Attributes:
        inputs: `Value`s the model takes.
        outputs: `Value`s it gives.
        calls: All calls, nested models opened, each after what it reads.
        pack_inputs: From a list of tensors to the structure the model takes.
        pack_outputs: The same for what it gives.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    calls: tuple[Call, ...]
    pack_inputs: Callable[[list], Any]
    pack_outputs: Callable[[list], Any]


def read_graph(model):
    """Read a Functional or Sequential model as a `Graph`.

    Raises:
        GraphError: If the model is neither, or not built.
    """
    functional = as_functional(model)
    if functional is None:
        raise GraphError(
            "Expected a built Functional or Sequential Keras model, whose layers form a "
            f"graph. Received: {getattr(model, 'name', model)!r} of type "
            f"{type(model).__name__}{_way_out(model)}"
        )
    reader = _Reader()
    reader.taken.update(input_name(tensor) for tensor in functional._inputs)
    inputs = tuple(reader.value(tensor) for tensor in functional._inputs)
    seen = dict(zip(map(id, functional._inputs), inputs, strict=True))
    outputs = reader.read(functional, seen, prefix="", training=None)
    structure_in, structure_out = functional._inputs_struct, functional._outputs_struct
    return Graph(
        inputs=inputs,
        outputs=tuple(outputs),
        calls=tuple(reader.calls),
        pack_inputs=lambda flat: keras.tree.pack_sequence_as(structure_in, flat),
        pack_outputs=lambda flat: keras.tree.pack_sequence_as(structure_out, flat),
    )


def _way_out(model):
    if type(model) is keras.Sequential and not model.built:
        return ", not built: start it with keras.Input(shape), or call it once"
    if isinstance(model, keras.Model):
        return ": write its `call` as keras.Model(inputs, outputs)"
    return ""


def as_functional(model):
    """The Functional model behind a model, or `None` if there is none."""
    # A subclass with a `call` of its own computes something else than its graph.
    if isinstance(model, keras.Sequential):
        plain = type(model).call is keras.Sequential.call
        return model._functional if plain and model.built else None
    return model if getattr(type(model), "call", None) is Functional.call else None


class _Reader:
    def __init__(self):
        self.calls = []
        self.names = {}
        self.taken = set()

    def value(self, tensor):
        return Value(tuple(tensor.shape), tensor)

    def read(self, functional, seen, prefix, training):
        """Append the calls of a model; `seen` maps `id(tensor)` to its `Value`."""
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                computable = all(id(tensor) in seen for tensor in node.input_tensors)
                if node.is_input or not computable:
                    continue
                self._read_node(node, seen, prefix, training)
        return [seen[id(tensor)] for tensor in functional._outputs]

    def _read_node(self, node, seen, prefix, training):
        operation = node.operation
        inner = as_functional(operation) if isinstance(operation, keras.Model) else None
        given = {id(tensor): seen[id(tensor)] for tensor in node.input_tensors}
        if inner is not None:
            values = self._inner_inputs(node, given, inner, prefix)
            inner_seen = dict(zip(map(id, inner._inputs), values, strict=True))
            # None stands for an optional input that is left out.
            inner_seen = {key: value for key, value in inner_seen.items() if value is not None}
            told = node.arguments.kwargs.get("training") if training is None else training
            outputs = self.read(inner, inner_seen, f"{prefix}{operation.name}_", told)
        else:
            outputs = [self.value(tensor) for tensor in node.outputs]
            self.calls.append(
                Call(
                    operation=operation,
                    inputs=tuple(given[id(tensor)] for tensor in node.input_tensors),
                    outputs=tuple(outputs),
                    arguments=_arguments(node, given, operation, training),
                    name=self._name(operation, prefix),
                    training=_told_training(node, operation, training),
                )
            )
        for tensor, value in zip(node.outputs, outputs, strict=True):
            seen[id(tensor)] = value

    def _inner_inputs(self, node, given, inner, prefix):
        """A nested model's inputs in its own order, as Keras would hand them to it."""
        args, kwargs = node.arguments.fill_in(given)
        passed = args[0] if args else kwargs.get("inputs")
        symbolic = node.arguments.args[0] if args else node.arguments.kwargs.get("inputs")
        name, struct = f"{prefix}{node.operation.name}", inner._inputs_struct
        masks = keras.tree.flatten(node.arguments.kwargs.get("mask"))
        known = [getattr(t, "_keras_mask", None) for t in keras.tree.flatten(symbolic)]
        if any(m is not None and all(m is not k for k in known) for m in masks):
            raise GraphError(
                f"{name}: expected a nested model without a `mask` of its own. Received: one"
            )
        if isinstance(passed, dict) and not isinstance(struct, dict):
            passed = [passed[tensor.name] for tensor in inner._inputs]
        values = keras.tree.flatten(passed)
        if len(values) != len(inner._inputs):
            raise GraphError(
                f"{name}: expected {len(inner._inputs)} inputs for a nested model. "
                f"Received: {len(values)}"
            )
        return [
            self._adapted(value, tensor, name)
            for value, tensor in zip(values, inner._inputs, strict=True)
        ]

    def _adapted(self, value, tensor, name):
        """A value as a nested model's input of another dtype takes it."""
        if value is None:
            return None
        if not isinstance(value, Value) or len(value.shape) != len(tensor.shape):
            received = getattr(value, "shape", value)
            raise GraphError(
                f"{name}: expected a tensor of shape {tuple(tensor.shape)} for a nested model. "
                f"Received: {received!r}"
            )
        if value.tensor.dtype == tensor.dtype:
            return value
        cast = Cast(tensor.dtype, name=f"{name}_cast")
        result = Value(value.shape, keras.KerasTensor(value.shape, tensor.dtype))
        call = Call(
            operation=cast,
            inputs=(value,),
            outputs=(result,),
            arguments=lambda tensors: ((tensors[value],), {}),
            name=self._name(cast, ""),
        )
        self.calls.append(call)
        return result

    def _name(self, operation, prefix):
        """The layer's own name; with its models' before it where that is taken."""
        if id(operation) not in self.names:
            name = operation.name
            if name in self.taken:
                name = f"{prefix}{name}"
            base, number = name, 1
            while name in self.taken:
                number += 1
                name = f"{base}_{number}"
            self.taken.add(name)
            self.names[id(operation)] = name
        return self.names[id(operation)]


def _told_training(node, operation, training):
    if not getattr(operation, "_call_has_training_arg", False):
        return False
    told = node.arguments.kwargs.get("training") if training is None else training
    return told is not None and told is not False


def _arguments(node, given, operation, training):
    def arguments(tensors):
        args, kwargs = node.arguments.fill_in(
            {tensor_id: tensors[value] for tensor_id, value in given.items()}
        )
        if training is not None and getattr(operation, "_call_has_training_arg", False):
            # A model that is told overrides what the layers inside it were told.
            kwargs = {**kwargs, "training": training}
        return args, kwargs

    return arguments


def input_name(tensor):
    """The name of an input, which its layer has; its tensor may have another."""
    return tensor._keras_history.operation.name


def new_input(value):
    """A new `keras.Input` like an input of the graph."""
    tensor = value.tensor
    return keras.Input(
        batch_shape=value.shape,
        dtype=tensor.dtype,
        name=input_name(tensor),
        sparse=bool(getattr(tensor, "sparse", False)),
        optional=bool(getattr(tensor._keras_history.operation, "optional", False)),
    )
