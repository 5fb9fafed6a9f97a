"""What several test files share."""

import keras
import pytest

# Helpers whose assertions are to be told as those of tests are.
pytest.register_assert_rewrite("pipeline_runs", "shrink_models")


@pytest.fixture
def float64():
    """Everything in float64, the loss too: the fixed points are met to 1e-8."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
