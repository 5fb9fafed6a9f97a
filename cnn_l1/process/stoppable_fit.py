"""`model.fit` that Ctrl-C and SIGTERM end between two steps."""

from collections.abc import Sequence
from typing import Any

import keras

from cnn_l1.process.interrupt import STOP


def fit_stoppably(
    model: keras.Model,
    *arguments: Any,
    callbacks: Sequence[keras.callbacks.Callback],
    **settings: Any,
) -> keras.callbacks.History:
    """`model.fit` that ends at a safe point when asked to."""
    # Not at a batch's end: a callback there makes Keras wait for the step.
    check = keras.callbacks.Callback()
    check.on_train_batch_begin = check.on_test_batch_begin = STOP.check
    STOP.waiting, STOP.asked = True, False
    try:
        fitted = model.fit(*arguments, callbacks=[*callbacks, check], **settings)
        STOP.check()
        return fitted
    finally:
        STOP.waiting = STOP.asked = False
