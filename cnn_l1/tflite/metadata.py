"""What a TFLite file says of itself: its labels, its input's meaning, its training config.

As TFLite Metadata: a flatbuffer in the file's metadata table, which Android Studio and
LiteRT's support libraries read, and the files it names in a zip archive behind the model
(tensorflow/tflite-support, metadata_schema.fbs, schema version 1.0.0).
"""

import io
import zipfile

import flatbuffers

from cnn_l1.tflite.file import pack, parse

NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS, CONFIG = "labels.txt", "config.yaml"
DESCRIPTIONS, TENSOR_AXIS_LABELS = 1, 2  # AssociatedFileType
PARSER_VERSION = "1.0.0"


def add_metadata(content, name, input_meaning, output_meaning, class_names=None, config=""):
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
        behind it with `labels.txt` and `config.yaml`.

    Raises:
        ExportError: If `content` is no whole file.
        ValueError: If there are not as many meanings as inputs or outputs.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = parse(content)
    graph = model.subgraphs[0]
    input_meaning = _meanings("input_meaning", input_meaning, graph.inputs)
    output_meaning = _meanings("output_meaning", output_meaning, graph.outputs)
    buffer = schema.BufferT()
    buffer.data = _model_metadata(name, input_meaning, output_meaning, class_names, config)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    packed = io.BytesIO(pack(model))
    files = {}
    if class_names is not None:
        files[LABELS] = "".join(f"{label}\n" for label in class_names)
    if config:
        files[CONFIG] = config
    if not files:
        return packed.getvalue()
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file, text in files.items():
            # A fixed date: equal models give equal files.
            info = zipfile.ZipInfo(file)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    return packed.getvalue()


def remove_metadata(content):
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


def read_files(content):
    """`{name: text}` of the files behind a TFLite file; empty if there are none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def _meanings(argument, meanings, tensors):
    """A meaning for each input or output, as a list."""
    meanings = [meanings] if isinstance(meanings, str) else list(meanings)
    count = 0 if tensors is None else len(tensors)
    if len(meanings) != count:
        raise ValueError(
            f"`{argument}` must be a text for each of {count}. Received: {len(meanings)}"
        )
    return meanings


def _model_metadata(name, input_meaning, output_meaning, class_names, config):
    """A `ModelMetadata` flatbuffer; the numbers are the schema's fields, in its order."""
    builder = flatbuffers.Builder(512)

    def table(fields, size):
        builder.StartObject(size)
        for slot, value in fields.items():
            if isinstance(value, tuple):  # a byte-sized enum
                builder.PrependInt8Slot(slot, value[0], 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return builder.EndObject()

    def vector(tables):
        builder.StartVector(4, len(tables), 4)
        for one in reversed(tables):
            builder.PrependUOffsetTRelative(one)
        return builder.EndVector()

    def file(file_name, kind):
        return table({0: builder.CreateString(file_name), 2: (kind,)}, 4)

    def described(label, meanings):
        tables = []
        for number, meaning in enumerate(meanings):
            told = label if len(meanings) == 1 else f"{label}_{number}"
            fields = {0: builder.CreateString(told), 1: builder.CreateString(meaning)}
            if label == "output" and number == 0 and class_names is not None:
                fields[6] = vector([file(LABELS, TENSOR_AXIS_LABELS)])
            tables.append(table(fields, 7))
        return tables

    sources, targets = described("input", input_meaning), described("output", output_meaning)
    graph = table({2: vector(sources), 3: vector(targets)}, 7)
    fields = {0: builder.CreateString(name), 3: vector([graph])}
    if config:
        fields[6] = vector([file(CONFIG, DESCRIPTIONS)])
    fields[7] = builder.CreateString(PARSER_VERSION)
    builder.Finish(table(fields, 8), IDENTIFIER)
    return list(builder.Output())
