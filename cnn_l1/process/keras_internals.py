"""All that this package uses of Keras beyond its public API: one function for each thing.

Names that begin with an underscore, and modules below `keras.src`, may change with any
version of Keras. They stand here and nowhere else, so that an upgrade touches one file.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.export import tf2onnx_lib
from keras.src.layers.preprocessing.image_preprocessing.base_image_preprocessing_layer import (
    BaseImagePreprocessingLayer,
)
from keras.src.models.functional import Functional
from keras.src.ops.core import Cast
from keras.src.saving.serialization_lib import SafeModeScope

__all__ = [
    "BaseImagePreprocessingLayer",
    "CustomScaleLayer",
    "LayerScale",
]

# --- layers -----------------------------------------------------------------------

LAYERS = "keras.src.layers."  # where the classes of Keras' layers stand


def flatten_layers(layer: Any, include_self: bool = True) -> list[Any]:
    """A layer or model and all layers inside it, however deep."""
    return list(layer._flatten_layers(include_self=include_self))


def made_to_be_trained(layer: Any) -> list[Any]:
    """The weights that a layer itself made as trainable, frozen since or not."""
    return list(getattr(layer, "_trainable_variables", ()))


def made_not_to_be_trained(layer: Any) -> list[Any]:
    """The weights that a layer itself holds and never trains, such as quantized kernels."""
    return list(getattr(layer, "_non_trainable_variables", ()))


def keras_folder(layer_class: type) -> str | None:
    """The folder and file of a class of Keras' own layers, such as `"pooling.max_pooling2d"`.

    `None` for a class that is not one of them.
    """
    module = layer_class.__module__
    return module.removeprefix(LAYERS) if module.startswith(LAYERS) else None


def kept_axes(normalization: Any) -> tuple[int, ...]:
    """The axes that a `Normalization` layer has one mean each for."""
    return tuple(normalization._keep_axis)


def attention_axes(layer: Any) -> tuple[int, ...] | None:
    """The axes over which an attention layer attends; `None` where it was not said."""
    return getattr(layer, "_attention_axes", None)


def attention_projections(layer: Any) -> tuple[Any, Any, Any, Any]:
    """The layers inside an attention layer: of query, key, value, and of its output."""
    return layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense


def takes_training(operation: Any) -> bool:
    """Whether the `call` of a layer has an argument `training`."""
    return bool(getattr(operation, "_call_has_training_arg", False))


def without_calls(operation: Any) -> Any:
    """A copy of an operation, such as `x + y`, that was not called yet."""
    new = copy.copy(operation)
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def lambda_output_shape(layer: Any) -> Any:
    """The `output_shape` that a `Lambda` layer was made with."""
    return layer._output_shape


# --- models and their graphs ------------------------------------------------------


def computes_its_graph(model: Any) -> bool:
    """Whether a model is Functional and has no `call` of its own."""
    return getattr(type(model), "call", None) is Functional.call


def functional_of(sequential: Any) -> Any:
    """The Functional model inside a built `Sequential` one."""
    return sequential._functional


def input_tensors(functional: Any) -> list[Any]:
    """The inputs of a Functional model, as a flat list in its order."""
    return functional._inputs


def output_tensors(functional: Any) -> list[Any]:
    """The outputs of a Functional model, as a flat list in its order."""
    return functional._outputs


def input_structure(functional: Any) -> Any:
    """The inputs of a Functional model, in the lists or dicts that it takes."""
    return functional._inputs_struct


def output_structure(functional: Any) -> Any:
    """The outputs of a Functional model, in the lists or dicts that it gives."""
    return functional._outputs_struct


def nodes_in_order(functional: Any) -> Iterator[Any]:
    """The calls of a Functional model's layers, in an order in which they can be made."""
    by_depth = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from by_depth[depth]


def is_symbolic(tensor: Any) -> bool:
    """Whether a tensor knows by which call of which layer it was made."""
    return hasattr(tensor, "_keras_history")


