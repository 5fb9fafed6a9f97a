"""What several test files share."""

import gc

import keras
import pytest

from cnn_l1.graph.layer_kinds import LAYER_KINDS

# Helpers whose assertions are to be told as those of tests are.
pytest.register_assert_rewrite("pipeline_runs", "shrink_models")


def pytest_collection_finish():
    """Leave what was imported out of garbage collections.

    TensorFlow's converter and `keras.backend.clear_session` collect at every call, and of a
    heap that holds TensorFlow a collection takes longer than a small network's conversion.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap():
    """The same of what the tests of a file leave behind, such as functions that were traced."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def float64():
    """Everything in float64, the loss too: the fixed points are met to 1e-8."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True)
def _registered_layer_kinds():
    """Layers that a test registers are forgotten after it: their kernels' names count anywhere."""
    before = dict(LAYER_KINDS)
    yield
    if before != LAYER_KINDS:
        LAYER_KINDS.clear()
        LAYER_KINDS.update(before)
