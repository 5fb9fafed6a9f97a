"""Multiply-adds of one sample, by layer."""

import math

from keras import layers

from cnn_l1.graph import read_graph

CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


def count_macs(model):
    """Multiply-adds (MACs) of one sample, by layer.

    Convolutions and dense layers alone, padding included, as the literature counts;
    a batch-norm costs nothing once it is folded. A weight that is zero counts like
    any other: a dense kernel multiplies by it.

    Args:
        model: A built Functional or Sequential `keras.Model`.

    Returns:
        `{layer name: multiply-adds}`, a shared layer's calls together.

    Raises:
        GraphError: If the model is neither.
        ValueError: If an image size is open.
    """
    counts: dict[str, int] = {}
    for call in read_graph(model).calls:
        macs = call_macs(call, kernel_sizes(call.operation))
        if macs:
            counts[call.name] = counts.get(call.name, 0) + macs
    return counts


def kernel_sizes(layer):
    """Number of values in each of a layer's kernels, by the kernel's name."""
    kernels = (v for v in getattr(layer, "weights", ()) if len(v.shape) > 1)
    return {variable.name: math.prod(variable.shape) for variable in kernels}


def call_macs(call, sizes):
    """Multiply-adds of one call, for kernels of the given sizes."""
    layer = call.operation
    if isinstance(layer, TRANSPOSED):
        positions = _positions(layer, call.inputs[0].shape, call)
    elif isinstance(layer, CONVOLUTIONS):
        positions = _positions(layer, call.outputs[0].shape, call)
    elif type(layer) is layers.Dense:
        positions = _product(call.outputs[0].shape[1:-1], call)
    else:
        return 0
    return positions * sum(sizes.values())


def _positions(layer, shape, call):
    first = layer.data_format == "channels_first"
    return _product(shape[2:] if first else shape[1:-1], call)


def _product(sizes, call):
    if None in sizes:
        raise ValueError(
            f"{call.name}: expected fixed sizes to count multiply-adds. "
            f"Received: an output of shape {call.outputs[0].shape}"
        )
    return math.prod(sizes)
