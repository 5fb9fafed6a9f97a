"""C sources for firmware: the file as an array, and what a program must know of it.

For TFLite Micro's `MicroMutableOpResolver`: the operators a file needs, by the names of
the resolver's own methods (tensorflow/tflite-micro, micro_mutable_op_resolver.h).
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from cnn_l1.tflite.file import (
    NUMPY_TYPES,
    ExportError,
    operators_of,
    parse,
    reads_a_file,
)
from cnn_l1.tflite.metadata import remove_metadata

BYTES_A_LINE = 12
# Methods whose names do not follow from the operator's, as CONV_2D -> AddConv2D does.
RESOLVER_NAMES = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}

DECODE = b"TFLM_DECODE"  # custom by its code, with a method of its own: AddDecode


@dataclasses.dataclass(frozen=True)
class TensorFacts:
    """An input or output: `dtype`, `shape`, and `real = scale · (stored − zero_point)`."""

    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


def write_c_source(
    tflite: str | os.PathLike, header: str | os.PathLike, name: str = "model"
) -> None:
    """Write a header and a source for a TFLite file, without its metadata.

    The array is `alignas(16)`, as TFLite Micro needs it, and constant, so that it stays
    in flash. Constants give its length and the quantization of input and output; of
    several, in the file's order, those of `input_0`, `input_1` and so on.

    Args:
        tflite: The `.tflite` file.
        header: Where to write the header; the source goes beside it, with suffix `.cc`.
        name: Prefix of the names in the source, a C identifier.

    Raises:
        ValueError: If `name` is no C identifier.
        ExportError: If the file is not whole, or has inputs, outputs or operators that
            TFLite Micro has none of.

    Example:
        >>> write_c_source("model_int8.tflite", "model_int8.h")  # and model_int8.cc
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"`name` must be a C identifier. Received: name={name!r}")
    tflite, header = pathlib.Path(tflite), pathlib.Path(header)
    content = remove_metadata(tflite.read_bytes())
    sources, targets, operators = read_facts(content)
    guard = f"{name.upper()}_H_"
    lines = [
        f"// {tflite.name}, {len(content)} bytes, as an array.",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        f"extern const unsigned char {name}_data[];",
        f"constexpr std::size_t {name}_size = {len(content)};",
        "",
    ]
    for label, facts in (*_labelled("input", sources), *_labelled("output", targets)):
        count = 1
        for size in facts.shape:
            count *= size
        shape = " x ".join(map(str, facts.shape))
        lines += [
            f"// {label}: {facts.dtype}, {shape}; real = scale * (stored - zero_point)",
            f"constexpr std::size_t {name}_{label}_count = {count};",
            f"constexpr float {name}_{label}_scale = {c_float(facts.scale)};",
            f"constexpr std::int32_t {name}_{label}_zero_point = {facts.zero_point};",
            "",
        ]
    lines += [
        "// The operators it needs, for tflite::MicroMutableOpResolver.",
        f"constexpr unsigned {name}_operator_count = {len(operators)};",
        "template <typename Resolver>",
        f"bool {name}_add_operators(Resolver& resolver) {{",
        *(f"  if (resolver.{resolver_method(o)}() != 0) return false;" for o in operators),
        "  return true;",
        "}",
        "",
        f"#endif  // {guard}",
        "",
    ]
    header.write_text("\n".join(lines), encoding="utf-8")
    rows = [
        "    " + " ".join(f"0x{byte:02x}," for byte in content[start : start + BYTES_A_LINE])
        for start in range(0, len(content), BYTES_A_LINE)
    ]
    body = [
        f'#include "{header.name}"',
        "",
        f"alignas(16) const unsigned char {name}_data[] = {{",
        *rows,
        "};",
        "",
    ]
    header.with_suffix(".cc").write_text("\n".join(body), encoding="utf-8")


def read_c_source(source: str | os.PathLike) -> bytes:
    """The bytes of the array in a C source that `write_c_source` wrote."""
    text = pathlib.Path(source).read_text(encoding="utf-8")
    return bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2}),", text))


def _labelled(label: str, facts: Sequence[TensorFacts]) -> list[tuple[str, TensorFacts]]:
    """Each input's or output's name in the source, and its facts."""
    if len(facts) == 1:
        return [(label, facts[0])]
    return [(f"{label}_{number}", one) for number, one in enumerate(facts)]


@reads_a_file
def read_facts(
    content: bytes,
) -> tuple[list[TensorFacts], list[TensorFacts], tuple[str, ...]]:
    """`(inputs, outputs, operators)` of a TFLite file: `TensorFacts`, and names, each once."""

    model = parse(content)
    graph = model.subgraphs[0]

    def facts(index: Any) -> TensorFacts:
        tensor = graph.tensors[index]
        quantization = tensor.quantization
        quantized = quantization is not None and quantization.scale is not None
        if tensor.type not in NUMPY_TYPES:
            name = (tensor.name or b"without a name").decode(errors="replace")
            raise ExportError(
                f"Tensor {name!r}: expected an input or output of numbers. "
                f"Received: type {tensor.type}"
            )
        return TensorFacts(
            dtype=NUMPY_TYPES[tensor.type],
            shape=() if tensor.shape is None else tuple(int(size) for size in tensor.shape),
            scale=float(quantization.scale[0]) if quantized else 1.0,
            zero_point=int(quantization.zeroPoint[0]) if quantized else 0,
        )

    customs = [code.customCode for code in model.operatorCodes if code.customCode]
    foreign = [code.decode(errors="replace") for code in customs if code != DECODE]
    if foreign:
        raise ExportError(
            f"Expected operators that TFLite Micro has. Received: {', '.join(foreign)}"
        )
    operators = {"DECODE" if name == "CUSTOM" else name for name in operators_of(model)}
    inputs = [] if graph.inputs is None else graph.inputs
    return [facts(i) for i in inputs], [facts(i) for i in graph.outputs], tuple(sorted(operators))


def resolver_method(operator: str) -> str:
    """The resolver's method that registers an operator, e.g. `AddConv2D` for CONV_2D."""
    if operator in RESOLVER_NAMES:
        return RESOLVER_NAMES[operator]
    words = operator.split("_")
    # CONV_2D -> Conv2D; DEPTHWISE_CONV_2D -> DepthwiseConv2D.
    return "Add" + "".join(w if w[0].isdigit() else w.capitalize() for w in words)


def c_float(value: float) -> str:
    """A float as C reads it back exactly: nine digits are enough for float32."""
    text = f"{value:.9g}"
    return text + ("f" if any(c in text for c in ".en") else ".0f")
