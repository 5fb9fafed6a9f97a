"""Layers that have become all zero: a warning, or an error where a setting forbids it."""

import warnings

from cnn_l1.errors import CnnL1Error


class EmptyLayerWarning(UserWarning):
    """A layer has no weight left that is not zero."""


class EmptyLayerError(CnnL1Error, ValueError):
    """A layer has no weight left that is not zero, and a setting forbids that."""


def check_empty_layers(empty_layers: str) -> None:
    """Raise unless `empty_layers` is one of its two values."""
    if empty_layers not in ("warn", "forbid"):
        raise ValueError(
            f"`empty_layers` must be 'warn' or 'forbid'. Received: empty_layers={empty_layers!r}"
        )


def report_empty(layer: str, empty_layers: str, when: str) -> None:
    """Warn, or raise, that a layer is all zero."""
    message = f"Layer {layer!r} is all zero {when}: its output no longer depends on its input."
    if empty_layers == "forbid":
        raise EmptyLayerError(
            f"{message} `empty_layers` forbids it; expected a weaker l1_strength or a lower "
            "threshold for this layer."
        )
    warnings.warn(message, EmptyLayerWarning, stacklevel=3)
