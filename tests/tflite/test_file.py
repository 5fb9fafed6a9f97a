"""Reading TFLite files without TensorFlow: multiply-adds and weights, kind by kind."""

import keras
import numpy as np
import pytest
from keras import layers

import cnn_l1
from cnn_l1.config import loading as configs
from cnn_l1.export import firmware
from cnn_l1.export import tflite as export
from cnn_l1.graph import macs
from cnn_l1.models import builders
from cnn_l1.tflite import file as tflite_file
from cnn_l1.tflite import metadata, multiply_adds, sample_inputs

IMAGES = np.random.default_rng(0).uniform(0, 1, (4, 9, 8, 3)).astype("float32")
# One layer each, behind (9, 8, 3) images; multiply-adds by hand.
LAYERS = {
    "conv": (lambda: layers.Conv2D(5, 3), 7 * 6 * 9 * 3 * 5),
    "conv_same": (lambda: layers.Conv2D(5, (3, 2), padding="same"), 9 * 8 * 6 * 3 * 5),
    "conv_strided": (lambda: layers.Conv2D(4, 3, strides=2, padding="same"), 5 * 4 * 9 * 3 * 4),
    "conv_dilated": (lambda: layers.Conv2D(4, 3, dilation_rate=2), 5 * 4 * 9 * 3 * 4),
    "conv_1x1": (lambda: layers.Conv2D(7, 1), 9 * 8 * 3 * 7),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), 7 * 6 * 9 * 3),
    "depthwise_times_2": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same"),
        5 * 4 * 9 * 3 * 2,
    ),
    "separable": (lambda: layers.SeparableConv2D(6, 3), 7 * 6 * (9 * 3 + 3 * 6)),
    "transposed": (lambda: layers.Conv2DTranspose(4, 3, strides=2), 9 * 8 * 9 * 3 * 4),
    "dense_on_channels": (lambda: layers.Dense(6), 9 * 8 * 3 * 6),
}


def convert(model, tmp_path, kind="float32"):
    path = tmp_path / f"{kind}.tflite"
    images = IMAGES if kind in export.CALIBRATED else None
    export.export_tflite(model, path, images, kind)
    return path.read_bytes()


@pytest.mark.parametrize("name", LAYERS)
def test_multiply_adds_of_one_layer(name, tmp_path):
    make, expected = LAYERS[name]
    model = keras.Sequential([keras.Input((9, 8, 3)), make()])
    assert sum(macs.count_macs(model).values()) == expected
    assert multiply_adds.count_tflite_macs(convert(model, tmp_path)) == expected


def test_multiply_adds_of_one_dimension(tmp_path):
    model = keras.Sequential([keras.Input((11, 3)), layers.Conv1D(5, 4), layers.Dense(2)])
    expected = 8 * 4 * 3 * 5 + 8 * 5 * 2
    assert sum(macs.count_macs(model).values()) == expected
    assert multiply_adds.count_tflite_macs(convert(model, tmp_path)) == expected


@pytest.mark.slow
def test_multiply_adds_of_volumes(tmp_path):
    model = keras.Sequential([keras.Input((5, 6, 7, 2)), layers.Conv3D(3, 2)])
    expected = 4 * 5 * 6 * 8 * 2 * 3
    assert sum(macs.count_macs(model).values()) == expected
    assert multiply_adds.count_tflite_macs(convert(model, tmp_path)) == expected


BUILDERS = {
    "cnn": (8, 8, 1),
    "linear": (8, 8, 1),
    "lenet_300_100": (8, 8, 1),
    "lenet5": (16, 16, 1),
    "resnet8": (8, 8, 3),
    "pointwise": (32, 32, 3),
    "ds_cnn": (12, 10, 1),
    "mobilenet_v1": (32, 32, 3),
    "autoencoder": (20,),
    "unet_small": (8, 8, 1),
}


def build(name):
    keras.utils.set_random_seed(2)
    settings = configs.validate({"name": "t", "model": {"name": name}})
    return builders.build(settings, BUILDERS[name], 10)


@pytest.mark.parametrize("name", builders.BUILDERS)
def test_multiply_adds_of_each_builder(name, tmp_path):
    model = build(name)
    expected = sum(macs.count_macs(model).values())
    assert multiply_adds.count_tflite_macs(convert(model, tmp_path)) == expected > 0


@pytest.mark.parametrize("kind", export.KINDS)
def test_multiply_adds_are_those_of_each_kind(kind, tmp_path):
    model = keras.Sequential(
        [keras.Input((9, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)]
    )
    expected = 7 * 6 * 9 * 3 * 4 + 7 * 6 * 4 * 5
    assert multiply_adds.count_tflite_macs(convert(model, tmp_path, kind)) == expected


def test_float16_weights_are_found_after_dequantize(tmp_path):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((9, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)]
    )
    tflite = tflite_file.read_tflite(convert(model, tmp_path, "float16"))
    assert "DEQUANTIZE" in tflite.operators
    convolution, dense = (w for w in model.get_weights() if w.ndim > 1)
    expected = convolution.transpose(3, 0, 1, 2), dense.T
    for stored, kernel in zip(tflite.weights, expected, strict=True):
        assert stored.dtype == np.float16
        np.testing.assert_array_equal(stored, kernel.astype("float16"))


