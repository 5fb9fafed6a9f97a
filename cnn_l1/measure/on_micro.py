"""What a file does in TFLite Micro: score, difference from LiteRT, arena, boards that it fits."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cnn_l1.measure.boards import fit_boards
from cnn_l1.measure.scores import score
from cnn_l1.process.tables import console_of
from cnn_l1.tflite import micro
from cnn_l1.tflite.file import ExportError, read_operators
from cnn_l1.tflite.runner import TFLiteRunner


@dataclasses.dataclass(frozen=True)
class MicroFacts:
    """What a file does in TFLite Micro, on this host.

    Attributes:
        examples: Number of examples it was run on.
        accuracy: Fraction of them whose class is right; of classes only.
        mean_squared_error: Of values only.
        largest_difference: From LiteRT's reference kernels: in steps of the stored
            integers for a quantized output, else in the output's unit.
        arena_bytes: The arena it needs; see `arena_bytes`.
        persistent_bytes: Of it, what may be down to half on a 32-bit microcontroller.
        operators: The operators it needs, for a `MicroMutableOpResolver`.
    """

    examples: int
    accuracy: float | None
    mean_squared_error: float | None
    largest_difference: float
    arena_bytes: int
    persistent_bytes: int
    operators: tuple[str, ...]


def measure_micro(
    path: str | pathlib.Path,
    inputs: Any,
    targets: Any,
    decide: Any = None,
    like: str | pathlib.Path | None = None,
) -> MicroFacts:
    """Run a file in TFLite Micro and compare it with LiteRT's reference kernels.

    Where LiteRT has no reference kernel for an operator, with its optimized kernels.

    Args:
        path: A `.tflite` file.
        inputs: `(examples, …)`, as the Keras model takes them; a tuple, list or dict of
            such arrays for several inputs.
        targets: Labels or values of the examples; for several outputs they are not scored.
        decide: See `measure.measure_tflite`.
        like: The plain file, for one that LiteRT does not know: with encoded zeros.

    Returns:
        A `MicroFacts`.

    Raises:
        MicroError: If the file is not one that TFLite Micro runs, or not on these inputs,
            or LiteRT does not run it to compare with.
    """
    name = pathlib.Path(path).name
    try:
        runner = _comparison(like or path)
        examples = runner.examples(inputs)
        if not examples:
            raise ValueError("`inputs` must be one example or more. Received: none")
        given = [runner.as_inputs(*example) for example in examples]
        expected = [runner.stored_outputs(*example) for example in examples]
    except (ExportError, ValueError) as error:
        raise micro.MicroError(
            f"{name}: expected a file and inputs that LiteRT runs, to compare with. "
            f"Received: {error}"
        ) from None
    done = micro.run(path, [np.stack(column) for column in zip(*given, strict=True)])
    columns = [np.concatenate(column) for column in zip(*expected, strict=True)]
    if len(done.outputs) != len(columns):
        raise micro.MicroError(
            f"{name}: expected {len(columns)} outputs, as in LiteRT. "
            f"Received: {len(done.outputs)} in TFLite Micro"
        )
    difference = 0.0
    for output, (received, wanted) in enumerate(zip(done.outputs, columns, strict=True)):
        if received.size != wanted.size:
            raise micro.MicroError(
                f"{name}: output {output}: expected shape {wanted.shape}, as in LiteRT. "
                f"Received: {received.shape} in TFLite Micro"
            )
        apart = received.reshape(wanted.shape).astype("float64") - wanted.astype("float64")
        difference = max(difference, float(np.abs(apart).max(initial=0.0)))
    figures = {}
    if len(columns) == 1 and targets is not None:
        received = done.outputs[0].reshape(columns[0].shape)
        figures = score(runner.dequantize(received), targets, decide)
    return MicroFacts(
        examples=len(examples),
        accuracy=figures.get("accuracy"),
        mean_squared_error=figures.get("mean_squared_error"),
        largest_difference=difference,
        arena_bytes=done.arena_bytes,
        persistent_bytes=done.persistent_bytes,
        operators=tuple(sorted(set(read_operators(pathlib.Path(path).read_bytes())))),
    )


def _comparison(path: str | pathlib.Path) -> TFLiteRunner:
    """A runner of reference kernels, or of optimized ones where there are no others."""
    try:
        return TFLiteRunner(path, reference=True)
    except ExportError:
        return TFLiteRunner(path)


def print_micro(
    facts: Mapping[str, MicroFacts],
    paths: Mapping[str, pathlib.Path],
    console: Console | None = None,
) -> None:
    """Print what files do in TFLite Micro, and which boards they fit.

    Args:
        facts: Mapping from a file's name to its `MicroFacts`.
        paths: Mapping from a file's name to its path.
    """
    if not facts:
        return
    table = Table(title="In TFLite Micro, on this host", title_justify="left")
    table.add_column("file", overflow="fold")
    for heading in ("examples", "score", "as LiteRT's", "bytes", "arena", "32-bit, from"):
        table.add_column(heading, justify="right")
    table.add_column("too small for it", overflow="fold")
    for name, file in facts.items():
        score = ""  # of several outputs none is told
        if file.accuracy is not None:
            score = f"{file.accuracy:.2%}"
        elif file.mean_squared_error is not None:
            score = f"{file.mean_squared_error:.5g}"
        size = paths[name].stat().st_size
        small = [fit.board for fit in fit_boards(size, file.arena_bytes) if not fit.fits]
        table.add_row(
            name,
            f"{file.examples:,}",
            score,
            f"± {file.largest_difference:.3g}",
            f"{size:,}",
            f"{file.arena_bytes:,}",
            f"{file.arena_bytes - file.persistent_bytes // 2:,}",
            ", ".join(small),
        )
    console = console or console_of()
    console.print(table)
    console.print(
        "Arenas are this host's, 64-bit. A 32-bit microcontroller's, with the same kernels, lie "
        "between the last figure and this; kernels made for a chip may want scratch buffers too."
    )
