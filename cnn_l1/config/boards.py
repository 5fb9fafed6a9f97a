"""Well-known microcontroller boards: their flash and RAM. Nothing here imports TensorFlow.

Flash and RAM are the chips' own (the board's, where flash is a part of its own), from
the makers' datasheets:

    Nordic nRF52840 product specification (Arduino Nano 33 BLE), nRF52833 (micro:bit v2)
    Renesas RA4M1 group datasheet (Arduino Uno R4)
    Raspberry Pi RP2040 datasheet, with 2 MiB of QSPI flash on the Pico
    Espressif ESP32-S3 datasheet, with 8 MiB of flash on an ESP32-S3-DevKitC-1-N8
    ST datasheets of STM32F746NG (Discovery) and STM32L4R5ZI (Nucleo; MLPerf Tiny's board)
"""

import dataclasses
import difflib
import re

KIB = 1024
# Of flash and RAM, for a network: the rest is the program's, its stack and its buffers.
NETWORK_PART = 0.75


@dataclasses.dataclass(frozen=True)
class Board:
    """A board: its name, and flash and RAM in bytes."""

    name: str
    flash_bytes: int
    ram_bytes: int

    @property
    def key(self) -> str:
        """Its name in a config, without the chip: `arduino_nano_33_ble`."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.split(" (")[0].lower())

    @property
    def room(self) -> dict[str, int]:
        """What a network may take of it: `bytes` of a file, `ram_bytes` of an arena."""
        return {
            "bytes": int(NETWORK_PART * self.flash_bytes),
            "ram_bytes": int(NETWORK_PART * self.ram_bytes),
        }


BOARDS = (
    Board("Arduino Uno R4 (RA4M1)", 256 * KIB, 32 * KIB),
    Board("micro:bit v2 (nRF52833)", 512 * KIB, 128 * KIB),
    Board("Arduino Nano 33 BLE (nRF52840)", 1024 * KIB, 256 * KIB),
    Board("Raspberry Pi Pico (RP2040)", 2048 * KIB, 264 * KIB),
    Board("STM32F746G-DISCO", 1024 * KIB, 320 * KIB),
    Board("ESP32-S3-DevKitC-1-N8", 8192 * KIB, 512 * KIB),
    Board("NUCLEO-L4R5ZI", 2048 * KIB, 640 * KIB),
)


def board_of(key: str) -> Board:
    """The board of a name such as `arduino_nano_33_ble`.

    Raises:
        ValueError: If there is none. It names all, and the nearest.
    """
    boards = {board.key: board for board in BOARDS}
    if key not in boards:
        close = difflib.get_close_matches(key.lower(), boards, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"expected one of {', '.join(boards)}{hint}")
    return boards[key]
