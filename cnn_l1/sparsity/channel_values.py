"""Values of all weights of some channel groups, to be measured and zeroed channel by channel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from cnn_l1.graph.coupling import ChannelSpace, Member


class ChannelValues:
    """Copies of the values of all variables in some channel groups.

    A variable may be in several groups, as a batch-norm after a concatenation is.

    Args:
        spaces: The channel groups, as `coupling.channel_spaces` finds them.
    """

    def __init__(self, spaces: Sequence[ChannelSpace]) -> None:
        variables = {id(m.variable): m.variable for space in spaces for m in space.members}
        self._values = {
            key: (variable, np.array(ops.convert_to_numpy(variable)))
            for key, variable in variables.items()
        }

    def pairs(self) -> list[tuple[Any, np.ndarray]]:
        """`(variable, its value as it is here now)` of all variables."""
        return list(self._values.values())

    def squares(
        self, space: ChannelSpace, members: Sequence[Member] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sum of squares of each channel's weights, and how many weights it has.

        Args:
            space: A channel group.
            members: Those of its weights to count. Default `None`: all.

        Returns:
            Two `(channels,)` arrays of floats.
        """
        squares, sizes = np.zeros(space.size), np.zeros(space.size)
        for member in space.members if members is None else members:
            moved = np.moveaxis(self._value(member), member.axis, 0)
            moved = moved.reshape(len(member.index), -1)
            inside = member.index >= 0
            sums = np.square(moved, dtype="float64").sum(axis=1)
            np.add.at(squares, member.index[inside], sums[inside])
            np.add.at(sizes, member.index[inside], moved.shape[1])
        return squares, sizes

    def sizes(self, space: ChannelSpace) -> np.ndarray:
        """The root mean square of each channel's weights, a `(channels,)` array."""
        squares, sizes = self.squares(space)
        return np.sqrt(squares / sizes)

    def zero(self, space: ChannelSpace, gone: np.ndarray) -> None:
        """Zero all weights of some channels, given as `(channels,)` booleans."""
        for member in space.members:
            zeroed = (member.index >= 0) & gone[member.index]
            np.moveaxis(self._value(member), member.axis, 0)[zeroed] = 0

    def _value(self, member: Member) -> np.ndarray:
        return self._values[id(member.variable)][1]
