"""Layers made anew from their settings, and their weights copied by place."""

import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from cnn_l1.errors import CnnL1Error
from cnn_l1.process import keras_internals


class CopyError(CnnL1Error, ValueError):
    """A layer that cannot be made anew, or whose copy has other weights."""


def copy_operation(operation: Any, name: str, **changes: Any) -> Any:
    """A new layer or operation like another, with parts of its config changed.

    Functions and classes that the layer holds need not be registered with Keras: the
    copy gets the same objects.

    Args:
        operation: A `keras.Layer` or `keras.Operation`; it is not changed.
        name: Name of the copy.
        changes: Entries of its config to replace.

    Raises:
        CopyError: If its config cannot make it.
    """
    try:
        config = operation.get_config()
        for holder, attribute, function in held_functions(operation):
            # Keras writes these down, but reads them back only for its Lambda layer.
            is_setting = holder is operation and attribute in config
            is_lambda = isinstance(operation, keras.layers.Lambda)
            if function.__name__ == "<lambda>" and is_setting and not is_lambda:
                config[attribute] = function
        config.update(changes, name=name)
        # The layer is in memory already: nothing is loaded from a file.
        with (
            keras.saving.custom_object_scope(_custom_objects(operation)),
            keras_internals.unsafe_deserialization(),
        ):
            copied = type(operation).from_config(config)
    except Exception as error:  # of Keras or of the layer's own code, any kind
        raise _refusal(operation, error) from None
    _share_functions(operation, copied)
    return copied


def copy_weights(
    source: keras.Layer,
    target: keras.Layer,
    values: Mapping[int, np.ndarray] | None = None,
    added: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Give a built layer the weights of another by their place in it.

    Names of weights repeat, or are generated, so they are not looked at. States of
    random generators are copied too.

    Args:
        source: The layer to copy from.
        target: A layer of the same class, built.
        values: `{id(variable of source): value}` where it is not the variable's own.
        added: `{attribute: value}` of weights that the source has not, such as `bias`.

    Raises:
        CopyError: If numbers or shapes of their weights differ.
    """
    values, added = values or {}, added or {}
    extra = {id(getattr(target, attribute)): value for attribute, value in added.items()}
    old = list(source.variables)
    new = [variable for variable in target.variables if id(variable) not in extra]
    wanted = [tuple(np.shape(values.get(id(v), v))) for v in old]
    if wanted != [tuple(v.shape) for v in new]:
        raise _refusal(
            source,
            f"its weights have shapes {wanted}, those of a new one {[tuple(v.shape) for v in new]}",
        )
    for before, after in zip(old, new, strict=True):
        _assign(after, values.get(id(before), before))
    for variable in target.variables:
        if id(variable) in extra:
            _assign(variable, extra[id(variable)])


def settle(layer: keras.Layer) -> None:
    """Let a layer take over weights that were just assigned to it."""
    for inner in keras_internals.flatten_layers(layer):
        if isinstance(inner, keras.layers.Normalization):
            inner.finalize_state()  # its mean is no weight, but computed from some


def held_arrays(layer: keras.Layer) -> dict[str, Any]:
    """Initializers of a layer that hold arrays, which fit one shape only, by setting."""
    return {
        name: value
        for name, value in vars(layer).items()
        if name.endswith("_initializer")
        and any(np.ndim(held) > 0 for held in vars(value).values() if _is_array(held))
    }


def held_functions(operation: Any) -> Iterator[tuple[Any, str, Any]]:
    """`(holder, attribute, function)` of each function that a layer holds as a setting."""
    inner = keras_internals.flatten_layers(operation) if isinstance(operation, keras.Layer) else []
    for holder in inner or [operation]:
        for attribute, value in vars(holder).items():
            # Keras wraps methods for each object; they are no settings.
            is_method = attribute.startswith("_") or hasattr(type(holder), attribute)
            if isinstance(value, types.FunctionType) and not is_method:
                yield holder, attribute, value


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, list, tuple)) or keras.ops.is_tensor(value)


def _assign(variable: Any, value: Any) -> None:
    variable.assign(keras.ops.convert_to_tensor(value, dtype=variable.dtype))


def _custom_objects(operation: Any) -> dict[str, Any]:
    """Functions and classes that a layer's config names, but Keras may not know."""
    found: dict[str, Any] = {}
    for _, _, function in held_functions(operation):
        found[function.__name__] = function
    inner = keras_internals.flatten_layers(operation) if isinstance(operation, keras.Layer) else []
    for holder in inner:
        for held in (holder, *vars(holder).values()):
            kind = type(held)
            if hasattr(held, "get_config") and not kind.__module__.startswith("keras."):
                found[kind.__name__] = kind
    # Keras' own are found by their names, and must not be replaced by others.
    return {
        name: value
        for name, value in found.items()
        if not (getattr(value, "__module__", None) or "").startswith("keras.")
    }


def _share_functions(operation: Any, copied: Any) -> None:
    """Give a copy the very functions of the layer: names do not tell them apart."""
    pairs = {id(operation): copied}
    if isinstance(operation, keras.Layer):
        old = keras_internals.flatten_layers(operation)
        new = keras_internals.flatten_layers(copied)
        if len(old) == len(new):
            pairs = dict(zip(map(id, old), new, strict=True))
    for holder, attribute, function in held_functions(operation):
        if id(holder) in pairs and getattr(pairs[id(holder)], attribute, None) is not function:
            if not hasattr(pairs[id(holder)], attribute):
                continue
            setattr(pairs[id(holder)], attribute, function)


def _refusal(operation: Any, reason: Any) -> CopyError:
    kind = type(operation)
    hint = ""
    if kind.get_config in (keras.Layer.get_config, keras.Operation.get_config):
        hint = " Give it a `get_config` with all arguments of its constructor."
    return CopyError(
        f"{operation.name}: expected a layer that its config can make anew. "
        f"Received: {kind.__name__}, which cannot ({' '.join(str(reason).split())[:200]}).{hint}"
    )