def maker_of(tensor: Any) -> tuple[Any, int]:
    """The layer that made a symbolic tensor, and which of its outputs it is."""
    operation, _, index = tensor._keras_history
    return operation, index


def inputs_of_maker(tensor: Any) -> list[Any]:
    """What the call that made a symbolic tensor read."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors


def mask_of(tensor: Any) -> Any:
    """The mask that a layer left on a tensor, or `None`."""
    return getattr(tensor, "_keras_mask", None)


def cast_operation(dtype: Any, name: str) -> Any:
    """The operation that `keras.ops.cast` leaves in a graph."""
    return Cast(dtype, name=name)


def run_graph(functional: Any, inputs: Any, operation_of: Callable[[Any], Any]) -> Any:
    """The outputs of a Functional model's graph, with other operations in the places of its own."""
    return functional._run_through_graph(inputs, operation_fn=operation_of)


def patch_tf2onnx() -> None:
    """Apply Keras' own repairs to tf2onnx, which must be installed."""
    tf2onnx_lib.patch_tf2onnx()


def unsafe_deserialization() -> AbstractContextManager[Any]:
    """A context in which Keras makes lambdas from a config: for layers in memory only."""
    return SafeModeScope(safe_mode=False)


# --- optimizers -------------------------------------------------------------------


def variable_key(optimizer: Any, variable: Any) -> Any:
    """What an optimizer knows a variable by, in its dicts."""
    return optimizer._var_key(variable)


def variable_index(optimizer: Any, variable: Any) -> int:
    """The place of a variable among those that an optimizer was built for."""
    return optimizer._get_variable_index(variable)


def optimized_variables(optimizer: Any) -> list[Any]:
    """The model's variables that an optimizer was built for."""
    return optimizer._trainable_variables


def own_variables(optimizer: Any) -> list[Any]:
    """An optimizer's own variables, without those of an optimizer inside it."""
    return optimizer._variables[:]


def track(optimizer: Any, variable: Any) -> None:
    """Make a variable one of an optimizer's own, so that Keras saves it."""
    optimizer._track_variable(variable)


def untrack(optimizer: Any, variable: Any) -> None:
    """Undo `track`."""
    optimizer._untrack_variable(variable)


SLOTS = {
    "average gradient": "_average_gradients",
    "infinity norm": "_u",
    "sum of squares": "_accumulators",
    "velocity": "_velocities",
    "largest velocity": "_velocity_hats",
}


def slot(optimizer: Any, name: str, variable: Any) -> Any:
    """What an optimizer keeps for each weight of a variable.

    Args:
        optimizer: A built optimizer of Keras.
        name: One of `SLOTS`, e.g. `"velocity"`: the running mean of squared gradients.
        variable: A variable that it was built for.
    """
    return getattr(optimizer, SLOTS[name])[variable_index(optimizer, variable)]


UpdateAll = Callable[[Sequence[Any], Sequence[Any], Any], None]


def hook_parallel_update(optimizer: Any, around: Callable[[UpdateAll], UpdateAll]) -> bool:
    """Put `around(update)` in the place of PyTorch's update of all variables in one call.

    Returns:
        `False`, and nothing done, if this optimizer has no such update.
    """
    if not hasattr(optimizer, "_parallel_update_step"):
        return False
    optimizer._parallel_update_step = around(optimizer._parallel_update_step)
    return True


def hook_backend_update(optimizer: Any, around: Callable[[UpdateAll], UpdateAll]) -> None:
    """Put `around(update)` in the place of the update of all variables.

    It runs once an update, after gradients are accumulated.
    """
    optimizer._backend_update_step = around(optimizer._backend_update_step)


# --- compiling --------------------------------------------------------------------


def compiled_metrics(model: Any) -> Any:
    """The metrics that a model was compiled with, as they were given; `None` for none."""
    return getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)
