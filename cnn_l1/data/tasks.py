"""What a network learns: classes or values, and how it is scored."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from cnn_l1.config.loading import ConfigError
from cnn_l1.data.splits import Description


@dataclasses.dataclass(frozen=True)
class Task:
    """The target of a network, its loss and its score.

    Attributes:
        kind: `"classes"` or `"values"`.
        loss: `"crossentropy"` of logits, or `"squared_error"`, the mean over examples
            and outputs of `(output − target)²`, without the textbook's factor ½.
        outputs: Values the network gives an example. Two classes under squared error
            take one, 0 or 1, decided at ½; more take one each, decided by the largest.
    """

    kind: str
    loss: str
    outputs: int

    @property
    def score(self) -> str:
        """What validation chooses by: a key of `history.csv`, without `val_`."""
        return "accuracy" if self.kind == "classes" else "data_loss"

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger `score` is the better one."""
        return self.kind == "classes"

    def decide(self, outputs: np.ndarray) -> np.ndarray | None:
        """The classes that `(examples, outputs)` mean; `None` for values."""
        if self.kind == "values":
            return None
        if self.outputs == 1:
            return (np.asarray(outputs)[:, 0] > 0.5).astype("int64")
        return np.asarray(outputs).argmax(axis=1)

    def encode(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Batches with their targets as the loss takes them."""
        if self.loss == "crossentropy":
            return batches
        if self.kind == "classes" and self.outputs > 1:
            return batches.map(lambda x, y: (x, tf.one_hot(y, self.outputs)), tf.data.AUTOTUNE)
        return batches.map(
            lambda x, y: (x, tf.reshape(tf.cast(y, tf.float32), (-1, self.outputs))),
            tf.data.AUTOTUNE,
        )

    def keras_loss(self) -> keras.losses.Loss:
        """The Keras loss."""
        if self.loss == "crossentropy":
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.MeanSquaredError()

    def keras_metrics(self) -> list[keras.metrics.Metric]:
        """`data_loss`, the loss without penalty, and `accuracy` of classes."""
        if self.loss == "crossentropy":
            return [
                keras.metrics.SparseCategoricalCrossentropy(name="data_loss", from_logits=True),
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            ]
        data_loss = keras.metrics.MeanSquaredError(name="data_loss")
        if self.kind == "values":
            return [data_loss]
        if self.outputs == 1:
            return [data_loss, keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.5)]
        return [data_loss, keras.metrics.CategoricalAccuracy(name="accuracy")]


def task_of(loss: str, about: Description) -> Task:
    """The `Task` of a data set.

    Args:
        loss: `training.loss`: `"auto"`, `"crossentropy"` or `"squared_error"`.
        about: The data set's `splits.Description`.

    Raises:
        ConfigError: If the loss does not fit the targets.
    """
    if about.class_names is None:
        if loss == "crossentropy":
            raise ConfigError(
                "training.loss: expected 'auto' or 'squared_error', for the targets of "
                f"{about.name!r} are numbers. Received: {loss!r}"
            )
        return Task("values", "squared_error", about.target_count)
    classes = len(about.class_names)
    if loss == "squared_error":
        return Task("classes", loss, 1 if classes == 2 else classes)
    return Task("classes", "crossentropy", classes)
