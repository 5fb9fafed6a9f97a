"""A Keras model as one flat list of calls, nested models opened, and back again."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras.src.models.functional import Functional


class GraphError(ValueError):
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
        training: Whether the layer is told to act as in training, always.
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
            f"graph. Received: {getattr(model, 'name', model)!r} of type {type(model).__name__}"
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


def as_functional(model):
    """The Functional model behind a model, or `None` if there is none."""
    if isinstance(model, keras.Sequential):
        return model._functional if model.built else None
    # A subclass with a `call` of its own computes something else than its graph.
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
            args, kwargs = node.arguments.fill_in(given)
            flat = [v for v in keras.tree.flatten((args, kwargs)) if isinstance(v, Value)]
            inner_seen = dict(zip(map(id, inner._inputs), flat, strict=True))
            inner_training = kwargs.get("training", training)
            name = f"{prefix}{operation.name}_"
            outputs = self.read(inner, inner_seen, name, inner_training)
        else:
            outputs = [self.value(tensor) for tensor in node.outputs]
            self.calls.append(
                Call(
                    operation=operation,
                    inputs=tuple(given[id(tensor)] for tensor in node.input_tensors),
                    outputs=tuple(outputs),
                    arguments=_arguments(node, given, operation, training),
                    name=self._name(operation, prefix),
                    training=bool(_told_training(node, operation, training)),
                )
            )
        for tensor, value in zip(node.outputs, outputs, strict=True):
            seen[id(tensor)] = value

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
    return node.arguments.kwargs.get("training", training)


def _arguments(node, given, operation, training):
    def arguments(tensors):
        args, kwargs = node.arguments.fill_in(
            {tensor_id: tensors[value] for tensor_id, value in given.items()}
        )
        if training is not None and getattr(operation, "_call_has_training_arg", False):
            kwargs = {"training": training, **kwargs}  # from the model it was inside
        return args, kwargs

    return arguments


def input_name(tensor):
    """The name of an input, which its layer has; its tensor may have another."""
    return tensor._keras_history.operation.name


def new_input(value):
    """A new `keras.Input` like an input of the graph."""
    tensor = value.tensor
    return keras.Input(batch_shape=value.shape, dtype=tensor.dtype, name=input_name(tensor))


def copy_operation(operation, name, **changes):
    """A new layer or operation like another, with parts of its config changed."""
    config = operation.get_config()
    config.update(changes, name=name)
    return type(operation).from_config(config)


def settle(layer):
    """Let a layer take over weights that were just assigned to it."""
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            settle(inner)
    elif isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # its mean is no weight, but computed from some
