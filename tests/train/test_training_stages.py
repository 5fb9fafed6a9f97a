"""Settings of the training stages, together and alone."""

import json

import keras
import pytest
from pipeline_runs import (
    BLOCKS,
    QUICK,
    REGRESSION,
    arguments,
    check_refusal,
    read_history,
    read_report,
)

from cnn_l1.config import loading as configs
from cnn_l1.config.training_settings import TrainingConfig
from cnn_l1.data import sets as data
from cnn_l1.models.setup import configured
from cnn_l1.sparsity import counting
from cnn_l1.train import stages
from cnn_l1.train.__main__ import main as train_main


def sparsified(**settings):
    """A linear network after the stage under the penalty, and the stage's history."""
    resolved = configs.validate({**REGRESSION, **settings})
    setup = configured(resolved)
    model = stages.start_model(setup)
    return model, stages.sparsify(model, stages.Run(setup))


def test_weights_are_refreshed_under_reweighting_alone(monkeypatch):
    refreshed = []
    monkeypatch.setattr(
        "cnn_l1.sparsity.optimizers.Proximal.reweight", lambda self: refreshed.append(self) or 1
    )
    training = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 64}
    for shape in ("log", "reweighted"):
        sparsified(training=training, penalty={"l1_strength": 1.0, "shape": shape})
        assert len(refreshed) == (2 if shape == "reweighted" else 0)


COMBINATIONS = {
    "scheduled thresholding": (
        "training.epochs=2",
        "thresholding={threshold: 0.02, start_epochs: 1}",
        "fine_tuning.epochs=1",
    ),
    "subgradient, thresholding at the end, held": (
        "training.method=subgradient",
        "thresholding={relative_threshold: 0.5}",
        "fine_tuning.epochs=1",
        "fine_tuning.early_stopping_epochs=1",
    ),
    "thresholding without a penalty, held": (
        "penalty.name=none",
        "thresholding={relative_threshold: 0.5}",
        "fine_tuning.epochs=1",
    ),
    "accumulation, early stopping, biases and batch-norm": (
        "training.epochs=2",
        "training.early_stopping_epochs=1",
        "training.ramp_epochs=1",
        "optimizer.gradient_accumulation_steps=2",
        "penalty.biases=true",
        "penalty.batch_norm=true",
        "penalty.l1_strength=0.05",
        "fine_tuning.epochs=1",
        "fine_tuning.learning_rate=1e-3",
    ),
    "mixed_bfloat16, augmentation": (
        "model.dtype_policy=mixed_bfloat16",
        "data.augmentation={shift_pixels: 1, flip: true}",
        "export.formats=[float32]",
    ),
    "elastic net, standardized, only saved_model": (
        "penalty={name: l1l2, l1_strength: 0.01, l2_strength: 0.001}",
        "model.normalization=standardize",
        "export.formats=[saved_model]",
    ),
    "reweighted, steered to a target": (
        "training.epochs=2",
        "penalty={shape: reweighted, scale: 0.2}",
        "target={sparsity: 0.5, by_epochs: 1}",
        "fine_tuning.epochs=1",
        "export.formats=[float32]",
    ),
    "batch-norm folded": ("export.fold_batch_norm=true", "export.formats=[float32]"),
}


IN_THE_FAST_SUITE = ("scheduled thresholding",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in IN_THE_FAST_SUITE else pytest.mark.slow)
        for name in COMBINATIONS
    ],
)
def test_settings_together(config_file, tmp_path, name):
    overrides = [*QUICK, *COMBINATIONS[name]]
    assert train_main(arguments(config_file, tmp_path / "run", *overrides)) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    resolved = configs.load(tmp_path / "run" / "config.yaml")
    files = {"saved_model": "saved_model"}
    files |= {kind: f"model_{kind}.tflite" for kind in ("float32", "int8")}
    expected = {"model.keras"} | {files[kind] for kind in resolved.export.formats}
    assert set(report["files"]) == expected
    others = {"config.yaml", "report.json", "manifest.json", "history.csv"}
    if resolved.export.fold_batch_norm:
        others.add("model_unfolded.keras")
    assert {path.name for path in (tmp_path / "run").iterdir()} == expected | others
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"}
    assert not [layer for layer in model.layers if "Random" in type(layer).__name__]
    history = read_history(tmp_path / "run")
    zeros = counting.count(model)
    assert zeros.zeros > 0
    assert report["method"] == resolved.training.method
    thresholding = resolved.thresholding
    if resolved.training.method == "subgradient":
        assert history["sparsity"][0] == 0.0  # the proximal method alone makes exact zeros
    if thresholding is not None and thresholding.relative_threshold:
        # Half a deviation is some 38% of a normal kernel, and fine-tuning keeps it.
        assert zeros.sparsity > 0.2
        assert history["sparsity"][0] < 0.05
    if resolved.penalty.biases:
        # Proximal steps reach beyond the kernels, and fine-tuning holds those zeros.
        assert zeros.other_zeros > 0
    if thresholding is not None and thresholding.start_epochs:
        assert history["sparsity"][1] > history["sparsity"][0]


