"""Sets of the Hugging Face hub: prepared files, read as TFDS' own. No hub is asked here."""

import socket
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builders import huggingface_dataset_builder

from cnn_l1.config import packages
from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.data import sets, tfds_sets

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), "uint8")
NAME = "huggingface:owner/My-Photos"


class OwnerMyPhotos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As TFDS writes a set of the hub: under its name, and without supervised keys."""

    VERSION = tfds.core.Version("1.2.0")
    name = "owner__my_photos"

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "dog"])
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"img": image, "kind": label, "note": text})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "test": self._generate_examples(20)}

    def _generate_examples(self, start):
        for number in range(start, 20 if start == 0 else 30):
            yield number, {"img": IMAGES[number], "kind": number % 2, "note": "a"}


def config_of(folder, **settings):
    given = {"name": NAME, "data_dir": str(folder), "image_size": (6, 5)} | settings
    return DataConfig(**given)


def refusal(folder, kind=ConfigError, **settings):
    with pytest.raises(kind) as caught:
        sets.load(config_of(folder, **settings), seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def installed(monkeypatch):
    """As if the package were there."""
    monkeypatch.setattr(packages, "_is_installed", lambda name: True)


@pytest.fixture
def network(monkeypatch):
    """As if the hub were there."""
    asked = []

    def connect(address, timeout):
        asked.append(address)
        return types.SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(socket, "create_connection", connect)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_a_prepared_set_needs_no_package(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "_is_installed", lambda name: False)
    OwnerMyPhotos(data_dir=tmp_path / "huggingface").download_and_prepare()
    data = sets.load(config_of(tmp_path), seed=0)
    assert data.about.class_names == ("cat", "dog")
    assert data.about.input_shape == (6, 5, 3)
    test = data.load_test()
    found = {image.tobytes(): label for image, label in zip(test.inputs, test.targets, strict=True)}
    assert found == {IMAGES[number].tobytes(): number % 2 for number in range(20, 30)}
    # TFDS' own set of a name is another than the hub's.
    message = refusal(tmp_path, name="huggingface:owner/other")
    assert "pip install 'cnn_l1[huggingface]'" in message


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "_is_installed", lambda name: name != "datasets")
    assert refusal(tmp_path) == (
        f"data.name: expected the packages of {NAME!r} to be installed "
        "(pip install 'cnn_l1[huggingface]'). Received: no datasets"
    )
    monkeypatch.setattr(packages, "_is_installed", lambda name: True)
    message = refusal(tmp_path)
    assert f"expected {NAME!r} prepared for TFDS in {tmp_path}." in message


def test_it_is_fetched_by_the_name_that_the_hub_has(tmp_path, monkeypatch, installed, network):
    made = []

    def fake(hf_repo_id, hf_config, data_dir):
        made.append((hf_repo_id, hf_config))
        return OwnerMyPhotos(data_dir=data_dir)

    monkeypatch.setattr(huggingface_dataset_builder, "HuggingfaceDatasetBuilder", fake)
    assert sets.load(config_of(tmp_path, download=True), seed=0).train.size == 18
    assert network == [("huggingface.co", 443)]
    assert sets.load(config_of(tmp_path), seed=0).train.size == 18  # from the files
    sets.load(config_of(tmp_path, name="huggingface:owner/other/small", download=True), seed=0)
    assert made == [("owner/My-Photos", None), ("owner/other", "small")]


def test_the_reason_of_a_failure_is_told(tmp_path, monkeypatch, installed, network):
    def fail(**_):
        raise RuntimeError("Failed to load") from ValueError("no such repository")

    monkeypatch.setattr(huggingface_dataset_builder, "HuggingfaceDatasetBuilder", fail)
    message = refusal(tmp_path, tfds_sets.DataError, download=True)
    assert message == (
        f"data.download: expected to fetch and prepare {NAME!r} in {tmp_path}. "
        "Received: RuntimeError: no such repository"
    )
