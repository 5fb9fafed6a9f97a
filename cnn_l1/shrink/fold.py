"""Batch-norms folded into the layers before them, for export."""

import keras
import numpy as np
from keras import layers

from cnn_l1.graph.kernel_rules import as_array, channel_axis
from cnn_l1.graph.layer_copies import CopyError, copy_operation, copy_weights, settle
from cnn_l1.graph.reading import Call, Graph, GraphError, new_input, read_graph

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


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A copy of a model whose batch-norms are part of the layers before them.

    `γ·(x·W + b − μ)/√(σ² + ε) + β = x·(s·W) + (s·(b − μ) + β)` with
    `s = γ/√(σ² + ε)`: exact in inference, up to rounding. Zeros of a kernel stay
    zeros. A batch-norm stays where

    - what it normalises is read by others too, is not a convolution's or dense layer's
      plain output, or has another channel axis;
    - it is told `training=True`, or is given a mask;
    - the layer before it is quantized, has LoRA weights, or computes in another type
      than its weights have, such as float16;
    - either is of a subclass, or is shared.

    Args:
        model: A built Functional or Sequential `keras.Model`; it is not changed.

    Returns:
        A new Functional `keras.Model`, uncompiled, for inference.

    Raises:
        GraphError: If the model is neither, or a layer cannot be made anew from its
            config.

    Example:
        >>> inputs = keras.Input((8, 8, 1))
        >>> hidden = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3)(inputs))
        >>> model = keras.Model(inputs, hidden)
        >>> [type(layer).__name__ for layer in cnn_l1.fold_batch_norm(model).layers]
        ['InputLayer', 'Conv2D']
    """
    graph = read_graph(model)
    folded = _foldable(graph)
    gone = set(folded.values())
    made: dict = {}
    tensors = {value: new_input(value) for value in graph.inputs}
    inputs = list(tensors.values())
    for call in graph.calls:
        if call in gone:
            tensors[call.outputs[0]] = tensors[call.inputs[0]]
            continue
        layer = call.operation
        is_new = id(layer) not in made
        try:
            if is_new:
                changes = {"use_bias": True} if call in folded else {}
                made[id(layer)] = copy_operation(layer, call.name, **changes)
            args, kwargs = call.arguments(tensors)
            results = keras.tree.flatten(made[id(layer)](*args, **kwargs))
            tensors.update(zip(call.outputs, results, strict=True))
            if is_new and getattr(layer, "variables", None):
                values, added = _folded(call, folded.get(call))
                copy_weights(layer, made[id(layer)], values, added)
                settle(made[id(layer)])
        except CopyError as error:
            raise GraphError(str(error)) from None
        except Exception as error:  # Keras and layers of others raise many kinds
            raise GraphError(
                f"{call.name}: expected a layer that its config can make anew. Received: "
                f"{call.kind}, which cannot ({' '.join(str(error).split())[:200]})"
            ) from None
    outputs = [tensors[value] for value in graph.outputs]
    return keras.Model(graph.pack_inputs(inputs), graph.pack_outputs(outputs), name=model.name)


def _foldable(graph: Graph) -> dict[Call, Call]:
    """`{call of a convolution or dense layer: call of the batch-norm after it}`."""
    readers: dict = {}
    calls_of: dict = {}
    for call in graph.calls:
        calls_of.setdefault(id(call.operation), []).append(call)
        for value in call.inputs:
            readers.setdefault(value, []).append(call)
    folded = {}
    for call in graph.calls:
        reading = readers.get(call.outputs[0], []) if call.outputs else []
        if len(reading) != 1 or call.outputs[0] in graph.outputs:
            continue
        pair = (call, reading[0])
        once = all(len(calls_of[id(one.operation)]) == 1 for one in pair)
        if once and _is_product(call) and _is_affine(reading[0], call):
            folded[call] = reading[0]
    return folded


def _is_product(call: Call) -> bool:
    """Whether a layer is `x·W + b` with the kernel and bias that it holds."""
    layer = call.operation
    if type(layer) not in CHANNEL_AXES or len(call.inputs) != 1:
        return False
    if layer.activation not in (None, keras.activations.linear):
        return False
    # Quantized, or with adapters, the kernel is not what the layer multiplies by.
    changed = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", None)
    return not changed and _is_precise(layer)


def _is_affine(call: Call, producer: Call) -> bool:
    """Whether a layer scales and shifts each channel of its input by numbers it holds."""
    norm, output = call.operation, producer.outputs[0]
    if type(norm) is not layers.BatchNormalization or call.training or len(call.inputs) != 1:
        return False
    if not _is_precise(norm) or norm.compute_dtype != producer.operation.compute_dtype:
        return False
    rank = len(output.shape)
    if norm.axis % rank != channel_axis(producer.operation, rank):
        return False
    return all(np.isfinite(value).all() for value in _scale_and_shift(norm))


def _is_precise(layer: keras.Layer) -> bool:
    return layer.compute_dtype == layer.variable_dtype and layer.compute_dtype in (
        "float32",
        "float64",
    )


def _scale_and_shift(norm: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """`(scale, shift)` with `norm(x) = scale · x + shift` in inference."""
    with np.errstate(all="ignore"):
        scale = 1.0 / np.sqrt(as_array(norm.moving_variance) + norm.epsilon)
        if norm.scale:
            scale = scale * as_array(norm.gamma)
        shift = as_array(norm.beta) if norm.center else 0.0
        return scale, shift - scale * as_array(norm.moving_mean)


def _folded(call: Call, norm_call: Call | None) -> tuple[dict, dict]:
    """Weights of a layer with its batch-norm: `{id: value}`, and those it had not."""
    if norm_call is None:
        return {}, {}
    layer = call.operation
    scale, shift = _scale_and_shift(norm_call.operation)
    kernel = getattr(layer, "pointwise_kernel", None)
    kernel = layer.kernel if kernel is None else kernel
    value, axis = as_array(kernel), CHANNEL_AXES[type(layer)]
    if axis is None:
        value = value * scale.reshape(value.shape[-2:])
    else:
        shape = [1] * value.ndim
        shape[axis] = -1
        value = value * scale.reshape(shape)
    if layer.use_bias:
        return {id(kernel): value, id(layer.bias): scale * as_array(layer.bias) + shift}, {}
    return {id(kernel): value}, {"bias": shift}
