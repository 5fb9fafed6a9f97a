"""Copies of Keras models: the same graph and weights, with nothing of this package in them."""

import contextlib
import re
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from cnn_l1.graph.reading import as_functional, input_name, read_graph, settle
from cnn_l1.process import keras_internals
from cnn_l1.sparsity.penalties import PACKAGE
from cnn_l1.tflite.file import ExportError

# Policies of training that a file has no use for. Integer types, and those of quantized
# layers, are part of what a layer computes.
FLOAT_POLICIES = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64")


def plain_copy(
    model: keras.Model,
    batch_size: int | None = None,
    input_shape: Any = None,
) -> keras.Model:
    """A copy of a model that loads where `cnn_l1` is not installed.

    Penalties of ours are left out, and so is the optimizer. The copy is in float32,
    whatever dtype policy the model was trained under. Operations between layers, shared
    layers, nested models and all names stay as they are.

    Args:
        model: A built Functional or Sequential `keras.Model`.
        batch_size: Fix the batch axis at this size. Default: leave it open.
        input_shape: Shape of an example, to fix sizes that the model leaves open. For
            several inputs a list in the model's order, or a dict by the inputs' names.
            Default: leave them open.

    Returns:
        A new, uncompiled `keras.Model` with equal weights.

    Raises:
        ExportError: If the model is no graph of layers, or a layer cannot be copied.
        ValueError: If `input_shape` does not fit the model.

    Example:
        >>> cnn_l1.plain_copy(model).save("plain.keras")
    """
    functional = as_functional(model)
    if functional is None:
        raise ExportError(
            f"Model {getattr(model, 'name', model)!r}: expected a built Functional or "
            f"Sequential Keras model. Received: {_kind(model)}"
        )
    shapes = input_shapes(model, batch_size, input_shape)
    return _Copier().copy(model, shapes)


def copy_for_file(
    model: keras.Model, input_shape: Any = None, whole_ids: bool = False
) -> keras.Model:
    """The plain copy that a TFLite file is made of: batch 1.

    Args:
        model: A built Functional or Sequential model.
        input_shape: See `plain_copy`.
        whole_ids: Whether inputs of floats that only an Embedding reads are to be int32: as
            quantized floats they would come out as their neighbours.

    Raises:
        ExportError, ValueError: See `plain_copy`.
    """
    copied = plain_copy(model, batch_size=1, input_shape=input_shape)
    ids = frozenset(_float_ids(copied) if whole_ids else ())
    if not ids:
        return copied
    shapes = input_shapes(copied)
    return _Copier().copy(copied, shapes, ids)


def _float_ids(model: keras.Model) -> set[str]:
    """Names of inputs of floats that nothing but Embeddings read."""
    graph = read_graph(model)
    found = set()
    for value in graph.inputs:
        readers = [call.operation for call in graph.calls if value in call.inputs]
        embed = all(isinstance(one, keras.layers.Embedding) for one in readers)
        if embed and readers and value not in graph.outputs and "float" in value.tensor.dtype:
            found.add(input_name(value.tensor))
    return found


SAFE_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\-]*")


def copy_with_safe_names(model: keras.Model) -> keras.Model:
    """A copy whose layers have names that TensorFlow takes; the model itself if they do."""
    if all(SAFE_NAME.fullmatch(layer.name) for layer in keras_internals.flatten_layers(model)):
        return model
    return _Copier(rename=True).copy(model, input_shapes(model))


def _kind(model: Any) -> str:
    if isinstance(model, keras.Sequential):
        return "a Sequential model without input shape; call `model.build(input_shape)` first"
    if isinstance(model, keras.Model):
        return (
            f"{type(model).__name__}, a subclassed model. If its `get_config` gives its "
            "arguments, `keras.Model(inputs, model(inputs))` can be copied"
        )
    return type(model).__name__


