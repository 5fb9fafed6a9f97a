"""Losses and metrics of Keras by the names that a config gives."""

import difflib
import inspect
import re
from typing import Any

import keras
from keras import ops

from cnn_l1.config.loading import ConfigError


def find_loss(name: str, from_logits: bool, setting: str = "training.loss") -> Any:
    """A Keras loss, by the name of its class or function, or as it was registered.

    Args:
        name: E.g. `"huber"`, `"Huber"` or `"my_package>MyLoss"`.
        from_logits: What a loss with such an argument gets.
        setting: What an error names.

    Raises:
        ConfigError: If there is no such loss.
    """
    kind = _class_named(keras.losses, keras.losses.Loss, name)
    if kind is not None:
        takes = inspect.signature(kind).parameters
        return kind(**({"from_logits": from_logits} if "from_logits" in takes else {}))
    registered = keras.saving.get_registered_object(name)
    if registered is not None:
        return registered() if inspect.isclass(registered) else registered
    raise ConfigError(
        f"{setting}: expected auto, crossentropy, squared_error or a loss of Keras, e.g. huber. "
        f"Received: {name!r}.{_hint(keras.losses, keras.losses.Loss, name)}"
    )


def find_metric(name: Any, task: Any, setting: str = "training.metrics") -> keras.metrics.Metric:
    """A Keras metric that takes a task's encoded targets and its outputs, logits too.

    Args:
        name: A name as `find_loss` takes it, e.g. `"AUC"`, or a metric, of which a new one
            is made as it is.
        task: The `tasks.Task`.
        setting: What an error names.

    Raises:
        ConfigError: If there is no such metric.
    """
    if isinstance(name, keras.metrics.Metric):
        return type(name).from_config(name.get_config())
    kind: Any = _class_named(keras.metrics, keras.metrics.Metric, name)
    registered = keras.saving.get_registered_object(name)
    if kind is None and registered is None:
        raise ConfigError(
            f"{setting}: expected metrics of Keras, e.g. [AUC]. "
            f"Received: {name!r}.{_hint(keras.metrics, keras.metrics.Metric, name)}"
        )
    kind = kind or registered
    if not inspect.isclass(kind):
        return keras.metrics.MeanMetricWrapper(fn=kind, name=name)
    takes = inspect.signature(kind).parameters
    several = task.kind in ("classes", "segmentation") and task.outputs > 1
    wanted = {
        "num_classes": max(2, task.outputs),
        "average": "macro",
        "sparse_y_true": True,
        "sparse_y_pred": False,
        "target_class_ids": [1],
        "multi_label": task.kind == "multilabel",
        "num_labels": task.outputs if task.kind == "multilabel" else None,
    }
    given = {key: value for key, value in wanted.items() if key in takes}
    try:
        make: Any = kind
        default = takes["name"].default if "name" in takes else None
        metric = make(**given, name=default or _snake(make.__name__))
    except (TypeError, ValueError) as error:
        needs = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{setting}: expected metrics that need no arguments. Received: {name!r} ({needs})"
        ) from None
    labels = isinstance(metric, keras.metrics.IoU) or "sparse" in metric.name
    return OfTask(metric, task, one_hot=several and not labels)


class OfTask(keras.metrics.Metric):
    """A metric on probabilities and one-hot targets, of outputs that may be logits.

    Args:
        metric: The Keras metric.
        task: The `tasks.Task`.
        one_hot: Whether the metric takes classes as rows of 0 and 1.
    """

    def __init__(self, metric: keras.metrics.Metric, task: Any, one_hot: bool) -> None:
        super().__init__(name=metric.name)
        self.metric, self.task, self.one_hot = metric, task, one_hot

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take a batch of encoded targets and outputs."""
        if self.task.from_logits and self.task.loss != "squared_error":
            if self.task.kind in ("classes", "segmentation") and self.task.outputs > 1:
                y_pred = ops.softmax(y_pred)
            elif self.task.kind in ("classes", "binary", "multilabel", "segmentation"):
                y_pred = ops.sigmoid(y_pred)
        is_one_hot = len(y_true.shape) == len(y_pred.shape)
        several = self.task.kind in ("classes", "segmentation") and self.task.outputs > 1
        if self.one_hot and not is_one_hot:
            y_true = ops.one_hot(ops.cast(y_true, "int32"), self.task.outputs)
        elif several and not self.one_hot and is_one_hot:
            y_true = ops.argmax(y_true, axis=-1)
        if self.one_hot and len(y_pred.shape) > 2:  # pixels are examples
            y_true = ops.reshape(y_true, (-1, self.task.outputs))
            y_pred = ops.reshape(y_pred, (-1, self.task.outputs))
        self.metric.update_state(y_true, y_pred, sample_weight)

    def result(self) -> Any:
        """The metric's value."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Begin anew."""
        self.metric.reset_state()


def _snake(name: str) -> str:
    """A class's name as Keras names its metrics, `"F1Score"` as `"f1_score"`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _class_named(module: Any, base: type, name: str) -> Any:
    """A class of a Keras module, by its name in either spelling."""
    wanted = name.replace("_", "").lower()
    aliases = {"mse": "meansquarederror", "mae": "meanabsoluteerror", "msle":
               "meansquaredlogarithmicerror", "mape": "meanabsolutepercentageerror"}  # fmt: skip
    wanted = aliases.get(wanted, wanted)
    return next(
        (kind for key, kind in _classes(module, base).items() if key.lower() == wanted), None
    )


def _classes(module: Any, base: type) -> dict[str, Any]:
    return {
        key: kind
        for key, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }


def _hint(module: Any, base: type, name: str) -> str:
    close = difflib.get_close_matches(name, _classes(module, base), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