def test_what_a_file_counts():
    weights = np.array([[0.0, -0.0, 1.0]], "float32"), np.array([0, 3], "int8")
    tflite = tflite_file.TFLiteFile(("ADD",), weights)
    assert (tflite.weight_count, tflite.zeros, tflite.is_finite) == (5, 3, True)
    broken = tflite_file.TFLiteFile((), (np.array([np.inf], "float32"),))
    assert not broken.is_finite


def test_weights_with_a_zero_point_are_refused(tmp_path):
    """Their zeros would be another number."""
    from ai_edge_litert import schema_py_generated as schema

    from cnn_l1.tflite import metadata

    model = keras.Sequential([keras.Input((9, 8, 3)), layers.Conv2D(4, 3)])
    root = schema.ModelT.InitFromPackedBuf(convert(model, tmp_path, "int8"), 0)
    (operator,) = [o for o in root.subgraphs[0].operators if len(o.inputs) == 3]
    quantization = root.subgraphs[0].tensors[operator.inputs[1]].quantization
    quantization.zeroPoint = np.full(4, 2)
    with pytest.raises(tflite_file.ExportError, match=r"zero point 0. Received: \[2, 2, 2, 2\]"):
        tflite_file.read_tflite(metadata.pack(root))


def outputs_of(content):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content, num_threads=1)
    runner.allocate_tensors()
    given, taken = runner.get_input_details()[0], runner.get_output_details()[0]
    images = np.random.default_rng(3).integers(-128, 127, (5, *given["shape"]))
    found = []
    for image in images:
        runner.set_tensor(given["index"], image.astype(given["dtype"]))
        runner.invoke()
        found.append(runner.get_tensor(taken["index"]).copy())
    return np.stack(found)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_packing_shares_equal_lists_and_changes_nothing_else(kind):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(24, 3),
        ]
    )
    content = export.convert(export.plain_copy(model, batch_size=1), kind, IMAGES)
    packed = tflite_file.pack(schema.ModelT.InitFromPackedBuf(content, 0))
    # The same tables, read again: their own packing gives the same bytes for both.
    trees = [schema.ModelT.InitFromPackedBuf(part, 0) for part in (content, packed)]
    one, other = (bytes(flatbuffer_utils.convert_object_to_bytearray(tree)) for tree in trees)
    assert one == other
    np.testing.assert_array_equal(outputs_of(packed), outputs_of(content))
    if kind == "int8":
        # Zero points of 8 bytes for each channel of a kernel and of a bias: those of one
        # length, 16 or 24, are there once. Little else is shared.
        saved = 8 * (4 * 16 + 2 * 24) - 8 * (16 + 24)
        assert len(one) - len(packed) >= saved - 16 * len(trees[0].buffers)
    root = schema.Model.GetRootAs(packed)
    for number in range(root.BuffersLength()):
        data = root.Buffers(number).DataAsNumpy()
        if isinstance(data, np.ndarray) and data.size:
            start = data.__array_interface__["data"][0]
            base = np.frombuffer(packed, np.uint8).__array_interface__["data"][0]
            assert (start - base) % 16 == 0


READERS = {
    "read_tflite": tflite_file.read_tflite,
    "read_operators": tflite_file.read_operators,
    "float_operators": tflite_file.float_operators,
    "file_macs": multiply_adds.file_macs,
    "id_bounds": sample_inputs.id_bounds,
    "read_facts": firmware.read_facts,
    "add_metadata": lambda content: metadata.add_metadata(content, "m", "in", "out"),
    "remove_metadata": metadata.remove_metadata,
}


def damaged(content):
    """A file cut short, one that is none, and one with bytes changed at random."""
    yield from (b"", b"junk", b"TFL3" * 10, content[:100], content[:-10], bytes(len(content)))
    yield content[:8] + bytes(100)
    random = np.random.default_rng(0)
    for _ in range(40):
        changed = bytearray(content)
        for place in random.integers(0, len(content), 2):
            changed[place] = random.integers(256)
        yield bytes(changed)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """The bytes of an int8 file."""
    path = tmp_path_factory.mktemp("small") / "m.tflite"
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    cnn_l1.export_tflite(model, path, images)
    return path.read_bytes()


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_whole_file_is_refused_by_every_reader(name, small_file):
    """Or read, where what was changed is a number: never an error of the schema's reader."""
    READERS[name](small_file)
    told = []
    for changed in damaged(small_file):
        try:
            READERS[name](changed)
        except (tflite_file.ExportError, ValueError) as error:  # add_metadata counts inputs
            told.append(str(error))
    assert len(told) > 7
    assert all("Received" in text for text in told)
