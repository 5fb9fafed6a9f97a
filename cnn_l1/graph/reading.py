"""A Keras model as one flat list of calls, nested models opened, and back again."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from cnn_l1.errors import CnnL1Error
from cnn_l1.graph.layer_copies import copy_operation, settle
from cnn_l1.process import keras_internals

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
    def kind(self) -> str:
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


def read_graph(model: Any) -> Graph:
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
    tensors = keras_internals.input_tensors(functional)
    reader.taken.update(input_name(tensor) for tensor in tensors)
    inputs = tuple(reader.value(tensor) for tensor in tensors)
    seen: dict[int, Value] = dict(zip(map(id, tensors), inputs, strict=True))
    outputs = reader.read(functional, seen, prefix="", training=None)
    structure_in = keras_internals.input_structure(functional)
    structure_out = keras_internals.output_structure(functional)
    return Graph(
        inputs=inputs,
        outputs=tuple(outputs),
        calls=tuple(reader.calls),
        pack_inputs=lambda flat: keras.tree.pack_sequence_as(structure_in, flat),
        pack_outputs=lambda flat: keras.tree.pack_sequence_as(structure_out, flat),
    )


def _way_out(model: Any) -> str:
    if type(model) is keras.Sequential and not model.built:
        return ", not built: start it with keras.Input(shape), or call it once"
    if isinstance(model, keras.Model):
        return ": write its `call` as keras.Model(inputs, outputs)"
    return ""


def as_functional(model: Any) -> Any:
    """The Functional model that a model is or contains, or `None` if there is none."""
    # A subclass with a `call` of its own computes something else than its graph.
    if isinstance(model, keras.Sequential):
        plain = type(model).call is keras.Sequential.call
        return keras_internals.functional_of(model) if plain and model.built else None
    return model if keras_internals.computes_its_graph(model) else None


class _Reader:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.names: dict[int, str] = {}
        self.taken: set[str] = set()

    def value(self, tensor: Any) -> Value:
        return Value(tuple(tensor.shape), tensor)

    def read(
        self, functional: Any, seen: dict[int, Value], prefix: str, training: Any
    ) -> list[Value]:
        """Append the calls of a model; `seen` maps `id(tensor)` to its `Value`."""
        for node in keras_internals.nodes_in_order(functional):
            computable = all(id(tensor) in seen for tensor in node.input_tensors)
            if not node.is_input and computable:
                self._read_node(node, seen, prefix, training)
        return [seen[id(tensor)] for tensor in keras_internals.output_tensors(functional)]

    def _read_node(self, node: Any, seen: dict[int, Value], prefix: str, training: Any) -> None:
        operation = node.operation
        inner = as_functional(operation) if isinstance(operation, keras.Model) else None
        given = {id(tensor): seen[id(tensor)] for tensor in node.input_tensors}
        if inner is not None:
            values = self._inner_inputs(node, given, inner, prefix)
            pairs = zip(keras_internals.input_tensors(inner), values, strict=True)
            # None stands for an optional input that is left out.
            inner_seen = {id(tensor): value for tensor, value in pairs if value is not None}
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

    def _inner_inputs(
        self, node: Any, given: dict[int, Value], inner: Any, prefix: str
    ) -> list[Value | None]:
        """A nested model's inputs in its own order, as Keras would hand them to it."""
        args, kwargs = node.arguments.fill_in(given)
        passed = args[0] if args else kwargs.get("inputs")
        symbolic = node.arguments.args[0] if args else node.arguments.kwargs.get("inputs")
        name, struct = f"{prefix}{node.operation.name}", keras_internals.input_structure(inner)
        tensors = keras_internals.input_tensors(inner)
        masks = keras.tree.flatten(node.arguments.kwargs.get("mask"))
        known = [keras_internals.mask_of(t) for t in keras.tree.flatten(symbolic)]
        if any(m is not None and all(m is not k for k in known) for m in masks):
            raise GraphError(
                f"{name}: expected a nested model without a `mask` of its own. Received: one"
            )
        if isinstance(passed, dict) and not isinstance(struct, dict):
            passed = [passed[tensor.name] for tensor in tensors]
        values = keras.tree.flatten(passed)
        if len(values) != len(tensors):
            raise GraphError(
                f"{name}: expected {len(tensors)} inputs for a nested model. "
                f"Received: {len(values)}"
            )
        return [
            self._adapted(value, tensor, name)
            for value, tensor in zip(values, tensors, strict=True)
        ]

    def _adapted(self, value: Any, tensor: Any, name: str) -> Value | None:
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
        cast = keras_internals.cast_operation(tensor.dtype, f"{name}_cast")
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

    def _name(self, operation: Any, prefix: str) -> str:
        """The layer's own name; with its models' before it where that is taken."""
        if id(operation) not in self.names:
            self.names[id(operation)] = name_of_its_own(operation.name, prefix, self.taken)
        return self.names[id(operation)]


def name_of_its_own(name: str, prefix: str, taken: set[str]) -> str:
    """A layer's name; with its models' before it, and a number behind it, where it is taken.

    Args:
        name: The layer's own name.
        prefix: The names of the models that it is in.
        taken: The names that there are; the new one is added.
    """
    if name in taken:
        name = f"{prefix}{name}"
    base, number = name, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name


def _told_training(node: Any, operation: Any, training: Any) -> bool:
    if not keras_internals.takes_training(operation):
        return False
    told = node.arguments.kwargs.get("training") if training is None else training
    return told is not None and told is not False


def _arguments(
    node: Any, given: dict[int, Value], operation: Any, training: Any
) -> Callable[[dict[Value, Any]], tuple[tuple, dict]]:
    def arguments(tensors: dict[Value, Any]) -> tuple[tuple, dict]:
        args, kwargs = node.arguments.fill_in(
            {tensor_id: tensors[value] for tensor_id, value in given.items()}
        )
        if training is not None and keras_internals.takes_training(operation):
            # A model that is told overrides what the layers inside it were told.
            kwargs = {**kwargs, "training": training}
        return args, kwargs

    return arguments


def input_name(tensor: Any) -> str:
    """The name of an input, which its layer has; its tensor may have another."""
    return keras_internals.maker_of(tensor)[0].name


def new_input(value: Value) -> Any:
    """A new `keras.Input` like an input of the graph."""
    tensor = value.tensor
    return keras.Input(
        batch_shape=value.shape,
        dtype=tensor.dtype,
        name=input_name(tensor),
        sparse=bool(getattr(tensor, "sparse", False)),
        optional=bool(getattr(keras_internals.maker_of(tensor)[0], "optional", False)),
    )
