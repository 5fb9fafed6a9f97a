"""What a compiled model says of its training: loss, metrics, optimizer."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import keras

from cnn_l1.config.training_settings import OPTIMIZER_SETTINGS, TrainingConfig
from cnn_l1.graph.loss_check import named_outputs
from cnn_l1.process import keras_internals

# Every task of classes has these already.
COUNTED_ALREADY = (
    "accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy", "binary_accuracy",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CompiledSettings:
    """A model's own loss, metrics and optimizer; empty for one that is not compiled.

    Attributes:
        optimizer: The Keras optimizer, or `None`.
        losses: The loss of each output by its name, a Keras loss or its name.
        metrics: The metrics of each output by its name.
        loss_weights: The loss weight of each output by its name.
    """

    optimizer: Any = None
    losses: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    loss_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def learning_rate(self) -> float | None:
        """The optimizer's learning rate now, or `None`."""
        if self.optimizer is None:
            return None
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    @property
    def optimizer_name(self) -> str | None:
        """The optimizer's name in a config, or `None` for one that configs do not know."""
        name = type(self.optimizer).__name__.lower()
        return name if name in OPTIMIZER_SETTINGS else None

    def recorded(self) -> dict[str, Any]:
        """What a config can say of it: losses and metrics that have names."""
        found: dict[str, Any] = {
            name: {
                key: value
                for key, value in (
                    ("loss", loss if isinstance(loss, str) else None),
                    ("metrics", [m for m in self.metrics.get(name, ()) if isinstance(m, str)]),
                    ("loss_weight", self.loss_weights.get(name)),
                )
                if value
            }
            for name, loss in self.losses.items()
        }
        if len(found) == 1:
            (one,) = found.values()
            return {key: value for key, value in one.items() if key != "loss_weight"}
        return {"outputs": found} if found else {}

    def training(self, config: TrainingConfig) -> Any:
        """The `training` section with the losses and metrics themselves."""
        if not self.losses:
            return config
        each = {
            name: types.SimpleNamespace(
                task="auto",
                loss=loss,
                metrics=self.metrics.get(name, ()),
                loss_weight=self.loss_weights.get(name, 1.0),
            )
            for name, loss in self.losses.items()
        }
        if len(each) > 1:
            return types.SimpleNamespace(task="auto", loss="auto", metrics=(), outputs=each)
        (one,) = each.values()
        return types.SimpleNamespace(
            task=config.task, loss=one.loss, metrics=one.metrics, outputs={}
        )


def compiled_settings(model: keras.Model) -> CompiledSettings:
    """A model's own training settings; empty ones where it is not compiled."""
    if not getattr(model, "compiled", False) or getattr(model, "loss", None) is None:
        return CompiledSettings()
    names = list(named_outputs(model)) or ["output"]
    losses = _by_name(model.loss, names)
    metrics = _by_name(keras_internals.compiled_metrics(model), names)
    weights = _by_name(getattr(model, "loss_weights", None), names)
    return CompiledSettings(
        optimizer=model.optimizer,
        losses={name: loss for name, loss in losses.items() if loss is not None},
        metrics={name: _further(some) for name, some in metrics.items()},
        loss_weights={name: float(w) for name, w in weights.items() if w is not None},
    )


def _by_name(given: Any, names: list[str]) -> dict[str, Any]:
    """A setting of `compile` by the output's name."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {name: given.get(name) for name in names}
    if isinstance(given, (list, tuple)) and len(names) > 1:
        return dict(zip(names, given, strict=False))
    return dict.fromkeys(names, given)


def _further(metrics: Any) -> tuple[Any, ...]:
    """Metrics beside the loss and the accuracy."""
    if metrics is None:
        return ()
    some = metrics if isinstance(metrics, (list, tuple)) else [metrics]
    named = [one if isinstance(one, str) else getattr(one, "name", "") for one in some]
    return tuple(one for one, name in zip(some, named, strict=True) if name not in COUNTED_ALREADY)
