"""The command `python -m cnn_l1.sweep`: a path, a choice, one look at the test split."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from sklearn.linear_model import LassoCV, lasso_path
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from small_sweeps import linear, run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from cnn_l1.config import loading as configs
from cnn_l1.data import sets, tfds_sets
from cnn_l1.process import tables
from cnn_l1.runs import pictures, report
from cnn_l1.sweep import __main__ as sweep_command
from cnn_l1.sweep import largest_strength, plan, search
from cnn_l1.sweep.__main__ import main as sweep_main
from cnn_l1.sweep.engines import read_failure, run_job
from cnn_l1.sweep.selection import Row
from cnn_l1.train import measure_again as measuring_again

LINEAR = linear(500, sweep={"strengths": [5.0, 60.0]})
CLASSES = {
    "name": "classes",
    "data": {"name": "digits"},
    "model": {
        "blocks": [
            {"type": "conv", "filters": 4, "strides": 2},
            {"type": "flatten"},
            {"type": "dense", "units": "classes", "activation": "linear"},
        ]
    },
    "optimizer": {"learning_rate": 0.01},
    "training": {"epochs": 2},
    "fine_tuning": {"epochs": 0},
    "baseline": True,
    "tensorboard": True,
    "export": {"formats": ["float32"]},
    "measure": {"latency_runs": 1},
    "sweep": {"strengths": [0.03, 0.001], "rule": "best"},
}


@pytest.fixture(autouse=True)
def _float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "run_locally", run_here)
        patch.setattr(pictures, "draw_features", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Writes configs."""
    folder = tmp_path_factory.mktemp("configs")

    def write(settings):
        path = folder / f"{settings['name']}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    return write


def call(path, output, *flags):
    """Run the command in this process; flags with `=` are settings."""
    settings = [part for flag in flags if "=" in flag for part in ("--set", flag)]
    rest = [flag for flag in flags if "=" not in flag]
    return sweep_main(["--config", str(path), "--output", str(output), *settings, *rest])


