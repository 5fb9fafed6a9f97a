"""Which task, by settings, targets and network; its loss, decisions and metrics by hand."""

import keras
import numpy as np
import pytest
from keras import layers
from sklearn import metrics as references

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.training_settings import OutputConfig, TrainingConfig
from cnn_l1.data.splits import Description, Split
from cnn_l1.data.task_choice import is_decided, outputs_needed, task_of
from cnn_l1.data.tasks import SeveralTasks, Task, reconstruction_errors

TWO = Description("two", (4,), ("no", "yes"))
THREE = Description("three", (4,), ("a", "b", "c"))
LABELS = Description("labels", (4,), ("x", "y"), kind="multilabel")
VALUES = Description("values", (4,), None, target_count=2)
PIXELS = Description("pixels", (8, 8, 1), ("0", "1", "2"), kind="segmentation")
NONE = Description("none", (4,), None, kind="none")
ODD = Description("odd", (4,), ("anomaly", "normal"))


def network(units, activation=None, shape=(4,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(units, activation=activation, name="out")(inputs))


@pytest.mark.parametrize(
    ("settings", "about", "model", "kind", "outputs", "from_logits"),
    [
        ({}, THREE, None, "classes", 3, True),
        ({}, THREE, network(3, "softmax"), "classes", 3, False),
        ({}, THREE, network(10), "classes", 10, True),  # a network may know more classes
        ({}, TWO, None, "classes", 2, True),
        ({}, TWO, network(1), "binary", 1, True),
        ({}, TWO, network(1, "sigmoid"), "binary", 1, False),
        ({"task": "binary"}, TWO, None, "binary", 1, True),
        ({}, LABELS, network(2, "sigmoid"), "multilabel", 2, False),
        ({}, VALUES, network(2), "values", 2, True),
        ({}, PIXELS, network(3, "softmax", (8, 8, 1)), "segmentation", 3, False),
        ({}, NONE, network(4), "autoencoder", 4, True),
        ({"task": "autoencoder"}, ODD, network(4), "autoencoder", 4, True),
        ({"task": "values"}, THREE, network(1), "values", 1, True),
    ],
)
def test_kinds(settings, about, model, kind, outputs, from_logits):
    task = task_of(TrainingConfig(**settings), about, model)
    assert (task.kind, task.outputs, task.from_logits) == (kind, outputs, from_logits)


def test_what_is_normal_is_called_so_else_the_first():
    autoencoder = TrainingConfig(task="autoencoder")
    assert task_of(autoencoder, ODD).normal_class == 1
    assert task_of(autoencoder, THREE).normal_class == 0
    assert task_of(autoencoder, NONE).normal_class is None


@pytest.mark.parametrize(
    ("settings", "about", "model", "part"),
    [
        ({"task": "binary"}, THREE, None, "two classes for 'binary'. Received: 3"),
        ({"task": "multilabel"}, THREE, None, "targets that are multilabel"),
        ({}, THREE, network(2), "3 values an example"),
        ({}, VALUES, network(3), "2 values an example"),
        ({"loss": "crossentropy"}, VALUES, None, "are numbers"),
        ({"loss": "hubber"}, VALUES, None, "Did you mean"),
        ({"metrics": ("AUK",)}, THREE, None, "training.metrics"),
        ({"outputs": {"a": OutputConfig()}}, THREE, None, "training.outputs: expected nothing"),
    ],
)
def test_what_does_not_go_together(settings, about, model, part):
    with pytest.raises(ConfigError) as caught:
        task_of(TrainingConfig(**settings), about, model)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def split(inputs, targets):
    return Split(len(inputs), np.asarray(inputs, "float32"), targets)


def test_metrics_are_of_probabilities_and_one_hot_rows():
    """Logits and labels in, scikit-learn's figures out."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(200, 3)).astype("float32")
    labels = random.integers(0, 3, 200)
    task = task_of(TrainingConfig(metrics=("F1Score", "sparse_top_k_categorical_accuracy")), THREE)
    found = task.figures(logits, split(np.zeros((200, 4)), labels))
    expected = references.f1_score(labels, logits.argmax(axis=1), average="macro")
    assert found["f1_score"] == pytest.approx(expected, abs=1e-6)  # float32 sums
    assert found["sparse_top_k_categorical_accuracy"] == 1.0  # of five, with three classes


def test_auc_of_one_class_against_none():
    """Of many thresholds: Keras' sum over 200 of them is near the whole curve's area."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    logits = (labels[:, None] + random.normal(size=(400, 1))).astype("float32")
    task = task_of(TrainingConfig(task="binary", metrics=("AUC",)), TWO)
    found = task.figures(logits, split(np.zeros((400, 4)), labels))
    assert found["auc"] == pytest.approx(references.roc_auc_score(labels, logits), abs=5e-3)


def test_mean_io_u_of_pixels():
    labels = np.array([[[0, 1], [2, 2]], [[1, 1], [0, 2]]])
    outputs = keras.utils.to_categorical(np.array([[[0, 1], [2, 1]], [[1, 0], [0, 2]]]), 3) * 9.0
    about = Description("pixels", (2, 2, 1), ("0", "1", "2"), kind="segmentation")
    task = task_of(TrainingConfig(metrics=("MeanIoU",)), about)
    found = task.figures(outputs, split(np.zeros((2, 2, 2, 1)), labels))
    # Of class 0: 2 of 3 pixels, of 1: 2 of 4, of 2: 2 of 3.
    assert found["mean_io_u"] == pytest.approx((2 / 3 + 2 / 4 + 2 / 3) / 3)


def test_anomalies_by_their_reconstruction_error():
    inputs = np.array([[1.0, 1.0], [2.0, 0.0], [5.0, 5.0], [0.0, 3.0]])
    labels = np.array([1, 1, 0, 0])  # the last two are anomalies
    outputs = np.array([[1.0, 1.0], [2.0, 1.0], [5.0, 5.5], [0.0, 0.0]])
    about = Description("odd", (2,), ("anomaly", "normal"))
    task = task_of(TrainingConfig(task="autoencoder"), about)
    data = split(inputs, labels)
    np.testing.assert_allclose(reconstruction_errors(outputs, data), [0, 0.5, 0.125, 4.5])
    # Of four pairs of an anomaly and a normal one, three are in order.
    assert task.figures(outputs, data) == {"auc": 0.75}


def test_decisions():
    assert Task("multilabel", "crossentropy", 2).decide([[0.1, -1], [2, 3]]).tolist() == [
        [1, 0],
        [1, 1],
    ]
    assert Task("binary", "crossentropy", 1, from_logits=False).decide([[0.4], [0.6]]).tolist() == [
        0,
        1,
    ]
    assert Task("binary", "mean_squared_error", 1).decide([[0.4], [0.6]]).tolist() == [0, 1]
    assert Task("values", "huber", 1).decide([[0.4]]) is None


def test_several_outputs():
    inputs = keras.Input((4,))
    outputs = {"size": layers.Dense(2, name="size")(inputs), "kind": layers.Dense(3)(inputs)}
    about = Description("both", (4,), None, outputs={"kind": THREE, "size": VALUES})
    weights = {"kind": OutputConfig(loss_weight=2.0, metrics=("F1Score",))}
    training = TrainingConfig(outputs=weights)
    task = task_of(training, about, keras.Model(inputs, outputs))
    assert isinstance(task, SeveralTasks)
    assert task.outputs == {"size": 2, "kind": 3}
    assert task.loss_weights() == {"size": 1.0, "kind": 2.0}
    assert outputs_needed(training, about) == {"kind": 3, "size": 2}
    targets = {"kind": np.array([0, 2]), "size": np.ones((2, 2), "float32")}
    data = split(np.zeros((2, 4)), targets)
    guesses = {"kind": np.eye(3)[[0, 2]] * 5, "size": np.ones((2, 2))}
    (name,) = task.figures(guesses, data)
    assert name == "kind_f1_score"
    (_, encoded), *_ = task.encode(data.evaluation_batches())
    assert encoded.keys() == {"size", "kind"}


@pytest.mark.parametrize(
    ("about", "expected"), [(THREE, True), (LABELS, True), (VALUES, False), (NONE, False)]
)
def test_is_decided(about, expected):
    assert is_decided(TrainingConfig(), about) is expected
