"""What a network learns, with which loss, and how it is scored.

A `Task` is of one output; `SeveralTasks` has one for each output of a network. Both have the
same methods, so that training and measuring do not ask which it is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from cnn_l1.data.keras_names import find_loss, find_metric
from cnn_l1.data.splits import Split

DECIDED = ("classes", "binary", "multilabel", "segmentation")


@dataclasses.dataclass(frozen=True)
class Task:
    """The target of one output, its loss and its score.

    Attributes:
        kind: `"classes"`, `"binary"` (one output, class 1 against none), `"multilabel"`,
            `"values"`, `"segmentation"` or `"autoencoder"`.
        loss: `"crossentropy"`, `"squared_error"` (the mean over examples and outputs of
            `(output − target)²`, without the textbook's factor ½), the name of a Keras
            loss, or a Keras loss itself.
        outputs: Values along the last axis of the output. Two classes under squared error
            take one, 0 or 1, decided at ½; more take one each, decided by the largest.
        from_logits: Whether outputs of crossentropy are logits, not probabilities.
        metrics: Keras metrics by name, beside the loss and the accuracy.
        shape: Of an output without the batch axis. Default: `(outputs,)`.
        loss_weight: Factor on the loss, where there are several outputs.
        normal_class: For an autoencoder: the label of the examples that it learns, where the
            data have labels; examples of other labels are anomalies.
    """

    kind: str
    loss: Any
    outputs: int
    from_logits: bool = True
    metrics: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    loss_weight: float = 1.0
    normal_class: int | None = None

    @property
    def score(self) -> str:
        """What validation chooses by: a key of `history.csv`, without `val_`."""
        return "accuracy" if self.larger_is_better else "data_loss"

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger `score` is the better one."""
        return self.kind in DECIDED

    def decide(self, outputs: Any) -> np.ndarray | None:
        """The classes that outputs mean; `None` for values."""
        if self.kind not in DECIDED:
            return None
        outputs = np.asarray(outputs)
        if self.kind == "multilabel":
            return (outputs > self._threshold).astype("int64")
        if outputs.shape[-1] == 1:
            return (outputs[..., 0] > self._threshold).astype("int64")
        return outputs.argmax(axis=-1)

    @property
    def _threshold(self) -> float:
        return 0.0 if self.from_logits and not _is_of_values(self.loss) else 0.5

    @property
    def _name(self) -> str:
        return self.loss if isinstance(self.loss, str) else ""

    @property
    def _one_hot(self) -> bool:
        """Whether the loss takes classes as rows of 0 and 1."""
        if self.kind not in ("classes", "segmentation") or self.outputs == 1:
            return False
        if self._name == "crossentropy":
            return False
        name = self._name or getattr(self.loss, "name", "") or getattr(self.loss, "__name__", "")
        return "sparse" not in name.lower()

    def encode(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Batches with their targets as the loss takes them."""
        if self.kind == "classes" and not self._one_hot and self.outputs > 1:
            return batches
        return batches.map(lambda x, y: (x, self.encode_targets(x, y)), tf.data.AUTOTUNE)

    def encode_targets(self, inputs: Any, targets: Any) -> Any:
        """The targets of a batch as the loss takes them."""
        if self.kind == "autoencoder":
            return inputs
        if self._one_hot:
            return tf.one_hot(targets, self.outputs)
        if self.kind in ("classes", "segmentation") and self.outputs > 1:
            return targets
        shape = (-1, *(self.shape or (self.outputs,)))
        return tf.reshape(tf.cast(targets, tf.float32), shape)

    def measuring_batches(self, split: Split) -> Any:
        """Batches of a split as measuring takes them: `(inputs, labels or values)`."""
        batches = split.evaluation_batches()
        if self.kind != "autoencoder":
            return batches
        return batches.map(lambda x, y: (x, x))

    def measuring_targets(self, split: Split, count: int | None = None) -> Any:
        """The targets of a split, or of its first examples, as measuring takes them."""
        count = split.size if count is None else count
        return split.sample(count) if self.kind == "autoencoder" else split.sampled_targets(count)

    def figures(self, outputs: Any, split: Split) -> dict[str, float]:
        """The configured metrics on a file's outputs, by name, and an autoencoder's `auc`."""
        found: dict[str, float] = {}
        if self.metrics:
            metrics = [self._metric(name) for name in self.metrics]
            start = 0
            for inputs, targets in split.evaluation_batches():
                count = len(inputs)
                some = ops.convert_to_tensor(np.asarray(outputs[start : start + count], "float32"))
                start += count
                for metric in metrics:
                    metric.update_state(self.encode_targets(inputs, targets), some)
            found = {metric.name: float(metric.result()) for metric in metrics}
        auc = self._anomaly_auc(outputs, split)
        return found if auc is None else found | {"auc": auc}

    def _anomaly_auc(self, outputs: Any, split: Split) -> float | None:
        """How well the reconstruction error tells anomalies from normal examples."""
        if self.kind != "autoencoder" or self.normal_class is None:
            return None
        anomalous = np.asarray(split.targets) != self.normal_class
        if anomalous.all() or not anomalous.any():
            return None
        # Only here: few runs need it, and scikit-learn's metrics take a second to import.
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(anomalous, reconstruction_errors(outputs, split)))

    def keras_loss(self) -> Any:
        """The Keras loss."""
        if self._name == "squared_error":
            return keras.losses.MeanSquaredError()
        if self._name == "crossentropy":
            sparse = self.kind in ("classes", "segmentation") and self.outputs > 1
            losses = keras.losses
            kind = losses.SparseCategoricalCrossentropy if sparse else losses.BinaryCrossentropy
            return kind(from_logits=self.from_logits)
        return find_loss(self.loss, self.from_logits) if self._name else self.loss

    def loss_weights(self) -> Any:
        """What `compile` takes as `loss_weights`."""
        return None

    def keras_metrics(self) -> list[keras.metrics.Metric]:
        """`data_loss`, the loss without penalty, `accuracy` of classes, and the configured."""
        found = [_mean_of(self.keras_loss())]
        if self.kind in ("binary", "multilabel") or (self.kind in DECIDED and self.outputs == 1):
            threshold = self._threshold
            found.append(keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold))
        elif self.kind in DECIDED:
            kind = keras.metrics.SparseCategoricalAccuracy
            kind = keras.metrics.CategoricalAccuracy if self._one_hot else kind
            found.append(kind(name="accuracy"))
        return found + [self._metric(name) for name in self.metrics]

    def _metric(self, name: str) -> keras.metrics.Metric:
        return find_metric(name, self)


@dataclasses.dataclass(frozen=True)
class SeveralTasks:
    """The tasks of a network with several outputs; see `Task` for the methods.

    Attributes:
        tasks: A `Task` for each output, by its name, in the network's order.
        by_name: Whether the network gives its outputs as a dict.
    """

    tasks: dict[str, Task]
    by_name: bool = False
    kind = "several"
    score = "loss"
    larger_is_better = False
    normal_class = None

    @property
    def outputs(self) -> dict[str, int]:
        """Values along the last axis of each output, by its name."""
        return {name: task.outputs for name, task in self.tasks.items()}

    @property
    def decide(self) -> Any:
        """A function for each output, as `Task.decide`."""
        return self._like_outputs({name: task.decide for name, task in self.tasks.items()})

    def encode(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        def encode(inputs: Any, targets: Any) -> Any:
            found = {n: t.encode_targets(inputs, targets[n]) for n, t in self.tasks.items()}
            return inputs, self._like_outputs(found, tuple)

        return batches.map(encode, tf.data.AUTOTUNE)

    def measuring_batches(self, split: Split) -> Any:
        for inputs, targets in split.evaluation_batches():
            yield inputs, self._like_outputs({name: targets[name] for name in self.tasks})

    def measuring_targets(self, split: Split, count: int | None = None) -> Any:
        targets = split.sampled_targets(split.size if count is None else count)
        return self._like_outputs({name: targets[name] for name in self.tasks})

    def figures(self, outputs: Any, split: Split) -> dict[str, float]:
        found: dict[str, float] = {}
        values = self.by_output(outputs)
        for name, task in self.tasks.items():
            one = dataclasses.replace(split, targets=split.targets[name])
            if split.inputs is None:
                one = dataclasses.replace(one, stream=_only(split.stream, name))
            figures = task.figures(values[name][0], one)
            found |= {f"{name}_{key}": value for key, value in figures.items()}
        return found

    def by_output(self, *structures: Any) -> dict[str, tuple[Any, ...]]:
        """Structures like the network's outputs, taken apart: `{output: (one of each)}`."""
        lists = [s if self.by_name else dict(zip(self.tasks, s, strict=True)) for s in structures]
        return {name: tuple(each[name] for each in lists) for name in self.tasks}

    def keras_loss(self) -> Any:
        return self._like_outputs({name: task.keras_loss() for name, task in self.tasks.items()})

    def keras_metrics(self) -> Any:
        return self._like_outputs({n: task.keras_metrics() for n, task in self.tasks.items()})

    def loss_weights(self) -> Any:
        return self._like_outputs({n: task.loss_weight for n, task in self.tasks.items()})

    def _like_outputs(self, by_name: dict[str, Any], kind: Callable = list) -> Any:
        return by_name if self.by_name else kind(by_name.values())


def _is_of_values(loss: Any) -> bool:
    """Whether a loss compares outputs with 0 and 1 themselves, not by their sign."""
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    return any(part in name.lower() for part in ("error", "mse", "mae", "huber", "squared"))


def _only(stream: Callable[[], tf.data.Dataset], name: str) -> Callable[[], tf.data.Dataset]:
    """A stream whose targets are those of one output."""
    return lambda: stream().map(lambda x, y: (x, y[name]))


def reconstruction_errors(outputs: Any, split: Split) -> np.ndarray:
    """Mean squared difference of each example's output and input, `(examples,)`."""
    found, start = [], 0
    for inputs, _ in split.evaluation_batches():
        some = np.asarray(outputs[start : start + len(inputs)])
        start += len(inputs)
        squares = np.square(some - inputs.numpy().reshape(some.shape))
        found.append(squares.reshape(len(some), -1).mean(axis=1))
    return np.concatenate(found)


def _mean_of(loss: Any) -> keras.metrics.Metric:
    """A metric that is a loss's mean over the examples."""
    function = loss.call if isinstance(loss, keras.losses.Loss) else loss
    return keras.metrics.MeanMetricWrapper(fn=function, name="data_loss")
