"""Layer-name patterns of settings, such as `conv_*: 1e-3`: which one a layer takes."""

import fnmatch
from collections.abc import Iterable


def first_match(layer_name: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that matches a layer's name; upper and lower case differ.

    Args:
        layer_name: Name of a layer.
        patterns: Patterns as in Python's `fnmatch`: `*` for any text, `?` for one
            character, `[ab]` for one of several.

    Returns:
        The pattern, or `None` where none matches.

    Example:
        >>> first_match("conv_1", {"dense*": 1e-4, "conv*": 1e-3})
        'conv*'
    """
    return next((p for p in patterns if fnmatch.fnmatchcase(layer_name, p)), None)