def read_csv(output):
    with (output / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def table_of(output):
    """The rows without their times, which no two runs share."""
    return [{k: v for k, v in row.items() if "latency" not in k} for row in read_csv(output)]


@pytest.fixture(scope="module")
def classes(files, tmp_path_factory):
    """A finished sweep of digits, and how often its test split was read."""
    output = tmp_path_factory.mktemp("sweeps") / "classes"
    reads, read = [], tfds_sets.read_split

    def counted(builder, keys, shape, config, split):
        reads.append(split)
        return read(builder, keys, shape, config, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "read_split", counted)
        assert call(files(CLASSES), output) == 0
    return files(CLASSES), output, reads


POINTS = ("dense_seed_0", "point_000_seed_0", "point_001_seed_0")


@pytest.mark.slow
def test_everything_is_written(classes):
    _, output, _ = classes
    assert {path.name for path in output.iterdir()} == {
        "config.yaml", "points", "logs", "sweep.json", "sweep.csv", "pictures", "tensorboard",
        "chosen",
    }  # fmt: skip
    assert sorted(path.name for path in (output / "points").iterdir()) == sorted(POINTS)
    drawn = {path.stem for path in (output / "pictures").iterdir()}
    assert drawn == {"path", "score_sparsity", "score_bytes", "score_macs"}
    assert (output / "chosen" / "model_float32.tflite").is_file()
    assert configs.load(output / "config.yaml") == configs.load(classes[0])


@pytest.mark.slow
def test_test_split_is_read_once_for_the_chosen_one(classes):
    _, output, reads = classes
    assert reads.count("test") == 1
    assert reads[-1] == "test"
    for name in POINTS:
        measured = read_json(output / "points" / name / "report.json")["data"]
        assert measured["measured_split"] == "validation"
    chosen = read_json(output / "chosen" / "report.json")["data"]
    assert (chosen["measured_split"], chosen["measured_examples"]) == ("test", 360)


@pytest.mark.slow
def test_rows_agree_with_the_reports(classes):
    _, output, _ = classes
    rows, listed = read_json(output / "sweep.json")["rows"], read_csv(output)
    assert [row["l1_strength"] for row in rows] == [0.0, 0.001, 0.03]
    for row, line, name in zip(rows, listed, POINTS, strict=True):
        made = read_json(output / "points" / name / "report.json")
        measured = made["files"]
        counted = measured.get("shrunk/model_float32.tflite", measured["model_float32.tflite"])
        assert row["score"] == counted["accuracy"]
        assert row["standard_error"] == counted["accuracy_standard_error"]
        assert (row["bytes"], row["macs"]) == (counted["bytes"], counted["macs"])
        assert row["sparsity"] == made["counts"]["sparsity"]
        assert made["l1_strength"] == (row["l1_strength"] or 1e-3)
        assert {key: "" if value is None else str(value) for key, value in row.items()} == line
    # The dense baseline is a run without any penalty.
    assert rows[0]["sparsity"] == 0.0
    assert rows[2]["sparsity"] > rows[1]["sparsity"]


@pytest.mark.slow
def test_choice_is_the_best_on_validation_and_is_tested_as_it_is(classes):
    _, output, _ = classes
    summary = read_json(output / "sweep.json")
    best = max(summary["rows"][1:], key=lambda row: row["score"])
    assert [row["chosen"] for row in summary["rows"]] == [row is best for row in summary["rows"]]
    chosen = summary["chosen"]
    assert chosen["l1_strength"] == best["l1_strength"]
    source = output / "points" / chosen["run"]
    file = chosen["file"].removeprefix("chosen/")
    assert (source / file).read_bytes() == (output / chosen["file"]).read_bytes()
    assert chosen["accuracy"] == read_json(output / "chosen/report.json")["files"][file]["accuracy"]
    assert chosen["examples"] == 360


@pytest.mark.slow
def test_runs_are_listed_with_their_reports(classes):
    _, output, _ = classes
    runs = read_json(output / "sweep.json")["runs"]
    assert [run["name"] for run in runs] == list(POINTS)
    assert {run["node"] for run in runs} == {None}


@pytest.mark.slow
def test_tensorboard_reads_the_hyperparameters(classes):
    _, output, _ = classes
    for name, strength in zip(POINTS[1:], (0.001, 0.03), strict=True):
        events = EventAccumulator(str(output / "tensorboard" / name))
        events.Reload()
        tags = events.summary_metadata["_hparams_/session_start_info"]
        content = plugin_data_pb2.HParamsPluginData.FromString(tags.plugin_data.content)
        given = content.session_start_info.hparams
        assert given["l1_strength"].number_value == strength
        assert given["seed"].number_value == 0
        made = read_json(output / "points" / name / "report.json")
        found = tf.make_ndarray(events.Tensors("sparsity")[0].tensor_proto)
        # Written as float32.
        assert float(found) == pytest.approx(made["counts"]["sparsity"], rel=1e-6)


def resume(classes, tmp_path, *flags):
    """Go on with a copy of the finished sweep."""
    path, finished, _ = classes
    output = tmp_path / "copy"
    shutil.copytree(finished, output)
    return call(path, output, "--resume", *flags), output


@pytest.mark.slow
def test_resume_after_the_end_repeats_nothing(classes, tmp_path):
    stamps = {p: p.stat().st_mtime_ns for p in (classes[1] / "points").rglob("report.json")}
    code, output = resume(classes, tmp_path)
    assert code == 0
    assert {event["state"] for event in read_json(output / "sweep.json")["events"]} == {"there"}
    assert table_of(output) == table_of(classes[1])
    assert len(stamps) == 3
    for path, stamp in stamps.items():
        assert (output / path.relative_to(classes[1])).stat().st_mtime_ns == stamp
    # One event file a run: the page would show each point twice.
    written = [list((output / "tensorboard" / name).iterdir()) for name in POINTS]
    assert [len(files) for files in written] == [1, 1, 1]


@pytest.mark.slow
def test_another_rule_and_budget_choose_from_the_same_points(classes, tmp_path):
    sparse = read_json(classes[1] / "sweep.json")["rows"][2]
    limit = int(sparse["bytes"])
    flags = "sweep.rule=one_standard_error", f"sweep.budget={{max_bytes: {limit}}}"
    code, output = resume(classes, tmp_path, *flags)
    assert code == 0
    summary = read_json(output / "sweep.json")
    assert [row["fits"] for row in summary["rows"]] == [False, False, True]
    assert summary["chosen"]["l1_strength"] == sparse["l1_strength"]
    assert summary["chosen"]["fits"] is True
    assert summary["budget"]["max_bytes"] == limit


@pytest.mark.slow
def test_impossible_budget_names_the_nearest_and_tests_nothing(classes, tmp_path, capsys):
    def fail(*_):
        raise AssertionError("the test split was read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring_again, "measure_again", fail)
        code, output = resume(classes, tmp_path, "sweep.budget={max_macs: 1}")
    assert code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: sweep.budget: expected a strength whose file fits. Received:")
    assert "the nearest is strength 0.03 with macs" in message
    summary = read_json(output / "sweep.json")
    assert (summary["chosen"], summary["error"]) == (None, message[len("error: ") : -1])
    assert not any(row["chosen"] for row in summary["rows"])
    assert len(read_csv(output)) == 3
    # That of the sweep before would be taken for this one's.
    assert not (output / "chosen").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["training.epochs=3", "seed=1", "sweep.strengths=[0.001]", "sweep.seeds=[0, 1]"]
)
def test_resume_with_another_config_is_refused(classes, capsys, change):
    path, output, _ = classes
    before = (output / "sweep.json").read_text(encoding="utf-8")
    assert call(path, output, "--resume", change) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --resume: expected the config that the sweep in ")
    assert message.count("\n") == 1
    assert (output / "sweep.json").read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_sweep_that_is_there_is_not_written_over(classes, capsys):
    path, output, _ = classes
    assert call(path, output) == 2
    assert "--output: expected a folder that does not exist yet." in capsys.readouterr().err
    assert (output / "sweep.json").is_file()


@pytest.mark.parametrize("flag", ["--overwrite", "--resume", None])
@pytest.mark.parametrize("kind", ["run", "file", "notes"])
def test_what_is_no_sweep_is_left_alone(files, tmp_path, capsys, flag, kind):
    output = tmp_path / "there"
    if kind == "file":
        output.write_text("mine", encoding="utf-8")
    else:
        output.mkdir()
        (output / {"run": "config.yaml", "notes": "notes.txt"}[kind]).write_text("mine")
    assert call(files(CLASSES), output, *([flag] if flag else [])) == 2
    assert "Received: " in capsys.readouterr().err
    assert [p.read_text() for p in [output, *output.rglob("*")] if p.is_file()] == ["mine"]


BAD = {
    "penalty.name=none": "penalty.name: expected a penalty to sweep. Received: 'none'",
    "sweep.file=model_int8.tflite": "sweep.file: expected a file that export.formats writes",
    "sweep.points=0": "sweep.points: expected greater than or equal to 1. Received: 0",
    "sweep.early_stopping={}": "early_stopping needs engine 'ray', not 'local'",
    "sweep.budget={}": "at least one of its limits must be set",
    "sweep.strengths=[1, 1]": "strengths must be one or more, each once",
    "sweep.max_strength=1": "max_strength must be left out where strengths are given",
    "sweep.folds=1": "sweep.folds: expected greater than or equal to 2. Received: 1",
    "penalty={l1_strength: 0, layers: {dense*: 1}}": "penalty.l1_strength: expected more than 0",
    "sweep={folds: 2, strengths: [1]} data.validation_split=test": "fold must be left out where",
    "sweep={points: 3} penalty.l1_strength=0": "penalty.l1_strength: expected more than 0",
    "export.formats=[] sweep.budget={max_latency_ms: 1}": "sweep.budget: expected a TFLite file",
    "--address=localhost:1": "--address: expected sweep.engine ray. Received: sweep.engine local",
}


@pytest.mark.parametrize(("settings", "message"), BAD.items())
def test_bad_settings_are_told_in_one_line_before_tensorflow(
    files, tmp_path, capsys, monkeypatch, settings, message
):
    def fail():
        raise AssertionError("TensorFlow was imported")

    monkeypatch.setattr(sweep_command, "import_tensorflow", fail)
    flags = [
        part
        for setting in settings.replace(" data", "\0data").replace(" penalty.", "\0penalty.")
        .replace(" sweep.", "\0sweep.").split("\0")
        for part in (setting.split("=") if setting.startswith("--") else ["--set", setting])
    ]  # fmt: skip
    output = tmp_path / "output"
    arguments = ["--config", str(files(CLASSES)), "--output", str(output), *flags]
    assert sweep_main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert not output.exists()


def test_bad_setting_is_told_without_tensorflow(files, tmp_path):
    code = (
        "import sys; from cnn_l1.sweep.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(9 if 'tensorflow' in sys.modules or 'keras' in sys.modules else code)"
    )
    flags = ["--config", str(files(CLASSES)), "--output", str(tmp_path / "o"), "--set"]
    done = subprocess.run([sys.executable, "-c", code, *flags, "sweep.workers=0"], check=False)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.name=digit", "data.name: expected one of digits, "),
        ("penalty.layers={convolution: 1}", "penalty.layers: expected patterns that match"),
        ("penalty={name: slimming}", "penalty.name: "),
        ("training.loss=squared", "training.loss: expected "),
    ],
)
def test_what_no_point_could_do_is_told_before_a_folder_is_made(
    files, tmp_path, capsys, setting, message
):
    assert call(files(CLASSES), tmp_path / "output", setting) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "output").exists()


