"""Silence reaches below Python's streams, and ends."""

import logging
import os
import sys

import pytest

from cnn_l1.process.silence import silenced


def test_lines_from_below_python_are_turned_away(capfd):
    with silenced():
        os.write(1, b"from C, out\n")
        os.write(2, b"from C, err\n")
        print("from Python, out")
        print("from Python, err", file=sys.stderr)
        logging.getLogger("some").warning("a log line")
    assert capfd.readouterr() == ("", "")


def test_output_is_back_afterwards(capfd):
    streams = sys.stdout, sys.stderr
    with silenced():
        print("gone")
    assert (sys.stdout, sys.stderr) == streams
    os.write(1, b"below\n")
    print("above")
    os.write(2, b"below\n")
    print("above", file=sys.stderr)
    captured = capfd.readouterr()
    assert sorted(captured.out.split()) == sorted(captured.err.split()) == ["above", "below"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_output_is_back_after_an_exception_which_passes(capfd, error):
    streams = sys.stdout, sys.stderr
    with pytest.raises(error), silenced():  # noqa: PT012
        os.write(2, b"gone\n")
        raise error("mine")
    assert (sys.stdout, sys.stderr) == streams
    os.write(1, b"out\n")
    os.write(2, b"err\n")
    assert capfd.readouterr() == ("out\n", "err\n")


def test_silences_nest(capfd):
    with silenced():
        with silenced():
            os.write(1, b"inner\n")
        os.write(1, b"outer\n")
        print("outer")
    os.write(1, b"back\n")
    assert capfd.readouterr() == ("back\n", "")


def test_no_descriptor_is_left_open():
    def lowest_free():
        descriptor = os.dup(0)
        os.close(descriptor)
        return descriptor

    before = lowest_free()
    for _ in range(3):
        with silenced():
            pass
    with pytest.raises(ValueError, match="mine"), silenced():
        raise ValueError("mine")
    assert lowest_free() == before


def test_what_was_printed_before_is_not_lost(capfd):
    sys.stdout.write("no newline yet")
    with silenced():
        print("gone")
    assert capfd.readouterr().out == "no newline yet"
