"""A model's weights, layer by layer: who holds which, and which are of unknown kinds."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from cnn_l1.graph.layer_kinds import LayerKind, is_kernel, kind_of
from cnn_l1.process import keras_internals


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
        own = [leaf] if isinstance(leaf, keras.Model) else keras_internals.flatten_layers(leaf)
        for layer in own:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            variables = own_variables(layer)
            if variables:
                yield Weighted(leaf, layer, kind_of(layer), variables)


def _models(model: Any) -> Iterator[Any]:
    """A model and those nested in it: a subclass may hold weights itself."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _models(layer)


def own_variables(layer: Any) -> tuple[Any, ...]:
    """A layer's own weights, in the order in which it made them.

    Keras lists frozen weights among those that are not trainable, with moving statistics
    and seeds: a weight was made to be trained, frozen since or not.
    """
    made = keras_internals.made_to_be_trained(layer)
    quantized = getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False)
    if quantized:  # its kernel is not to be trained any more
        others = keras_internals.made_not_to_be_trained(layer)
        made += [variable for variable in others if is_kernel(variable)]
    return tuple({id(variable): variable for variable in made}.values())


OTHERS = ("bias", "gamma", "beta", "alpha", "scale")  # names of weights that are no kernels


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
