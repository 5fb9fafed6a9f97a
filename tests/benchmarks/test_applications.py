"""The networks of keras.applications, which no one here wrote."""

import keras
import pytest

from benchmarks import applications


def test_each_family_has_a_network():
    """A module of keras.applications is a family; the two of ResNet count as one each."""
    helpers = {"imagenet_utils"}
    networks = {
        name: vars(keras.applications)[name].__module__ for name in applications.IMAGE_SIZES
    }
    families = {
        function.__module__
        for name, function in vars(keras.applications).items()
        if name[0].isupper() and callable(function)
    }
    assert families - set(networks.values()) - helpers == set()


def test_the_page_shows_each_network():
    cells = {
        (name, step): ["yes", "", "2 → 1" if step == "shrink" else ""]
        for name in applications.IMAGE_SIZES
        for step in applications.STEPS
    }
    assert applications.faults(cells) == []
    assert applications.page(cells).count("equal |") == len(cells)
    cells["VGG16", "fold"] = ["refused", "a reason", ""]
    assert applications.faults(cells) == ["VGG16, fold: refused: a reason"]
    assert "refused [1](#notes)" in applications.page(cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ConvNeXtTiny", "EfficientNetB0", "MobileNetV3Small"])
def test_a_network_is_shrunk_folded_copied_and_exported_exactly(name):
    """The three whose graphs hold operations; `python -m benchmarks.applications` tries all."""
    cells = applications.measure([name])
    assert applications.faults(cells) == []


def test_the_page_that_is_committed_has_no_fault():
    text = applications.PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(applications.IMAGE_SIZES)
    for row in rows:
        assert row.split(" | ")[3:] == ["equal"] * (len(applications.STEPS) - 1) + ["equal |"]
