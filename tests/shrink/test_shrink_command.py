"""`python -m cnn_l1.shrink`: on a saved model, and what a user does wrong."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from cnn_l1.shrink import removal
from cnn_l1.shrink.__main__ import main as shrink_main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A `.keras` file of a compiled user's model, half of its filters zero."""
    keras.utils.set_random_seed(0)
    conv = layers.Conv2D(8, 3, padding="same", name="conv")
    stack = [conv, layers.ReLU(), layers.Flatten(), layers.Dense(3, name="head")]
    model = keras.Sequential([keras.Input((6, 6, 2)), *stack])
    model.compile("adam", "mse")
    kernel = np.array(conv.kernel)
    kernel[..., :4] = 0
    conv.kernel.assign(kernel)
    path = tmp_path_factory.mktemp("saved") / "large.keras"
    model.save(path)
    return path


def test_shrinks_a_saved_model(saved, tmp_path, capsys):
    output = tmp_path / "small.keras"
    assert shrink_main([str(saved), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    for text in ("conv", "8 → 4", "5,184 → 2,592", f"Wrote {output}"):
        assert text in printed
    large, small = keras.models.load_model(saved), keras.models.load_model(output)
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")
    # Float32 sums of 288 terms, in another order.
    np.testing.assert_allclose(small(x), large(x), rtol=0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["small.keras"]
    # A file that is there stays, unless asked otherwise.
    before = output.read_bytes()
    assert shrink_main([str(saved), "--output", str(output), "--round-to", "8"]) == 2
    assert output.read_bytes() == before
    again = [str(saved), "--output", str(output), "--round-to", "8", "--overwrite"]
    assert shrink_main(again) == 0
    assert keras.models.load_model(output).get_layer("conv").filters == 8


def test_dry_run_only_plans(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert shrink_main([str(saved), "--dry-run"]) == 0
    assert "8 → 4" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "--output: expected where to write, or --dry-run. Received: neither"),
        (["--output", "small.h5"], "--output: expected a name that ends in .keras"),
        (["--output", "no/where/small.keras"], "--output: expected a folder that is there"),
        (["--dry-run", "--round-to", "0"], "--round-to: expected 1 or more. Received: 0"),
    ],
)
def test_bad_flags_are_answered_at_once(saved, tmp_path, flags, text):
    # In a process of its own: TensorFlow must not have been imported.
    code = (
        "import sys; from cnn_l1.shrink.__main__ import main; code = main(sys.argv[1:]); "
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved), *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert text in done.stderr
    assert not list(tmp_path.iterdir())


def test_bad_models(tmp_path, capsys):
    output = tmp_path / "small.keras"
    missing = tmp_path / "missing.keras"
    assert shrink_main([str(missing), "--output", str(output)]) == 2
    assert "expected a file" in capsys.readouterr().err
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no zip")
    assert shrink_main([str(broken), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert "expected a .keras or .h5 file of a Keras model" in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["broken.keras"]


def test_a_full_disk_leaves_nothing(saved, tmp_path, monkeypatch, capsys):
    def fail(self, path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", fail)
    assert shrink_main([str(saved), "--output", str(tmp_path / "small.keras")]) == 1
    assert "expected room to write" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_difference_is_told():
    def linear(weight):
        model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
        model.set_weights([np.array([[weight]])])
        return model

    x = np.array([[1.0], [-2.0]], "float32")
    removal.check_same_output(linear(1.0), linear(1.00005), x)
    with pytest.raises(removal.ShrinkError, match=r"difference of 0\.002, for values up to 2"):
        removal.check_same_output(linear(1.0), linear(1.001), x)
