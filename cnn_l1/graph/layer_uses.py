"""How often a layer uses its kernels, and the multiply-adds of layers that use them unlike.

Every function takes `(layer, input shapes, output shapes)`, all shapes with the batch
axis, and counts for one sample.
"""

import math
from typing import Any

from keras import layers

from cnn_l1.errors import CnnL1Error
from cnn_l1.process import keras_internals

Shape = tuple[int | None, ...]
# `(times, layer, input shapes, output shapes)` of a layer that another one calls.
Inner = tuple[int, Any, list[Shape], list[Shape]]


class UnknownLayerError(CnnL1Error, ValueError):
    """A layer whose multiply-adds are not known.

    Attributes:
        layer: Its name and class.
    """

    def __init__(self, name: str, kind: str) -> None:
        self.layer = f"{name} ({kind})"
        super().__init__(
            f"Expected layers whose multiply-adds are known. Received: {self.layer}. "
            "`cnn_l1.register_layer_kind` adds a kind."
        )


class OpenSizeError(CnnL1Error, ValueError):
    """A size that must be fixed to count multiply-adds is open."""


def product(sizes: Any) -> int:
    """The product of sizes; `OpenSizeError` if one is open."""
    sizes = tuple(sizes)
    if None in sizes:
        raise OpenSizeError(f"Expected fixed sizes to count multiply-adds. Received: sizes {sizes}")
    return math.prod(int(size) for size in sizes)


def _spatial(layer: Any, shape: Shape) -> int:
    first = getattr(layer, "data_format", None) == "channels_first"
    return product(shape[2:] if first else shape[1:-1])


def at_outputs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return _spatial(layer, outputs[0])


def at_inputs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return _spatial(layer, inputs[0])  # each input position meets each weight


def all_but_last(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return product(outputs[0][1:-1])


def einsum_dense(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    """Sizes of all indices of the inputs that the kernel has not, the batch left out."""
    terms = layer.equation.replace(" ", "").split("->")[0]
    term, kernel = terms.split(",")
    return math.prod(
        product([size])
        for label, size in _labelled(term, inputs[0])[1:]
        if label == "..." or label not in kernel
    )


def _labelled(term: str, shape: Shape) -> list[tuple[str, int | None]]:
    """`(label, size)` for each axis of an einsum term; `"..."` for those of an ellipsis."""
    if "..." not in term:
        return list(zip(term, shape, strict=True))
    before, after = term.split("...")
    middle = len(shape) - len(before) - len(after)
    return list(zip([*before, *["..."] * middle, *after], shape, strict=True))


def steps(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return product(inputs[0][1:2])


def steps_of_images(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    output = outputs[0]
    image = output[2:] if layer.return_sequences else output[1:]
    first = layer.cell.data_format == "channels_first"
    return product(inputs[0][1:2]) * product(image[1:] if first else image[:-1])


def no_macs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return 0


def dot(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    axes = layer.axes if isinstance(layer.axes, (list, tuple)) else (layer.axes, layer.axes)
    contracted = product([inputs[0][axes[0]]])
    free = [s for i, s in enumerate(inputs[0]) if i not in (0, axes[0] % len(inputs[0]))]
    free += [s for i, s in enumerate(inputs[1]) if i not in (0, axes[1] % len(inputs[1]))]
    return contracted * product(free)


def attention(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    query, value = inputs[0], inputs[1]
    pairs = product(query[1:-1]) * product(value[1:-1])
    return pairs * (product(query[-1:]) + product(value[-1:]))


def multi_head(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    query, value, *rest = inputs
    key = rest[0] if rest else value
    rank = len(query)
    axes = keras_internals.attention_axes(layer) or tuple(range(1, rank - 1))
    axes = tuple(axis % rank for axis in axes)
    outer = product(s for i, s in enumerate(query[1:-1], start=1) if i not in axes)
    pairs = outer * product(query[i] for i in axes) * product(value[i] for i in axes)
    if isinstance(layer, layers.MultiHeadAttention):
        widths = layer.num_heads * (layer.key_dim + layer.value_dim)
    else:
        widths = 2 * layer.num_query_heads * layer.head_dim
    total = pairs * widths
    parts = keras_internals.attention_projections(layer)
    for part, shape in zip(parts, (query, key, value, query), strict=True):
        total += product(shape[1:-1]) * product(part.kernel.shape)
    return total


# --- layers around other layers ---------------------------------------------------


def each_step(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> list[Inner]:
    """Of `TimeDistributed`: its layer, once a step."""
    steps = product(inputs[0][1:2])
    if not steps:
        return []
    one = [(shape[0], *shape[2:]) for shape in inputs], [(s[0], *s[2:]) for s in outputs]
    return [(steps, layer.layer, *one)]


def its_layer(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> list[Inner]:
    """Of a wrapper that calls its layer once."""
    return [(1, layer.layer, inputs, outputs)]


def both_directions(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> list[Inner]:
    """Of `Bidirectional`: the layer for each direction."""
    return [(1, inner, inputs, outputs) for inner in (layer.forward_layer, layer.backward_layer)]


CELL_KERNELS = ("kernel", "recurrent_kernel")  # of the cells that are known


def recurrent(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    """Of `RNN(cell)`: one step of each cell, times the steps."""
    cells = [layer.cell]
    while any(isinstance(cell, layers.StackedRNNCells) for cell in cells):
        cells = [
            inner
            for cell in cells
            for inner in (cell.cells if isinstance(cell, layers.StackedRNNCells) else [cell])
        ]
    known = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
    for cell in cells:
        if type(cell) not in known:
            raise UnknownLayerError(layer.name, type(cell).__name__)
    kernels = [v for cell in cells for v in cell.weights if v.name in CELL_KERNELS]
    return product(inputs[0][1:2]) * sum(product(v.shape) for v in kernels)
