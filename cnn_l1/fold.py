"""Batch-norms folded into the layers in front of them, for export."""

import keras
import numpy as np
from keras import layers

from cnn_l1.channel_rules import as_array, channel_axis
from cnn_l1.graph import copy_operation, new_input, read_graph, settle

# Where a layer's output channels lie in its last kernel.
CHANNEL_AXES = {
    layers.Dense: -1,
    layers.Conv1D: -1,
    layers.Conv2D: -1,
    layers.Conv3D: -1,
    layers.SeparableConv1D: -1,
    layers.SeparableConv2D: -1,
    layers.Conv1DTranspose: -2,
    layers.Conv2DTranspose: -2,
    layers.Conv3DTranspose: -2,
    layers.DepthwiseConv1D: None,  # (…, in, multiplier): the last two, flattened
    layers.DepthwiseConv2D: None,
}


def fold_batch_norm(model):
    """A copy of a model whose batch-norms are part of the layers in front of them.

    `γ·(x·W + b − μ)/√(σ² + ε) + β = x·(s·W) + (s·(b − μ) + β)` with
    `s = γ/√(σ² + ε)`: exact in inference, up to rounding. Zeros of a kernel stay
    zeros. A batch-norm stays where what it normalises is read by others too, is not
    a convolution's or dense layer's plain output, or has another channel axis.

    Args:
        model: A built Functional or Sequential `keras.Model`; it is not changed.

    Returns:
        A new Functional `keras.Model`, uncompiled, for inference.

    Raises:
        GraphError: If the model is neither.
    """
    graph = read_graph(model)
    folded = _foldable(graph)
    made: dict = {}
    tensors = {value: new_input(value) for value in graph.inputs}
    inputs = list(tensors.values())
    for call in graph.calls:
        if call in folded.values():
            tensors[call.outputs[0]] = tensors[call.inputs[0]]
            continue
        key = id(call.operation)
        if key not in made:
            changes = {"use_bias": True} if call in folded else {}
            made[key] = copy_operation(call.operation, call.name, **changes)
        args, kwargs = call.arguments(tensors)
        results = keras.tree.flatten(made[key](*args, **kwargs))
        tensors.update(zip(call.outputs, results, strict=True))
        if call in folded:
            _fill_folded(made[key], call.operation, folded[call].operation)
        elif getattr(call.operation, "weights", None):
            made[key].set_weights(call.operation.get_weights())
            settle(made[key])
    outputs = [tensors[value] for value in graph.outputs]
    return keras.Model(graph.pack_inputs(inputs), graph.pack_outputs(outputs), name=model.name)


def _foldable(graph):
    """`{call of a convolution or dense layer: call of the batch-norm behind it}`."""
    readers: dict = {}
    calls_of: dict = {}
    for call in graph.calls:
        calls_of.setdefault(id(call.operation), []).append(call)
        for value in call.inputs:
            readers.setdefault(value, []).append(call)
    folded = {}
    for call in graph.calls:
        layer, output = call.operation, call.outputs[0]
        behind = readers.get(output, [])
        alone = len(behind) == 1 and output not in graph.outputs
        if type(layer) not in CHANNEL_AXES or not alone:
            continue
        norm = behind[0].operation
        once = all(len(calls_of[id(operation)]) == 1 for operation in (layer, norm))
        plain = layer.activation in (None, keras.activations.linear)
        if type(norm) is not layers.BatchNormalization or not once or not plain:
            continue
        rank = len(output.shape)
        if norm.axis % rank == channel_axis(layer, rank):
            folded[call] = behind[0]
    return folded


def _fill_folded(new, layer, norm):
    scale = 1.0 / np.sqrt(as_array(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * as_array(norm.gamma)
    shift = as_array(norm.beta) if norm.center else 0.0
    bias = as_array(layer.bias) if layer.use_bias else 0.0
    values = {variable.name: as_array(variable) for variable in layer.weights}
    kernel = "pointwise_kernel" if "pointwise_kernel" in values else "kernel"
    axis = CHANNEL_AXES[type(layer)]
    if axis is None:
        values[kernel] = values[kernel] * scale.reshape(values[kernel].shape[-2:])
    else:
        shape = [1] * values[kernel].ndim
        shape[axis] = -1
        values[kernel] = values[kernel] * scale.reshape(shape)
    values["bias"] = scale * (bias - as_array(norm.moving_mean)) + shift
    for variable in new.weights:
        variable.assign(values[variable.name])
