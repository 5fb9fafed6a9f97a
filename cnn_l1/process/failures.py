"""What goes wrong outside of this package, told in one line that says where it happened."""

import contextlib
import errno
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator

from cnn_l1.errors import CnnL1Error

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OUTPUT = "--output"


class UnfinishedRunError(CnnL1Error, RuntimeError):
    """A run that failed after training; what it had by then is kept in its folder."""


@contextlib.contextmanager
def during(stage: str) -> Iterator[None]:
    """Say of an error that leaves the block where it happened.

    The innermost stage counts.

    Args:
        stage: What is done, as the subject of a sentence: a flag, a setting or a few words.
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, "stage"):
            error.stage = stage  # type: ignore[attr-defined]
        raise


def known_failure(error: BaseException) -> str | None:
    """One line for a failure that a user can act on; `None` for a bug of ours."""
    if isinstance(error, CnnL1Error):
        return f"{error.setting}: {error}" if error.setting else str(error)
    stage = getattr(error, "stage", "the run")
    if is_disk_full(error):
        return f"{stage}: expected room on the disk. Received: no space left on the disk"
    if isinstance(error, OSError):
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        if error.filename is None:
            return f"{stage}: expected to read and write its files. Received: {reason}"
        return f"{stage}: expected to use {error.filename}. Received: {reason}"
    return None


def tell_failure(error: BaseException) -> int:
    """Print a failure of a command in one line; returns the command's exit code.

    Raises:
        BaseException: The error itself where it is a bug of ours, for its traceback.
    """
    message = known_failure(error)
    if message is None:
        raise error
    print(f"error: {message}", file=sys.stderr)
    return error.exit_code if isinstance(error, CnnL1Error) else 1


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a quota, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    # HDF5 and TensorFlow write by themselves: their errors hold the reason as text alone.
    text = str(error)
    numbers = re.findall(r"errno = (\d+)", text)
    return any(int(number) in FULL for number in numbers) or any(
        reason in text for reason in ("No space left on device", "File too large")
    )


def is_of_the_disk(error: BaseException) -> bool:
    """Whether an error is the disk's: of the whole run then, and not of one file's format."""
    return isinstance(error, OSError) or is_disk_full(error)


def reason_of(error: BaseException) -> str:
    """An error in one line; the kind of it, where it is not one of ours."""
    text = " ".join(str(error).split())[:500] or "no message"
    known = type(error).__module__.startswith("cnn_l1")
    return text if known else f"{type(error).__name__}: {text}"


def remove(path: pathlib.Path) -> None:
    """Remove a file or a folder that may be there, written in part."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
