"""Where given arrays come from, in the words of error messages."""

import dataclasses
from collections.abc import Mapping

from cnn_l1.config.loading import ConfigError


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an error calls the data: the setting, the file or function, and the arrays in it.

    Attributes:
        setting: What the error is about, e.g. `"data.path"`.
        place: What follows the expected, e.g. `" in /data/mine.npz"`.
        keys: Names of inputs and targets by split, where they have names of their own.
    """

    setting: str = "data"
    place: str = ""
    keys: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def inputs(self, split: str) -> str:
        """What the inputs of a split are called."""
        return self.keys[split][0] if split in self.keys else f"{split} inputs"

    def targets(self, split: str, output: str = "") -> str:
        """What the targets of a split, and of one of several outputs, are called."""
        if split in self.keys:
            return self.keys[split][1] + (f"_{output}" if output else "")
        return f"{split} targets" + (f" of {output!r}" if output else "")

    def error(self, expected: str, received: str) -> ConfigError:
        """One line that says what was expected there and what came."""
        line = f"{self.setting}: expected {expected}{self.place}. Received: {received}"
        return ConfigError(" ".join(line.split()))
