"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import pathlib

import keras
import numpy as np
import pytest

import cnn_l1

PACKAGE = pathlib.Path(cnn_l1.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for folder in ("graph", "shrink", "sparsity")
    for path in sorted((PACKAGE / folder).glob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, capsys):
    keras.utils.set_random_seed(0)
    names = {"cnn_l1": cnn_l1, "keras": keras, "np": np}
    results = doctest.testmod(importlib.import_module(name), extraglobs=names)
    assert results.attempted > 0
    assert results.failed == 0, capsys.readouterr().out
