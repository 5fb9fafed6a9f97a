"""Train batch normalization with TensorFlow's fused kernel.

Keras 3 writes it as a chain of operations, each a pass through memory, in float32. On a CPU
they take most of a small residual network's step; benchmarks/train_speed.py measures it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from cnn_l1.process import keras_internals

FUSED_DTYPES = ("float32", "bfloat16", "float16")


@contextlib.contextmanager
def fused_batch_norm(model: keras.Model) -> Iterator[list[str]]:
    """Within it, `model` trains its batch normalization with one kernel a layer.

    `y = γ (x − mean(x)) / √(var(x) + ε) + β`, moving statistics and gradients are what
    `keras.layers.BatchNormalization` computes, up to rounding: statistics are in float32
    in both, of bfloat16 inputs as well. The layers, their weights, and what is computed
    outside training stay Keras' own, and so does the whole layer where the kernel has no
    answer: another backend than TensorFlow, inputs that are not `(batch, rows, cols,
    channels)`, a mask, `renorm`, `synchronized`, float64, or a layer with a `call` of its
    own, by its class or set on it.

    Enter it before `compile` and leave it after `fit`, for Keras traces the step in between:

        with cnn_l1.fused_batch_norm(model):
            model.compile(...)
            model.fit(...)

    Contexts may be nested: a layer is Keras' own again when the last one that holds it is left.

    Args:
        model: A `keras.Model`; networks inside it are found.

    Yields:
        The names of the layers that are fused.
    """
    held: list[keras.layers.Layer] = []
    try:
        if keras.backend.backend() == "tensorflow":
            for layer in keras_internals.flatten_layers(model):
                if _can_fuse(layer):
                    _hold(layer)
                    held.append(layer)
        yield [layer.name for layer in held]
    finally:
        for layer in held:
            _release(layer)


def _hold(layer: Any) -> None:
    """Give a layer the fused call, or count one more context that wants it."""
    call = _own_call(layer)
    if call is None:
        layer.call = call = _fused_call(layer, layer.call)
        call.contexts = 0
    call.contexts += 1


def _release(layer: Any) -> None:
    call = _own_call(layer)
    if not hasattr(call, "contexts"):
        return  # another call was set meanwhile, and stays
    call.contexts -= 1
    if not call.contexts:
        del layer.call  # the class' own shows again


def _own_call(layer: Any) -> Any:
    """The call that was set on the layer itself, or `None`."""
    return vars(layer).get("call")


def _can_fuse(layer: Any) -> bool:
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and type(layer).call is keras.layers.BatchNormalization.call
        and (_own_call(layer) is None or hasattr(_own_call(layer), "contexts"))
        and not layer.renorm
        and not layer.synchronized
        and layer.compute_dtype in FUSED_DTYPES
    )


def _fused_call(layer: Any, plain_call: Callable[..., Any]) -> Any:
    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        image = len(inputs.shape) == 4 and layer.axis in (-1, 3)
        if not (training and layer.trainable and image and mask is None):
            return plain_call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        scale = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones([channels])
        offset = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros([channels])
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(scale, tf.float32),
            offset=tf.cast(offset, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=layer.epsilon,
            is_training=True,
        )
        # The kernel's variance has the divisor n - 1, Keras' n.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        kept, taken = layer.momentum, 1.0 - layer.momentum
        layer.moving_mean.assign(layer.moving_mean * kept + mean * taken)
        variance *= (count - 1.0) / count
        layer.moving_variance.assign(layer.moving_variance * kept + variance * taken)
        return outputs

    return call
