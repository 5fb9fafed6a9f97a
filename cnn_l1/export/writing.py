"""Write a file at once, so that half of one never stands at its path."""

import os
import pathlib


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Write a file at once: there is all of it, or what was there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
