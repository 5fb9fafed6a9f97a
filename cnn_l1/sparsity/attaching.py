"""Penalties put on models that exist already, and taken off again."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import keras

from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.graph.layer_weights import unknown_weights
from cnn_l1.process import keras_internals
from cnn_l1.sparsity import misuse
from cnn_l1.sparsity.penalty import Penalty

# What `attach` has decided about in this process, with a penalty or without, and the
# kernels that were frozen then; by id, for a Keras variable has no hash.
_decided: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_frozen: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
# Optimizers of ours that are built: they must learn of penalties that change.
built_optimizers: weakref.WeakSet = weakref.WeakSet()


def attach(
    model: keras.Model,
    penalty: Penalty | Callable[[Any], Penalty | None] | None,
    kernels_only: bool = True,
) -> list[str]:
    """Put a penalty on the weights of a model that exists already.

    It sets `variable.regularizer`, not the layers' settings. A regularizer of your own
    on the same weights, such as L2, stays beside the penalty; an L1 of Keras is
    replaced. It takes effect at once, also on a model that is being trained already.

    **Saving.** A model that is compiled with `Proximal` or `HoldZeros` is saved with its
    penalties, and `keras.models.load_model` puts them back if `cnn_l1` is imported.
    Where `cnn_l1` is not installed, load it with `compile=False`; an uncompiled model
    is a plain Keras model.

    Args:
        model: A built `keras.Model`.
        penalty: A `Penalty`; or `None`, which takes our penalties off again; or
            a function of a `keras.Variable` that returns either.
        kernels_only: Leave biases and batch-norm alone. Default `True`.

    Returns:
        The list of paths of the variables that now carry a penalty.

    Raises:
        ValueError: If the model is not built, or `penalty` or what it returns is not
            one of the above; nothing is changed then.

    Example:
        >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="last")]
        >>> model = keras.Sequential(layers, name="small")
        >>> cnn_l1.attach(model, cnn_l1.L1(1e-3))
        ['small/last/kernel']
        >>> model.compile(cnn_l1.Proximal(keras.optimizers.Adam()), "mse")
    """
    chosen = _choose(model, penalty, kernels_only)
    if penalty is not None and not chosen and not callable_of_users(penalty):
        layers = keras_internals.flatten_layers(model, include_self=False)
        kinds = sorted({type(layer).__name__ for layer in layers})
        misuse.warn(
            f"`attach` expected a model with trainable kernels. Received: {model.name!r} of "
            f"{', '.join(kinds)}, without: no penalty was put on it"
        )
    unknown = unknown_weights(model) if isinstance(penalty, Penalty) and kernels_only else ()
    if unknown:
        misuse.warn(
            f"`attach` leaves out weights of layers of unknown kind: {', '.join(unknown)}. "
            "`cnn_l1.register_layer_kind` says which of them are kernels; or give a function "
            "of the variable, with kernels_only=False"
        )
    for variable, value in chosen:
        place(variable, value)
    decided(model)
    return [variable.path for variable, value in chosen if value is not None]


def _choose(model: Any, penalty: Any, kernels_only: bool) -> list[tuple[Any, Penalty | None]]:
    """`(variable, penalty)` pairs, all checked."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            "`attach` expects a built model. Received one without weights: "
            f"{model.name!r}. Call it on a batch first."
        )
    is_function = callable_of_users(penalty)
    if not is_function:
        check_penalty("penalty", penalty)
    pairs = []
    for variable in model.trainable_variables:
        value = penalty
        if is_function:
            value = penalty(variable)
            check_penalty(f"penalty({variable.path!r})", value)
        if value is not None and kernels_only and not is_kernel(variable):
            continue
        if value is None and not isinstance(variable.regularizer, Penalty):
            continue  # a regularizer of the user's own stays
        pairs.append((variable, value))
    return pairs


def callable_of_users(penalty: Any) -> bool:
    """Whether `penalty` is a function that chooses penalties, and none itself."""
    kinds = (keras.regularizers.Regularizer, type)
    return callable(penalty) and not isinstance(penalty, kinds)


def check_penalty(name: str, penalty: Any) -> None:
    """Raise unless a value is a `Penalty` or `None`."""
    if penalty is not None and not isinstance(penalty, Penalty):
        what = f"{penalty!r}"
        if isinstance(penalty, keras.regularizers.Regularizer):
            what = f"{type(penalty).__module__}.{type(penalty).__name__}, which is Keras' own"
        elif isinstance(penalty, type):
            what = f"the class {penalty.__name__}, not an instance of it"
        raise ValueError(
            f"`{name}` must be a cnn_l1 penalty, e.g. cnn_l1.L1(1e-3), or None. Received: {what}"
        )


def place(variable: Any, penalty: Penalty | None) -> None:
    """Put a penalty on a variable, beside a regularizer of the user's own if there is one."""
    own = users_regularizer(variable)
    if penalty is None:
        variable.regularizer = own
        return
    if penalty.beside is not own:
        penalty = copy.copy(penalty)
        penalty.beside = own
    variable.regularizer = penalty


def users_regularizer(variable: Any) -> Any:
    """What of a variable's regularizer stays beside a penalty; Keras' L1 does not."""
    regularizer = variable.regularizer
    if isinstance(regularizer, Penalty):
        return regularizer.beside
    l1, l2 = keras_strengths(regularizer)
    if not l1:
        return regularizer
    misuse.warn(
        f"The penalty takes the place of Keras' own L1 regularizer on {variable.path!r} "
        f"(l1={l1:g}); expected one of the two. Remove kernel_regularizer from the layer"
    )
    return keras.regularizers.L2(l2) if l2 else None


def keras_strengths(regularizer: Any) -> tuple[float, float]:
    """The strengths of L1 and L2 in one of Keras' own regularizers, 0 for others."""
    kinds = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    if not isinstance(regularizer, kinds):
        return 0.0, 0.0
    return float(getattr(regularizer, "l1", 0.0)), float(getattr(regularizer, "l2", 0.0))


def decided(model: keras.Model) -> None:
    """Note that the penalties of a model were chosen, and tell the optimizers."""
    for variable in model.trainable_variables:
        _decided[id(variable)] = variable
        _frozen.pop(id(variable), None)
    for variable in model.non_trainable_variables:
        if is_kernel(variable):
            _frozen[id(variable)] = variable
    tell_optimizers(model)


def tell_optimizers(model: keras.Model) -> None:
    """Make the optimizers that train a model's variables read its penalties again."""
    ids = {id(variable) for variable in model.trainable_variables}
    for optimizer in list(built_optimizers):
        if any(id(variable) in ids for variable in keras_internals.optimized_variables(optimizer)):
            optimizer.penalties_changed(model)


def is_decided(variable: Any) -> bool:
    """Whether `attach` has seen a variable in this process, trainable."""
    return _decided.get(id(variable)) is variable


def was_frozen(variable: Any) -> bool:
    """Whether a kernel was frozen when `attach` was called last."""
    return _frozen.get(id(variable)) is variable


def detach(model: keras.Model) -> None:
    """Keep our penalties in a model's reported loss, but out of its gradient.

    It changes nothing under `Proximal`, and saves it two passes over the weights a
    step. Under any other optimizer the penalties then have no effect.

    Args:
        model: A built `keras.Model`.
    """
    for variable in model.trainable_variables:
        if isinstance(variable.regularizer, Penalty):
            detached = copy.copy(variable.regularizer)
            detached.in_gradient = False
            variable.regularizer = detached
    tell_optimizers(model)
