"""Chains of runs as trials of Ray Tune, on this machine or on a cluster.

Imported only where Ray is asked for, for it is an extra: `pip install 'cnn_l1[ray]'`.
"""

import dataclasses
import logging
import os
import pathlib
import tempfile
from typing import Any

import ray
from ray import tune

from cnn_l1.engines import Event, run_job, set_threads, write_failure

METRIC = "score"


def run_on_ray(plan, on_event, address=None, early_stopping=None):
    """Run all chains as trials of Ray Tune.

    Every node must see the sweep's folder under the same path, and have `cnn_l1`
    installed. Each trial takes `plan.threads` CPUs.

    Args:
        plan: A `Plan`.
        on_event: Called with an `Event` for each job.
        address: Address of a cluster, as `ray.init` takes it; `None` starts a local one.
        early_stopping: An `EarlyStoppingConfig`, or `None`.
    """
    started = not ray.is_initialized()
    if started:
        settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address is None:
            settings["num_cpus"] = plan.workers * plan.threads
            settings["include_dashboard"] = False
            # Short, for a socket's path must be; loopback, for a laptop has no other name.
            settings["_temp_dir"] = tempfile.mkdtemp(prefix="ray")
            settings["_node_ip_address"] = "127.0.0.1"
        ray.init(address, **settings)
    mode = "max" if plan.larger_is_better else "min"
    scheduler = None
    if early_stopping is not None:
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="epoch",
            metric=METRIC,
            mode=mode,
            max_t=plan.epochs,
            grace_period=min(early_stopping.grace_epochs, plan.epochs),
            reduction_factor=early_stopping.reduction_factor,
        )
    key = f"val_{plan.score}" if early_stopping is not None else None
    settings = {"folder": str(plan.folder), "chains": plan.chains, "threads": plan.threads}
    trial = tune.with_parameters(run_trial, **settings, epochs=plan.epochs, key=key)
    try:
        tune.Tuner(
            tune.with_resources(trial, {"cpu": plan.threads}),
            param_space={"chain": tune.grid_search(list(range(len(plan.chains))))},
            tune_config=tune.TuneConfig(scheduler=scheduler),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(pathlib.Path(plan.folder).absolute() / "ray"),
                verbose=0,
                callbacks=[TrialEvents(plan, on_event)],
            ),
        ).fit()
    finally:
        if started:
            ray.shutdown()


def run_trial(config, folder, chains, threads, epochs, key):
    """One trial: one chain, in a process of its own."""
    set_threads(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    watchers = () if key is None else (report_epochs(key),)
    node, previous, events = ray.get_runtime_context().get_node_id(), None, []
    for job in chains[config["chain"]]:
        event = run_job(folder, job, previous, watchers)
        if event.state in ("done", "there"):
            previous = job.name
        if event.state == "done":
            _write_node(folder, job.name, node)
        events.append(dataclasses.asdict(event))
    last = watchers[0].last if watchers else 0.0
    tune.report({"events": events, "epoch": epochs, METRIC: last})


def _write_node(folder, name, node):
    """Note on which node of the cluster a run was made."""
    path = pathlib.Path(folder) / "nodes" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(node + "\n", encoding="utf-8")


def report_epochs(key):
    """A Keras callback that tells Tune each epoch's score, by which it may stop a trial."""
    import keras

    class ReportEpochs(keras.callbacks.Callback):
        last = 0.0

        def on_epoch_end(self, epoch, logs=None):
            self.last = float(logs[key])
            tune.report({"epoch": epoch + 1, METRIC: self.last})

    return ReportEpochs()


class TrialEvents(tune.Callback):
    """Turns ended trials into `Event`s."""

    def __init__(self, plan=None, on_event=None):
        self.plan, self.on_event = plan, on_event

    def __getstate__(self):
        return {}  # Tune saves its callbacks; a progress display cannot be

    def on_trial_complete(self, iteration, trials, trial, **info):
        result = trial.last_result or {}
        if "events" in result:
            for event in result["events"]:
                self.on_event(Event(**event))
            return
        epochs = f"epoch {result.get('epoch')} of {self.plan.epochs}"
        self._end(trial, "stopped", f"hopeless after {epochs}")

    def on_trial_error(self, iteration, trials, trial, **info):
        self._end(trial, "failed", "its process died (out of memory?)")

    def _end(self, trial, state, reason):
        for job in self.plan.chains[trial.config["chain"]]:
            if (self.plan.folder / "points" / job.name / "report.json").is_file():
                self.on_event(Event(job.name, "done"))
                continue
            event = Event(job.name, state, reason)
            write_failure(self.plan.folder, event)
            self.on_event(event)
