"""What is read of a processor, and when it is said."""

import warnings

import pytest
import tensorflow as tf

from cnn_l1.process.processor import (
    SlowPrecisionWarning,
    multiplies_bfloat16,
    warn_of_slow_bfloat16,
)

PLAIN = "processor\t: 0\nflags\t\t: fpu avx512f avx512_vnni\n\nflags\t\t: amx_bf16\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PLAIN, False),
        ("model name\t: amx_bf16\nflags\t\t: fpu avx512_bf16 amx_tile\n", True),
        ("flags\t\t: amx_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\n", None),
    ],
)
def test_bfloat16_is_read_from_the_first_processor(tmp_path, text, expected):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert multiplies_bfloat16(path) is expected


def test_without_the_file_nothing_is_known(tmp_path):
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is None


def test_it_is_said_for_bfloat16_on_a_processor_without(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    path.write_text(PLAIN)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.warns(SlowPrecisionWarning, match=r"model\.dtype_policy .*half the time"):
        warn_of_slow_bfloat16("mixed_bfloat16", path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slow_bfloat16("float32", path)
        warn_of_slow_bfloat16("mixed_bfloat16", tmp_path / "none")
        path.write_text("flags\t\t: amx_bf16\n")
        warn_of_slow_bfloat16("mixed_bfloat16", path)
        path.write_text(PLAIN)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
        warn_of_slow_bfloat16("mixed_bfloat16", path)
