"""Python code that a config names: modules to import, and functions in them."""

import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cnn_l1.errors import CnnL1Error


class OwnCodeError(CnnL1Error, ValueError):
    """Code of the user's own that cannot be imported or called, or failed."""

    exit_code = 2


def make_importable(folder: str | None) -> None:
    """Look for modules in a folder too, after all other places."""
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)


def import_modules(names: Iterable[str], setting: str) -> None:
    """Import modules, such as those that register layers.

    Raises:
        OwnCodeError: If one cannot be imported.
    """
    for name in names:
        _import(name, setting)


def find_function(text: str, setting: str) -> Callable[..., Any]:
    """The function of `package.module:name`.

    Raises:
        OwnCodeError: If there is no such module, or it has no such function.
    """
    module_name, _, name = text.partition(":")
    module = _import(module_name, setting)
    function = getattr(module, name, None)
    if not callable(function):
        there = ", ".join(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise OwnCodeError(
            f"{setting}: expected a function {name!r} in the module {module_name!r}, which has "
            f"{there or 'none'}. Received: {text!r}"
        )
    return function


def call(function: Callable[..., Any], setting: str, **arguments: Any) -> Any:
    """Call a user's function; whatever it raises becomes one error that names it.

    Raises:
        OwnCodeError: If the call fails.
    """
    try:
        return function(**arguments)
    except CnnL1Error:
        raise
    except Exception as error:
        raise OwnCodeError(
            f"{setting}: expected a call that returns. Received: {function.__module__}:"
            f"{getattr(function, '__name__', function)} raised {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _import(name: str, setting: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the user's code raises
        where = "the config's folder and where Python looks"
        raise OwnCodeError(
            f"{setting}: expected a Python module {name!r} in {where}. "
            f"Received: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
