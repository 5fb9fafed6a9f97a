"""Chains of runs as trials of Ray Tune, on this machine or on a cluster.

Imported only where Ray is asked for, for it is an extra: `pip install 'cnn_l1[ray]'`.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Read when Ray is imported or starts: Ctrl-C shall end the sweep, where Tune would end its
# part alone and let a choice be made from half of the runs; and a chain's last report has
# no score.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # whose tables come at any verbosity
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # half a minute each, by default 20

import ray
from ray import tune

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.sweep_settings import EarlyStoppingConfig
from cnn_l1.runs.folders import is_finished
from cnn_l1.sweep.engines import (
    DIED,
    Event,
    Job,
    Plan,
    read_failure,
    run_job,
    set_threads,
    write_failure,
)

METRIC = "score"


def run_on_ray(
    plan: Plan,
    on_event: Callable[[Event], None],
    address: str | None = None,
    early_stopping: EarlyStoppingConfig | None = None,
) -> None:
    """Run all chains as trials of Ray Tune.

    Every node must see the sweep's folder under the same path, and have `cnn_l1`
    installed. Each trial takes `plan.threads` CPUs.

    Args:
        plan: A `Plan`.
        on_event: Called with an `Event` for each job.
        address: Address of a cluster, as `ray.init` takes it; `None` starts a local one.
        early_stopping: An `EarlyStoppingConfig`, or `None`.

    Raises:
        ConfigError: If no cluster answers at the address.
    """
    chains = plan.chains
    if early_stopping is not None:
        chains = _without_stopped(plan, on_event)
    if not chains:
        return
    scheduler, key = None, None
    if early_stopping is not None:
        key = f"val_{plan.score}"
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="epoch",
            metric=METRIC,
            mode="max" if plan.larger_is_better else "min",
            max_t=plan.epochs,
            grace_period=min(early_stopping.grace_epochs, plan.epochs),
            reduction_factor=early_stopping.reduction_factor,
        )
    given = {"folder": str(plan.folder), "chains": chains, "threads": plan.threads}
    with _cluster(plan, address):
        trial = tune.with_parameters(run_trial, **given, epochs=plan.epochs, key=key)
        storage = pathlib.Path(plan.folder).absolute() / "ray"
        shutil.rmtree(storage, ignore_errors=True)
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": plan.threads}),
            param_space={"chain": tune.grid_search(list(range(len(chains))))},
            tune_config=tune.TuneConfig(scheduler=scheduler),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(storage),
                verbose=0,
                callbacks=[TrialEvents(plan, chains, on_event)],
                # Where a process dies, the trial starts again, past the job it died of.
                failure_config=tune.FailureConfig(max_failures=max(map(len, chains))),
            ),
        )
        tuner.fit()


def _without_stopped(plan: Plan, on_event: Callable[[Event], None]) -> list[list[Job]]:
    """The chains but for those that an earlier part of the sweep has stopped."""
    left = []
    for chain in plan.chains:
        event = read_failure(plan.folder, chain[0].name)
        if event is not None and event.state == "stopped":
            on_event(event)
        else:
            left.append(chain)
    return left


@contextlib.contextmanager
def _cluster(plan: Plan, address: str | None) -> Iterator[None]:
    """A running Ray: the one that is there, the one at an address, or one of our own."""
    temporary = None
    started = not ray.is_initialized()
    try:
        if started:
            settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
            if address is None:
                # Short, for a socket's path must be; loopback, for a laptop has no other name.
                temporary = tempfile.mkdtemp(prefix="ray")
                settings |= {"num_cpus": plan.workers * plan.threads, "include_dashboard": False}
                settings |= {"_temp_dir": temporary, "_node_ip_address": "127.0.0.1"}
            _connect(address, settings)
        yield
    finally:
        if started:
            ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        # What stopped and killed trials left half-written, on whichever node.
        for job in (job for chain in plan.chains for job in chain):
            for folder in (plan.folder / "points").glob(f".{job.name}.partial-*"):
                shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str | None, settings: dict[str, Any]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None and re.fullmatch(r"[\w.-]+:\d+", address):
            # Ray itself would try for minutes.
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=10).close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address, **settings)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        if address is None:
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--address: expected the address of a Ray cluster that runs. Received: {address} "
            f"({reason})"
        ) from None
    finally:
        # Ray puts a handler of its own there, which ends the process without a word.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def run_trial(
    config: dict[str, Any],
    folder: pathlib.Path,
    chains: list[list[Job]],
    threads: int,
    epochs: int,
    key: str | None,
) -> None:
    """One trial: one chain, in a process of its own."""
    set_threads(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    watchers = () if key is None else (report_epochs(key, epochs),)
    node, previous, events = ray.get_runtime_context().get_node_id(), None, []
    for job in chains[config["chain"]]:
        # A reason that is there is this trial's own, from before its process died.
        event = read_failure(folder, job.name)
        if event is None:
            write_failure(folder, Event(job.name, "failed", DIED))
            event = run_job(folder, job, previous, watchers)
        if event.state in ("done", "there"):
            previous = job.name
        if event.state == "done":
            _write_node(folder, job.name, node)
        events.append(dataclasses.asdict(event))
    # Without a score: one that comes from no epoch must not decide about others.
    tune.report({"events": events, "epoch": epochs})


def _write_node(folder: str | pathlib.Path, name: str, node: str) -> None:
    """Note on which node of the cluster a run was made."""
    path = pathlib.Path(folder) / "nodes" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(node + "\n", encoding="utf-8")


def report_epochs(key: str, epochs: int) -> Any:
    """A Keras callback that tells Tune each epoch's score, by which it may stop a trial.

    Not the last one's: what has run to its end is exported.
    """
    # Only here: a trial sets its threads before TensorFlow is imported.
    import keras

    class ReportEpochs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            if epoch + 1 < epochs:
                tune.report({"epoch": epoch + 1, METRIC: float((logs or {})[key])})

    return ReportEpochs()


class TrialEvents(tune.Callback):
    """Turns ended trials into `Event`s."""

    def __init__(
        self, plan: Any = None, chains: Sequence[Sequence[Job]] = (), on_event: Any = None
    ) -> None:
        self.plan, self.chains, self.on_event = plan, chains, on_event

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks; a progress display cannot be

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        if "events" in result:
            for event in result["events"]:
                self.on_event(Event(**event))
            return
        epochs = f"epoch {result.get('epoch')} of {self.plan.epochs}"
        self._end(trial, Event("", "stopped", f"hopeless after {epochs}"))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._end(trial)

    def _end(self, trial: Any, ended: Event | None = None) -> None:
        for job in self.chains[trial.config["chain"]]:
            event = Event(job.name, "done")
            if not is_finished(self.plan.folder / "points" / job.name):
                told = ended or read_failure(self.plan.folder, job.name)
                told = told or Event(job.name, "failed", "its trial ended before it")
                event = dataclasses.replace(told, name=job.name)
                write_failure(self.plan.folder, event)
            self.on_event(event)
