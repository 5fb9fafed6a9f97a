"""Boards by their names, and what a network may take of them."""

import pytest

from cnn_l1.config.boards import BOARDS, board_of


def test_names_are_plain_words():
    assert [board.key for board in BOARDS] == [
        "arduino_uno_r4",
        "micro_bit_v2",
        "arduino_nano_33_ble",
        "raspberry_pi_pico",
        "stm32f746g_disco",
        "esp32_s3_devkitc_1_n8",
        "nucleo_l4r5zi",
    ]
    assert all(board_of(board.key) is board for board in BOARDS)


def test_a_quarter_is_left_to_the_program():
    assert board_of("arduino_nano_33_ble").room == {"bytes": 786432, "ram_bytes": 196608}


def test_a_wrong_name_is_answered_with_the_known_and_the_nearest():
    with pytest.raises(ValueError, match=r"^expected one of .*; did you mean 'micro_bit_v2'\?$"):
        board_of("microbit_v2")
    with pytest.raises(ValueError, match=r"^expected one of arduino_uno_r4, .*nucleo_l4r5zi$"):
        board_of("zx81")
