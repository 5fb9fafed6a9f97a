"""What each kind of layer is made of: its kernels, its multiply-adds, its place in a file.

One registry, by layer class. Penalties, counts, multiply-adds and the check of a file's
zeros all ask here, so a kind of layer is described once. `register_layer_kind` adds one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.applications import convnext, inception_resnet_v2

from cnn_l1.errors import CnnL1Error

Shape = tuple[int | None, ...]


class UnknownLayerError(CnnL1Error, ValueError):
    """A layer whose multiply-adds are not known.

    Attributes:
        layer: Its name and class.
    """

    def __init__(self, name: str, kind: str):
        self.layer = f"{name} ({kind})"
        super().__init__(
            f"Expected layers whose multiply-adds are known. Received: {self.layer}. "
            "`cnn_l1.register_layer_kind` adds a kind."
        )


class OpenSizeError(CnnL1Error, ValueError):
    """A size that must be fixed to count multiply-adds is open."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel of a layer kind: a weight that multiplies the layer's inputs.

    Attributes:
        name: Name of the variable, e.g. `"kernel"`.
        inputs: Axes that number input channels, counted from the end.
        outputs: Axes that number output channels, counted from the end.
        layouts: From the kernel to the arrays as which TFLite may store it. `None`: in
            any order of its values.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layouts: Callable[[np.ndarray], list[np.ndarray]] | None = None


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What is known of a kind of layer.

    Attributes:
        kernels: Its own kernels; those of layers inside it belong to these layers.
        positions: From `(layer, input shapes, output shapes)`, all with the batch axis,
            to how often one sample multiplies by each weight of its kernels. `None`:
            not the same for each, or not known.
        macs: From `(layer, input shapes, output shapes)` to the multiply-adds of one
            sample, for kinds without `positions`. `None`: not known.
    """

    kernels: tuple[Kernel, ...] = ()
    positions: Callable[[Any, list[Shape], list[Shape]], int] | None = None
    macs: Callable[[Any, list[Shape], list[Shape]], int] | None = None


# --- how often a kernel is used ---------------------------------------------------


def product(sizes: Any) -> int:
    """The product of sizes; `OpenSizeError` if one is open."""
    sizes = tuple(sizes)
    if None in sizes:
        raise OpenSizeError(f"Expected fixed sizes to count multiply-adds. Received: sizes {sizes}")
    return math.prod(int(size) for size in sizes)


def _spatial(layer: Any, shape: Shape) -> int:
    first = getattr(layer, "data_format", None) == "channels_first"
    return product(shape[2:] if first else shape[1:-1])


def _at_outputs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return _spatial(layer, outputs[0])


def _at_inputs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return _spatial(layer, inputs[0])  # each input position meets each weight


def _all_but_last(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return product(outputs[0][1:-1])


def _einsum_dense(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
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


def _steps(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return product(inputs[0][1:2])


def _steps_of_images(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    output = outputs[0]
    image = output[2:] if layer.return_sequences else output[1:]
    first = layer.cell.data_format == "channels_first"
    return product(inputs[0][1:2]) * product(image[1:] if first else image[:-1])


# --- multiply-adds of kinds whose kernels are used differently --------------------


def _no_macs(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return 0


def _dot(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    axes = layer.axes if isinstance(layer.axes, (list, tuple)) else (layer.axes, layer.axes)
    contracted = product([inputs[0][axes[0]]])
    free = [s for i, s in enumerate(inputs[0]) if i not in (0, axes[0] % len(inputs[0]))]
    free += [s for i, s in enumerate(inputs[1]) if i not in (0, axes[1] % len(inputs[1]))]
    return contracted * product(free)


def _attention(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    query, value = inputs[0], inputs[1]
    pairs = product(query[1:-1]) * product(value[1:-1])
    return pairs * (product(query[-1:]) + product(value[-1:]))


def _multi_head(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    query, value, *rest = inputs
    key = rest[0] if rest else value
    rank = len(query)
    axes = getattr(layer, "_attention_axes", None) or tuple(range(1, rank - 1))
    axes = tuple(axis % rank for axis in axes)
    outer = product(s for i, s in enumerate(query[1:-1], start=1) if i not in axes)
    pairs = outer * product(query[i] for i in axes) * product(value[i] for i in axes)
    if isinstance(layer, layers.MultiHeadAttention):
        widths = layer.num_heads * (layer.key_dim + layer.value_dim)
    else:
        widths = 2 * layer.num_query_heads * layer.head_dim
    total = pairs * widths
    parts = ((layer._query_dense, query), (layer._key_dense, key), (layer._value_dense, value))
    for part, shape in (*parts, (layer._output_dense, query)):
        total += product(shape[1:-1]) * product(part.kernel.shape)
    return total


def _per_step(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    steps = product(inputs[0][1:2])
    if not steps:
        return 0
    one = [(shape[0], *shape[2:]) for shape in inputs], [(s[0], *s[2:]) for s in outputs]
    return steps * layer_macs(layer.layer, *one)


def _inner(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return layer_macs(layer.layer, inputs, outputs)


def _recurrent(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
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
    sizes = [v.shape for cell in cells for v in cell.weights if is_kernel(v)]
    return product(inputs[0][1:2]) * sum(map(product, sizes))


def _both_directions(layer: Any, inputs: list[Shape], outputs: list[Shape]) -> int:
    return sum(
        layer_macs(inner, inputs, outputs) for inner in (layer.forward_layer, layer.backward_layer)
    )


# --- how TFLite stores a kernel ---------------------------------------------------


def _dense_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    # A dense layer after a global pool may come out as a 1x1 convolution.
    return [kernel.T, kernel.T[:, None, None, :], kernel]


def _conv_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    turned = np.moveaxis(kernel, -1, 0)
    if kernel.ndim == 3:  # (steps, in, out)
        return [turned[:, None], turned[:, :, None], turned]
    if kernel.ndim == 4:
        one = [kernel[0, 0].T] if kernel.shape[:2] == (1, 1) else []
        return [turned, *one]
    return [kernel]  # CONV_3D keeps Keras' order


def _depthwise_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    *sizes, channels, multiplier = kernel.shape
    flat = kernel.reshape(1, *sizes, channels * multiplier)
    return [flat] if len(sizes) == 2 else [flat[:, None], flat[:, :, None], flat]


def _transposed_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    turned = np.moveaxis(kernel, -2, 0)
    return [turned[:, None], turned[:, :, None], turned] if kernel.ndim == 3 else [turned]


# --- the registry -----------------------------------------------------------------

DENSE = Kernel("kernel", (-2,), (-1,), _dense_layouts)
CONV = Kernel("kernel", (-2,), (-1,), _conv_layouts)
DEPTHWISE = Kernel("kernel", (-2,), (-2, -1), _depthwise_layouts)
TRANSPOSED = Kernel("kernel", (-1,), (-2,), _transposed_layouts)
SEPARABLE = (
    Kernel("depthwise_kernel", (-2,), (-2, -1), _depthwise_layouts),
    Kernel("pointwise_kernel", (-2,), (-1,), _conv_layouts),
)
# TFLite has one matrix for each gate, or all in one; so without a layout.
RECURRENT = (Kernel("kernel", (-2,), (-1,)), Kernel("recurrent_kernel", (-2,), (-1,)))

LAYER_KINDS: dict[type, LayerKind] = {
    layers.Dense: LayerKind((DENSE,), _all_but_last),
    layers.EinsumDense: LayerKind((Kernel("kernel", (), ()),), _einsum_dense),
    layers.Conv1D: LayerKind((CONV,), _at_outputs),
    layers.Conv2D: LayerKind((CONV,), _at_outputs),
    layers.Conv3D: LayerKind((CONV,), _at_outputs),
    layers.DepthwiseConv1D: LayerKind((DEPTHWISE,), _at_outputs),
    layers.DepthwiseConv2D: LayerKind((DEPTHWISE,), _at_outputs),
    layers.SeparableConv1D: LayerKind(SEPARABLE, _at_outputs),
    layers.SeparableConv2D: LayerKind(SEPARABLE, _at_outputs),
    layers.Conv1DTranspose: LayerKind((TRANSPOSED,), _at_inputs),
    layers.Conv2DTranspose: LayerKind((TRANSPOSED,), _at_inputs),
    # TFLite's own transposed 3-D kernels lie in several orders.
    layers.Conv3DTranspose: LayerKind((Kernel("kernel", (-1,), (-2,)),), _at_inputs),
    # A look-up: a one-hot vector times the table, without a multiplication.
    layers.Embedding: LayerKind((Kernel("embeddings", (-2,), (-1,)),), macs=_no_macs),
    layers.ReversibleEmbedding: LayerKind(
        (Kernel("embeddings", (-2,), (-1,)), Kernel("reverse_embeddings", (-2,), (-1,)))
    ),
    layers.LSTMCell: LayerKind(RECURRENT),
    layers.GRUCell: LayerKind(RECURRENT),
    layers.SimpleRNNCell: LayerKind(RECURRENT),
    # The kernels of these belong to the cells and layers inside them.
    layers.LSTM: LayerKind(positions=_steps),
    layers.GRU: LayerKind(positions=_steps),
    layers.SimpleRNN: LayerKind(positions=_steps),
    layers.ConvLSTM1D: LayerKind(positions=_steps_of_images),
    layers.ConvLSTM2D: LayerKind(positions=_steps_of_images),
    layers.ConvLSTM3D: LayerKind(positions=_steps_of_images),
    layers.RNN: LayerKind(macs=_recurrent),
    layers.StackedRNNCells: LayerKind(),
    layers.Bidirectional: LayerKind(macs=_both_directions),
    layers.TimeDistributed: LayerKind(macs=_per_step),
    layers.SpectralNormalization: LayerKind(macs=_inner),
    layers.Dot: LayerKind(macs=_dot),
    layers.Attention: LayerKind(macs=_attention),
    layers.AdditiveAttention: LayerKind(macs=_attention),
    layers.MultiHeadAttention: LayerKind(macs=_multi_head),
    layers.GroupQueryAttention: LayerKind(macs=_multi_head),
    # Scales of keras.applications' own.
    convnext.LayerScale: LayerKind(macs=_no_macs),
    inception_resnet_v2.CustomScaleLayer: LayerKind(macs=_no_macs),
}

# Keras' layers without a kernel, by the folder of their class: no multiply-adds, as the
# literature counts (a batch-norm costs nothing once it is folded).
WITHOUT_KERNELS = (
    "keras.src.layers.activations.",
    "keras.src.layers.merging.",
    "keras.src.layers.normalization.",
    "keras.src.layers.pooling.",
    "keras.src.layers.preprocessing.",
    "keras.src.layers.regularization.",
    "keras.src.layers.reshaping.",
    "keras.src.layers.core.identity",
    "keras.src.layers.core.input_layer",
    "keras.src.layers.core.masking",
)
# In these folders, but with products of their own (a Fourier transform as a convolution).
NOT_COUNTED = ("STFTSpectrogram", "MelSpectrogram", "Pipeline")
# Operations of `keras.ops` that multiply matrices; all others make no multiply-adds.
PRODUCTS = (
    "Matmul", "Einsum", "Dot", "Tensordot", "Vdot", "Inner", "Outer", "Conv", "ConvTranspose",
    "DepthwiseConv", "SeparableConv", "DotProductAttention", "Kron", "Solve", "Correlate",
)  # fmt: skip


def register_layer_kind(layer_class: type, kind: LayerKind) -> None:
    """Say what a layer class of your own is made of.

    Args:
        layer_class: A subclass of `keras.Layer`.
        kind: Its `LayerKind`. The names of its kernels must not be those of weights
            that are none in other layers, such as `"bias"` or `"gamma"`.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:
        >>> register_layer_kind(MyDense, LayerKind((Kernel("w", (-2,), (-1,)),)))
    """
    if not isinstance(layer_class, type) or not issubclass(layer_class, keras.Layer):
        raise ValueError(
            "`layer_class` must be a subclass of keras.Layer. "
            f"Received: layer_class={layer_class!r}"
        )
    taken = [k.name for k in kind.kernels if k.name in ("bias", "gamma", "beta", "alpha")]
    if taken:
        raise ValueError(
            "`kind` must name its kernels unlike weights that are no kernels elsewhere. "
            f"Received: {', '.join(taken)}"
        )
    LAYER_KINDS[layer_class] = kind


def kind_of(layer: Any) -> LayerKind | None:
    """The `LayerKind` of a layer, by its class or the nearest known base; else `None`.

    A layer of Keras' own without a kernel has the empty kind.
    """
    for known in type(layer).__mro__:
        if known in LAYER_KINDS:
            return LAYER_KINDS[known]
        if known.__module__.startswith("keras.src.layers."):
            without = known.__module__.startswith(WITHOUT_KERNELS)
            if without and known.__name__ not in NOT_COUNTED:
                return LayerKind(macs=_no_macs)
            return None
    return None


def kernel_names() -> set[str]:
    """The names of all known kinds' kernels."""
    return {kernel.name for kind in LAYER_KINDS.values() for kernel in kind.kernels}


