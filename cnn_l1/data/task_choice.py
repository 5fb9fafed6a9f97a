"""Which task: by the settings, the targets, and the outputs of the user's own network."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.training_settings import TrainingConfig
from cnn_l1.data.keras_names import find_loss, find_metric
from cnn_l1.data.splits import Description
from cnn_l1.data.tasks import DECIDED, SeveralTasks, Task
from cnn_l1.graph.loss_check import last_activation, named_outputs
from cnn_l1.graph.reading import as_functional
from cnn_l1.process import keras_internals

PROBABILITIES = ("softmax", "sigmoid")
# Targets that each kind of task can be learnt from.
FITTING = {
    "classes": ("classes",),
    "binary": ("classes",),
    "multilabel": ("multilabel",),
    "values": ("values", "classes"),
    "segmentation": ("segmentation",),
    "autoencoder": ("none", "classes", "values", "multilabel", "segmentation"),
}


def task_of(training: TrainingConfig, about: Description, model: keras.Model | None = None) -> Any:
    """The task of a data set and a network.

    Args:
        training: The `training` section: `task`, `loss`, `metrics` and `outputs`.
        about: The data set's `splits.Description`.
        model: The user's own network, whose outputs say how many there are and whether they
            are logits. Default: a builder's, which gives logits, as many as are needed.

    Returns:
        A `Task`, or `SeveralTasks`.

    Raises:
        ConfigError: If task, loss, targets and network do not go together.
    """
    tensors = {} if model is None else named_outputs(model)
    if len(tensors) > 1 or about.outputs or training.outputs:
        return _several(training, about, model, tensors)
    tensor = next(iter(tensors.values()), None)
    return _one(training, about, tensor, "training")


def is_decided(training: TrainingConfig, about: Description) -> bool:
    """Whether a network decides, and is scored by its accuracy; else it gives values."""
    kind = training.task if training.task != "auto" else _kind(training.loss, about, None)
    return kind in DECIDED and not about.outputs


def rebuilds_input(training: TrainingConfig, about: Description) -> bool:
    """Whether a network's target is its input."""
    kind = training.task if training.task != "auto" else _kind(training.loss, about, None)
    return kind == "autoencoder" and not about.outputs


def outputs_needed(training: TrainingConfig, about: Description) -> Any:
    """How many values an example a network must give: an int, or by the output's name."""
    if about.outputs:
        return {
            name: _outputs_of(training.outputs.get(name, training), one)
            for name, one in about.outputs.items()
        }
    return _outputs_of(training, about)


def _outputs_of(settings: Any, about: Description) -> int:
    kind = settings.task if settings.task != "auto" else _kind(settings.loss, about, None)
    return _outputs(kind, settings.loss, about)


def _several(
    training: TrainingConfig, about: Description, model: keras.Model | None, tensors: dict
) -> SeveralTasks:
    if not about.outputs and len(tensors) < 2:
        raise ConfigError(
            "training.outputs: expected nothing, for the data have targets of one output. "
            f"Received: {', '.join(training.outputs)}"
        )
    if model is None:
        raise ConfigError(
            "model.name: expected a network of your own, for the data have several outputs "
            f"({', '.join(about.outputs)}). Received: a builder, which has one"
        )
    if set(tensors) != set(about.outputs):
        raise ConfigError(
            f"data: expected targets for the network's outputs {', '.join(tensors)}. "
            f"Received: {', '.join(about.outputs) or 'targets of one output'}"
        )
    unknown = sorted(set(training.outputs) - set(tensors))
    if unknown:
        raise ConfigError(
            f"training.outputs: expected names of {', '.join(tensors)}. "
            f"Received: {', '.join(unknown)}"
        )
    found = {}
    for name, tensor in tensors.items():
        settings: Any = training.outputs.get(name, training)
        one = _one(settings, about.outputs[name], tensor, f"training.outputs.{name}")
        weight = getattr(settings, "loss_weight", 1.0)
        found[name] = dataclasses.replace(one, loss_weight=weight)
    by_name = isinstance(keras_internals.output_structure(as_functional(model)), dict)
    return SeveralTasks(found, by_name)


def _one(settings: Any, about: Description, tensor: Any, setting: str) -> Task:
    shape = None if tensor is None else tuple(tensor.shape[1:])
    width = None if not shape else shape[-1]
    kind = settings.task if settings.task != "auto" else _kind(settings.loss, about, width)
    if about.kind not in FITTING[kind]:
        fitting = " or ".join(FITTING[kind])
        raise ConfigError(
            f"{setting}.task: expected targets that are {fitting} for {kind!r}. "
            f"Received: {about.kind} in {about.source}"
        )
    if kind == "binary" and len(about.class_names or ()) != 2:
        raise ConfigError(
            f"{setting}.task: expected two classes for 'binary'. "
            f"Received: {len(about.class_names or ())} in {about.source}"
        )
    loss = settings.loss
    if loss == "auto":
        loss = "squared_error" if kind in ("values", "autoencoder") else "crossentropy"
    elif loss == "crossentropy" and kind in ("values", "autoencoder"):
        raise ConfigError(
            f"{setting}.loss: expected 'auto' or 'squared_error', for the targets of "
            f"{about.source!r} are numbers. Received: {loss!r}"
        )
    elif isinstance(loss, str) and loss not in ("crossentropy", "squared_error"):
        find_loss(loss, True, f"{setting}.loss")
    count = _outputs(kind, loss, about)
    if width is not None and kind != "autoencoder":
        _check_outputs(kind, count, shape, about, setting)
        count = width
    logits = True if tensor is None else last_activation(tensor) not in PROBABILITIES
    task = Task(
        kind=kind,
        loss=loss,
        outputs=count,
        from_logits=logits,
        metrics=settings.metrics,
        shape=shape if shape is not None and len(shape) > 1 else None,
        normal_class=_normal_class(about) if kind == "autoencoder" else None,
    )
    for name in settings.metrics:
        find_metric(name, task, f"{setting}.metrics")
    return task


def _kind(loss: Any, about: Description, width: int | None) -> str:
    """What is learnt, by the targets and the number of outputs."""
    if about.kind == "none":
        return "autoencoder"
    two = about.kind == "classes" and len(about.class_names or ()) == 2
    if two and width == 1 and loss != "squared_error":
        return "binary"
    return about.kind


def _outputs(kind: str, loss: Any, about: Description) -> int:
    if kind == "binary":
        return 1
    if kind == "values":
        return about.target_count
    if kind == "autoencoder":
        return math.prod(about.input_shape)
    names = about.class_names or ()
    return 1 if loss == "squared_error" and len(names) == 2 and kind == "classes" else len(names)


def _check_outputs(
    kind: str, count: int, shape: Sequence[int] | None, about: Description, setting: str
) -> None:
    shape = tuple(shape or ())
    given = math.prod(shape) if kind == "values" else shape[-1]
    two = kind == "segmentation" and count == 2 and given == 1
    # A network may know classes that the data have no example of.
    more = kind == "classes" and given > count
    if given != count and not two and not more:
        raise ConfigError(
            f"{setting}.task: expected a network with {count} values an example for {kind}, as "
            f"{about.source} has. Received: an output of shape {shape}"
        )


def _normal_class(about: Description) -> int | None:
    """The label that an autoencoder learns: the one called so, else 0."""
    if about.kind != "classes":
        return None
    names = [name.lower() for name in about.class_names or ()]
    return next((names.index(n) for n in ("normal", "good", "ok") if n in names), 0)
