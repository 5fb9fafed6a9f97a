"""Multiply-adds of one sample, by layer."""

import math
from typing import Any

import keras

from cnn_l1.errors import CnnL1Error
from cnn_l1.graph.layer_kinds import is_kernel, kind_of, known_class
from cnn_l1.graph.layer_uses import OpenSizeError, Shape, UnknownLayerError, product
from cnn_l1.graph.layer_weights import own_variables
from cnn_l1.graph.reading import Call, Value, as_functional, read_graph
from cnn_l1.process import keras_internals

# Operations of `keras.ops` that multiply matrices; all others make no multiply-adds.
PRODUCTS = (
    "Matmul", "Einsum", "Dot", "Tensordot", "Vdot", "Inner", "Outer", "Conv", "ConvTranspose",
    "DepthwiseConv", "SeparableConv", "DotProductAttention", "Kron", "Solve", "Correlate",
)  # fmt: skip  # fmt: skip


class MacsError(CnnL1Error, ValueError):
    """Multiply-adds that cannot be counted: an unknown layer, or an open size."""


def count_macs(model: keras.Model) -> dict[str, int]:
    """Multiply-adds (MACs) of one sample, by layer.

    Convolutions, dense layers, recurrent cells and matrix products, padding included, as
    the literature counts; a batch-norm costs nothing once it is folded. A weight that is
    zero counts like any other: a dense kernel multiplies by it.

    Args:
        model: A built Functional or Sequential `keras.Model`.

    Returns:
        `{layer name: multiply-adds}`, a shared layer's calls together. Layers without
        any are left out.

    Raises:
        GraphError: If the model is neither.
        MacsError: If a layer's multiply-adds are not known, or a size is open. It names
            all such layers.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="dense")]
        >>> cnn_l1.count_macs(keras.Sequential(layers))
        {'dense': 32}
    """
    counts: dict[str, int] = {}
    unknown, unsized = {}, {}
    for call in read_graph(model).calls:
        try:
            macs = call_macs(call)
        except UnknownLayerError as error:
            unknown[call.name] = error.layer
            continue
        except OpenSizeError:
            unsized[call.name] = call.outputs[0].shape if call.outputs else ()
            continue
        if macs:
            counts[call.name] = counts.get(call.name, 0) + macs
    if unknown:
        raise MacsError(
            "Expected layers whose multiply-adds are known. Received: "
            f"{', '.join(unknown.values())}. `cnn_l1.register_layer_kind` adds a kind."
        )
    if unsized:
        name, shape = next(iter(unsized.items()))
        raise MacsError(
            f"{name}: expected fixed sizes to count multiply-adds. "
            f"Received: an output of shape {shape}"
        )
    return counts


def call_macs(call: Call) -> int:
    """Multiply-adds of one call.

    Raises:
        UnknownLayerError: If they are not known for such a layer or operation.
        OpenSizeError: If a size is open that they depend on.
    """
    layer = call.operation
    inputs, outputs = _input_shapes(call), [value.shape for value in call.outputs]
    if isinstance(layer, keras.Layer):
        return layer_macs(layer, inputs, outputs)
    if not type(layer).__module__.startswith("keras."):
        raise UnknownLayerError(call.name, call.kind)
    if call.kind not in PRODUCTS:
        return 0
    if call.kind == "Matmul" and len(inputs[0]) >= 2:
        return product(outputs[0][1:]) * product(inputs[0][-1:])
    if call.kind == "Einsum" and "..." not in layer.subscripts:
        sizes: dict[str, int | None] = {}
        for term, shape in zip(layer.subscripts.split("->")[0].split(","), inputs, strict=True):
            sizes |= dict(zip(term.strip(), shape, strict=True))
        return product(size for label, size in sizes.items() if not _is_batch(label, call))
    raise UnknownLayerError(call.name, call.kind)


def call_positions(call: Call) -> int | None:
    """How often one sample multiplies by each kernel weight of a call's layer.

    `None` for operations, and for layers where that differs from weight to weight.
    """
    if not isinstance(call.operation, keras.Layer):
        return None
    return layer_positions(
        call.operation, _input_shapes(call), [value.shape for value in call.outputs]
    )


def _input_shapes(call: Call) -> list[Any]:
    """Shapes of a call's inputs; of attention in the order query, value, key."""
    args, kwargs = call.arguments({value: value for value in call.inputs})
    if "query" in kwargs or "value" in kwargs or "key" in kwargs:
        named = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
        args = tuple(named.get(name) for name in ("query", "value", "key"))
    # Masks and states, as keywords, are no factors.
    found = [value for value in keras.tree.flatten(args) if isinstance(value, Value)]
    return [value.shape for value in found or call.inputs]


def _is_batch(label: str, call: Call) -> bool:
    first = call.operation.subscripts.split("->")[-1].strip()[:1]
    return label == first and call.outputs[0].shape[:1] == (None,)


def layer_macs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    """Multiply-adds of one sample through a layer.

    Args:
        layer: A built `keras.Layer`.
        inputs: Shapes of its inputs, with the batch axis.
        outputs: Shapes of its outputs, likewise.

    Raises:
        UnknownLayerError: If they are not known for such a layer.
        OpenSizeError: If a size is open that they depend on.
    """
    if isinstance(layer, keras.Model):
        if as_functional(layer) is None:
            raise UnknownLayerError(layer.name, type(layer).__name__)
        return sum(count_macs(layer).values())
    positions = layer_positions(layer, inputs, outputs)
    if positions is not None:
        weights = [v for part in keras_internals.flatten_layers(layer) for v in _kernels_of(part)]
        return positions * sum(math.prod(v.shape) for v in weights)
    kind = kind_of(layer)
    if kind is not None and kind.wraps is not None and _acts_as_known(layer):
        return sum(
            times * layer_macs(inner, *shapes)
            for times, inner, *shapes in kind.wraps(layer, inputs, outputs)
        )
    if kind is None or kind.macs is None or not _acts_as_known(layer):
        raise UnknownLayerError(layer.name, type(layer).__name__)
    return kind.macs(layer, inputs, outputs)


def layer_positions(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int | None:
    """How often one sample multiplies by each kernel weight; `None` where that differs."""
    kind = kind_of(layer)
    if kind is None or kind.positions is None or not _acts_as_known(layer):
        return None
    return kind.positions(layer, inputs, outputs)


def _kernels_of(layer: Any) -> list[Any]:
    kernels = [v for v in own_variables(layer) if is_kernel(v)]
    if getattr(layer, "quantization_mode", None) == "int4":
        return [layer.kernel]  # two weights share a byte of the variable
    return kernels


def _acts_as_known(layer: Any) -> bool:
    """Whether a layer computes what its known base does: it has no `call` of its own."""
    known = known_class(layer)
    return known is not None and type(layer).call is getattr(known, "call", None)
