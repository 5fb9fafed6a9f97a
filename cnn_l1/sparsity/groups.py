"""Penalties on a model's channels: all weights of one become zero together.

What goes with a channel is spread over variables: the filters that make it, in every
layer that an addition binds together, their biases, the batch-norm scales and shifts
after them. `coupling.channel_spaces` finds them; `CoupledGroupL1` makes one group of
them, and `Proximal` moves them towards zero together.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from cnn_l1.graph.costs import ChannelCosts
from cnn_l1.graph.coupling import ChannelSpace, Member, analyse, beside_frozen, spaces_of
from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.graph.layer_weights import leaf_layers
from cnn_l1.sparsity import misuse
from cnn_l1.sparsity.attaching import decided, place
from cnn_l1.sparsity.penalties import L1
from cnn_l1.sparsity.penalty import Penalty, check_ratio, check_strength
from cnn_l1.sparsity.proximal_operators import (
    absolute,
    block_soft_threshold,
    norm_from_squares,
    soft_threshold,
)
from cnn_l1.sparsity.shapes import Shape, make_shape


class CoupledGroupL1:
    """Sparse group lasso whose groups are the channels of one channel group.

    `l1_strength · [(1 − l1_ratio) · Σ_c √n_c · ‖w_c‖₂ + l1_ratio · Σ|w|]`, where
    `w_c` are the `n_c` weights of channel `c` in all variables of the channel group: formula,
    proximal operator and sources are those of `penalties.GroupL1`, and so are its
    concave curves. Weights that belong to no channel of the group are left alone.

    Args:
        space: A `coupling.ChannelSpace`.
        l1_strength: Float, 0 or more (called λ in papers; larger means more zeros). Default 1e-4.
        l1_ratio: Float, 0 to 1: how much of it is plain L1. Default 0.0.
        shape: `"l1"` (default), `"transformed"`, `"mcp"` or `"log"`.
        scale: Float above 0: the root mean square of a channel's weights at which the
            curve bends. Default 0.1; none for `"l1"`.

    Attributes:
        variables: The variables of the channel group, in the order in which all methods
            take and give their values.
        sizes: `(channels,)` array, the number of weights of each channel.

    Raises:
        ValueError: If a setting is out of range, or the members of the group do not
            fit their variables.
    """

    def __init__(
        self,
        space: ChannelSpace,
        l1_strength: float = 1e-4,
        l1_ratio: float = 0.0,
        shape: str = "l1",
        scale: float | None = None,
    ) -> None:
        self.l1_strength = check_strength("l1_strength", l1_strength)
        self.l1_ratio = check_ratio(l1_ratio)
        self.shape = shape
        self._shape = make_shape(shape, scale)
        self.scale = self._shape.scale
        self.space = space
        self.name = space.name
        self.variables = tuple(member.variable for member in space.members)
        if len({id(variable) for variable in self.variables}) < len(self.variables):
            raise ValueError(
                "CoupledGroupL1 expects a space that has each variable once. "
                f"Received: {', '.join(variable.path for variable in self.variables)}"
            )
        self._slices = [_Slice(member, space.size) for member in space.members]
        self.sizes = np.sum([part.sizes for part in self._slices], axis=0)
        self._dtype = keras.backend.result_type(*(v.dtype for v in self.variables))

    def values(self) -> list[Any]:
        """The variables' values now."""
        return [ops.convert_to_tensor(variable) for variable in self.variables]

    def value(self, values: list[Any] | None = None) -> Any:
        """The penalty, a scalar.

        Args:
            values: One tensor a variable, of its shape. Default: their values now.
        """
        values = self.values() if values is None else values
        total = ops.sum(self._shape_of_norms().value(self._norms(values)) * self._strengths())
        if self.l1_ratio:
            sums = sum(self._channel_sums(map(absolute, values)))
            total = total + self.l1_strength * self.l1_ratio * ops.sum(sums)
        return total

    def gradients(self, values: list[Any] | None = None) -> list[Any]:
        """What automatic differentiation of `value` gives, 0 for channels of zeros.

        Args:
            values: One tensor a variable, of its shape. Default: their values now.

        Returns:
            One tensor a variable, of its shape and dtype.
        """
        values = self.values() if values is None else values
        norms = self._norms(values)
        slopes = self._strengths() * self._shape_of_norms().slope(norms)
        factors = slopes / ops.where(ops.equal(norms, 0), ops.ones_like(norms), norms)
        gradients = []
        for part, x in zip(self._slices, values, strict=True):
            gradient = part.spread(factors, 0.0, x.dtype) * x
            if self.l1_ratio:
                strengths = part.constant(self.l1_strength * self.l1_ratio, x.dtype)
                gradient = gradient + strengths * ops.sign(x)
            gradients.append(gradient)
        return gradients

    def prox_all(self, values: list[Any], steps: list[Any]) -> list[Any]:
        """`argmin_z penalty(z) + Σ (z − values)² / (2 steps)`, over all variables.

        Exact where all steps are one number. Otherwise a channel takes one step for
        its norm, `1 / mean_c(1 / step)` over all of its weights: see `GroupL1`.

        Args:
            values: One tensor a variable, of its shape.
            steps: One tensor a variable, a scalar or of its shape, 0 or more.

        Returns:
            One tensor a variable, of its shape and dtype. The weights of a channel
            that is gone are exactly `0.0` in all of them.
        """
        if self.l1_ratio:
            strength = self.l1_strength * self.l1_ratio
            values = [
                soft_threshold(x, step * part.constant(strength, x.dtype))
                for part, x, step in zip(self._slices, values, steps, strict=True)
            ]
        norms = self._norms(values)
        thresholds = self._shape_of_norms().reduction(
            norms, self._strengths() * self._channel_steps(steps)
        )
        return [
            block_soft_threshold(
                x, part.spread(norms, 1.0, x.dtype), part.spread(thresholds, 0.0, x.dtype)
            )
            for part, x in zip(self._slices, values, strict=True)
        ]

    def _strengths(self) -> Any:
        """The factor of each channel's norm."""
        strengths = self.l1_strength * (1.0 - self.l1_ratio) * np.sqrt(self.sizes)
        return ops.convert_to_tensor(strengths, dtype=self._dtype)

    def _shape_of_norms(self) -> Shape:
        """The curve of each channel's norm, where `_shape` is that of a root mean square."""
        factors = np.sqrt(np.maximum(self.sizes, 1))  # a channel may have no weights
        return self._shape.stretched(ops.convert_to_tensor(factors, dtype=self._dtype))

    def _channel_sums(self, tensors: Iterable[Any]) -> list[Any]:
        pairs = zip(self._slices, tensors, strict=True)
        return [ops.cast(part.sums(x), self._dtype) for part, x in pairs]

    def _norms(self, values: list[Any]) -> Any:
        return norm_from_squares(sum(self._channel_sums(map(ops.square, values))))

    def _channel_steps(self, steps: list[Any]) -> Any:
        inverses = []
        for part, step in zip(self._slices, steps, strict=True):
            inverse = 1.0 / ops.convert_to_tensor(step, dtype=self._dtype)
            if len(inverse.shape):
                inverses.append(part.sums(inverse))
            else:
                # Chosen, not multiplied: the inverse of a step 0 times none is no number.
                sizes = ops.convert_to_tensor(part.sizes, dtype=self._dtype)
                inverses.append(ops.where(sizes > 0, sizes * inverse, ops.zeros_like(sizes)))
        return ops.convert_to_tensor(self.sizes, dtype=self._dtype) / sum(inverses)