def is_kernel(variable: Any) -> bool:
    """Whether a variable is a kernel: by its name, which the registry has.

    A PReLU's slopes, a LoRA factor, a position embedding or a bias is none, however many
    axes it has.
    """
    return len(variable.shape) >= 2 and variable.name in kernel_names()


# --- a model's weights by layer ---------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A layer that holds weights itself.

    Attributes:
        leaf: The model's layer that it is in, or is.
        layer: The layer itself, such as the cell inside an LSTM.
        kind: Its `LayerKind`, or `None`.
        variables: The weights it holds itself, trainable or frozen, without statistics.
    """

    leaf: Any
    layer: Any
    kind: LayerKind | None
    variables: tuple[Any, ...]


def leaf_layers(model: Any) -> Iterator[Any]:
    """The layers of a model that hold weights themselves, nested models opened.

    A layer that is no `keras.Model` is a leaf, with all that it contains.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaf_layers(layer)
        else:
            yield layer


def weighted_layers(model: Any) -> Iterator[Weighted]:
    """Every layer of a model that holds weights itself, once, in the model's order."""
    seen: set[int] = set()
    leaves = [*leaf_layers(model), *_models(model)]
    for leaf in leaves:
        own = [leaf] if isinstance(leaf, keras.Model) else leaf._flatten_layers()
        for layer in own:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            variables = _own_variables(layer)
            if variables:
                yield Weighted(leaf, layer, kind_of(layer), variables)


