"""What this machine's processor can do, as far as training cares."""

import pathlib
import warnings

import tensorflow as tf

# Linux' names of instructions that multiply bfloat16: x86's two, and ARM's.
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}


class SlowPrecisionWarning(UserWarning):
    """A dtype policy that costs time here and was to save it."""


def warn_of_slow_bfloat16(dtype_policy: str, cpuinfo: str = "/proc/cpuinfo") -> None:
    """Warn where training in bfloat16 is slower than in float32.

    Without instructions for it TensorFlow converts around each operation: resnet8 takes 2.1
    times as long as in float32 on a Xeon with AVX-512 and no more.

    Args:
        dtype_policy: Keras dtype policy that training runs under.
        cpuinfo: Where Linux says what the processor can do. Elsewhere nothing is known, and
            nothing said; neither with a GPU.
    """
    if dtype_policy != "mixed_bfloat16" or multiplies_bfloat16(cpuinfo) is not False:
        return
    if tf.config.list_physical_devices("GPU"):
        return
    warnings.warn(
        "model.dtype_policy expected a processor with AMX, AVX512-BF16 or ARM's BF16 for "
        "'mixed_bfloat16'. Received: one without, where float32 takes about half the time",
        SlowPrecisionWarning,
        stacklevel=2,
    )


def multiplies_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool | None:
    """Whether the processor has instructions for bfloat16; `None` where that is not known."""
    try:
        text = pathlib.Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return not BFLOAT16_FLAGS.isdisjoint(value.split())
    return None
