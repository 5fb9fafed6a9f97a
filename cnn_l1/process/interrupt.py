"""Ctrl-C and SIGTERM end a run at a safe point."""

import contextlib
import signal


class _Stop:
    """Ctrl-C and SIGTERM, as `KeyboardInterrupt`.

    In `model.fit` it is raised between two calls of the compiled step: an
    exception inside TensorFlow's own calls can corrupt its memory, and the
    process dies before anything is tidied up. A second signal does not wait.
    """

    def __init__(self):
        self.waiting = False
        self.asked = False

    def handle(self, signal_number, frame):
        if self.waiting and not self.asked:
            self.asked = True
            return
        raise KeyboardInterrupt

    def check(self, *arguments, **logs):
        if self.asked:
            self.asked = False
            raise KeyboardInterrupt


_stop = _Stop()


@contextlib.contextmanager
def stoppable():
    """Let Ctrl-C and SIGTERM end a run tidily."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, _stop.handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def fit_stoppably(model, *arguments, callbacks, **settings):
    """`model.fit` that ends at a safe point when asked to."""
    import keras

    # Not at a batch's end: a callback there makes Keras wait for the step.
    check = keras.callbacks.Callback()
    check.on_train_batch_begin = check.on_test_batch_begin = _stop.check
    _stop.waiting, _stop.asked = True, False
    try:
        fitted = model.fit(*arguments, callbacks=[*callbacks, check], **settings)
        _stop.check()
        return fitted
    finally:
        _stop.waiting = _stop.asked = False