@pytest.mark.parametrize(
    ("steps", "execution", "made"), [(5, 10, 5), (15, 10, 5), (7, 3, 1), (24, 12, 12), (3, 3, 3)]
)
def test_steps_per_execution_come_out_even(steps, execution, made):
    training = TrainingConfig(steps_per_epoch=steps, steps_per_execution=execution)
    assert stages.steps_per_execution(training) == made
    assert stages.steps_per_execution(TrainingConfig(steps_per_execution=execution)) == (execution)


@pytest.mark.parametrize(("steps", "execution"), [(5, 10), (15, 10)])
def test_steps_per_epoch(steps, execution):
    """As many as are asked for, in fewer passes over the data or in several."""
    training = {"epochs": 2, "batch_size": 64, "steps_per_epoch": steps}
    held = data.load(configs.validate(REGRESSION).data, 0)
    assert held.train.batches_per_epoch(64) == 4
    model, rows = sparsified(training=training | {"steps_per_execution": execution})
    assert [row["epoch"] for row in rows] == [1, 2]
    assert int(model.optimizer.iterations) == 2 * steps
    # The cosine schedule ends with the training.
    rate = float(model.optimizer.inner_optimizer.learning_rate)
    assert rate == pytest.approx(0.01 * 0.05, rel=1e-5)


@pytest.mark.slow
def test_blocks_may_be_named_as_augmentation_is(config_file, tmp_path):
    blocks = [{"type": "conv", "filters": 3, "name": n} for n in ("flip", "crop", "shift")]
    blocks += BLOCKS[2:]
    settings = (
        f"model.blocks={json.dumps(blocks)}",
        "data.augmentation={shift_pixels: 1, crop_pixels: 1, flip: true}",
        "export.formats=[float32]",
    )
    assert train_main(arguments(config_file, tmp_path / "run", *QUICK, *settings)) == 0
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert {"flip", "crop", "shift"} <= {layer.name for layer in model.layers}
    told = read_report(tmp_path / "run")
    assert [layer["layer"] for layer in told["counts"]["layers"]][:3] == ["flip", "crop", "shift"]
    assert told["files"]["model_float32.tflite"]["weights"] == told["counts"]["weights"]


@pytest.mark.slow
def test_empty_layers_are_warned_of_and_exported(config_file, tmp_path):
    overrides = [*QUICK, "penalty.l1_strength=1e4", "export.formats=[float32, int8]"]
    with pytest.warns(UserWarning, match="all zero"):
        assert train_main(arguments(config_file, tmp_path / "run", *overrides)) == 0


def test_empty_layers_can_be_forbidden(config_file, tmp_path, capsys):
    overrides = ["training.empty_layers=forbid", "penalty.l1_strength=1e4"]
    flags = arguments(config_file, tmp_path / "run", *QUICK, *overrides)
    check_refusal(capsys, tmp_path, 1, flags, "all zero", "empty_layers")


def test_divergence_is_told(config_file, tmp_path, capsys):
    overrides = ["optimizer.name=sgd", "optimizer.learning_rate=1e30"]
    flags = arguments(config_file, tmp_path / "run", *QUICK, *overrides)
    check_refusal(capsys, tmp_path, 1, flags, "diverged", "optimizer.learning_rate")
