"""What is learnt: losses, outputs, decisions and metrics, against numbers by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.training_settings import TrainingConfig
from cnn_l1.data.splits import Description
from cnn_l1.data.task_choice import task_of
from cnn_l1.data.tasks import Task

TWO = Description("two", (3,), ("no", "yes"))
FOUR = Description("four", (3,), tuple("abcd"))
NUMBER = Description("number", (3,), None)
NUMBERS = Description("numbers", (3,), None, target_count=3)


@pytest.mark.parametrize(
    ("loss", "about", "expected"),
    [
        ("auto", TWO, Task("classes", "crossentropy", 2)),
        ("auto", FOUR, Task("classes", "crossentropy", 4)),
        ("crossentropy", TWO, Task("classes", "crossentropy", 2)),
        ("crossentropy", FOUR, Task("classes", "crossentropy", 4)),
        ("squared_error", TWO, Task("classes", "squared_error", 1)),
        ("squared_error", FOUR, Task("classes", "squared_error", 4)),
        ("auto", NUMBER, Task("values", "squared_error", 1)),
        ("auto", NUMBERS, Task("values", "squared_error", 3)),
        ("squared_error", NUMBER, Task("values", "squared_error", 1)),
        ("squared_error", NUMBERS, Task("values", "squared_error", 3)),
    ],
)
def test_task_of(loss, about, expected):
    assert task_of(TrainingConfig(loss=loss), about) == expected


@pytest.mark.parametrize("about", [NUMBER, NUMBERS])
def test_crossentropy_of_numbers_is_refused(about):
    with pytest.raises(ConfigError) as caught:
        task_of(TrainingConfig(loss="crossentropy"), about)
    assert str(caught.value) == (
        "training.loss: expected 'auto' or 'squared_error', for the targets of "
        f"{about.name!r} are numbers. Received: 'crossentropy'"
    )


def test_what_validation_chooses_by():
    classes, values = (
        task_of(TrainingConfig(loss="auto"), FOUR),
        task_of(TrainingConfig(loss="auto"), NUMBER),
    )
    assert (classes.score, classes.larger_is_better) == ("accuracy", True)
    assert (values.score, values.larger_is_better) == ("data_loss", False)
    for loss in ("crossentropy", "squared_error"):
        for about in (TWO, FOUR):
            task = task_of(TrainingConfig(loss=loss), about)
            names = {metric.name for metric in task.keras_metrics()}
            assert task.score in names
            assert names == {"data_loss", "accuracy"}
    assert [metric.name for metric in values.keras_metrics()] == ["data_loss"]


def test_decide_by_the_largest():
    for task in (Task("classes", "crossentropy", 3), Task("classes", "squared_error", 3)):
        outputs = np.array([[0.1, 0.9, 0.5], [-1.0, -3.0, -2.0], [0.0, 0.0, 1e-9]])
        assert task.decide(outputs).tolist() == [1, 0, 2]


def test_decide_two_classes_at_a_half():
    task = Task("classes", "squared_error", 1)
    outputs = np.array([[0.4], [0.6], [-3.0], [7.0], [0.5]])
    decided = task.decide(outputs)
    assert decided.tolist() == [0, 1, 0, 1, 0]
    assert decided.dtype == "int64"


def test_values_are_not_decided():
    assert Task("values", "squared_error", 1).decide(np.zeros((2, 1))) is None


def encoded(task, targets):
    inputs = np.zeros((len(targets), 3), "float32")
    batches = tf.data.Dataset.from_tensor_slices((inputs, np.array(targets))).batch(2)
    pairs = [(x.numpy(), y.numpy()) for x, y in task.encode(batches)]
    assert all(x.shape == (len(y), 3) for x, y in pairs)
    return np.concatenate([y for _, y in pairs])


@pytest.mark.parametrize(
    ("task", "targets", "expected"),
    [
        (Task("classes", "crossentropy", 3), [0, 2, 1], [0, 2, 1]),
        (Task("classes", "squared_error", 3), [0, 2, 1], [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (Task("classes", "squared_error", 1), [0, 1, 1], [[0], [1], [1]]),
        (Task("values", "squared_error", 1), [0.5, 2.0, -1.0], [[0.5], [2.0], [-1.0]]),
        (Task("values", "squared_error", 2), [[1.0, 2.0], [3.0, 4.0]], [[1, 2], [3, 4]]),
    ],
    ids=["labels", "one-hot", "zero or one", "value", "values"],
)
def test_encode(task, targets, expected):
    found = encoded(task, targets)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == ("int64" if task.loss == "crossentropy" else "float32")


def evaluate(task, outputs, targets):
    """Loss and metrics as Keras gives them for outputs that are the inputs, in two batches."""
    outputs = np.array(outputs, "float32")
    inputs = keras.Input((task.outputs,))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile(loss=task.keras_loss(), metrics=task.keras_metrics())
    batches = tf.data.Dataset.from_tensor_slices((outputs, np.array(targets))).batch(2)
    return model.evaluate(task.encode(batches), verbose=0, return_dict=True)


def check(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # float32 sums of up to a dozen numbers.
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_crossentropy_by_hand():
    outputs, labels = [[0.0, 0.0], [2.0, 0.0], [0.0, math.log(3.0)], [1.0, 0.0]], [0, 1, 1, 0]
    # −log of the softmax: 1/2; e⁰/(e² + 1); 3/4; e/(e + 1).
    losses = [math.log(2), math.log(math.exp(2) + 1), math.log(4 / 3), math.log(1 + math.exp(-1))]
    mean = sum(losses) / 4
    found = evaluate(Task("classes", "crossentropy", 2), outputs, labels)
    # Equal outputs decide for the first class: right; the second is wrong.
    check(found, {"loss": mean, "data_loss": mean, "accuracy": 3 / 4})


def test_squared_error_of_classes_by_hand():
    outputs, labels = (
        [[0.5, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [3.0, 0.0, 0.0]],
        [0, 2, 1, 0],
    )
    # (0.25 + 0 + 4 + 4) / 12, over examples and outputs: without a half, no sum over classes.
    check(
        evaluate(Task("classes", "squared_error", 3), outputs, labels),
        {"loss": 8.25 / 12, "data_loss": 8.25 / 12, "accuracy": 3 / 4},
    )


def test_squared_error_of_two_classes_by_hand():
    outputs, labels = [[0.4], [0.6], [0.4], [2.0]], [0, 1, 1, 1]
    # (0.16 + 0.16 + 0.36 + 1) / 4.
    check(
        evaluate(Task("classes", "squared_error", 1), outputs, labels),
        {"loss": 0.42, "data_loss": 0.42, "accuracy": 3 / 4},
    )


def test_squared_error_of_values_by_hand():
    one = evaluate(
        Task("values", "squared_error", 1), [[1.0], [2.0], [5.0], [0.0]], [0.0, 2.0, 2.0, 4.0]
    )
    check(one, {"loss": 26 / 4, "data_loss": 26 / 4})
    outputs, targets = [[1.0, 0.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, -1.0]]
    two = evaluate(Task("values", "squared_error", 2), outputs, targets)
    check(two, {"loss": 14 / 4, "data_loss": 14 / 4})


@pytest.mark.parametrize(
    "task",
    [
        Task("classes", "crossentropy", 4),
        Task("classes", "squared_error", 4),
        Task("classes", "squared_error", 1),
    ],
)
def test_keras_counts_the_decisions(task):
    """Accuracy in training is accuracy by `decide`, which measures files."""
    random = np.random.default_rng(0)
    outputs = random.normal(0.5, 1.0, (50, task.outputs)).astype("float32")
    labels = random.integers(0, max(task.outputs, 2), 50)
    expected = np.mean(task.decide(outputs) == labels)
    assert evaluate(task, outputs, labels)["accuracy"] == pytest.approx(expected, rel=1e-6)
