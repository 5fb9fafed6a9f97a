"""Any Keras model as one flat Functional copy, with the same weights and output."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras

from cnn_l1.errors import CnnL1Error
from cnn_l1.graph.layer_copies import CopyError, copy_operation, copy_weights, settle
from cnn_l1.graph.layer_kinds import kind_of
from cnn_l1.graph.layer_weights import own_variables
from cnn_l1.graph.operation_rules import rule_of
from cnn_l1.graph.reading import (
    Call,
    Graph,
    GraphError,
    Value,
    as_functional,
    name_of_its_own,
    read_graph,
)
from cnn_l1.process import keras_internals


class FlatError(CnnL1Error, ValueError):
    """A model that cannot be made one graph of layers."""


def flat_copy(
    model: keras.Model,
    input_shape: tuple[int, ...],
    before: Callable[[Any], Any] | None = None,
) -> keras.Model:
    """A Functional copy of a model with one input, whose layers all stand in one graph.

    Models inside the model are opened, and so are subclassed ones, and layers of the user's
    own that only call other layers: their `call` runs on a symbolic tensor, on which Keras
    layers and `keras.ops` leave what they do. Each layer is made anew from its config, with
    its weights and its `trainable`; the given model stays as it is.

    Args:
        model: A Functional, Sequential or subclassed model.
        input_shape: The shape of an example; it fixes sizes that the model leaves open.
        before: Makes, from the new input, what the model's first layer reads, such as scaled
            pixels. Default: the input itself.

    Returns:
        An uncompiled Functional `keras.Model`, its outputs in the lists or dicts of the
        model's own.

    Raises:
        FlatError: If the model cannot be traced, or a layer cannot be made anew.
    """
    with warnings.catch_warnings():
        # About layers that are built as they are called: their builder has seen them.
        warnings.simplefilter("ignore", UserWarning)
        return _flat_copy(model, input_shape, before)


def _flat_copy(
    model: keras.Model, input_shape: tuple[int, ...], before: Callable[[Any], Any] | None
) -> keras.Model:
    _build(model, input_shape)
    copier = _Copier()
    if as_functional(model) is None:
        dtype, name = None, "input"
        graph = _traced(model, [keras.KerasTensor((None, *input_shape))])
    else:
        graph = _read(model)
        if len(graph.inputs) != 1:
            raise FlatError(f"expected a model with one input. Received: {len(graph.inputs)}")
        (first,) = graph.inputs
        dtype, name = first.tensor.dtype, keras_internals.maker_of(first.tensor)[0].name
    inputs = keras.Input(input_shape, dtype=dtype if before is None else None, name=name)
    x = inputs if before is None else before(inputs)
    copier.taken.update((name, *_layers_between(inputs, x)))
    outputs = copier.run(graph, dict.fromkeys(graph.inputs, x), "")
    return keras.Model(inputs, graph.pack_outputs(outputs), name=model.name)


def _layers_between(inputs: Any, x: Any) -> list[str]:
    return [] if x is inputs else [layer.name for layer in keras.Model(inputs, x).layers]


def _build(model: keras.Model, input_shape: tuple[int, ...]) -> None:
    """Build a model that was not called yet."""
    if model.built:
        return
    try:
        if isinstance(model, keras.Sequential):
            model.build((None, *input_shape))
        else:
            model(keras.Input(input_shape))
    except Exception as error:  # whatever the user's code raises
        raise FlatError(
            f"expected a model that can be called on inputs of shape {input_shape}. Received: "
            f"{type(model).__name__}, which raises {_told(error)}"
        ) from None


def _read(model: Any) -> Graph:
    try:
        return read_graph(model)
    except GraphError as error:
        raise FlatError(str(error)) from None


def _traced(operation: Any, tensors: list[Any], call: Call | None = None) -> Graph:
    """What a `call` does, as a graph of its own from stand-ins for what it reads."""
    stand_ins = [keras.Input(batch_shape=tuple(x.shape), dtype=x.dtype) for x in tensors]
    args: tuple = tuple(stand_ins)
    kwargs: dict[str, Any] = {}
    if call is not None:
        args, kwargs = call.arguments(dict(zip(dict.fromkeys(call.inputs), stand_ins, strict=True)))
    graph = _graph_of(operation, stand_ins, args, kwargs)
    if "training" in inspect.signature(operation.call).parameters:
        told = _graph_of(operation, stand_ins, args, kwargs | {"training": True})
        if _steps(told) != _steps(graph):
            raise FlatError(_advice(operation, "does other things with training=True"))
    return graph


def _graph_of(operation: Any, stand_ins: list[Any], args: tuple, kwargs: dict) -> Graph:
    code = getattr(inspect.unwrap(operation.call), "__code__", None)
    if code is not None and "add_loss" in code.co_names:
        raise FlatError(_advice(operation, "calls add_loss"))
    try:
        outputs = operation.call(*args, **kwargs)
        return _read(keras.Model(stand_ins, outputs))
    except Exception as error:  # whatever the user's code raises
        raise FlatError(_advice(operation, f"raises {_told(error)}")) from None


def _steps(graph: Graph) -> list[Any]:
    calls = graph.calls
    return [id(c.operation) if isinstance(c.operation, keras.Layer) else c.kind for c in calls]


def _advice(operation: Any, received: str) -> str:
    return (
        "expected a `call` of Keras layers and keras.ops alone, without tf.* and without if or "
        "for on values: write it so, or as keras.Model(inputs, outputs). Received: "
        f"{type(operation).__name__}, whose call {received}"
    )


def _told(error: Exception) -> str:
    text = " ".join(str(error).split()).split(". ", 1)[0].rstrip(".")
    return f"{type(error).__name__}: {text[:200]}"


class _Copier:
    """Makes each layer anew once, however often it is called."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.taken: set[str] = set()

    def run(self, graph: Graph, tensors: dict[Value, Any], prefix: str) -> list[Any]:
        """The outputs of a graph, of new layers, on new tensors for its inputs."""
        for call in graph.calls:
            read = list(dict.fromkeys(call.inputs))
            inner = self.opened(call, [tensors[value] for value in read])
            if inner is None:
                made = keras.tree.flatten(self.called(call, tensors, prefix))
            else:
                given = [tensors[value] for value in read]
                within = dict(zip(inner.inputs, given, strict=True))
                made = self.run(inner, within, f"{prefix}{call.name}_")
            tensors.update(zip(call.outputs, made, strict=True))
        return [tensors[value] for value in graph.outputs]

    def opened(self, call: Call, read: list[Any]) -> Graph | None:
        """The graph inside a model or layer of the user's own; `None` for one that stays."""
        operation = call.operation
        if isinstance(operation, keras.Model):
            return _traced(operation, read, call)
        if not _is_only_layers(operation):
            return None
        try:
            return _traced(operation, read, call)
        except FlatError:
            return None  # a layer may stay whole

    def called(self, call: Call, tensors: dict[Value, Any], prefix: str) -> Any:
        operation = call.operation
        args, kwargs = call.arguments({value: tensors[value] for value in call.inputs})
        is_new = id(operation) not in self.made
        try:
            if is_new:
                self.made[id(operation)] = copy_operation(operation, self.name(call.name, prefix))
            new = self.made[id(operation)]
            outputs = new(*args, **kwargs)
            if is_new and isinstance(operation, keras.Layer) and operation.variables:
                copy_weights(operation, new)
                settle(new)
        except CopyError as error:
            raise FlatError(str(error)) from None
        except Exception as error:  # Keras and layers of others raise many kinds
            raise FlatError(
                f"expected layers that take what comes before them. Received: {call.name}, which "
                f"raises {_told(error)}"
            ) from None
        return outputs

    def name(self, name: str, prefix: str) -> str:
        """A layer's own name; with that of what it is in before it where it is taken."""
        return name_of_its_own(name, prefix, self.taken)


def _is_only_layers(operation: Any) -> bool:
    """Whether an operation is a layer of the user's own that holds layers, but no weights."""
    if not isinstance(operation, keras.Layer) or type(operation).__module__.startswith("keras."):
        return False
    if rule_of(operation) is not None or kind_of(operation) is not None:
        return False  # the package was told what it does
    inner = keras_internals.flatten_layers(operation, include_self=False)
    own = [*own_variables(operation), *keras_internals.made_not_to_be_trained(operation)]
    return bool(inner) and not own
