"""Whether a file fits well-known microcontroller boards."""

import dataclasses

from cnn_l1.config.boards import BOARDS


@dataclasses.dataclass(frozen=True)
class Fit:
    """How much of a board a file takes.

    Attributes:
        board: The board's name.
        flash: The file over the board's flash; the program needs room beside it.
        ram: The arena over the board's RAM; the stack and the program need some too.
        fits: Whether neither is more than the board has.
    """

    board: str
    flash: float
    ram: float
    fits: bool


def fit_boards(file_bytes: int, arena_bytes: int) -> list[Fit]:
    """A `Fit` for each of `BOARDS`.

    Args:
        file_bytes: Size of the file, as flashed.
        arena_bytes: The arena that TFLite Micro needs for it.
    """
    fits = []
    for board in BOARDS:
        flash, ram = file_bytes / board.flash_bytes, arena_bytes / board.ram_bytes
        fits.append(Fit(board.name, flash, ram, flash <= 1 and ram <= 1))
    return fits
