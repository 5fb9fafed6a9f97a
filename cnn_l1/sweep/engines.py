"""Chains of runs, side by side, in processes on this machine.

A chain is a list of jobs that follow each other, where a job may start from the weights
of the one before. Chains do not depend on each other. What a job leaves on disk is the
result, so every engine gives the same, and what is there already is not run again.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from cnn_l1.config import loading as configs
from cnn_l1.process.silence import import_tensorflow
from cnn_l1.runs import folders
from cnn_l1.runs.folders import UNFOLDED


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: Name of its folder.
        config: Its resolved config, as plain data.
        strength: Its λ; 0 for the dense baseline.
        warm: Whether it starts from the weights of the chain's job before it.
    """

    name: str
    config: dict
    strength: float = 0.0
    warm: bool = False


@dataclasses.dataclass(frozen=True)
class Event:
    """What became of a job: `"done"`, `"there"` (it was done before), `"failed"`, `"stopped"`."""

    name: str
    state: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an engine runs.

    Attributes:
        folder: Folder of the sweep; runs go to `folder/points`, logs to `folder/logs`.
        chains: Lists of `Job`s.
        threads: Threads of each run.
        workers: Runs at once, on this machine.
        score: Key of the history by which early stopping goes.
        larger_is_better: Whether a larger score is the better one.
        epochs: Epochs of one run.
    """

    folder: pathlib.Path
    chains: list[list[Job]]
    threads: int
    workers: int
    score: str
    larger_is_better: bool
    epochs: int


DIED = "its process died (out of memory?)"


def run_locally(plan: Plan, on_event: Callable[[Event], None]) -> None:
    """Run all chains in processes of their own, `plan.workers` at a time.

    Where a process dies, its job has failed and a new process goes on with the chain.

    Args:
        plan: A `Plan`.
        on_event: Called with an `Event` for each job, in the caller's thread.
    """
    # A fresh interpreter each: TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting: queue.Queue = queue.Queue()
    for chain in plan.chains:
        waiting.put(chain)
    events: queue.Queue = queue.Queue()
    stopping, lock, workers = threading.Event(), threading.Lock(), []

    def start() -> _Worker:
        with lock:
            if stopping.is_set():
                raise _WorkerDied
            workers.append(_Worker(context, plan.threads))
            return workers[-1]

    def work() -> None:
        worker = None
        with contextlib.suppress(queue.Empty):
            while not stopping.is_set():
                chain, previous = waiting.get_nowait(), None
                for job in chain:
                    try:
                        worker = worker or start()
                        event = worker.run(plan.folder, job, previous)
                    except _WorkerDied:
                        if stopping.is_set():
                            return
                        worker = None
                        event = Event(job.name, "failed", DIED)
                        write_failure(plan.folder, event)
                    if event.state in ("done", "there"):
                        previous = job.name
                    events.put(event)

    count = min(plan.workers, len(plan.chains))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) or not events.empty():
            with contextlib.suppress(queue.Empty):
                on_event(events.get(timeout=0.2))
    finally:
        with lock:
            stopping.set()
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
        folders.remove_abandoned(plan.folder / "points")


class _WorkerDied(Exception):  # noqa: N818 (an event, told as an exception)
    pass


class _Worker:
    """A process that runs one job after the other."""

    def __init__(self, context: Any, threads: int) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, threads, os.getpid()), daemon=True
        )
        self.process.start()
        theirs.close()  # the process alone holds this end, so that its death is seen

    def run(self, folder: pathlib.Path, job: Job, previous: str | None) -> Event:
        """Run a job; returns its `Event`.

        Raises:
            _WorkerDied: If the process ended before it answered.
        """
        try:
            self.connection.send((folder, job, previous))
            return self.connection.recv()
        except (EOFError, OSError):
            raise _WorkerDied from None

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(timeout=10)
        self.process.kill()
        self.process.join()


def _serve(connection: Any, threads: int, parent: int) -> None:
    """What a worker's process does: run the jobs that come, until the other end closes."""
    # Ctrl-C goes to all processes of a terminal; the parent says what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_threads(threads)

    def watch() -> None:
        # A sweep that is killed leaves no runs behind that would write into its folder.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(run_job(*connection.recv()))


def set_threads(threads: int) -> None:
    """Fix the threads of TensorFlow in this process; before it is imported."""
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(threads)


def run_job(
    folder: str | pathlib.Path, job: Job, previous: str | None = None, watchers: Iterable[Any] = ()
) -> Event:
    """Run one job in this process, unless it is there; returns its `Event`.

    Its printed lines go to `logs/<name>.txt`. Whatever goes wrong becomes an event
    with the reason, and `failures/<name>.json`, so that the others go on.
    """
    folder = pathlib.Path(folder)
    output = folder / "points" / job.name
    if folders.is_finished(output):
        failure_file(folder, job.name).unlink(missing_ok=True)
        return Event(job.name, "there")
    log = folder / "logs" / f"{job.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("w", encoding="utf-8") as file, into(file):
            import_tensorflow()
            # Only here: a worker sets its threads before TensorFlow is imported.
            from cnn_l1.train import pipeline

            data = json.loads(json.dumps(job.config))
            if job.warm and previous is not None:
                start = start_of(folder / "points" / previous)
                data["model"]["initial_weights"] = str(start)
            # What an earlier part of the sweep left unfinished is done anew.
            unfinished = (output / folders.MARK).is_file()
            config = configs.validate(data, job.name)
            pipeline.run(config, output, unfinished, watchers, forewarn=False)
    except Exception as error:
        event = Event(job.name, "failed", _reason(error))
        write_failure(folder, event)
        return event
    failure_file(folder, job.name).unlink(missing_ok=True)
    return Event(job.name, "done")


def start_of(folder: pathlib.Path) -> pathlib.Path:
    """The file of a run from whose weights another one can start."""
    unfolded = folder / UNFOLDED
    return unfolded if unfolded.is_file() else folder / "model.keras"


@contextlib.contextmanager
def into(file: TextIO) -> Iterator[None]:
    """Send what is printed, and warnings, to a file."""
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    known = type(error).__module__.startswith("cnn_l1")
    return text if known else f"{type(error).__name__}: {text}"


def failure_file(folder: str | pathlib.Path, name: str) -> pathlib.Path:
    """Where the reason stands why a job did not end well."""
    return pathlib.Path(folder) / "failures" / f"{name}.json"


def write_failure(folder: str | pathlib.Path, event: Event) -> None:
    """Leave the reason why a job did not end well."""
    path = failure_file(folder, event.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(event)) + "\n", encoding="utf-8")


def read_failure(folder: str | pathlib.Path, name: str) -> Event | None:
    """The `Event` that `write_failure` left, or `None`."""
    path = failure_file(folder, name)
    return Event(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
