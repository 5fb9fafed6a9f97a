"""What an autoencoder that finds anomalies learns from: normal examples, and their scale."""

import numpy as np
import pytest

from cnn_l1.config import loading
from cnn_l1.models.setup import configured, load_examples


@pytest.fixture
def config(tmp_path):
    random = np.random.default_rng(0)
    labels = np.tile([0, 0, 1], 40)
    inputs = random.standard_normal((120, 3)) * 2 + 5 + 100 * labels[:, None]
    np.savez(tmp_path / "set.npz", x=inputs.astype("float32"), y=labels)
    data = {"name": "arrays", "path": str(tmp_path / "set.npz")}
    model = {"name": "autoencoder"}
    return loading.validate({"name": "t", "data": data, "model": model, "training": TRAINING})


TRAINING = {"task": "autoencoder"}


def test_inputs_are_scaled_by_what_is_normal_alone(config):
    setup = configured(config)
    inputs = setup.dataset.train.sample(setup.dataset.train.size)
    assert len(inputs) < 80  # of 96 to train and validate on, two thirds are normal
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(inputs.std(axis=0), 1, atol=1e-3)


def test_examples_to_measure_on_are_scaled_as_in_training(config):
    setup = configured(config)
    model = setup.new_network(config)
    examples, task = load_examples(config, model)
    assert task.normal_class == 0
    expected = setup.examples()
    np.testing.assert_array_equal(examples.sample(24), expected.sample(24))
