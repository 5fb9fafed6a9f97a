"""Activations: which of them treat every value alike, and what they make of constants."""

from typing import Any

import keras
import numpy as np
from keras import layers

from cnn_l1.graph.channel_labels import Array

# fmt: off
ELEMENTWISE_NAMES = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "sigmoid", "hard_sigmoid",
    "log_sigmoid", "sparse_sigmoid", "silu", "hard_silu", "tanh", "hard_tanh", "tanh_shrink",
    "softplus", "softsign", "soft_shrink", "hard_shrink", "squareplus", "sparse_plus", "mish",
    "exponential", "linear", "threshold",
)
# fmt: on
ELEMENTWISE = {getattr(keras.activations, name) for name in ELEMENTWISE_NAMES}
MIXING = {keras.activations.softmax, keras.activations.log_softmax, keras.activations.sparsemax}
ACTIVATION_LAYERS = (layers.ReLU, layers.LeakyReLU, layers.ELU)


def activation_of(layer: Any) -> Any:
    """The function that a layer applies to its result."""
    if isinstance(layer, ACTIVATION_LAYERS) or not isinstance(layer, keras.Layer):
        return layer
    return layer.activation


def is_elementwise(activation: Any) -> bool:
    """Whether an activation is known to treat every value alike."""
    if isinstance(activation, keras.Layer):
        return type(activation) in ACTIVATION_LAYERS
    if isinstance(activation, keras.Operation):
        return True  # only kinds that have a rule come here
    return activation is None or activation in ELEMENTWISE


def activate(activation: Any, constants: Array) -> Array:
    """An activation's values for constants, NaN where they are not known."""
    if activation is None or not is_elementwise(activation):
        return constants if activation is None else np.full(len(constants), np.nan)
    known = np.isfinite(constants)
    values = np.full(len(constants), np.nan)
    if known.any():
        tensor = keras.ops.convert_to_tensor(constants[known].astype("float32"))
        values[known] = keras.ops.convert_to_numpy(activation(tensor))
    return values
