"""Whole channels zeroed in one go, by what they mean for the loss on some examples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cnn_l1.graph.coupling import ChannelSpace
from cnn_l1.process import keras_internals
from cnn_l1.sparsity.budgets import Measure
from cnn_l1.sparsity.channel_setpoint import ChannelSetpoint
from cnn_l1.sparsity.channel_values import ChannelValues
from cnn_l1.sparsity.groups import attach_groups

ROUNDS = 5
CRITERIA = ("second_order", "taylor", "magnitude")


class OneShotSetpoint(ChannelSetpoint):
    """Channels by an importance that is given, in place of their size.

    Attributes:
        importance: For each channel group, `(channels,)` numbers, 0 or more; `None` for the
            size of the channels' weights.
    """

    importance: list[np.ndarray] | None = None

    def order_of(
        self, number: int, gone: np.ndarray, values: ChannelValues
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.importance is None:
            return super().order_of(number, gone, values)
        importance = self.importance[number]
        order = np.argsort(-importance, kind="stable")
        order = order[~gone[order]]
        return order, importance[order]


def zero_channels(
    model: keras.Model,
    batches: Iterable[tuple[Any, Any]],
    loss: Any,
    limits: Mapping[str, int | float],
    criterion: str = "taylor",
    measure: Measure | None = None,
    board: str | None = None,
    tolerance: float = 0.03,
) -> list[str]:
    """Zero whole channels of a model until it is within a target, without training.

    In five rounds, each of which measures the importance of the channels that are left. The
    importance of a channel with weights `w` and their gradients `g` is

        I = mean over examples of (Σ w g)²      "second_order", the Fisher information
        I = mean over batches of (Σ w g)²       "taylor"
        I = the channel's share of the squares  "magnitude", as `TargetSparsity` has it

    (Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018, eq. 12;
    Molchanov et al., Importance estimation for neural network pruning, 2019, eq. 8.) Those
    of the least importance at their price go first; the moving statistics of batch-norms are
    measured anew.

    Args:
        model: A built `keras.Model`, which is changed. Penalties on it are removed.
        batches: Batches `(inputs, targets)`, targets as the loss takes them; they are read
            once a round.
        loss: A Keras loss.
        limits: As `ChannelSetpoint` takes them, such as `{"macs": 0.5}`.
        criterion: One of the three above. Default `"taylor"`.
        measure: What finds the figures of real files, for limits in bytes.
        board: The board that the limits are of, for messages.
        tolerance: How far below a limit is near enough. Default 0.03.

    Returns:
        A line for each limit that whole channels did not meet.

    Raises:
        TargetError: If the target cannot be reached.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"`criterion` must be one of {CRITERIA}. Received: {criterion!r}")
    attach_groups(model, 1.0)
    setpoint = OneShotSetpoint(model, None, limits, 0.0, tolerance, measure, board)
    if setpoint.is_met:
        return []
    for part in range(1, ROUNDS + 1):
        if criterion != "magnitude":
            single = criterion == "second_order"
            setpoint.importance = measure_importance(model, batches, loss, setpoint.spaces, single)
        # The load falls by the same factor in each round.
        load = setpoint.total ** (1.0 - part / ROUNDS)
        for variable, value in setpoint.without(load, exactly=part == ROUNDS):
            variable.assign(value)
        measure_batch_norm(model, batches)
    missed = setpoint.missed()
    return [missed] if missed else []


def measure_importance(
    model: keras.Model,
    batches: Iterable[tuple[Any, Any]],
    loss: Any,
    spaces: Sequence[ChannelSpace],
    single_examples: bool,
) -> list[np.ndarray]:
    """The importance of each channel of some groups: see `zero_channels`."""
    variables = list({id(m.variable): m.variable for s in spaces for m in s.members}.values())
    place = {id(variable): number for number, variable in enumerate(variables)}
    found = [np.zeros(space.size) for space in spaces]
    indexes = [
        [(place[id(m.variable)], m.axis, tf.constant(m.index), space.size) for m in space.members]
        for space in spaces
    ]

    @tf.function(reduce_retracing=True)
    def squares(inputs: Any, targets: Any) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = _total(loss, targets, model(inputs, training=False))
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        gradients = tape.gradient(value, [variable.value for variable in variables])
        products = [
            tf.zeros_like(v) if g is None else v * tf.convert_to_tensor(g)
            for v, g in zip(values, gradients, strict=True)
        ]
        sums = []
        for members in indexes:
            total = tf.zeros(members[0][3])
            for number, axis, index, size in members:
                product = products[number]
                others = [a for a in range(len(product.shape)) if a != axis]
                along = tf.cast(tf.reduce_sum(product, axis=others), tf.float32)
                inside = tf.where(index >= 0, along, 0.0)
                at = tf.cast(tf.maximum(index, 0), tf.int32)
                total += tf.math.unsorted_segment_sum(inside, at, size)
            sums.append(tf.square(total))
        return sums

    count = 0
    for inputs, targets in batches:
        size = len(tf.nest.flatten(inputs)[0])
        for start in range(size) if single_examples else (0,):
            stop = start + 1 if single_examples else size
            some = tf.nest.map_structure(lambda x, a=start, b=stop: x[a:b], (inputs, targets))
            for total, more in zip(found, squares(*some), strict=True):
                total += more.numpy()
            count += 1
    return [total / max(count, 1) for total in found]


def _total(loss: Any, targets: Any, outputs: Any) -> Any:
    """The loss of a batch; of several outputs their sum."""
    if isinstance(loss, Mapping):
        return sum(loss[name](targets[name], outputs[name]) for name in loss)
    if isinstance(loss, (list, tuple)):
        return sum(one(*each) for one, *each in zip(loss, targets, outputs, strict=True))
    return tf.reduce_mean(loss(targets, outputs))


def measure_batch_norm(model: keras.Model, batches: Iterable[tuple[Any, Any]]) -> None:
    """Set the moving statistics of batch-norms to those of some examples.

    The mean over the batches, for the channels that are left have other statistics once
    others are gone. Frozen layers keep theirs.
    """
    norms = [
        layer
        for layer in keras_internals.flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        for number, (inputs, _) in enumerate(batches):
            for norm in norms:
                norm.momentum = number / (number + 1)
            model(inputs, training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
