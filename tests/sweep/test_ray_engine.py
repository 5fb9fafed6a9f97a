"""Chains as trials of Ray Tune, on a cluster of two nodes on this machine."""

import csv
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
import yaml
from small_sweeps import linear, run_here

from cnn_l1.config import loading as configs
from cnn_l1.sweep import search
from cnn_l1.sweep.__main__ import main as sweep_main
from cnn_l1.sweep.engines import DIED, Job, Plan, read_failure, run_locally

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

LINEAR = linear(100, sweep={"strengths": [5.0, 20.0, 40.0, 60.0]})


@pytest.fixture(scope="module")
def address():
    """A cluster of two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    root = str(pathlib.Path(__file__).parents[2])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short, as sockets' paths
    (folder / "ray").mkdir()
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_TMPDIR", str(folder))
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
        yield cluster.address
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def call(folder, settings, *flags):
    """Run the command in this process; returns its exit code and the sweep's folder."""
    path = folder / f"{settings['name']}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    output = folder / settings["name"]
    return sweep_main(["--config", str(path), "--output", str(output), *flags]), output


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def table_of(output):
    with (output / "sweep.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "latency" not in k} for row in rows]


def test_two_nodes_give_what_one_process_gives(address, tmp_path, monkeypatch, capsys):
    """One of the points fails, here as there."""
    with_failure = LINEAR | {"sweep": {"strengths": [5.0, 20.0, 40.0, 60.0, 1e4]}}
    with_failure["training"] = LINEAR["training"] | {"empty_layers": "forbid"}
    with monkeypatch.context() as patch:
        patch.setattr(search, "run_locally", run_here)
        code, expected = call(tmp_path, with_failure | {"name": "local"})
    assert code == 0
    on_ray = with_failure | {"name": "ray"}
    on_ray["sweep"] = on_ray["sweep"] | {"engine": "ray"}
    capsys.readouterr()
    code, output = call(tmp_path, on_ray, "--address", address)
    assert code == 0
    printed = capsys.readouterr()
    assert "point_004_seed_0: failed: Layer 'dense' is all zero" in " ".join(printed.out.split())
    assert printed.err == ""
    assert table_of(output) == table_of(expected)
    summary = read_json(output / "sweep.json")
    assert {run["node"] for run in summary["runs"]} == {
        path.read_text().strip() for path in (output / "nodes").iterdir()
    }
    assert len({run["node"] for run in summary["runs"]}) == 2
    assert len(list((output / "nodes").iterdir())) == 4

    done = {p: p.stat().st_mtime_ns for p in (output / "points").rglob("report.json")}
    assert call(tmp_path, on_ray, "--address", address, "--resume")[0] == 0
    states = {e["name"]: e["state"] for e in read_json(output / "sweep.json")["events"]}
    assert states.pop("point_004_seed_0") == "failed"
    assert set(states.values()) == {"there"}
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert table_of(output) == table_of(expected)


def make_job(name, warm=False, **changed):
    training = LINEAR["training"] | changed
    config = configs.validate(
        LINEAR | {"name": name, "training": training, "measure": {"split": "validation"}}
    )
    return Job(name, config.model_dump(mode="json"), 5.0, warm)


def kill_job(points, name):
    """Kill the process that trains a job: the name of its half-written folder has its number."""
    while not (found := list(points.glob(f".{name}.partial-*"))):
        time.sleep(0.1)
    time.sleep(2)
    os.kill(int(found[0].name.split("-")[-2]), signal.SIGKILL)


@pytest.mark.parametrize("engine", ["ray", "local"])
def test_chain_goes_on_past_a_job_whose_process_dies(address, tmp_path, engine):
    from cnn_l1.sweep.ray_engine import run_on_ray

    chain = [make_job("a"), make_job("b", True, epochs=1_000_000), make_job("c", True)]
    plan = Plan(tmp_path, [chain], 1, 1, "data_loss", larger_is_better=False, epochs=1)
    killer = threading.Thread(target=kill_job, args=(tmp_path / "points", "b"), daemon=True)
    killer.start()
    events = []
    if engine == "ray":
        run_on_ray(plan, events.append, address)
    else:
        run_locally(plan, events.append)
    states = {event.name: event.state for event in events}
    assert states.pop("a") in ("done", "there")
    assert states == {"b": "failed", "c": "done"}
    assert read_failure(tmp_path, "b").reason == DIED
    assert sorted(p.name for p in (tmp_path / "points").iterdir()) == ["a", "c"]
    assert [p.name for p in (tmp_path / "failures").iterdir()] == ["b.json"]
    start = configs.load(tmp_path / "points" / "c" / "config.yaml").model.initial_weights
    assert start == str(tmp_path / "points" / "a" / "model.keras")
    assert multiprocessing.active_children() == []


def test_hopeless_points_are_stopped_and_stay_so(address, tmp_path, capsys):
    """A point at which nothing is left is worse than all before it, from the first epoch."""
    strengths = [2.0, 5.0, 200.0, 400.0]
    settings = LINEAR | {
        "name": "asha",
        "training": LINEAR["training"] | {"epochs": 40},
        "sweep": {
            "strengths": strengths,
            "engine": "ray",
            "early_stopping": {"grace_epochs": 2, "reduction_factor": 2},
        },
    }
    code, output = call(tmp_path, settings, "--address", address)
    assert code == 0
    summary = read_json(output / "sweep.json")
    states = [event["state"] for event in sorted(summary["events"], key=lambda e: e["name"])]
    assert states.count("stopped") >= 1
    assert set(states) == {"done", "stopped"}
    assert states[3] == "stopped"
    stopped = next(e for e in summary["events"] if e["state"] == "stopped")
    assert stopped["reason"].startswith("hopeless after epoch ")
    assert stopped["reason"].endswith(" of 40")
    assert f"{stopped['name']}: stopped: hopeless after" in capsys.readouterr().out
    # What ran to its end was exported, though its last epoch is one that Tune may stop at.
    assert summary["chosen"]["l1_strength"] in (2.0, 5.0)
    assert [row["failed"] for row in summary["rows"]] == [int(s == "stopped") for s in states]
    done = [p.name for p in (output / "points").iterdir()]
    assert sorted(done) == [f"point_00{n}_seed_0" for n, s in enumerate(states) if s == "done"]

    code, output = call(tmp_path, settings, "--address", address, "--resume")
    assert code == 0
    again = read_json(output / "sweep.json")
    assert {e["name"]: e["state"].replace("there", "done") for e in again["events"]} == {
        e["name"]: e["state"] for e in summary["events"]
    }
    assert again["rows"] == summary["rows"]


def test_address_without_a_cluster_is_told(tmp_path, capsys):
    settings = LINEAR | {"name": "nowhere", "sweep": LINEAR["sweep"] | {"engine": "ray"}}
    assert call(tmp_path, settings, "--address", "127.0.0.1:1")[0] == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: --address: expected the address of a Ray cluster that runs.")
    assert printed.count("\n") == 1


def test_ray_of_our_own_is_quiet_and_leaves_nothing_behind(tmp_path):
    sweeping = {"strengths": [5.0], "engine": "ray", "workers": 1}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(LINEAR | {"sweep": sweeping}), encoding="utf-8")
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    command = [sys.executable, "-m", "cnn_l1.sweep", "--config", str(path)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "own")],
        env=os.environ | {"TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "point_000_seed_0: done"
    assert lines[1].startswith("runs ")
    assert lines[2].startswith("Strengths, measured on validation data")
    assert lines[-1].startswith("Wrote ")
    assert [p.name for p in scratch.iterdir() if p.name.startswith("ray")] == []
    shutil.rmtree(scratch)
