"""TFLite files that store zeros as sparse tensors: off by default, and only where they pay.

XNNPACK runs them faster on ARM if the network has the right shape and enough zeros;
docs/sparse.md has the rules and their sources.
"""

import dataclasses
import os
import pathlib
import zlib
from typing import Any

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from cnn_l1.config.formats import Format
from cnn_l1.export import names
from cnn_l1.export.conversion import convert_model, convert_tables
from cnn_l1.export.copying import plain_copy
from cnn_l1.export.formats import Inputs
from cnn_l1.export.sparse_rules import Finding, count_zeros_in, find, find_in, stored_kernels
from cnn_l1.export.writing import write_whole
from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError, pack
from cnn_l1.tflite.metadata import add_metadata

KINDS = ("float32", "float16")
EXAMPLES = 8  # inputs on which a sparse file must equal the dense one
# Between the dense and the sparse file, of the largest output. The same operations on the
# same numbers; kernels for sparse weights may sum in another order, as float32 rounds.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class SparseFile:
    """What a sparse file came to.

    Attributes:
        bytes: Size of the file.
        dense_bytes: Size of the file of the same kind with dense weights.
        deflated_bytes: Of the file after zlib level 9, as a zipped package ships it.
        dense_deflated_bytes: Of the dense file after zlib level 9.
        zeros: Zeros in the 1×1 kernels.
        weights: Weights in the 1×1 kernels.
        max_difference: Largest difference of an output from the dense file's, here.
    """

    bytes: int
    dense_bytes: int
    deflated_bytes: int
    dense_deflated_bytes: int
    zeros: int
    weights: int
    max_difference: float


def export_sparse_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    kind: str = "float32",
    images: Any = None,
    strip: bool = True,
) -> SparseFile:
    """Write a TFLite file with sparse weights, for XNNPACK's sparse path on ARM.

    Args:
        model: A built `keras.Model`.
        path: Where to write; nothing is written unless every check passes.
        kind: `"float32"` (default) or `"float16"`, weights halved, computed as float32.
        images: Inputs `(count, …)` on which to compare with the dense file. Default: eight
            of random pixels, 0 to 255.
        strip: Whether to leave out names, which no runtime needs. Default `True`.

    Returns:
        A `SparseFile`.

    Raises:
        ExportError: If `lint` has findings, if a decoded weight is not the dense file's,
            or if outputs differ from the dense file's or do not depend on the input.
        ValueError: If `kind` is one whose sparse file would not load.

    Example:
        >>> export_sparse_tflite(model, "model_sparse.tflite")  # doctest: +SKIP
    """
    if kind not in KINDS:
        raise ValueError(
            f"`kind` must be one of {', '.join(KINDS)}: XNNPACK's sparse path computes in "
            "floating point, and LiteRT 2.3 does not load sparse int8 or dynamic-range files. "
            f"Received: kind={kind!r}"
        )
    fixed = plain_copy(model, batch_size=1)
    content, root, _ = convert_tables(fixed, kind, sparse=True)
    findings = find_in(root)
    name = pathlib.Path(path).name
    if findings:
        raise ExportError(
            f"{name}: expected a network for XNNPACK's sparse path. Received: "
            + "; ".join(map(str, findings))
        )
    dense, dense_root, _ = convert_tables(fixed, kind)
    if strip:
        names.strip(root)
        names.strip(dense_root)
        content, dense = pack(root), pack(dense_root)
    _check_weights(name, root, dense_root)
    difference = _check_outputs(name, content, dense, images)
    zeros, weights = count_zeros_in(root)
    pathlib.Path(path).write_bytes(content)
    return SparseFile(
        bytes=len(content),
        dense_bytes=len(dense),
        deflated_bytes=len(zlib.compress(content, 9)),
        dense_deflated_bytes=len(zlib.compress(dense, 9)),
        zeros=zeros,
        weights=weights,
        max_difference=difference,
    )


def write_sparse(model: keras.Model, path: pathlib.Path, form: Format, inputs: Inputs) -> None:
    """Write a run's sparse file: see `export_sparse_tflite`."""
    export_sparse_tflite(model, path, form.kind, inputs.images)
    if inputs.description is not None:
        # A second pass over the file: what is proved, and the sizes, are of the bare one.
        described = add_metadata(path.read_bytes(), **vars(inputs.description))
        write_whole(path, described)


def _check_weights(name: str, root: Any, dense: Any) -> None:
    """Every weight, decoded here, is the dense file's."""
    if stored_kernels(root) != stored_kernels(dense):
        raise ExportError(
            f"{name}: expected sparse weights that decode to the dense file's. Received: others"
        )


def _check_outputs(name: str, content: bytes, dense: bytes, images: Any) -> float:
    """The largest difference of the sparse file's outputs from the dense file's.

    Raises:
        ExportError: If it is too large, or if outputs do not depend on the input.
    """
    outputs = []
    for part in (dense, content):
        try:
            with silenced():
                runner = Interpreter(model_content=part, num_threads=1)
                runner.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ExportError(
                f"{name}: expected a file that LiteRT loads. Received: {reason}"
            ) from None
        given, taken = runner.get_input_details()[0], runner.get_output_details()[0]
        if images is None:
            random = np.random.default_rng(0)
            images = random.uniform(0, 255, (8, *given["shape"][1:])).astype("float32")
        rows = []
        for image in np.asarray(images, "float32"):
            runner.set_tensor(given["index"], image[None])
            runner.invoke()
            rows.append(runner.get_tensor(taken["index"]).copy())
        outputs.append(np.stack(rows))
    expected, received = outputs
    largest = float(np.abs(expected).max())
    # Outputs that do not move would equal the dense file's in a broken one as well.
    if not np.isfinite(largest) or np.ptp(expected, axis=0).max() <= 1e-3 * largest:
        raise ExportError(
            f"{name}: expected outputs that depend on the input, or the comparison with the "
            f"dense file says nothing. Received: the same for {len(expected)} inputs"
        )
    difference = float(np.abs(received - expected).max())
    if not difference <= ROUNDING * largest:
        raise ExportError(
            f"{name}: expected the dense file's outputs. Received: a difference of {difference:g}"
        )
    return difference


def lint(model: keras.Model | bytes) -> list[Finding]:
    """Find what keeps a network off XNNPACK's sparse path, or could make it wrong there.

    Args:
        model: The bytes of a `.tflite` file, or a built `keras.Model`, which is judged
            as its sparse float32 file.

    Returns:
        A list of `Finding`, empty if nothing is in the way; see `sparse_rules.find`.

    Raises:
        ValueError: If the bytes are no TFLite file.

    Example:
        >>> for finding in lint(model):
        ...     print(finding)
    """
    if isinstance(model, (bytes, bytearray, memoryview)):
        return find(bytes(model))
    return find(convert_model(plain_copy(model, batch_size=1), sparse=True))
