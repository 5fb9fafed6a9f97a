"""Exact counts: how many weights of each layer are zero (`== 0`)."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.graph.layer_weights import leaf_layers, unknown_weights, weighted_layers
from cnn_l1.process.tables import layers_table


@dataclasses.dataclass(frozen=True)
class LayerCount:
    """The counts of one kernel.

    Attributes:
        layer: Name of the layer; with the kernel's name after a slash where a
            layer has several.
        shape: Shape of the kernel, e.g. `(rows, cols, in_channels, out_channels)`.
        weights: Number of values.
        zeros: Number of values that are exactly zero.
        frozen: Whether the kernel is not trained.
    """

    layer: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    frozen: bool = False

    @property
    def nonzero(self) -> int:
        return self.weights - self.zeros

    @property
    def sparsity(self) -> float:
        """The fraction that is zero, 0 to 1."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class ModelCount:
    """The counts of a model: kernels one by one, and all parameters together.

    Attributes:
        layers: One `LayerCount` a kernel, in the model's order, frozen ones too.
        other_weights: Number of values made to be trained that are in no kernel
            (biases, batch-norm scales and shifts), frozen or not.
        other_zeros: How many of those are exactly zero.
        unknown: Layers of an unknown kind that hold a weight of two axes or more, which
            is in no kernel here, by name and class.
    """

    layers: tuple[LayerCount, ...]
    other_weights: int
    other_zeros: int
    unknown: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Number of kernel weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Number of kernel weights that are exactly zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def nonzero(self) -> int:
        return self.weights - self.zeros

    @property
    def sparsity(self) -> float:
        """Zeros over kernel weights, from the counts, 0 to 1."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def parameters(self) -> int:
        """Number of values made to be trained, kernels and all others."""
        return self.weights + self.other_weights

    @property
    def nonzero_parameters(self) -> int:
        return self.nonzero + self.other_weights - self.other_zeros

    def __str__(self) -> str:
        """A table of the layers, and totals."""
        return layers_table(self)


def kernels(model: keras.Model, frozen: bool = True) -> list[tuple[str, Any]]:
    """The kernels of a model with the names we count them under.

    Args:
        model: A built `keras.Model`.
        frozen: Whether to list kernels that are not trained too. Default `True`.

    Returns:
        A list of `(name, variable)`, in the model's order, each variable once.
    """
    found: dict[int, tuple[str, Any]] = {}
    by_leaf: dict[int, list] = {}
    for part in weighted_layers(model):
        own = [(part, v) for v in part.variables if is_kernel(v)]
        by_leaf.setdefault(id(part.leaf), []).extend(own)
    for owned in by_leaf.values():
        order = (
            {id(v): number for number, v in enumerate(owned[0][0].leaf.weights)} if owned else {}
        )
        names = [variable.name for _, variable in owned]
        for part, variable in sorted(owned, key=lambda pair: order[id(pair[1])]):
            name = part.leaf.name
            if names.count(variable.name) > 1:
                # Layers inside a layer, such as an attention's, may all have a "kernel".
                inside = variable.path.rpartition(f"{part.leaf.name}/")[2]
                name = f"{name}/{inside or variable.name}"
            elif len(owned) > 1:
                name = f"{name}/{variable.name}"
            found.setdefault(id(variable), (name, variable))
    named = [(n, v) for n, v in found.values() if frozen or v.trainable]
    taken: dict[str, int] = {}
    unique = []
    for name, variable in named:
        taken[name] = taken.get(name, 0) + 1
        # Nested models may repeat a layer's name; a count must not vanish.
        unique.append((name if taken[name] == 1 else f"{name}#{taken[name]}", variable))
    return unique


def scales(model: keras.Model) -> list[tuple[str, Any]]:
    """The trainable batch-norm scales of a model, as `(layer name, variable)` pairs."""
    found: dict[int, tuple] = {}
    for layer in leaf_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            found.setdefault(id(layer.gamma), (layer.name, layer.gamma))
    return [(name, variable) for name, variable in found.values() if variable.trainable]


def count_zeros(tensor: Any) -> int:
    """How many values of a tensor are exactly zero, as a Python int."""
    # int32 on the device: a count in float would be wrong above 2^24.
    nonzero = ops.sum(ops.cast(ops.not_equal(tensor, 0), "int32"))
    return math.prod(tensor.shape) - int(ops.convert_to_numpy(nonzero))


def count(model: keras.Model) -> ModelCount:
    """Count a model's exact zeros (`== 0`), frozen kernels included.

    Which weights are kernels, `layer_kinds` says for each kind of layer.

    Args:
        model: A built `keras.Model`.

    Returns:
        A `ModelCount`.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.layers[0].set_weights([np.eye(4, 3), np.zeros(3)])
        >>> cnn_l1.count(model).zeros
        9
    """
    parts = list(weighted_layers(model))
    packed = {
        id(v): _unpacked(part.layer)
        for part in parts
        if getattr(part.layer, "quantization_mode", None) == "int4"
        for v in part.variables
        if v.name == "kernel"
    }
    layers, counted = [], set()
    for name, variable in kernels(model):
        counted.add(id(variable))
        values = packed.get(id(variable), variable)
        shape = tuple(int(size) for size in values.shape)
        zeros = count_zeros(values)
        layers.append(LayerCount(name, shape, math.prod(shape), zeros, not variable.trainable))
    others = {id(v): v for part in parts for v in part.variables if id(v) not in counted}
    return ModelCount(
        layers=tuple(layers),
        other_weights=sum(math.prod(v.shape) for v in others.values()),
        other_zeros=sum(count_zeros(v) for v in others.values()),
        unknown=unknown_weights(model),
    )


def _unpacked(layer: Any) -> Any:
    """The codes of an int4 kernel, two of which share a byte, minus their zero points."""
    codes = ops.cast(layer.kernel, "int32")
    points = getattr(layer, "kernel_zero", None)
    if points is None:
        return codes
    if len(points.shape) == 2 and getattr(layer, "g_idx", None) is not None:
        points = ops.take(points, ops.cast(layer.g_idx, "int32"), axis=0)  # (groups, out)
    return codes - ops.cast(points, "int32")


def penalty_value(model: keras.Model) -> float:
    """The sum of all regularizers of a model's variables, as a Python float."""
    values = [v.regularizer(v) for v in model.trainable_variables if v.regularizer is not None]
    return float(sum(float(ops.convert_to_numpy(value)) for value in values))