def test_max_drop_is_for_classes(files, tmp_path, capsys):
    assert call(files(LINEAR), tmp_path / "output", "sweep.rule=max_drop") == 2
    assert "sweep.rule: expected 'best' or 'one_standard_error', " in capsys.readouterr().err


def test_ray_that_is_not_installed_is_told(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert call(files(LINEAR), tmp_path / "output", "sweep.engine=ray") == 2
    assert "sweep.engine: expected Ray to be installed for 'ray'" in capsys.readouterr().err


def test_dry_run_tells_the_runs_and_makes_none(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep_command, "import_tensorflow", None)
    assert call(files(CLASSES), tmp_path / "o", "sweep.folds=3", "--dry-run") == 0
    text = capsys.readouterr().out
    *dumped, last = text.splitlines()
    assert yaml.safe_load("\n".join(dumped))["sweep"]["folds"] == 3
    assert last == "9 runs, at strengths 0.001, 0.03"
    flags = "sweep={points: 3, min_ratio: 0.01}", "baseline=false", "--dry-run"
    assert call(files(CLASSES), tmp_path / "o", *flags) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "3 runs, at strengths 0.01, 0.1, 1 of the largest, which is found first"
    assert not (tmp_path / "o").exists()


def test_sweep_whose_runs_all_fail_says_why(files, tmp_path, capsys):
    output = tmp_path / "output"
    flags = "training.empty_layers=forbid", "sweep.strengths=[1e4]", "--overwrite"
    assert call(files(LINEAR), output, *flags) == 1
    printed = capsys.readouterr()
    message = "Expected at least one run that ended well. Received: none"
    assert printed.err == f"error: {message}\n"
    assert "point_000_seed_0: failed: Layer 'dense' is all zero" in " ".join(printed.out.split())
    summary = read_json(output / "sweep.json")
    assert (summary["error"], summary["chosen"], summary["runs"]) == (message, None, [])
    assert summary["events"][0]["state"] == "failed"
    (row,) = read_csv(output)
    assert (row["runs"], row["failed"], row["score"], row["chosen"]) == ("0", "1", "", "False")
    assert read_failure(output, "point_000_seed_0").reason == summary["events"][0]["reason"]


@pytest.fixture(scope="module")
def path_sweep(files, tmp_path_factory):
    """A warm path of ten coefficients, from none to all."""
    output = tmp_path_factory.mktemp("sweeps") / "path"
    settings = LINEAR | {"sweep": {"strengths": STRENGTHS, "path": "sparse_to_dense"}}
    file = files(settings | {"name": "path"})
    assert call(file, output) == 0
    return file, output


STRENGTHS = [2.0, 5.0, 12.0, 30.0, 60.0, 95.0]


def coefficients(folder):
    with (folder / "features.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["weight"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_warm_path_is_scikit_learns_lasso_path(path_sweep):
    _, output = path_sweep
    rows = sets.load(configs.validate(LINEAR).data, 0).train
    inputs = StandardScaler().fit_transform(rows.inputs.astype("float64"))
    targets = rows.targets.astype("float64")
    alphas = np.array(STRENGTHS[::-1]) / 2  # its squared error has a factor 1/2
    _, expected, _ = lasso_path(
        inputs, targets - targets.mean(), alphas=alphas, tol=1e-12, max_iter=100_000
    )
    folders = [output / "points" / f"point_{n:03d}_seed_0" for n in range(len(STRENGTHS))]
    found = np.array([coefficients(folder) for folder in folders])[::-1].T
    np.testing.assert_array_equal(found != 0, expected != 0)
    assert np.count_nonzero(found, axis=0).tolist()[0] == 0
    # Gradients are float32 sums of residuals up to 150: roundings of 1e-5, which the
    # flattest direction, of curvature 0.02, turns into 5e-4 of weights up to 30.
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_points_start_from_the_next_stronger_one(path_sweep):
    _, output = path_sweep
    last = len(STRENGTHS) - 1
    for number in range(last + 1):
        folder = output / "points" / f"point_{number:03d}_seed_0"
        start = configs.load(folder / "config.yaml").model.initial_weights
        before = output / "points" / f"point_{number + 1:03d}_seed_0" / "model.keras"
        assert start == (None if number == last else str(before))


@pytest.mark.slow
def test_warm_path_of_folded_networks(tmp_path):
    """Each point starts from the weights before batch-norms were folded."""
    blocks = [
        {"type": "conv", "filters": 2, "strides": 2},
        {"type": "batch_norm"},
        {"type": "flatten"},
        {"type": "dense", "units": "classes", "activation": "linear"},
    ]
    settings = LINEAR | {
        "name": "folded",
        "data": {"name": "digits"},
        "model": {"blocks": blocks},
        "training": {"epochs": 1, "steps_per_epoch": 2},
        "export": {"formats": [], "fold_batch_norm": True},
        "sweep": {"strengths": [1e-4, 1e-3, 1e-2], "path": "dense_to_sparse"},
    }
    path = tmp_path / "folded.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    output = tmp_path / "sweep"
    assert call(path, output) == 0
    assert [event["state"] for event in read_json(output / "sweep.json")["events"]] == ["done"] * 3
    for number in (1, 2):
        folder = output / "points" / f"point_{number:03d}_seed_0"
        start = configs.load(folder / "config.yaml").model.initial_weights
        assert start.endswith(f"point_{number - 1:03d}_seed_0/model_unfolded.keras")


@pytest.mark.slow
def test_interrupt_keeps_what_is_done_and_resume_goes_on(path_sweep, tmp_path, monkeypatch, capsys):
    file, whole = path_sweep
    output = tmp_path / "cut"

    def cut_off(plan, on_event):
        on_event(run_job(plan.folder, plan.chains[0][0]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search, "run_locally", cut_off)
        assert call(file, output) == 130
    printed = capsys.readouterr().err
    assert printed == "\ninterrupted; --resume goes on from the runs that are done\n"
    assert not (output / "sweep.json").exists()
    for number in range(1, 5):  # four of six are copied, for each is seconds
        name = f"point_{number:03d}_seed_0"
        shutil.copytree(whole / "points" / name, output / "points" / name)
    assert call(file, output, "--resume") == 0
    states = {e["name"]: e["state"] for e in read_json(output / "sweep.json")["events"]}
    assert sorted(states.values()) == ["done"] + 5 * ["there"]
    assert states["point_000_seed_0"] == "done"
    assert table_of(output) == table_of(whole)


@pytest.mark.slow
def test_overwrite_begins_anew(files, tmp_path):
    output = tmp_path / "sweep"
    one = LINEAR | {"name": "one", "sweep": {"strengths": [60.0]}}
    (output / "points" / "old").mkdir(parents=True)
    (output / "config.yaml").write_text("name: old", encoding="utf-8")
    assert call(files(one), output, "--overwrite") == 0
    assert [path.name for path in (output / "points").iterdir()] == ["point_000_seed_0"]


FOLDS = 3
ALPHAS = (0.03, 0.08, 0.3)


@pytest.mark.slow
def test_cross_validation_is_scikit_learns(files, tmp_path):
    output = tmp_path / "folds"
    settings = LINEAR | {
        "name": "folds",
        "seed": 7,
        "data": {"name": "sparse_regression"},
        "model": {"name": "linear", "normalization": "none"},
        "sweep": {"strengths": [2 * alpha for alpha in ALPHAS], "folds": FOLDS, "rule": "best"},
    }
    assert call(files(settings), output) == 0
    whole = {"name": "sparse_regression", "validation_split": "test"}
    rows = sets.load(configs.validate({"name": "all", "data": whole}).data, 0).train
    splits = KFold(FOLDS, shuffle=True, random_state=7)
    model = LassoCV(alphas=np.array(ALPHAS), cv=splits, tol=1e-10, max_iter=100_000)
    model.fit(rows.inputs.astype("float64"), rows.targets.astype("float64"))
    expected = dict(zip(model.alphas_, model.mse_path_, strict=True))
    summary = read_json(output / "sweep.json")
    assert [row["runs"] for row in summary["rows"]] == 3 * [FOLDS]
    for row in summary["rows"]:
        folds = expected[row["l1_strength"] / 2]
        error = folds.std(ddof=1) / FOLDS**0.5
        # Weights are met to float32's 1e-7, and so is a mean of squares; between folds that
        # differ by a tenth of it, the same roundings are ten times as much.
        assert row["score"] == pytest.approx(folds.mean(), rel=1e-6)
        assert row["standard_error"] == pytest.approx(error, rel=1e-5)
    assert summary["chosen"]["l1_strength"] == 2 * model.alpha_
    # The choice is neither end of the path, where any rule would be right by accident.
    assert min(ALPHAS) < model.alpha_ < max(ALPHAS)
    # Trained anew, without folds, and measured on the test split.
    assert summary["chosen"]["run"] is None
    chosen = configs.load(output / "chosen" / "config.yaml")
    assert (chosen.data.fold, chosen.measure.split) == (None, "test")
    made = read_json(output / "chosen" / "report.json")
    assert made["l1_strength"] == 2 * model.alpha_
    assert made["data"]["measured_split"] == "test"


def test_closed_form_of_the_end_is_for_convex_penalties(files):
    """Of a concave one the end must be found by trying, from a strength above 0."""
    settings = LINEAR | {"penalty": {"l1_strength": 0.0}, "sweep": {"points": 2}}
    plan.check(configs.load(files(settings)))
    with pytest.raises(configs.ConfigError, match=r"penalty\.l1_strength: expected more than 0"):
        plan.check(configs.load(files(settings), ["penalty.shape=log"]))


@pytest.mark.slow
def test_end_of_a_path_is_looked_for_once(files, tmp_path, monkeypatch, capsys):
    """Without a closed form; the run at 4 times the start leaves nothing, twice neither."""
    output = tmp_path / "bracket"
    settings = LINEAR | {
        "name": "bracket",
        "penalty": {"l1_strength": 30.0},
        "model": {"blocks": [{"type": "dense", "units": "outputs", "activation": "linear"}]},
        "sweep": {"points": 1},
    }
    file = files(settings)
    assert call(file, output) == 0
    found = read_json(output / "max_strength.json")["max_strength"]
    # Where it truly ends, at 91.15, is known from the closed form of the same network.
    assert found == pytest.approx(120.0)
    tried = ("Strength 30: something", "Strength 120: nothing", "Strength 60: something")
    printed = capsys.readouterr().out
    assert [line in printed for line in tried] == 3 * [True]
    assert [row["l1_strength"] for row in read_json(output / "sweep.json")["rows"]] == [120]
    monkeypatch.setattr(largest_strength, "find_largest", None)
    assert call(file, output, "--resume") == 0


@pytest.mark.slow
def test_failure_of_the_last_training_is_told(classes, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError("Disk on fire")

    monkeypatch.setattr(measuring_again, "measure_again", fail)
    code, output = resume(classes, tmp_path)
    assert code == 1
    message = "chosen strength 0.001: the run: expected to read and write its files. Received: Disk"
    assert message in capsys.readouterr().err
    assert read_json(output / "sweep.json")["error"].startswith(message)


def start_command(path, output, *flags):
    """Start the command as a process of its own, its workers in the same group."""
    settings = [part for flag in flags if "=" in flag for part in ("--set", flag)]
    rest = [flag for flag in flags if "=" not in flag]
    command = [sys.executable, "-m", "cnn_l1.sweep", "--config", str(path)]
    command += ["--output", str(output), *settings, *rest]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A test runner in the background may have handed SIGINT down ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def workers_of(process):
    """Its children that run jobs, by number."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.is_file():
        pytest.skip("needs Linux, which lists a process' children")
    found = []
    for thread in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return [
        number for number in found
        if b"spawn_main" in pathlib.Path(f"/proc/{number}/cmdline").read_bytes()
    ]  # fmt: skip


def is_running(number):
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def long_sweep(files, tmp_path_factory):
    """A sweep of seconds a point in real processes, never cut off."""
    settings = LINEAR | {"name": "long", "sweep": {"workers": 2}}
    # Many, so that some are left when the first is done and the others are as fast.
    settings["sweep"]["strengths"] = [5.0, 8.0, 12.0, 20.0, 35.0, 60.0]
    settings["training"] = settings["training"] | {"epochs": 8, "steps_per_execution": 50}
    output = tmp_path_factory.mktemp("long") / "whole"
    process = start_command(files(settings), output)
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    return files(settings), output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_sweep_that_is_cut_off_ends_its_runs_and_resumes_to_the_same(long_sweep, tmp_path, number):
    path, whole = long_sweep
    output = tmp_path / "cut"
    process = start_command(path, output)
    points = output / "points"
    # One point is done, and the next one has begun to train.
    wait_for(lambda: any(points.glob("point_*/report.json")), 300)
    wait_for(lambda: any(points.glob(".point_*.partial-*")), 100)
    workers = workers_of(process)
    assert len(workers) == 2
    if number == signal.SIGINT:  # Ctrl-C goes to the whole group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    wait_for(lambda: not any(map(is_running, workers)), 5)
    done = {p.parent.name for p in points.glob("point_*/report.json")}
    assert 1 <= len(done) < 6
    assert not (output / "sweep.json").exists()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "Traceback" not in printed
        assert printed.endswith("interrupted; --resume goes on from the runs that are done\n")
        assert not any(points.glob(".*"))
        assert not (output / "failures").exists()
    process = start_command(path, output, "--resume")
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    states = {e["name"]: e["state"] for e in read_json(output / "sweep.json")["events"]}
    assert {name for name, state in states.items() if state == "there"} == done
    assert table_of(output) == table_of(whole)
    assert not any(points.glob(".*"))


@pytest.mark.slow
def test_output_is_free_of_other_programs_lines(long_sweep, tmp_path):
    """TensorFlow's, Keras' and multiprocessing's remarks stay off the console."""
    path, whole = long_sweep
    shutil.copytree(whole, tmp_path / "copy")
    process = start_command(path, tmp_path / "copy", "--resume")
    printed, _ = process.communicate(timeout=200)
    first, *lines = printed.splitlines()
    assert first.startswith("runs ")
    assert lines[0].startswith("Strengths, measured on validation data")
    assert lines[-1].startswith("Wrote ")


def test_table_shows_errors_below_one_as_errors():
    from rich.console import Console

    rows = [Row(0.5, 1, 0, 0.25, 0.01, 0.5, 10.0, chosen=True), Row(1.0, 0, 1)]
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    tables.print_sweep(rows, False, console)
    text = console.export_text()
    assert "mean squared" in text
    assert "accuracy" not in text
    assert "0.25 " in text
    assert "chosen" in text


def test_rows_are_written_with_every_field(tmp_path):
    rows = [Row(0.5, 1, 0, 0.25), Row(1.0, 0, 1)]
    report.write_rows(tmp_path / "rows.csv", rows)
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == [field.name for field in dataclasses.fields(Row)]
    assert (read[0]["score"], read[1]["score"]) == ("0.25", "")


def test_pictures_of_nothing_are_left_out(tmp_path):
    pictures.draw_sweep(tmp_path / "pictures", [Row(1.0, 0, 1)], Row(0.0, 0, 1))
    assert list((tmp_path / "pictures").iterdir()) == []
    gaps = {"a": [1.0, None, 0.0], "b": [None, None, None]}
    pictures.draw_paths(tmp_path / "gaps", (1.0, 2.0, 4.0), gaps, "weight")
    assert (tmp_path / "gaps.png").is_file()
