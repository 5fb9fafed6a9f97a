"""Work done in child processes, so that a crash or a hang is a result and not the end.

A child is `python -m MODULE --child`, which reads a list of tasks as JSON from its input and
calls `serve`. Each task is reported before it begins and once it is done.
"""

import collections
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

START_SECONDS = 120.0  # for TensorFlow, on a machine that is busy
MARK = "\x1e"  # so that lines of ours are told from what native code prints


def serve(perform: Callable[[Any], Any]) -> None:
    """Perform the tasks that standard input lists; for the child."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes elsewhere

    def report(**fields: Any) -> None:
        reports.write(MARK + json.dumps(fields) + "\n")
        reports.flush()

    for task in json.load(sys.stdin):
        report(begin=task)
        report(done=task, result=perform(task))


def run(
    module: str, tasks: list, seconds: float, batch: int = 40, workers: int = 1
) -> Iterator[tuple[Any, Any]]:
    """Perform tasks in children of a module.

    Args:
        module: Its name; `python -m MODULE --child` calls `serve`.
        tasks: JSON values.
        seconds: The time limit of one task.
        batch: Tasks a child; a process that grows is ended after as many.
        workers: Children at a time.

    Yields:
        `(task, result)` as they come; the result is `{"crashed": reason}` where the child
        ended or ran out of time.
    """
    results: queue.Queue = queue.Queue()
    left = collections.deque(tasks[i : i + batch] for i in range(0, len(tasks), batch))

    def work() -> None:
        while left:
            try:
                now = left.popleft()
            except IndexError:
                return
            while now:
                finished = 0
                for pair in _one_child(module, now, seconds):
                    finished += 1
                    results.put(pair)
                now = now[finished:]

    for _ in range(workers):
        threading.Thread(target=work, daemon=True).start()
    for _ in tasks:
        yield results.get()


def _one_child(module: str, tasks: list, seconds: float) -> Iterator[tuple[Any, Any]]:
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, "--child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(tasks).encode())
        child.stdin.close()
    except BrokenPipeError:
        pass
    running, buffered = tasks[0], b""
    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    deadline = time.monotonic() + seconds + START_SECONDS
    finished = 0
    try:
        while True:
            if not selector.select(timeout=max(0.0, deadline - time.monotonic())):
                yield running, {"crashed": f"no result within {seconds:.0f} s"}
                return
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                break
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                if not line.startswith(MARK.encode()):
                    continue
                fields = json.loads(line[1:])
                deadline = time.monotonic() + seconds
                if "begin" in fields:
                    running = fields["begin"]
                else:
                    finished += 1
                    yield fields["done"], fields["result"]
        code = child.wait()
        if finished < len(tasks):
            yield running, {"crashed": f"the process ended with code {code}"}
    finally:
        child.kill()
        child.wait()


def refusal(error: BaseException) -> str | None:
    """What an error of this package says; `None` for a raw error of a library.

    Ours are of our own classes, or raised by our code in the form "expected … Received: …".
    """
    text = " ".join(str(error).split())
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    own_class = type(error).__module__.startswith("cnn_l1")
    own_words = f"{os.sep}cnn_l1{os.sep}" in last and "Received" in text
    return text if own_class or own_words else None


def raw(error: BaseException) -> str:
    """A raw error, with the place in this package that it came through."""
    places = [
        f"{os.path.basename(frame.filename)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}cnn_l1{os.sep}" in frame.filename
    ]
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__} at {places[-1] if places else '?'}: {text}"
