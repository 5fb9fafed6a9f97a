"""Does the loss fit the last layer? Logits under a loss of probabilities train badly, unsaid."""

import functools
import inspect
import warnings
import weakref
from typing import Any

import keras

from cnn_l1.graph.reading import as_functional
from cnn_l1.process import keras_internals

PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")
CROSSENTROPIES = (
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "sparse_categorical_crossentropy",
)
# Through which probabilities stay probabilities, and logits logits.
TRANSPARENT = (
    "AlphaDropout",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "Identity",
    "Permute",
    "Reshape",
    "Squeeze",
    "Transpose",
)

_warned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class LossWarning(UserWarning):
    """A loss of probabilities on logits, or the other way round."""


def gives_logits(model: keras.Model) -> bool:
    """Whether a model with one output gives logits, as its last activation says.

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits(model))

    Args:
        model: A built Functional or Sequential `keras.Model`.

    Returns:
        `True` after a linear last layer, `False` after a softmax or a sigmoid.

    Raises:
        ValueError: If the model has several outputs, or its last operation does not tell.
    """
    outputs = named_outputs(model)
    found = last_activation(next(iter(outputs.values()))) if len(outputs) == 1 else None
    if found == "linear":
        return True
    if found in PROBABILITIES:
        return False
    raise ValueError(
        "`model` expected with one output, after a linear layer, a softmax or a sigmoid. "
        f"Received: {model.name!r} with {len(outputs)} outputs, the last activation "
        f"{found or 'unknown'}. Give `from_logits` yourself"
    )


def check_loss(model: keras.Model) -> None:
    """Warn where a compiled model's crossentropy and its last activation do not fit.

    Once for a model and its loss. What cannot be told, such as a loss of one's own, is
    taken as right.

    Args:
        model: A compiled `keras.Model`.
    """
    for name, tensor in named_outputs(model).items():
        loss = _loss_of(getattr(model, "loss", None), name, list(named_outputs(model)))
        expects_logits = _expects_logits(loss)
        found = last_activation(tensor)
        if expects_logits is None or found is None:
            continue
        if expects_logits != (found in PROBABILITIES):
            continue
        message = _message(model, name, found, expects_logits)
        if message not in _warned.setdefault(model, set()):
            _warned[model].add(message)
            warnings.warn(message, LossWarning, stacklevel=3)


def _message(model: Any, name: str, found: str, expects_logits: bool) -> str:
    where = f"Output {name!r} of model {model.name!r}"
    if expects_logits:
        return (
            f"{where}: the loss has from_logits=True and expects logits. Received: an output "
            f"after {found}. Compile with from_logits=False."
        )
    return (
        f"{where}: the loss expects probabilities. Received: an output after a {found} "
        "activation. Compile with a loss object and from_logits=True, such as "
        "keras.losses.SparseCategoricalCrossentropy(from_logits=True), or end the model in a "
        "softmax."
    )


def named_outputs(model: Any) -> dict[str, Any]:
    """`{name: tensor}` of a model's outputs, by the names that a dict of losses has."""
    model = as_functional(model)
    if model is None:
        return {}
    structure = keras_internals.output_structure(model)
    if isinstance(structure, dict):
        return {k: v for k, v in structure.items() if keras_internals.is_symbolic(v)}
    return dict(zip(model.output_names, model.outputs, strict=True))


def _loss_of(loss: Any, name: str, names: list[str]) -> Any:
    if isinstance(loss, dict):
        return loss.get(name)
    if isinstance(loss, (list, tuple)):
        return loss[names.index(name)] if len(loss) == len(names) else None
    return loss


def _expects_logits(loss: Any) -> bool | None:
    """Whether a crossentropy takes logits; `None` for what is none, or not known."""
    if isinstance(loss, str):
        found = keras.losses.get(loss) if loss not in CROSSENTROPIES else None
        return False if loss in CROSSENTROPIES else _expects_logits(found)
    if isinstance(loss, functools.partial):
        return loss.keywords.get("from_logits", _expects_logits(loss.func))
    if isinstance(loss, keras.losses.Loss):
        given = getattr(loss, "from_logits", None)
        return None if given is None else bool(given)
    if inspect.isfunction(loss) and getattr(loss, "__name__", "") in CROSSENTROPIES:
        return False
    return None


def last_activation(tensor: Any) -> str | None:
    """The name of the activation that a Keras tensor comes from; `None` if not known."""
    while True:
        operation, index = keras_internals.maker_of(tensor)
        if isinstance(operation, keras.Model):
            if not operation.built or not getattr(operation, "outputs", None):
                return None
            tensor = operation.outputs[index]
            continue
        kind = type(operation).__name__
        activation = getattr(operation, "activation", None)
        name = getattr(activation, "__name__", None) or type(activation).__name__.lower()
        if kind in ("Softmax", "Sigmoid", "HardSigmoid"):
            return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(kind, "hard_sigmoid")
        if activation is not None and name != "linear":
            return name
        if kind not in (*TRANSPARENT, "Activation"):
            return "linear" if activation is not None else None
        inputs = keras_internals.inputs_of_maker(tensor)
        if len(inputs) != 1:
            return None
        tensor = inputs[0]
