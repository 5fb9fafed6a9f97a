"""The folder of a run: whole, or not there at all."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator

from cnn_l1.config.loading import ConfigError

MARK = "report.json"
# The network before its batch-norms are folded, from which another training can start.
UNFOLDED = "model_unfolded.keras"


def check_output(output: str | pathlib.Path, overwrite: bool) -> None:
    """Raise `ConfigError` unless a run may be written to `output`."""
    output = pathlib.Path(output)
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise ConfigError(f"--output: expected a folder. Received: the file {output}")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise ConfigError(
            f"--output: expected a folder that does not exist yet. Received: {output}, which "
            "does. Give --overwrite to replace that run, or another --output."
        )
    if not (output / MARK).is_file():
        raise ConfigError(
            f"--overwrite: expected the folder of a run, with a {MARK}. Received: {output}, "
            "which holds something else and is left alone."
        )


def is_finished(folder: str | pathlib.Path) -> bool:
    """Whether a folder holds a run that ended well."""
    path = pathlib.Path(folder) / MARK
    return path.is_file() and not json.loads(path.read_text(encoding="utf-8")).get("error")


@contextlib.contextmanager
def run_folder(output: str | pathlib.Path, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A new folder to write into, moved to `output` when the block ends well.

    Where the block raises, whatever was written is removed and a run that was
    there before stays as it was.

    Args:
        output: Where the whole run shall be.
        overwrite: Whether a run that is there may be replaced.

    Yields:
        The folder to write into, beside `output` so that the move is one step.
    """
    output = pathlib.Path(output).absolute()
    check_output(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output.parent, output.name)
    prefix = f".{output.name}.partial-{socket.gethostname()}-{os.getpid()}-"
    partial = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
    partial.chmod(0o777 & ~_umask())
    try:
        yield partial
        check_output(output, overwrite)  # another run may have ended meanwhile
        _replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: pathlib.Path, output: pathlib.Path) -> None:
    if not os.path.lexists(output):
        partial.rename(output)
        return
    old = output.parent / f".{output.name}.old-{os.getpid()}"
    output.rename(old)
    try:
        partial.rename(output)
    except BaseException:
        old.rename(output)
        raise
    shutil.rmtree(old)


def remove_abandoned(parent: str | pathlib.Path, name: str = "*") -> None:
    """Remove what killed runs left half-written; only a `kill -9` leaves any.

    Args:
        parent: The folder of the runs' folders.
        name: Of one run; of all by default.
    """
    # Another host's processes cannot be asked: only our own host's are judged.
    for folder in pathlib.Path(parent).glob(f".{name}.partial-{socket.gethostname()}-*"):
        process = folder.name.split("-")[-2]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
