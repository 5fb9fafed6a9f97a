"""Python blocks of README and docs but tutorials, run as written, on logits and a softmax."""

import pathlib
import re
import warnings

import keras
import numpy as np
import pytest

import cnn_l1
import cnn_l1.graph.loss_check

ROOT = pathlib.Path(cnn_l1.__file__).parent.parent
# Tutorials have their own data and order: tests/test_tutorials.py.
DOCS = [p for p in sorted((ROOT / "docs").glob("*.md")) if not p.stem.startswith("tutorial_")]
PAGES = [ROOT / "README.md", *DOCS]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def test_readme_has_python_blocks():
    assert len(blocks(ROOT / "README.md")) == 1
    assert len(blocks(ROOT / "docs" / "own_models.md")) == 4


def network(activation):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation=activation)(x))


def bright_rows(count=240):
    """Images of noise with one bright band: which of three, is the class."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 0.5, (count, 8, 8, 1)).astype("float32")
    y = np.arange(count) % 3
    for image, label in zip(x, y, strict=True):
        image[3 * label : 3 * label + 2] += 1.0
    return x, y


LOOPS = [p for p in PAGES if any("model.fit(" in one for one in blocks(p))]


@pytest.mark.parametrize("activation", ["linear", pytest.param("softmax", marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", LOOPS, ids=lambda page: page.stem)
def test_blocks_run_and_learn(page, activation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network(activation).save("mine.keras")
    x, y = bright_rows()
    names = {"x": x, "y": y}
    with warnings.catch_warnings():
        warnings.simplefilter("error", cnn_l1.graph.loss_check.LossWarning)
        first, *others = (one for one in blocks(page) if "cnn_l1.sparsify(" not in one)
        exec(compile(first, str(page), "exec"), names)
        held = [v.numpy() == 0 for v in names["model"].trainable_variables]
        model = names["model"]
        assert np.mean(model.predict(x, verbose=0).argmax(axis=1) == y) > 0.95
        assert 0 < cnn_l1.count(model).sparsity < 1
        assert any(zeros.any() for zeros in held)
        sparse = keras.models.load_model("sparse.keras")
        np.testing.assert_allclose(sparse.predict(x), model.predict(x), atol=1e-6)
        for name in ("sparse.tflite", "sparse_int8.tflite"):
            assert pathlib.Path(name).stat().st_size > 0
        for block in others:
            before = model.predict(x, verbose=0)
            exec(compile(block, str(page), "exec"), names)
            if "small" in names:
                small = names.pop("small").predict(x, verbose=0)
                expected = model.predict(x, verbose=0)
                assert np.abs(expected - before).max() > 0  # it was trained
                # Sums of some float32 terms in another order.
                np.testing.assert_allclose(small, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/own_models.md"])
def test_one_call_runs_and_learns(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = bright_rows()
    trained = network("softmax")
    trained.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    trained.fit(x, y, epochs=10, verbose=0)
    trained.save("mine.keras")
    names = {"x": x, "y": y}
    (block,) = (one for one in blocks(ROOT / page) if "cnn_l1.sparsify(" in one)
    exec(compile(block, page, "exec"), names)
    result = names["result"]
    assert np.mean(result.model.predict(x, verbose=0).argmax(axis=1) == y) > 0.9
    whole = cnn_l1.count_macs(names["model"])
    assert sum(cnn_l1.count_macs(result.model).values()) <= 0.5 * sum(whole.values())
    assert result.files["int8"].stat().st_size > 0
