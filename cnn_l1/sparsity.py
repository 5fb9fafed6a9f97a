"""Exact counts: how many weights of each layer are zero (`== 0`)."""

import dataclasses
import math

import keras
from keras import ops

from cnn_l1.penalties import is_kernel


@dataclasses.dataclass(frozen=True)
class LayerCount:
    """The counts of one kernel.

    Attributes:
        layer: Name of the layer; with the kernel's name behind a slash where a
            layer has several.
        shape: Shape of the kernel, e.g. `(rows, cols, in_channels, out_channels)`.
        weights: Number of values.
        zeros: Number of values that are exactly zero.
    """

    layer: str
    shape: tuple[int, ...]
    weights: int
    zeros: int

    @property
    def nonzero(self):
        return self.weights - self.zeros

    @property
    def sparsity(self):
        """The fraction that is zero, 0 to 1."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class ModelCount:
    """The counts of a model: kernels one by one, and all parameters together.

    Attributes:
        layers: One `LayerCount` a kernel, in the model's order.
        other_weights: Number of trainable values that are in no kernel (biases,
            batch-norm scales and shifts).
        other_zeros: How many of those are exactly zero.
    """

    layers: tuple[LayerCount, ...]
    other_weights: int
    other_zeros: int

    @property
    def weights(self):
        """Number of kernel weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def zeros(self):
        """Number of kernel weights that are exactly zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def nonzero(self):
        return self.weights - self.zeros

    @property
    def sparsity(self):
        """Zeros over kernel weights, from the counts, 0 to 1."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def parameters(self):
        """Number of trainable values, kernels and all others."""
        return self.weights + self.other_weights

    @property
    def nonzero_parameters(self):
        return self.nonzero + self.other_weights - self.other_zeros


def kernels(model):
    """The kernels of a model with the names we count them under.

    Returns:
        A list of `(name, variable)`, in the model's order, each variable once.
    """
    named, seen = [], set()
    for layer in leaf_layers(model):
        own = [v for v in layer.trainable_variables if is_kernel(v) and id(v) not in seen]
        for variable in own:
            seen.add(id(variable))
            name = layer.name if len(own) == 1 else f"{layer.name}/{variable.name}"
            named.append((name, variable))
    taken: dict[str, int] = {}
    unique = []
    for name, variable in named:
        taken[name] = taken.get(name, 0) + 1
        # Nested models may repeat a layer's name; a count must not vanish.
        unique.append((name if taken[name] == 1 else f"{name}#{taken[name]}", variable))
    return unique


def scales(model):
    """The trainable batch-norm scales of a model, as `(layer name, variable)` pairs."""
    found: dict[int, tuple] = {}
    for layer in leaf_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            found.setdefault(id(layer.gamma), (layer.name, layer.gamma))
    return [(name, variable) for name, variable in found.values() if variable.trainable]


def leaf_layers(model):
    """The layers of a model that hold weights themselves, nested models opened.

    A layer that is no `keras.Model` is a leaf, with all that it contains.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaf_layers(layer)
        else:
            yield layer


def count_zeros(tensor):
    """How many values of a tensor are exactly zero, as a Python int."""
    # int32 on the device: a count in float would be wrong above 2^24.
    nonzero = ops.sum(ops.cast(ops.not_equal(tensor, 0), "int32"))
    return math.prod(tensor.shape) - int(ops.convert_to_numpy(nonzero))


def count(model):
    """Count a model's exact zeros.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `ModelCount`.
    """
    layers, counted = [], set()
    for name, variable in kernels(model):
        counted.add(id(variable))
        shape = tuple(int(size) for size in variable.shape)
        layers.append(LayerCount(name, shape, math.prod(shape), count_zeros(variable)))
    others = [v for v in model.trainable_variables if id(v) not in counted]
    return ModelCount(
        layers=tuple(layers),
        other_weights=sum(math.prod(v.shape) for v in others),
        other_zeros=sum(count_zeros(v) for v in others),
    )


def penalty_value(model):
    """The sum of all regularizers of a model's variables, as a Python float."""
    values = [v.regularizer(v) for v in model.trainable_variables if v.regularizer is not None]
    return float(sum(float(ops.convert_to_numpy(value)) for value in values))
