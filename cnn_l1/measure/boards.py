"""Whether a file fits well-known microcontroller boards.

Flash and RAM are the chips' own (the board's, where flash is a part of its own), from
the makers' datasheets:

    Nordic nRF52840 product specification (Arduino Nano 33 BLE), nRF52833 (micro:bit v2)
    Renesas RA4M1 group datasheet (Arduino Uno R4)
    Raspberry Pi RP2040 datasheet, with 2 MiB of QSPI flash on the Pico
    Espressif ESP32-S3 datasheet, with 8 MiB of flash on an ESP32-S3-DevKitC-1-N8
    ST datasheets of STM32F746NG (Discovery) and STM32L4R5ZI (Nucleo; MLPerf Tiny's board)
"""

import dataclasses

KIB = 1024


@dataclasses.dataclass(frozen=True)
class Board:
    """A board: its name, and flash and RAM in bytes."""

    name: str
    flash_bytes: int
    ram_bytes: int


BOARDS = (
    Board("Arduino Uno R4 (RA4M1)", 256 * KIB, 32 * KIB),
    Board("micro:bit v2 (nRF52833)", 512 * KIB, 128 * KIB),
    Board("Arduino Nano 33 BLE (nRF52840)", 1024 * KIB, 256 * KIB),
    Board("Raspberry Pi Pico (RP2040)", 2048 * KIB, 264 * KIB),
    Board("STM32F746G-DISCO", 1024 * KIB, 320 * KIB),
    Board("ESP32-S3-DevKitC-1-N8", 8192 * KIB, 512 * KIB),
    Board("NUCLEO-L4R5ZI", 2048 * KIB, 640 * KIB),
)


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
