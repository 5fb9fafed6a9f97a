"""The registry of formats: every dotted name is there, and no TensorFlow is needed to ask it."""

import pathlib
import pkgutil
import subprocess
import sys

import pytest

from cnn_l1.config import formats
from cnn_l1.measure import measurement


@pytest.mark.parametrize("one", formats.FORMATS, ids=lambda one: one.name)
def test_writers_and_measuring_functions_are_there(one):
    assert callable(pkgutil.resolve_name(one.writer))
    assert one.measure is None or callable(pkgutil.resolve_name(one.measure))


def test_names_and_files_are_different():
    names = [one.name for one in formats.FORMATS]
    assert len(set(names)) == len(names)
    assert tuple(name for name in names if name != "keras") == formats.NAMES
    files = [one.file_name for one in formats.FORMATS if one.file_name]
    assert len(set(files)) == len(files)


def test_tensorflow_is_not_imported():
    code = "import sys, cnn_l1.config.packages; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_is_measured_by_its_suffix(tmp_path):
    assert formats.measuring_function("a/b.tflite") is measurement.measure_tflite
    assert formats.measuring_function("b.h5") is measurement.measure_keras
    assert formats.measuring_function(tmp_path) is measurement.measure_saved_model
    message = r"must be a \.tflite, \.keras, \.h5 or \.onnx file, or the folder of a SavedModel"
    with pytest.raises(ValueError, match=message):
        formats.measuring_function(pathlib.Path("model.txt"))


def test_a_source_is_made_of_the_first_that_is_chosen():
    source = formats.format_of("c")
    assert formats.source_of(source, ["float32", "int8", "c"]).name == "int8"
    assert formats.source_of(source, ["float32", "c"]).name == "float32"


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"expected a format, one of saved_model, .*'int9'"):
        formats.format_of("int9")
