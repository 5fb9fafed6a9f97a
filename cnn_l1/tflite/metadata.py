"""What a TFLite file says of itself: its labels, its input's meaning, its training config.

As TFLite Metadata: a flatbuffer in the file's metadata table, which Android Studio and
LiteRT's support libraries read, and the files it names in a zip archive after the model
(tensorflow/tflite-support, metadata_schema.fbs, schema version 1.0.0).
"""

import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from cnn_l1.tflite.file import pack, parse

NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS, CONFIG = "labels.txt", "config.yaml"
DESCRIPTIONS, TENSOR_AXIS_LABELS = 1, 2  # AssociatedFileType
PARSER_VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a file says of itself.

    Attributes:
        name: Name of the model.
        input_meaning: What to put into the input, in words; a list for several inputs.
        output_meaning: What the output is; a list for several outputs.
        class_names: Labels in the order of the values of the first output, or `None`.
        config: The training config, as YAML.
    """

    name: str
    input_meaning: str | Sequence[str]
    output_meaning: str | Sequence[str]
    class_names: Sequence[str] | None = None
    config: str = ""


def add_metadata(
    content: bytes,
    name: str,
    input_meaning: str | Sequence[str],
    output_meaning: str | Sequence[str],
    class_names: Sequence[str] | None = None,
    config: str = "",
) -> bytes:
    """A TFLite file with metadata and the files they name.

    Args:
        content: The bytes of a `.tflite` file.
        name: Name of the model.
        input_meaning: What to put into the input, in words; a list for several inputs.
        output_meaning: What the output is; a list for several outputs.
        class_names: Labels in the order of the values of the first output, or `None`.
        config: The training config, as YAML.

    Returns:
        New bytes: the same model, its metadata table one entry longer, and a zip archive
        after it with `labels.txt` and `config.yaml`.

    Raises:
        ExportError: If `content` is no whole file.
        ValueError: If there are not as many meanings as inputs or outputs.

    Example:
        >>> import pathlib
        >>> content = pathlib.Path("model.tflite").read_bytes()
        >>> content = add_metadata(content, "mine", "pixels", "logits", ["cat", "dog", "owl"])
        >>> sorted(read_files(content))
        ['labels.txt']
    """
    model = parse(content)
    description = Description(name, input_meaning, output_meaning, class_names, config)
    describe(model, description)
    return append_files(pack(model), description)


def describe(model: Any, description: Description) -> None:
    """Put a description into a file's tables, in place; `append_files` adds what it names.

    Raises:
        ValueError: If there are not as many meanings as inputs or outputs.
    """
    graph = model.subgraphs[0]
    buffer = schema.BufferT()
    buffer.data = _model_metadata(
        description.name,
        _meanings("input_meaning", description.input_meaning, graph.inputs),
        _meanings("output_meaning", description.output_meaning, graph.outputs),
        description.class_names,
        description.config,
    )
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]


def append_files(content: bytes, description: Description) -> bytes:
    """The bytes of a file that was described, with a zip of labels and config after them."""
    files = {}
    if description.class_names is not None:
        files[LABELS] = "".join(f"{label}\n" for label in description.class_names)
    if description.config:
        files[CONFIG] = description.config
    if not files:
        return content
    packed = io.BytesIO(content)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file, text in files.items():
            # A fixed date: equal models give equal files.
            info = zipfile.ZipInfo(file)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    return packed.getvalue()


def remove_metadata(content: bytes) -> bytes:
    """A TFLite file without what `add_metadata` added, for where every byte counts."""
    model = parse(content)
    entries = model.metadata or []
    added = [entry for entry in entries if entry.name in (NAME, NAME.encode())]
    if not added:
        return content
    last = len(model.buffers) - 1
    if [entry.buffer for entry in added] != [last]:
        raise ValueError(f"Expected the metadata in the last buffer, {last}. Received: another")
    model.buffers.pop()
    model.metadata = [entry for entry in entries if entry not in added] or None
    return pack(model)


def read_files(content: bytes) -> dict[str, str]:
    """`{name: text}` of the files in the zip after a TFLite file; empty if there is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def _meanings(argument: str, meanings: str | Sequence[str], tensors: Any) -> list[str]:
    """A meaning for each input or output, as a list."""
    meanings = [meanings] if isinstance(meanings, str) else list(meanings)
    count = 0 if tensors is None else len(tensors)
    if len(meanings) != count:
        raise ValueError(
            f"`{argument}` must be a text for each of {count}. Received: {len(meanings)}"
        )
    return meanings


def _model_metadata(
    name: str,
    input_meaning: list[str],
    output_meaning: list[str],
    class_names: Sequence[str] | None,
    config: str,
) -> list[int]:
    """A `ModelMetadata` flatbuffer; the numbers are the schema's fields, in its order."""
    builder = flatbuffers.Builder(512)

    def table(fields: Mapping[int, Any], size: int) -> int:
        builder.StartObject(size)
        for slot, value in fields.items():
            if isinstance(value, tuple):  # a byte-sized enum
                builder.PrependInt8Slot(slot, value[0], 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return builder.EndObject()

    def vector(tables: Sequence[int]) -> int:
        builder.StartVector(4, len(tables), 4)
        for one in reversed(tables):
            builder.PrependUOffsetTRelative(one)
        return builder.EndVector()

    def file(file_name: str, kind: int) -> int:
        return table({0: builder.CreateString(file_name), 2: (kind,)}, 4)

    def described(label: str, meanings: list[str]) -> list[int]:
        tables = []
        for number, meaning in enumerate(meanings):
            told = label if len(meanings) == 1 else f"{label}_{number}"
            fields: dict[int, Any] = {
                0: builder.CreateString(told),
                1: builder.CreateString(meaning),
            }
            if label == "output" and number == 0 and class_names is not None:
                fields[6] = vector([file(LABELS, TENSOR_AXIS_LABELS)])
            tables.append(table(fields, 7))
        return tables

    sources, targets = described("input", input_meaning), described("output", output_meaning)
    graph = table({2: vector(sources), 3: vector(targets)}, 7)
    fields: dict[int, Any] = {0: builder.CreateString(name), 3: vector([graph])}
    if config:
        fields[6] = vector([file(CONFIG, DESCRIPTIONS)])
    fields[7] = builder.CreateString(PARSER_VERSION)
    builder.Finish(table(fields, 8), IDENTIFIER)
    return list(builder.Output())
