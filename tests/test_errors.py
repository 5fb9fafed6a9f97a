"""Every error class of the package has one base, which says what a command ends with."""

import importlib
import pathlib

import pytest

import cnn_l1
from cnn_l1 import errors
from cnn_l1.config.loading import ConfigError
from cnn_l1.process import failures
from cnn_l1.sparsity.setpoints import TargetError

PACKAGE = pathlib.Path(cnn_l1.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("[a-z]*.py")
)


def classes():
    for name in MODULES:
        module = importlib.import_module(name)
        for found in vars(module).values():
            own = isinstance(found, type) and found.__module__ == module.__name__
            if own and issubclass(found, Exception) and not issubclass(found, Warning):
                yield found


def test_every_error_has_the_base():
    found = list(classes())
    assert len(found) > 15
    private = [one for one in found if one.__name__.startswith("_")]
    assert [one for one in found if not issubclass(one, errors.CnnL1Error)] == private


def test_exit_codes_and_lines():
    assert ConfigError("x").exit_code == 2
    assert failures.known_failure(cnn_l1.CnnL1Error("one line")) == "one line"
    assert failures.known_failure(TargetError("too far")) == "target: too far"
    assert failures.known_failure(KeyError("a bug")) is None


@pytest.mark.parametrize("base", [ValueError, RuntimeError])
def test_they_are_still_errors_of_pythons_kinds(base):
    assert any(issubclass(one, base) for one in classes())
