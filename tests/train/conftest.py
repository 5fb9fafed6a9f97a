"""Runs that several files look at, made once a process."""

import contextlib
import io

import keras
import pytest
import yaml
from pipeline_runs import (
    REGRESSION,
    TINY,
    arguments,
)

from cnn_l1.train.__main__ import main as train_main


@pytest.fixture(autouse=True)
def _float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def full_run(config_file, tmp_path_factory):
    """The folder of one whole run: three epochs, two of fine-tuning, dense baseline."""
    output = tmp_path_factory.mktemp("runs") / "deep" / "full"
    assert train_main(arguments(config_file, output)) == 0
    return output


@pytest.fixture(scope="session")
def regression_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "regression.yaml"
    path.write_text(yaml.safe_dump(REGRESSION), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def regression_run(regression_file, tmp_path_factory):
    """The folder of one whole run of `diabetes`, and what it printed."""
    output = tmp_path_factory.mktemp("runs") / "regression"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert train_main(arguments(regression_file, output)) == 0
    return output, printed.getvalue()
