"""What a target may be: the arguments of `TargetSparsity`, checked."""

from typing import Any

from cnn_l1.config.boards import board_of


def check_target(given: dict[str, Any]) -> None:
    """Raise unless there is one target, or bytes and ram_bytes, of a right value.

    Args:
        given: `{name: value}` of all kinds of targets, `None` where it is not given.

    Raises:
        ValueError: Naming the argument.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1 and names != ["bytes", "ram_bytes"]:
        *kinds, last = (f"`{name}`" for name in given)
        raise ValueError(
            f"TargetSparsity expects exactly one of {', '.join(kinds)} and {last}, or `bytes` "
            "and `ram_bytes`. "
            f"Received: {', '.join(f'{name}={value!r}' for name, value in given.items())}"
        )
    if given["sparsity"] is not None:
        check_fraction("sparsity", given["sparsity"])
    layers = given["layers"]
    if layers is not None:
        if not isinstance(layers, dict) or not layers:
            raise ValueError(
                "`layers` must be a dict from name patterns to sparsities. "
                f"Received: layers={layers!r}"
            )
        for pattern, value in layers.items():
            check_fraction(f"layers[{pattern!r}]", value)
    macs = given["macs"]
    if isinstance(macs, float):
        check_fraction("macs", macs)
    elif macs is not None:
        check_whole("macs", macs)
    for name in ("bytes", "ram_bytes"):
        if given[name] is not None:
            check_whole(name, given[name])
    if given["board"] is not None:
        try:
            board_of(given["board"])
        except ValueError as error:
            raise ValueError(f"`board`: {error}. Received: {given['board']!r}") from None


def limits_of(given: dict[str, Any]) -> dict[str, int | float]:
    """The limits of figures that a target sets, none where it is of weights.

    Args:
        given: As of `check_target`.
    """
    if given["board"] is not None:
        return dict(board_of(given["board"]).room)
    names = ("macs", "bytes", "ram_bytes")
    return {name: given[name] for name in names if given[name] is not None}


def check_fraction(name: str, value: Any) -> None:
    """Raise unless a setting is a number between 0 and 1."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` must be a number between 0 and 1. Received: {value!r}")


def check_whole(name: str, value: Any) -> None:
    """Raise unless a setting is a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a whole number, 1 or more. Received: {name}={value!r}")