class _Slice:
    """Which positions of a variable belong to which channel."""

    def __init__(self, member: Member, channels: int) -> None:
        shape = tuple(member.variable.shape)
        index = np.asarray(member.index)
        fits = -len(shape) <= member.axis < len(shape) and index.shape == (shape[member.axis],)
        if not fits or not ((index >= -1) & (index < channels)).all():
            raise ValueError(
                f"A member of a space expects one channel from 0 to {channels - 1}, or -1, for "
                f"each position along its axis. Received: variable={member.variable.path}, "
                f"shape={shape}, axis={member.axis}, index={index.tolist()}"
            )
        axis = member.axis % len(shape)
        self.channels = channels
        self.within = tuple(other for other in range(len(shape)) if other != axis)
        self.broadcast = [shape[axis] if other == axis else 1 for other in range(len(shape))]
        self.kept = np.flatnonzero(index >= 0).astype("int32")
        self.index = index.astype("int32")
        self.in_order = np.array_equal(index, np.arange(channels))
        each = math.prod(shape) // max(shape[axis], 1)
        self.sizes = np.bincount(index[self.kept], minlength=channels) * each

    def sums(self, x: Any) -> Any:
        """`(channels,)` sums over the weights of each channel."""
        x = ops.sum(x, axis=self.within)
        if self.in_order:
            return x
        x = ops.take(x, self.kept)
        return ops.segment_sum(x, self.index[self.kept], num_segments=self.channels)

    def spread(self, x: Any, elsewhere: float, dtype: Any) -> Any:
        """`(channels,)` values at their positions, to broadcast to the variable."""
        x = ops.cast(x, dtype)
        if not self.in_order:
            x = ops.concatenate([x, ops.full((1,), elsewhere, dtype=dtype)])
            x = ops.take(x, np.where(self.index < 0, self.channels, self.index))
        return ops.reshape(x, self.broadcast)

    def constant(self, value: float, dtype: Any) -> Any:
        """A number for the positions of channels, 0 elsewhere."""
        values = np.where(self.index < 0, 0.0, value).reshape(self.broadcast)
        return ops.convert_to_tensor(values, dtype=dtype)


