"""Ctrl-C and SIGTERM end a run at a safe point."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class _Stop:
    """Ctrl-C and SIGTERM, as `KeyboardInterrupt`.

    In `model.fit` it is raised between two calls of the compiled step: an
    exception inside TensorFlow's own calls can corrupt its memory, and the
    process dies before anything is tidied up. A second signal does not wait.
    """

    def __init__(self) -> None:
        self.waiting = False
        self.asked = False

    def handle(self, signal_number: int, frame: Any) -> None:
        if self.waiting and not self.asked:
            self.asked = True
            return
        raise KeyboardInterrupt

    def check(self, *arguments: Any, **logs: Any) -> None:
        if self.asked:
            self.asked = False
            raise KeyboardInterrupt


STOP = _Stop()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a run tidily."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, STOP.handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
