"""Rules for layers and operations with several inputs: sums, products, concatenations."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cnn_l1.graph.channel_labels import Analysis, Array, Rule
from cnn_l1.graph.reading import Call


class Merge(Rule):
    """Add, Subtract, Multiply, Average, Maximum, Minimum: channels go together."""

    def __init__(
        self,
        combine: Callable[[list[Array]], Array] | None,
        bypasses: Callable[[int], bool] | None = None,
        operands: int = 2,
    ) -> None:
        self.combine = combine
        self.operands = operands  # of an operation; a layer takes any number
        self.bypasses = bypasses  # which inputs add nothing where they are zero

    def couple(self, analysis: Analysis, call: Call) -> None:
        target = call.outputs[0]
        rank = len(target.shape)
        axis = rank - 1
        if call.inputs:
            axis = max(
                (analysis.axis[v] for v in call.inputs if len(v.shape) == rank),
                default=rank - 1,
                key=lambda a: sum(analysis.axis[v] == a for v in call.inputs),
            )
        numbers = self._numbers(call)
        fits = numbers is not None and all(len(v.shape) == rank for v in call.inputs)
        if not fits or axis == 0 or target.shape[axis] is None:
            analysis.keep_all(call)
            return
        size: Any = target.shape[axis]
        together, constants = [], []
        for value in call.inputs:
            labels = analysis.along(value, axis, call)
            known = analysis.constants_along(value, axis)
            if len(labels) == size:
                together.append(labels)
            else:  # one channel for all
                analysis.pin(labels, f"{call.name} uses it for all channels")
                known = np.repeat(known, size)
            constants.append(known)
        if self._bypass(analysis, call, constants, numbers):
            return
        left = [i for i in range(len(call.inputs)) if i not in analysis.dropped.get(call, ())]
        left_labels = [analysis.along(call.inputs[i], axis, call) for i in left]
        whole = [labels for labels in left_labels if len(labels) == size]
        if not whole:
            analysis.keep_all(call)
            return
        analysis.unite(*whole)
        values = None
        if analysis.with_constants:
            values = self.combined(call, _in_order(call, constants, numbers, size))
        analysis.set(target, axis, whole[0], values)

    def combined(self, call: Call, operands: list[Array]) -> Array:
        """The constants of the result, from those of all operands in order."""
        assert self.combine is not None  # else a subclass combines them
        return self.combine(operands)

    def _numbers(self, call: Call) -> dict[int, float] | None:
        """The plain numbers among an operation's arguments, by position."""
        if isinstance(call.operation, keras.Layer):
            return {}
        args, kwargs = call.arguments({value: value for value in call.inputs})
        if kwargs or len(args) != self.operands:
            return None
        numbers = {}
        for position, argument in enumerate(args):
            if isinstance(argument, (int, float, np.generic)) and not np.iscomplexobj(argument):
                numbers[position] = float(argument)
            elif not any(argument is value for value in call.inputs):
                return None  # such as an array
        return numbers

    def _bypass(self, analysis: Analysis, call: Call, constants: list[Array], numbers: Any) -> bool:
        """Leave out inputs that are zero everywhere; whether only one is left."""
        if self.bypasses is None or numbers or not analysis.with_constants:
            return False
        target = call.outputs[0]
        count = len(call.inputs)
        dead = [i for i in range(count) if self.bypasses(i) and np.all(constants[i] == 0)]
        left = [i for i in range(count) if i not in dead]
        if not left:
            left = [dead.pop(0)]
        # What is left must have the result's shape by itself, and its type.
        if not dead or not any(call.inputs[i].shape == target.shape for i in left):
            return False
        if len(set(map(id, call.inputs))) != count:
            return False
        if len(left) == 1:
            analysis.aliases[target] = call.inputs[left[0]]
            source = analysis.resolve(target)
            analysis.set(
                target, analysis.axis[source], analysis.labels[source], analysis.constants[source]
            )
            return True
        if not isinstance(call.operation, keras.Layer) or call.kind != "Add":
            return False
        analysis.dropped[call] = tuple(dead)
        return False


def _in_order(call: Call, constants: list[Array], numbers: Any, size: int) -> list[Array]:
    """Constants of all operands, plain numbers at their places."""
    operands = list(constants)
    if not isinstance(call.operation, keras.Layer):
        args, _ = call.arguments({value: value for value in call.inputs})
        by_value = dict(zip(call.inputs, constants, strict=True))
        operands = [
            np.full(size, numbers[i]) if i in numbers else by_value[a] for i, a in enumerate(args)
        ]
    return operands


def _product(operands: list[Array]) -> Array:
    product = operands[0]
    for operand in operands[1:]:
        # Zero times anything is zero, known or not.
        product = np.where((product == 0) | (operand == 0), 0.0, product * operand)
    return product


class Concatenate(Rule):
    """Channels side by side; along another axis they go together."""

    def couple(self, analysis: Analysis, call: Call) -> None:
        target = call.outputs[0]
        joined = call.operation.axis % len(target.shape)
        axes = {analysis.axis[value] for value in call.inputs}
        axis = axes.pop() if len(axes) == 1 else joined
        labels = [analysis.along(value, axis, call) for value in call.inputs]
        constants = [analysis.constants_along(value, axis) for value in call.inputs]
        if axis == joined:
            analysis.set(target, axis, np.concatenate(labels), np.concatenate(constants))
            return
        analysis.unite(*labels)
        same = np.all([c == constants[0] for c in constants], axis=0)
        analysis.set(target, axis, labels[0], np.where(same, constants[0], np.nan))


def _add(operands: list[Array]) -> Array:
    return np.sum(operands, axis=0)


def _subtract(operands: list[Array]) -> Array:
    return operands[0] - operands[1]


def _average(operands: list[Array]) -> Array:
    return np.mean(operands, axis=0)


def _maximum(operands: list[Array]) -> Array:
    return np.max(operands, axis=0)


def _minimum(operands: list[Array]) -> Array:
    return np.min(operands, axis=0)


ADD = Merge(_add, bypasses=lambda position: True)
SUBTRACT = Merge(_subtract, bypasses=lambda position: position == 1)
MULTIPLY, AVERAGE = Merge(_product), Merge(_average)
MAXIMUM, MINIMUM = Merge(_maximum), Merge(_minimum)
