"""What the optimizers ask of TensorFlow itself; on JAX and PyTorch, what stands in for it.

On another backend of Keras TensorFlow is not imported: it need not be there.
"""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def outside_of_traces() -> AbstractContextManager[Any]:
    """A context in which values are assigned at once, although a step may be traced."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return tf.init_scope()


def can_fuse() -> bool:
    """Whether single functions can be compiled by XLA here: TensorFlow, CPU, one replica."""
    if keras.backend.backend() != "tensorflow":
        return False
    if tf.distribute.has_strategy() or tf.config.list_physical_devices("GPU"):
        return False
    return _has_xla()


@functools.cache
def _has_xla() -> bool:
    try:
        with tf.init_scope():
            tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(1.0))
    except (tf.errors.OpError, ValueError):  # a build without XLA
        return False
    return True


def replica_count() -> int:
    """How many replicas the loss was divided by (1 outside tf.distribute)."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """A function on tensors that XLA compiles into one loop over memory. TensorFlow only."""
    fused = tf.function(function, jit_compile=True)

    def call(*arguments: Any) -> None:
        # Not `ops.convert_to_tensor`, which hands variables through.
        fused(*map(tf.convert_to_tensor, arguments))

    return call