def input_shapes(
    model: keras.Model, batch_size: int | None = None, input_shape: Any = None
) -> list[tuple[int | None, ...]]:
    """The shapes of a model's inputs, with the batch axis and open sizes fixed as asked.

    Args:
        model: A built Functional or Sequential model.
        batch_size: See `plain_copy`.
        input_shape: See `plain_copy`.

    Returns:
        One shape an input, batch axis included, `None` where a size is open.

    Raises:
        ValueError: If `input_shape` does not fit.
    """
    functional = as_functional(model)
    names = [input_name(tensor) for tensor in keras_internals.input_tensors(functional)]
    own = [tuple(tensor.shape) for tensor in keras_internals.input_tensors(functional)]
    given = _by_input(input_shape, names)
    shapes = []
    for name, shape, wanted in zip(names, own, given, strict=True):
        sizes = shape[1:] if wanted is None else wanted
        fits = len(sizes) == len(shape) - 1 and all(
            fixed in (None, size) and (size is None or size > 0)
            for fixed, size in zip(shape[1:], sizes, strict=True)
        )
        if not fits:
            raise ValueError(
                f"`input_shape` must fit input {name!r} of shape {shape[1:]}, without the "
                f"batch axis. Received: {tuple(sizes)}"
            )
        shapes.append((shape[0] if batch_size is None else batch_size, *sizes))
    return shapes


def _by_input(input_shape: Any, names: list[str]) -> list[Any]:
    if input_shape is None:
        return [None] * len(names)
    if isinstance(input_shape, dict):
        unknown = set(input_shape) - set(names)
        if unknown:
            raise ValueError(
                f"`input_shape` must have the inputs' names as keys: {', '.join(names)}. "
                f"Received: {', '.join(map(str, input_shape))}"
            )
        given = [input_shape.get(name) for name in names]
    else:
        try:
            given = list(input_shape)
        except TypeError:
            given = [input_shape]
        if all(size is None or isinstance(size, int) for size in given) and len(names) == 1:
            given = [given]
    try:
        if len(given) != len(names):
            raise TypeError
        return [None if shape is None else _sizes(shape) for shape in given]
    except TypeError:
        raise ValueError(
            f"`input_shape` must be the shape of an example, for each of {len(names)} inputs. "
            f"Received: {input_shape!r}"
        ) from None


def _sizes(shape: Any) -> tuple[int | None, ...]:
    return tuple(None if size is None else size.__index__() for size in shape)


class _Copier:
    """Copies layers and models, each once, wherever and however often it is used."""

    def __init__(self, rename: bool = False):
        self.rename = rename
        self.made: dict[int, Any] = {}
        self.pairs: list[tuple[Any, Any]] = []

    def copy(
        self, model: keras.Model, shapes: list, whole: frozenset[str] = frozenset()
    ) -> keras.Model:
        with warnings.catch_warnings():
            # About lambdas and names of inputs: the model's builder has seen them.
            warnings.simplefilter("ignore", UserWarning)
            result = self.model(model, shapes, whole)
            self.fill()
        result.optimizer = None  # an uncompiled Sequential has none at all
        return result

    def name(self, name: str) -> str:
        if not self.rename or SAFE_NAME.fullmatch(name):
            return name
        return f"layer_{name.encode().hex()}"

    def model(
        self, model: keras.Model, shapes: list | None = None, whole: frozenset[str] = frozenset()
    ) -> keras.Model:
        functional = as_functional(model)
        if shapes is None:
            shapes = [tuple(tensor.shape) for tensor in keras_internals.input_tensors(functional)]
        inputs = []
        for tensor, shape in zip(keras_internals.input_tensors(functional), shapes, strict=True):
            changes = {"batch_shape": tuple(shape), "name": self.name(input_name(tensor))}
            if input_name(tensor) in whole:
                changes["dtype"] = "int32"
            inputs.append(_new_input(tensor, changes))
        if isinstance(model, keras.Sequential):
            made = [self.operation(layer) for layer in model.layers]
            result = keras.Sequential(
                [keras_internals.maker_of(inputs[0])[0], *made], name=self.name(model.name)
            )
            if not made:  # a stack of no layers
                result.build(inputs[0].shape)
        else:
            outputs = keras_internals.run_graph(functional, inputs, self.operation)
            packed = keras.tree.pack_sequence_as(
                keras_internals.input_structure(functional), inputs
            )
            result = keras.Model(packed, outputs, name=self.name(model.name))
        self.made[id(model)] = result
        return result

    def operation(self, operation: Any) -> Any:
        if id(operation) in self.made:
            return self.made[id(operation)]
        if isinstance(operation, keras.Model) and as_functional(operation) is not None:
            return self.model(operation)
        if isinstance(operation, keras.layers.Layer):
            new = _copy_layer(operation, self.name)
            self.pairs.append((operation, new))
        else:
            # An operation, such as `x + y`: the same one, without the calls made of it.
            new = keras_internals.without_calls(operation)
            new.name = self.name(operation.name)
        self.made[id(operation)] = new
        return new

    def fill(self) -> None:
        """Give the new layers the weights of the old ones."""
        for layer, new in self.pairs:
            try:
                _copy_state(layer, new)
            except Exception as error:  # whatever a layer's own methods raise
                raise _not_copied(layer, error) from None
            settle(new)