class ChannelShare(Penalty):
    """What a variable of channel groups carries as its regularizer.

    Keras asks each variable's regularizer for a value. The first variable of a
    group gives that of the whole group, the others 0, so that it is in the loss once.
    The groups, not the shares, have gradients and a proximal operator.

    Args:
        variable: The `keras.Variable` that carries it.
        groups: The `CoupledGroupL1`s that the variable is in. No weight may belong to
            channels of two of them.
    """

    def __init__(self, variable: Any, groups: Sequence[CoupledGroupL1]) -> None:
        self.variable = variable
        self.groups = tuple(groups)

    def value(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        total = ops.zeros((), dtype=x.dtype)
        for group in self.groups:
            if group.variables[0] is self.variable:
                total = total + ops.cast(group.value([x, *group.values()[1:]]), x.dtype)
        return total


CHANNEL_COSTS = ("weights", "macs")


def attach_groups(
    model: keras.Model,
    l1_strength: float,
    l1_ratio: float = 0.0,
    strengths: Callable[[str], float] | None = None,
    shape: str = "l1",
    scale: float | None = None,
    channel_cost: str = "weights",
) -> list[str]:
    """Put a group penalty on the channels that can be removed from a model.

    Each channel that `coupling.channel_spaces` finds is a group: see
    `CoupledGroupL1`. Kernels that make no such channel, as the last layer's, get
    `L1(l1_strength · l1_ratio)`. All other penalties of `cnn_l1` are taken off. Channels that
    a frozen layer makes or scales are no groups, and stay.

    Like `attach` it sets `variable.regularizer`: `model.save` still writes a plain
    Keras model. Layers to be frozen must be so before.

    Args:
        model: A built Functional or Sequential model.
        l1_strength: Float, 0 or more (called λ in papers; larger means more zeros).
        l1_ratio: Float, 0 to 1: how much of it is plain L1. Default 0.0.
        strengths: A function from a layer's name to its `l1_strength`; channels that
            several layers make together take that of the first. Default `None`:
            `l1_strength` everywhere.
        shape: `"l1"` (default), `"transformed"`, `"mcp"` or `"log"`, for the channels
            alone: `l1_ratio`'s part stays plain L1.
        scale: Float above 0: the root mean square of a channel's weights at which the
            curve bends. Default 0.1; none for `"l1"`.
        channel_cost: What a channel costs, to which its strength is fit. `"weights"`
            (default): the `n_c` weights that make it, and the strength is `l1_strength`.
            `"macs"`: the `m_c` multiply-adds that go with it, those that make it and
            those that read it, and the strength is `l1_strength · √(m_c / n_c)`. So the
            norm's factor is `l1_strength · √m_c`: a price of `m_c` for each channel that
            stays removes those below a size that grows with `√m_c` (the hard threshold
            `√(2 · price)` of an L0 penalty). It is 1 for a dense layer's unit, nearly,
            and large for the first convolutions.

    Returns:
        The list of paths of the variables that now carry a penalty.

    Raises:
        ValueError: If a setting is out of range, the model has no channel that could be
            removed, or an image size is open where multiply-adds are to be counted.
        GraphError: If the model is no built Functional or Sequential model.

    Warns:
        MisuseWarning: If it skips layers, which it names.

    Example:
        >>> inputs = keras.Input((8, 8, 1))
        >>> hidden = keras.layers.Conv2D(4, 3, name="first")(inputs)
        >>> outputs = keras.layers.Dense(2, name="last")(keras.layers.Flatten()(hidden))
        >>> model = keras.Model(inputs, outputs)
        >>> cnn_l1.attach_groups(model, 1e-3)
        ['first/kernel', 'first/bias']
        >>> model.compile(cnn_l1.Proximal(keras.optimizers.Adam()), "mse")
    """
    strength = check_strength("l1_strength", l1_strength)
    ratio = check_ratio(l1_ratio)
    make_shape(shape, scale)
    if channel_cost not in CHANNEL_COSTS:
        raise ValueError(
            f"`channel_cost` must be one of {', '.join(CHANNEL_COSTS)}. Received: {channel_cost!r}"
        )
    strength_of = strengths or (lambda layer_name: strength)
    analysis = analyse(model, with_constants=False)
    costs = ChannelCosts(analysis) if channel_cost == "macs" else None
    groups = []
    for space in spaces_of(analysis):
        group = CoupledGroupL1(space, strength_of(space.members[0].layer), ratio, shape, scale)
        if costs is not None:
            weights = max(float(np.mean(group.sizes)), 1.0)
            group.l1_strength *= math.sqrt(costs.saved_macs(space) / weights)
        groups.append(group)
    if not groups:
        frozen = any(layer.weights and not layer.trainable for layer in leaf_layers(model))
        raise ValueError(
            "`attach_groups` expects a model with channels that can be removed. "
            f"Received: {model.name!r}, where every channel is an input, an output or "
            f"in layers that keep all of theirs{_listed(analysis.unsupported)}"
            f"{'; those of frozen layers stay' if frozen else ''}"
        )
    if analysis.unsupported:
        misuse.warn(
            "`attach_groups` skips the channels of layers whose kinds are not known to it, and of "
            f"those before them: {', '.join(analysis.unsupported)}"
        )
    groups_of: dict[int, list[CoupledGroupL1]] = {}
    for group in groups:
        for variable in group.variables:
            groups_of.setdefault(id(variable), []).append(group)
    layers = leaf_layers(model)
    layer_of = {id(v): layer.name for layer in layers for v in layer.trainable_variables}
    attached = []
    for variable in model.trainable_variables:
        penalty: Penalty | None = None
        if id(variable) in groups_of:
            penalty = ChannelShare(variable, groups_of[id(variable)])
        elif ratio and is_kernel(variable):
            penalty = L1(strength_of(layer_of[id(variable)]) * ratio)
        elif not isinstance(variable.regularizer, Penalty):
            continue
        place(variable, penalty)
        if penalty is not None:
            attached.append(variable.path)
    decided(model)
    return attached


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


def attach_slimming(model: keras.Model, l1_strength: float) -> list[str]:
    """Put an L1 penalty on every batch-norm scale, and so on channels.

    `l1_strength · Σ|γ|`, the penalty of Network Slimming (Liu et al., Learning
    efficient convolutional networks through network slimming, 2017, eq. 1). It
    leaves the penalties on all other variables as they are. Scales of channels that a frozen
    layer makes get none.

    Args:
        model: A built `keras.Model`.
        l1_strength: Float, 0 or more (called λ in papers; larger means more zeros).

    Returns:
        The list of paths of the scales.

    Raises:
        ValueError: If `l1_strength` is out of range, or the model has no
            BatchNormalization with a trainable scale.
    """
    penalty = L1(l1_strength)
    norms = [x for x in leaf_layers(model) if isinstance(x, keras.layers.BatchNormalization)]
    frozen = beside_frozen(model)
    scales = {id(v): v for norm in norms for v in norm.trainable_variables if v is norm.gamma}
    scales = {key: v for key, v in scales.items() if key not in frozen}
    if not scales:
        kinds = dict.fromkeys(type(layer).__name__ for layer in leaf_layers(model))
        raise ValueError(
            "`attach_slimming` expects a built model with a BatchNormalization that has a "
            f"trainable scale. Received: {model.name!r} of {', '.join(kinds)}"
        )
    for variable in scales.values():
        place(variable, penalty)
    decided(model)
    return [variable.path for variable in scales.values()]
