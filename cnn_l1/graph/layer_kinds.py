"""What each kind of layer is made of: its kernels, its multiply-adds, its place in a file.

One registry, by layer class. Penalties, counts, multiply-adds and the check of a file's
zeros all ask here, so a kind of layer is described once. `register_layer_kind` adds one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from cnn_l1.graph import kernel_layouts
from cnn_l1.graph import layer_uses as uses
from cnn_l1.graph.layer_uses import Inner, Shape
from cnn_l1.process import keras_internals


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
        wraps: From `(layer, input shapes, output shapes)` to the layers that it calls,
            each as `(times, layer, input shapes, output shapes)`, for kinds that only
            call others. `None`: it is not of this kind.
    """

    kernels: tuple[Kernel, ...] = ()
    positions: Callable[[Any, list[Shape], list[Shape]], int] | None = None
    macs: Callable[[Any, list[Shape], list[Shape]], int] | None = None
    wraps: Callable[[Any, list[Shape], list[Shape]], list[Inner]] | None = None


DENSE = Kernel("kernel", (-2,), (-1,), kernel_layouts.dense_layouts)
CONV = Kernel("kernel", (-2,), (-1,), kernel_layouts.conv_layouts)
DEPTHWISE = Kernel("kernel", (-2,), (-2, -1), kernel_layouts.depthwise_layouts)
TRANSPOSED = Kernel("kernel", (-1,), (-2,), kernel_layouts.transposed_layouts)
SEPARABLE = (
    Kernel("depthwise_kernel", (-2,), (-2, -1), kernel_layouts.depthwise_layouts),
    Kernel("pointwise_kernel", (-2,), (-1,), kernel_layouts.conv_layouts),
)
# TFLite has one matrix for each gate, or all in one; so without a layout.
RECURRENT = (Kernel("kernel", (-2,), (-1,)), Kernel("recurrent_kernel", (-2,), (-1,)))
LAYER_KINDS: dict[type, LayerKind] = {
    layers.Dense: LayerKind((DENSE,), uses.all_but_last),
    layers.EinsumDense: LayerKind((Kernel("kernel", (), ()),), uses.einsum_dense),
    layers.Conv1D: LayerKind((CONV,), uses.at_outputs),
    layers.Conv2D: LayerKind((CONV,), uses.at_outputs),
    layers.Conv3D: LayerKind((CONV,), uses.at_outputs),
    layers.DepthwiseConv1D: LayerKind((DEPTHWISE,), uses.at_outputs),
    layers.DepthwiseConv2D: LayerKind((DEPTHWISE,), uses.at_outputs),
    layers.SeparableConv1D: LayerKind(SEPARABLE, uses.at_outputs),
    layers.SeparableConv2D: LayerKind(SEPARABLE, uses.at_outputs),
    layers.Conv1DTranspose: LayerKind((TRANSPOSED,), uses.at_inputs),
    layers.Conv2DTranspose: LayerKind((TRANSPOSED,), uses.at_inputs),
    # TFLite's own transposed 3-D kernels lie in several orders.
    layers.Conv3DTranspose: LayerKind((Kernel("kernel", (-1,), (-2,)),), uses.at_inputs),
    # A look-up: a one-hot vector times the table, without a multiplication.
    layers.Embedding: LayerKind((Kernel("embeddings", (-2,), (-1,)),), macs=uses.no_macs),
    layers.ReversibleEmbedding: LayerKind(
        (Kernel("embeddings", (-2,), (-1,)), Kernel("reverse_embeddings", (-2,), (-1,)))
    ),
    layers.LSTMCell: LayerKind(RECURRENT),
    layers.GRUCell: LayerKind(RECURRENT),
    layers.SimpleRNNCell: LayerKind(RECURRENT),
    # The kernels of these belong to the cells and layers inside them.
    layers.LSTM: LayerKind(positions=uses.steps),
    layers.GRU: LayerKind(positions=uses.steps),
    layers.SimpleRNN: LayerKind(positions=uses.steps),
    layers.ConvLSTM1D: LayerKind(positions=uses.steps_of_images),
    layers.ConvLSTM2D: LayerKind(positions=uses.steps_of_images),
    layers.ConvLSTM3D: LayerKind(positions=uses.steps_of_images),
    layers.RNN: LayerKind(macs=uses.recurrent),
    layers.StackedRNNCells: LayerKind(),
    layers.Bidirectional: LayerKind(wraps=uses.both_directions),
    layers.TimeDistributed: LayerKind(wraps=uses.each_step),
    layers.SpectralNormalization: LayerKind(wraps=uses.its_layer),
    layers.Dot: LayerKind(macs=uses.dot),
    layers.Attention: LayerKind(macs=uses.attention),
    layers.AdditiveAttention: LayerKind(macs=uses.attention),
    layers.MultiHeadAttention: LayerKind(macs=uses.multi_head),
    layers.GroupQueryAttention: LayerKind(macs=uses.multi_head),
    # Scales of keras.applications' own.
    keras_internals.LayerScale: LayerKind(macs=uses.no_macs),
    keras_internals.CustomScaleLayer: LayerKind(macs=uses.no_macs),
}

# Keras' layers without a kernel, by the folder of their class: no multiply-adds, as the
# literature counts (a batch-norm costs nothing once it is folded).
WITHOUT_KERNELS = (
    "activations.",
    "merging.",
    "normalization.",
    "pooling.",
    "preprocessing.",
    "regularization.",
    "reshaping.",
    "core.identity",
    "core.input_layer",
    "core.masking",
)
# In these folders, but with products of their own (a Fourier transform as a convolution).
NOT_COUNTED = ("STFTSpectrogram", "MelSpectrogram", "Pipeline")


def register_layer_kind(layer_class: type, kind: LayerKind) -> None:
    """Say what a layer class of your own is made of.

    Args:
        layer_class: A subclass of `keras.Layer`.
        kind: Its `LayerKind`. The names of its kernels must not be those of weights
            that are none in other layers, such as `"bias"` or `"gamma"`.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:
        A dense layer of your own, kernel `w` of shape `(inputs, outputs)`, used once a sample:

        >>> class MyDense(keras.layers.Layer):
        ...     def build(self, input_shape):
        ...         self.w = self.add_weight(shape=(input_shape[-1], 3), name="w")
        ...     def call(self, inputs):
        ...         return inputs @ self.w
        >>> kernel = cnn_l1.Kernel("w", inputs=(-2,), outputs=(-1,))
        >>> kind = cnn_l1.LayerKind((kernel,), positions=lambda layer, ins, outs: 1)
        >>> cnn_l1.register_layer_kind(MyDense, kind)
        >>> cnn_l1.count_macs(keras.Sequential([keras.Input((4,)), MyDense(name="mine")]))
        {'mine': 12}
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


def known_class(layer: Any) -> type | None:
    """A layer's own class, or the nearest base, that is registered or of Keras' own."""
    for known in type(layer).__mro__:
        if known in LAYER_KINDS or keras_internals.keras_folder(known) is not None:
            return known
    return None


def kind_of(layer: Any) -> LayerKind | None:
    """The `LayerKind` of a layer, by its class or the nearest known base; else `None`.

    A layer of Keras' own without a kernel has the empty kind.
    """
    known = known_class(layer)
    if known is None or known in LAYER_KINDS:
        return None if known is None else LAYER_KINDS[known]
    folder = keras_internals.keras_folder(known) or ""
    if folder.startswith(WITHOUT_KERNELS) and known.__name__ not in NOT_COUNTED:
        return LayerKind(macs=uses.no_macs)
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
