"""Chains of runs in processes of their own, on this machine."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import yaml
from small_sweeps import run_here

from cnn_l1.config import loading as configs
from cnn_l1.sweep.engines import (
    DIED,
    Event,
    Job,
    Plan,
    read_failure,
    run_job,
    run_locally,
    write_failure,
)

TINY = {
    "data": {"name": "xor", "validation_split": "validation"},
    "model": {"name": "linear"},
    "penalty": {"l1_strength": 0.001},
    "training": {"epochs": 1},
    "fine_tuning": {"epochs": 0},
    "baseline": False,
    "tensorboard": False,
    "export": {"formats": []},
    "measure": {"split": "validation"},
}


def make_job(name, warm=False, **changed):
    config = configs.validate({"name": name, **TINY, **changed})
    return Job(name, config.model_dump(mode="json"), 0.001, warm)


def make_plan(folder, chains, workers=1):
    return Plan(folder, chains, 1, workers, score="accuracy", larger_is_better=True, epochs=1)


def kill_when(path):
    """Kill the only worker with SIGKILL, as a machine without memory does, once `path` is."""
    while not path.is_file() or "Epoch 2/" not in path.read_text(encoding="utf-8"):
        time.sleep(0.05)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)


NO_FILE = {"name": "linear", "initial_weights": "missing.keras"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A warm chain in which the second job fails and the fourth one's process is killed."""
    folder = tmp_path_factory.mktemp("engine")
    chain = [
        make_job("first"),
        make_job("bad", model=NO_FILE),
        make_job("third", warm=True),
        make_job("killed", warm=True, training={"epochs": 1_000_000}),
        make_job("fifth", warm=True),
    ]
    write_failure(folder, Event("third", "failed", "of an earlier sweep"))
    events = []
    killer = threading.Thread(target=kill_when, args=(folder / "logs" / "killed.txt",), daemon=True)
    killer.start()
    run_locally(make_plan(folder, [chain]), events.append)
    killer.join(timeout=10)
    return folder, events


@pytest.mark.slow
def test_jobs_of_a_chain_run_in_order_past_those_that_fail(ran):
    _, events = ran
    assert [(event.name, event.state) for event in events] == [
        ("first", "done"),
        ("bad", "failed"),
        ("third", "done"),
        ("killed", "failed"),
        ("fifth", "done"),
    ]


@pytest.mark.slow
def test_failure_is_told_with_its_reason_and_kept(ran):
    folder, events = ran
    assert events[1].reason.startswith("model.initial_weights: expected a readable .keras file.")
    assert events[3].reason == DIED
    assert sorted(path.name for path in (folder / "failures").iterdir()) == [
        "bad.json",
        "killed.json",
    ]
    assert read_failure(folder, "bad") == events[1]
    assert read_failure(folder, "first") is None


def start_of(folder, name):
    text = (folder / "points" / name / "config.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["model"]["initial_weights"]


@pytest.mark.slow
def test_warm_job_starts_from_the_last_that_ended_well(ran):
    folder, _ = ran
    assert start_of(folder, "first") is None
    assert start_of(folder, "third") == str(folder / "points" / "first" / "model.keras")
    assert start_of(folder, "fifth") == str(folder / "points" / "third" / "model.keras")


@pytest.mark.slow
def test_killed_run_leaves_nothing_behind(ran):
    folder, _ = ran
    assert sorted(p.name for p in (folder / "points").iterdir()) == ["fifth", "first", "third"]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_what_is_printed_goes_to_the_log(ran):
    folder, _ = ran
    assert "Exact zeros" in (folder / "logs" / "first.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_is_there_is_not_run_again(ran):
    folder, _ = ran
    report = folder / "points" / "first" / "report.json"
    before = report.stat().st_mtime_ns
    write_failure(folder, Event("first", "failed", "of an earlier sweep"))
    assert run_job(folder, make_job("first")) == Event("first", "there")
    assert report.stat().st_mtime_ns == before
    assert read_failure(folder, "first") is None


@pytest.mark.slow
def test_warm_weights_are_those_of_the_run_before(tmp_path):
    """With a learning rate too small to move a float32, the weights stay what they were."""
    still = {"name": "sgd", "learning_rate": 1e-30}
    chain = [make_job("one"), make_job("two", warm=True, optimizer=still, seed=5)]
    run_here(make_plan(tmp_path, [chain]), lambda event: None)
    read = [
        (tmp_path / "points" / name / "features.csv").read_text(encoding="utf-8")
        for name in ("one", "two")
    ]
    assert read[0] == read[1]
    cold = make_job("cold", optimizer=still, seed=5)
    run_job(tmp_path, cold, previous="one")
    assert (tmp_path / "points" / "cold" / "features.csv").read_text(encoding="utf-8") != read[0]


def figures(folder, name):
    report = json.loads((folder / "points" / name / "report.json").read_text(encoding="utf-8"))
    del report["seconds"]
    for file in report["files"].values():
        # A .keras file holds the date it was saved; a time is a time.
        changing = "bytes", "deflated_bytes", "xz_bytes", "latency_median_ms", "latency_p90_ms"
        for key in changing:
            del file[key]
    return report


@pytest.mark.slow
def test_one_worker_and_two_give_the_same(tmp_path):
    chains = [
        [make_job(f"{seed}_a", seed=seed), make_job(f"{seed}_b", True, seed=seed)]
        for seed in range(2)
    ]
    events = {workers: [] for workers in (1, 2)}
    for workers, seen in events.items():
        run_locally(make_plan(tmp_path / str(workers), chains, workers), seen.append)
    assert [e.name for e in events[1]] == [job.name for chain in chains for job in chain]
    assert sorted(map(str, events[1])) == sorted(map(str, events[2]))
    for job in (job for chain in chains for job in chain):
        assert figures(tmp_path / "1", job.name) == figures(tmp_path / "2", job.name)
        weights = [(tmp_path / n / "points" / job.name / "features.csv").read_bytes() for n in "12"]
        assert weights[0] == weights[1]


@pytest.mark.slow
def test_interrupt_ends_the_workers_and_is_no_failure(tmp_path):
    chains = [[make_job("short")], [make_job("long", training={"epochs": 1_000_000})]]

    def interrupt(event):
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_locally(make_plan(tmp_path, chains, workers=2), interrupt)
    assert multiprocessing.active_children() == []
    assert [p.name for p in (tmp_path / "points").iterdir()] == ["short"]
    assert not (tmp_path / "failures").exists()
