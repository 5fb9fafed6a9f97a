"""What callbacks must know to go on after a training that was interrupted.

Callbacks are not saved; the optimizer is, with the weights. So it keeps their state:
each callback gives a function that returns it when something is saved.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

State = dict[str, Any]


class CallbackStates:
    """States of callbacks, by name: given now, or loaded from a file."""

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], State]] = {}
        self._loaded: dict[str, State] = {}

    def keep(self, name: str, source: Callable[[], State]) -> None:
        """Save from now on what `source()` returns, arrays and numbers by name."""
        self._sources[name] = source
        self._loaded.pop(name, None)

    def get(self, name: str) -> State | None:
        """The state as it was loaded, else as it is now; `None` if there is none."""
        if name in self._loaded:
            return dict(self._loaded[name])
        return self._sources[name]() if name in self._sources else None

    def was_loaded(self, name: str) -> bool:
        """Whether `get` gives what a file held."""
        return name in self._loaded

    def arrays(self) -> dict[str, np.ndarray]:
        """All states as arrays, by `name.key`."""
        names = dict.fromkeys([*self._loaded, *self._sources])
        states = {name: self.get(name) or {} for name in names}
        return {
            f"{name}.{key}": np.asarray(value)
            for name, state in states.items()
            for key, value in state.items()
        }

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the states that `arrays` gave."""
        self._loaded = {}
        for full_name, value in arrays.items():
            name, _, key = full_name.partition(".")
            self._loaded.setdefault(name, {})[key] = value
