"""Train batch normalization with TensorFlow's fused kernel.

Keras 3 writes it as a chain of operations, each a pass through memory, in float32. On a CPU
they take most of a small residual network's step; benchmarks/train_speed.py measures it.
"""

import contextlib

import keras

FUSED_DTYPES = ("float32", "bfloat16", "float16")


@contextlib.contextmanager
def fused_batch_norm(model):
    """Within it, `model` trains its batch normalization with one kernel a layer.

    `y = γ (x − mean(x)) / √(var(x) + ε) + β`, moving statistics and gradients are what
    `keras.layers.BatchNormalization` computes, up to rounding: statistics are in float32
    in both, of bfloat16 inputs as well. The layers, their weights, and what is computed
    outside training stay Keras' own, and so does the whole layer where the kernel has no
    answer: another backend than TensorFlow, inputs that are not `(batch, rows, cols,
    channels)`, a mask, `renorm`, `synchronized`, float64, or a subclass with a `call` of
    its own.

    Enter it before `compile` and leave it after `fit`, for Keras traces the step in between:

        with cnn_l1.fused_batch_norm(model):
            model.compile(...)
            model.fit(...)

    Args:
        model: A `keras.Model`; networks inside it are found.

    Yields:
        The names of the layers that are fused.
    """
    chosen = []
    if keras.backend.backend() == "tensorflow":
        chosen = [layer for layer in model._flatten_layers() if _can_fuse(layer)]
    for layer in chosen:
        layer.call = _fused_call(layer, layer.call)
    try:
        yield [layer.name for layer in chosen]
    finally:
        for layer in chosen:
            del layer.call  # the class' own is behind it


def _can_fuse(layer):
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and type(layer).call is keras.layers.BatchNormalization.call
        and not layer.renorm
        and not layer.synchronized
        and layer.compute_dtype in FUSED_DTYPES
    )


def _fused_call(layer, plain_call):
    import tensorflow as tf

    def call(inputs, training=None, mask=None):
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
