"""What a TFLite file says of itself, read back by other code than wrote it."""

import io
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import number_types
from flatbuffers.table import Table

from cnn_l1.export import tflite
from cnn_l1.process.silence import silenced
from cnn_l1.tflite import metadata

LABELS = ["nought", "one", "zwei — drei"]
CONFIG = "name: tiny\nseed: 3\n"
TEXTS = ("tiny", "pixels from 0 to 255", "logits", LABELS, CONFIG)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    path = tmp_path_factory.mktemp("metadata") / "m.tflite"
    tflite.export_tflite(model, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def described(bare):
    return metadata.add_metadata(bare, *TEXTS)


def outputs(content):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    sample = np.arange(5, dtype="float32")[None]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_labels_and_config_read_back(described):
    labels = "nought\none\nzwei — drei\n"
    assert metadata.read_files(described) == {"labels.txt": labels, "config.yaml": CONFIG}


def test_any_unzip_program_reads_the_files(described):
    with zipfile.ZipFile(io.BytesIO(described)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt", "config.yaml"]


def test_the_file_runs_as_before(bare, described):
    # The same operators on the same bytes of weights.
    np.testing.assert_array_equal(outputs(described), outputs(bare))


def test_removing_gives_back_the_original_bytes(bare, described):
    assert len(described) > len(bare)
    assert metadata.remove_metadata(described) == bare
    assert metadata.remove_metadata(bare) == bare


def test_equal_models_give_equal_files(bare, described):
    assert metadata.add_metadata(bare, *TEXTS) == described


def test_values_have_no_labels(bare):
    content = metadata.add_metadata(bare, "tiny", "features", "values")
    assert metadata.read_files(content) == {}
    assert metadata.remove_metadata(content) == bare
    np.testing.assert_array_equal(outputs(content), outputs(bare))


def test_metadata_of_others_stay(bare):
    model = schema.ModelT.InitFromPackedBuf(bare, 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(b"theirs")
    model.buffers.append(buffer)
    entry.name, entry.buffer = "mine", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    theirs = metadata.pack(model)
    content = metadata.add_metadata(theirs, *TEXTS)
    assert metadata.remove_metadata(content) == theirs
    left = schema.ModelT.InitFromPackedBuf(theirs, 0)
    assert b"mine" in [entry.name for entry in left.metadata]


def test_removing_what_lies_elsewhere_is_refused(bare):
    model = schema.ModelT.InitFromPackedBuf(metadata.add_metadata(bare, *TEXTS), 0)
    model.buffers.append(schema.BufferT())
    with pytest.raises(ValueError, match="Expected the metadata in the last buffer"):
        metadata.remove_metadata(metadata.pack(model))


class Reader:
    """A table of a flatbuffer by slot numbers, written anew from the format's definition.

    A field's offset is in the vtable at 4 + 2 · slot; slots are those of
    tensorflow/tflite-support, tensorflow_lite_support/metadata/metadata_schema.fbs.
    """

    def __init__(self, buffer, position):
        self.table = Table(buffer, position)

    def offset(self, slot):
        return self.table.Offset(4 + 2 * slot)

    def text(self, slot):
        offset = self.offset(slot)
        return self.table.String(offset + self.table.Pos).decode() if offset else None

    def byte(self, slot):
        offset = self.offset(slot)
        return self.table.Get(number_types.Int8Flags, offset + self.table.Pos) if offset else 0

    def tables(self, slot):
        offset = self.offset(slot)
        if not offset:
            return []
        start = self.table.Vector(offset)
        found = [self.table.Indirect(start + 4 * i) for i in range(self.table.VectorLen(offset))]
        return [Reader(self.table.Bytes, position) for position in found]


def test_the_flatbuffer_by_hand(described):
    model = schema.ModelT.InitFromPackedBuf(described, 0)
    (entry,) = [e for e in model.metadata if e.name == b"TFLITE_METADATA"]
    buffer = bytearray(bytes(model.buffers[entry.buffer].data))
    assert flatbuffers.util.BufferHasIdentifier(buffer, 0, b"M001")
    root = Reader(buffer, flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, buffer, 0))
    # ModelMetadata: name, description, version, subgraph_metadata, author, license,
    # associated_files, min_parser_version.
    assert root.text(0) == "tiny"
    assert root.text(7) == "1.0.0"
    (graph,) = root.tables(3)
    # SubGraphMetadata: name, description, input_ and output_tensor_metadata, …
    (source,), (target,) = graph.tables(2), graph.tables(3)
    # TensorMetadata: name, description, dimension_names, content, process_units, stats,
    # associated_files.
    assert (source.text(0), source.text(1)) == ("input", "pixels from 0 to 255")
    assert (target.text(0), target.text(1)) == ("output", "logits")
    # AssociatedFile: name, description, type; type 1 is DESCRIPTIONS, 2 TENSOR_AXIS_LABELS.
    (labels,), (config,) = target.tables(6), root.tables(6)
    assert (labels.text(0), labels.byte(2)) == ("labels.txt", 2)
    assert (config.text(0), config.byte(2)) == ("config.yaml", 1)
    assert source.tables(6) == []


def test_the_support_library_reads_it(described):
    support = pytest.importorskip("tflite_support.metadata")
    displayer = support.MetadataDisplayer.with_model_buffer(described)
    assert displayer.get_packed_associated_file_list() == ["labels.txt", "config.yaml"]
    assert '"name": "tiny"' in displayer.get_metadata_json()


def test_meanings_are_as_many_as_inputs_and_outputs():
    with silenced():
        concrete = tf.function(lambda a, b: a + b).get_concrete_function(
            tf.TensorSpec((1, 3), name="a"), tf.TensorSpec((1, 3), name="b")
        )
        content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    with pytest.raises(ValueError, match=r"`input_meaning` must be a text for each of 2\. Rec.* 1"):
        metadata.add_metadata(content, "m", "pixels", "logits")
    added = metadata.add_metadata(content, "m", ["left eye", "right eye"], "logits", ["no", "yes"])
    assert all(text in added for text in (b"left eye", b"right eye", b"input_0", b"input_1"))
    assert metadata.read_files(added) == {"labels.txt": "no\nyes\n"}
