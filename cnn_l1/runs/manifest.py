"""`manifest.json`: every file of a run with its size and SHA-256."""

import hashlib
import json
import pathlib

NAME = "manifest.json"
# Written while a run goes on, and of no use to check.
LEFT_OUT = ("tensorboard",)


def write_manifest(folder: pathlib.Path) -> None:
    """Write the manifest of a run's folder; to be done last."""
    files = {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, path in listed(folder).items()
    }
    text = json.dumps({"files": files}, indent=2)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def listed(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """`{relative name: path}` of the files a manifest lists, sorted."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if name.parts[0] not in LEFT_OUT and name.as_posix() != NAME:
            found[name.as_posix()] = path
    return found


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
