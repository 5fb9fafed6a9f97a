"""Whether a TFLite file kept what a model's kernels are: their zeros, weight by weight."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cnn_l1.graph import layer_kinds
from cnn_l1.graph.layer_kinds import Kernel
from cnn_l1.graph.layer_weights import weighted_layers
from cnn_l1.sparsity import counting
from cnn_l1.tflite.file import ExportError, TFLiteFile

FOREIGN = {"FLEX", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE"}


def check_tflite(tflite: TFLiteFile, model: keras.Model) -> None:
    """Raise `ExportError` unless a file has builtin operators and the model's zeros."""
    foreign = FOREIGN & set(tflite.operators)
    if foreign:
        raise ExportError(
            "A TFLite file expected with builtin operators and its weights inside. "
            f"Received operators: {', '.join(sorted(foreign))}"
        )
    for name, received in lost_zeros(tflite, model):
        raise ExportError(f"Layer {name!r}: expected its zeros as zeros in the file. {received}")


def lost_zeros(tflite: TFLiteFile, model: keras.Model) -> list[tuple[str, str]]:
    """Compare each kernel's zeros with the file's.

    Position by position where the layer's kind says how TFLite stores its kernel
    (`layer_kinds`), by their number otherwise.

    Returns:
        A list of `(layer, what is wrong)`; empty when every weight that is exactly zero
        in the model is exactly zero in the file.
    """
    left = [*tflite.weights, *tflite.constants]
    sizes = {tensor.size for tensor in left}
    wrong: list[tuple[str, str]] = []
    stored: set[bytes] = set()
    found = _kernels(model)
    # Most zeros first: a kernel without any would fit another one's place as well. Those
    # with a known layout before others, whose test is weaker.
    found.sort(key=lambda item: (item[2] is None, -np.count_nonzero(item[1] == 0)))
    for name, kernel, layouts in found:
        zeros = int(np.count_nonzero(kernel == 0))
        if not zeros and (layouts is None or kernel.size in sizes):
            continue
        same_size = [i for i, tensor in enumerate(left) if tensor.size == kernel.size]
        candidates = [kernel] if layouts is None else layouts(kernel)
        contents = {(layout + 0.0).tobytes() for layout in candidates}
        place = next((i for i in same_size if _keeps(left[i], candidates, layouts)), None)
        if place is not None:
            left.pop(place)
            stored |= contents
        elif contents & stored:
            continue  # equal constants, such as two kernels all zero, are stored once
        elif same_size:
            nearest = left[same_size[0]]
            wrong.append(
                (
                    name,
                    f"Received: {np.count_nonzero(nearest == 0)} zeros instead of {zeros}, "
                    "or others",
                )
            )
        elif layouts is not None:
            wrong.append((name, "Received: no weights of its size"))
        # In an unknown layout it may be split, as an LSTM's into its gates.
    return wrong


def _keeps(tensor: np.ndarray, candidates: list[np.ndarray], layouts: Any) -> bool:
    """Whether a stored tensor is zero wherever the kernel is."""
    if layouts is None:
        zeros = np.count_nonzero(candidates[0] == 0)
        return bool(np.count_nonzero(tensor == 0) >= zeros)
    return any(
        layout.shape == tensor.shape and bool(np.all(tensor[layout == 0] == 0))
        for layout in candidates
    )


Layouts = Callable[[np.ndarray], list[np.ndarray]] | None


def _kernels(model: keras.Model) -> list[tuple[str, np.ndarray, Layouts]]:
    """`(name, values, layouts)` of each kernel that a converter copies as it is."""
    described: dict[int, tuple[np.ndarray, Layouts]] = {}
    for part in weighted_layers(model):
        if getattr(part.layer, "quantization_mode", None):
            continue  # the file computes with other numbers
        kernels: dict[str, Kernel] = {}
        if part.kind is not None:
            kernels = {kernel.name: kernel for kernel in part.kind.kernels}
        adapted = getattr(part.layer, "lora_enabled", False)
        for variable in part.variables:
            values = variable
            if adapted and variable.name in ("kernel", "embeddings"):
                values = getattr(part.layer, variable.name)  # with its factors added
            kernel = kernels.get(variable.name)
            layouts = None if kernel is None else kernel.layouts
            described[id(variable)] = np.asarray(values), layouts
    return [
        (name, *described[id(variable)])
        for name, variable in counting.kernels(model)
        if id(variable) in described
    ]


def file_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    """The shapes in which TFLite may store a kernel of a layer that is not known."""
    by_rank = {
        2: [layer_kinds.DENSE],
        3: [layer_kinds.CONV],
        4: [layer_kinds.CONV, layer_kinds.DEPTHWISE, layer_kinds.TRANSPOSED],
    }
    found = by_rank.get(kernel.ndim, [])
    return [layout for kind in found if kind.layouts for layout in kind.layouts(kernel)] or [kernel]