def _copy_state(layer: keras.layers.Layer, new: keras.layers.Layer) -> None:
    if hasattr(layer, "save_assets"):  # e.g. a vocabulary
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            new.load_assets(folder)
    values = {variable.path: variable for variable in layer.weights}
    paths = [variable.path for variable in new.weights]
    if len(values) == len(layer.weights) == len(set(paths)) and set(paths) == set(values):
        # Weights that came after `build`, such as those of LoRA, may stand elsewhere.
        new.set_weights([keras.ops.convert_to_numpy(values[path]) for path in paths])
    else:
        new.set_weights(layer.get_weights())


def _new_input(tensor: Any, changes: dict[str, Any]) -> Any:
    layer = keras_internals.maker_of(tensor)[0]
    config = layer.get_config() | changes
    return type(layer).from_config(config).output


def _copy_layer(layer: keras.layers.Layer, rename: Callable[[str], str]) -> keras.layers.Layer:
    try:
        config = _renamed(_plain(layer.get_config()), rename)
        if type(layer) is keras.layers.Lambda:
            functions = {
                "function": layer.function,
                "mask": layer.mask,
                "output_shape": keras_internals.lambda_output_shape(layer),
            }
            return keras.layers.Lambda(**(config | functions))
        for key, value in config.items():
            # A function of the user's own, which a config holds by its name or its code.
            live = getattr(layer, key, None)
            if isinstance(value, dict) and isinstance(live, types.FunctionType):
                config[key] = live
        with _own_objects(layer):
            return type(layer).from_config(config)
    except Exception as error:  # whatever a layer's own methods raise
        raise _not_copied(layer, error) from None


@contextlib.contextmanager
def _own_objects(layer: keras.layers.Layer) -> Iterator[None]:
    """Let classes and functions inside a layer be found, registered or not."""
    found: dict[str, Any] = {}
    for inner in keras_internals.flatten_layers(layer):
        found[type(inner).__name__] = type(inner)
        for value in list(vars(inner).values()):
            if isinstance(value, types.FunctionType):
                found[value.__name__] = value
    # What is deserialized here is the code of a layer that already runs in this process.
    with keras_internals.unsafe_deserialization(), keras.saving.CustomObjectScope(found):
        yield


def _not_copied(layer: keras.layers.Layer, error: Exception) -> ExportError:
    reason = " ".join(str(error).split())[:200]
    return ExportError(
        f"Layer {layer.name!r} ({type(layer).__name__}): expected a layer that can be made anew "
        f"from its `get_config`, with the same weights. Received: {type(error).__name__}: {reason}"
    )


def _plain(config: Any) -> Any:
    """A layer's config without objects of this package, and with float32 policies."""
    if isinstance(config, dict):
        name = config.get("registered_name") or ""
        if str(name).startswith(f"{PACKAGE}>"):
            return None
        return {
            key: _float32(value) if key == "dtype" else _plain(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        values = [_plain(value) for value in config]
        # A namedtuple takes its fields one by one.
        return type(config)(*values) if hasattr(config, "_fields") else type(config)(values)
    return config


def _renamed(config: Any, rename: Callable[[str], str]) -> Any:
    """A layer's config with other names, those of layers inside it too."""
    if isinstance(config, dict):
        new = {key: _renamed(value, rename) for key, value in config.items()}
        if isinstance(config.get("name"), str) and ("trainable" in config or "dtype" in config):
            new["name"] = rename(config["name"])
        return new
    if isinstance(config, list):
        return [_renamed(value, rename) for value in config]
    return config


def _float32(dtype: Any) -> Any:
    """A dtype policy's float32 counterpart; integer and quantized ones as they are."""
    if isinstance(dtype, str):
        return "float32" if dtype in FLOAT_POLICIES else dtype
    if not isinstance(dtype, dict):
        return dtype
    config = dict(dtype.get("config") or {})
    if dtype.get("class_name") == "DTypePolicyMap":
        policies = {key: _float32(value) for key, value in config["policy_map"].items()}
        default = _float32(config.get("default_policy"))
        return dtype | {"config": config | {"policy_map": policies, "default_policy": default}}
    if config.get("source_name") in FLOAT_POLICIES:
        return dtype | {"config": config | {"source_name": "float32"}}
    if config.get("name") in FLOAT_POLICIES:
        return "float32"
    return dtype