def _models(model: Any) -> Iterator[Any]:
    """A model and those nested in it: a subclass may hold weights itself."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _models(layer)


def _own_variables(layer: Any) -> tuple[Any, ...]:
    """A layer's own weights, in the order in which it made them.

    Keras lists frozen weights among those that are not trainable, with moving statistics
    and seeds: a weight was made to be trained, frozen since or not.
    """
    made = list(getattr(layer, "_trainable_variables", ()))
    quantized = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False)
    if quantized:  # its kernel is not to be trained any more
        others = getattr(layer, "_non_trainable_variables", ())
        made += [variable for variable in others if is_kernel(variable)]
    return tuple({id(variable): variable for variable in made}.values())


def unknown_weights(model: Any) -> tuple[str, ...]:
    """Layers of unknown kinds with a weight that may be a kernel, by name and class."""
    return tuple(
        f"{part.layer.name} ({type(part.layer).__name__})"
        for part in weighted_layers(model)
        if part.kind is None
        and any(
            len(v.shape) >= 2 and not is_kernel(v) and v.name not in OTHERS for v in part.variables
        )
    )


OTHERS = ("bias", "gamma", "beta", "alpha", "scale")  # names of weights that are no kernels


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
        from cnn_l1.graph.macs import count_macs
        from cnn_l1.graph.reading import as_functional

        if as_functional(layer) is None:
            raise UnknownLayerError(layer.name, type(layer).__name__)
        return sum(count_macs(layer).values())
    positions = layer_positions(layer, inputs, outputs)
    if positions is not None:
        weights = [v for part in layer._flatten_layers() for v in _kernels_of(part)]
        return positions * sum(math.prod(v.shape) for v in weights)
    kind = kind_of(layer)
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
    kernels = [v for v in _own_variables(layer) if is_kernel(v)]
    if getattr(layer, "quantization_mode", None) == "int4":
        return [layer.kernel]  # two weights share a byte of the variable
    return kernels


def _acts_as_known(layer: Any) -> bool:
    """Whether a layer computes what its known base does: it has no `call` of its own."""
    for known in type(layer).__mro__:
        if known in LAYER_KINDS or known.__module__.startswith("keras.src.layers."):
            return type(layer).call is getattr(known, "call", None)
    return False
