"""Encoded files: the same outputs in TFLite Micro, the same tensors back, or an error."""

import copy
import functools
import gzip
import itertools
import pathlib
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from cnn_l1.config import loading as configs
from cnn_l1.encode import main as encode_main
from cnn_l1.export import tflite
from cnn_l1.models import builders
from cnn_l1.sparsity import counting
from cnn_l1.tflite import encoding, micro
from cnn_l1.tflite.encoding import assembly, bits, planning, whole_file

SHAPE = (8, 8, 2)


def dense():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(30, activation="relu"),
            keras.layers.Dense(5),
        ]
    )


def conv():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(24, 3, activation="relu"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )


def depthwise():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(32, 1, activation="relu"),
            keras.layers.DepthwiseConv2D(5, padding="same", activation="relu"),
            keras.layers.Conv2D(20, 1),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


def residual():
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    y = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    y = keras.layers.Conv2D(16, 3, padding="same")(y)
    x = keras.layers.Activation("relu")(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4)(x))


def shared():
    """One dense layer that is applied twice, and another between."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.Flatten()(inputs)
    twice, between = keras.layers.Dense(128), keras.layers.Dense(128, activation="relu")
    return keras.Model(inputs, twice(between(twice(x))))


def one_channel():
    """A depthwise convolution whose one channel is quantized on the last axis."""
    return keras.Sequential(
        [
            keras.Input((24, 24, 1)),
            keras.layers.DepthwiseConv2D(20, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(40),
        ]
    )


def lenet5():
    settings = configs.validate({"name": "t", "model": {"name": "lenet5"}})
    return builders.build(settings, (28, 28, 1), 10)


# The network, its part of zeros, and whether it is int8.
CASES = {
    "dense-half": (dense, 0.5, False),
    "dense-int8": (dense, 0.9, True),
    "conv": (conv, 0.99, False),
    "conv-int8": (conv, 0.9, True),
    "depthwise": (depthwise, 0.75, False),
    "depthwise-int8": (depthwise, 0.9, True),
    "residual": (residual, 0.9, False),
    "residual-int8": (residual, 0.8, True),
    "shared-int8": (shared, 0.9, True),
    "none": (dense, 0.0, False),
    "none-int8": (conv, 0.0, True),
}
# Those that most tests are about; each of the others is a conversion more.
QUICK = ("conv-int8", "dense-half", "dense-int8", "shared-int8")


def cases(*names):
    """Parameters of these cases, all but the quick ones marked slow."""
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


@functools.cache
def plain(name):
    """The bytes of a plain file, with random weights and biases."""
    network, part, int8 = CASES[name]
    keras.backend.clear_session()  # layers' names, and so bytes, whatever ran before
    keras.utils.set_random_seed(1)
    return exported(network(), part, int8)


def exported(model, part, int8):
    random = np.random.default_rng(2)
    kernels = {variable.path for _, variable in counting.kernels(model)}
    for variable in model.trainable_variables:
        value = random.standard_normal(variable.shape) * 0.2
        if variable.path in kernels:
            value[random.random(value.shape) < part] = 0.0
        variable.assign(value)
    images = random.standard_normal((8, *model.input_shape[1:])).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "m.tflite")
        tflite.export_tflite(model, path, images if int8 else None, strip=False)
        return path.read_bytes()


@functools.cache
def encoded(name):
    return encoding.encode_zeros(plain(name), run=False)


def parse(content):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def data(root, tensor):
    data = root.buffers[tensor.buffer].data
    return None if data is None else data.tobytes()


def codes(root):
    return [root.operatorCodes[o.opcodeIndex] for o in root.subgraphs[0].operators]


def described(content):
    """Tensors, operators and signature of a file, read without the module."""
    root = parse(content)
    graph = root.subgraphs[0]
    tensors = [
        (t.name, t.type, list(t.shape), data(root, t), vars(t.quantization or schema.TensorT()))
        for t in graph.tensors
    ]
    operators = [
        (code.builtinCode, list(o.inputs), list(o.outputs))
        for code, o in zip(codes(root), graph.operators, strict=True)
    ]
    signature = [
        (e.name, e.tensorIndex) for d in root.signatureDefs or [] for e in d.inputs + d.outputs
    ]
    metadata = [(entry.name, data(root, entry)) for entry in root.metadata]
    return repr((tensors, operators, list(graph.inputs), list(graph.outputs), signature, metadata))


def outputs(content, tmp_path, alternate_bytes=0, examples=4):
    """What TFLite Micro gives for random inputs."""
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    root = parse(content)
    tensor = root.subgraphs[0].tensors[root.subgraphs[0].inputs[0]]
    inputs = np.random.default_rng(3).standard_normal((examples, *tensor.shape))
    if tensor.type == schema.TensorType.INT8:
        inputs = np.clip(inputs * 60, -128, 127).astype("int8")
    run = micro.run(path, [inputs.astype("float32") if inputs.dtype == float else inputs],
                    alternate_bytes)  # fmt: skip
    return [output.tobytes() for output in run.outputs]


def rewrite(content, change):
    """A file with its tables changed and no checksum."""
    root = parse(content)
    root.metadata = [entry for entry in root.metadata if entry.name != whole_file.CHECKSUM]
    change(root)
    return whole_file.pack_sealed(root)


def decodes(root):
    return [
        operator
        for code, operator in zip(codes(root), root.subgraphs[0].operators, strict=True)
        if code.customCode == bits.OPERATOR
    ]


# --- Outputs and tensors -------------------------------------------------------------


@pytest.mark.parametrize("name", cases(*(name for name in CASES if not name.startswith("none"))))
def test_outputs_are_the_same_bit_by_bit(name, tmp_path):
    result, report = encoded(name)
    assert report.encoded
    assert len(result) == report.bytes_after < report.bytes_before == len(plain(name))
    expected = outputs(plain(name), tmp_path)
    assert len(set(expected[0])) > 1  # not all the same byte
    assert outputs(result, tmp_path) == expected
    if name == "shared-int8":
        # Memory besides the arena is used again by each DECODE.
        assert outputs(result, tmp_path, report.decoded_bytes) == expected


@pytest.mark.parametrize("name", cases(*CASES))
def test_decoding_gives_every_tensor_back(name):
    result, _ = encoded(name)
    assert described(encoding.decode_zeros(result)) == described(plain(name))


@pytest.mark.parametrize("name", cases("none", "none-int8"))
def test_nothing_is_encoded_where_nothing_pays(name):
    result, report = encoded(name)
    assert result == plain(name)
    assert report.encoded == ()
    assert report.bytes_after == report.bytes_before == len(result)
    assert "No tensor pays" in str(report)
    assert encoding.decode_zeros(result) == result


@pytest.mark.slow
def test_lenet5_int8_at_90_percent_is_a_third(tmp_path):
    keras.utils.set_random_seed(1)
    content = exported(lenet5(), 0.9, int8=True)
    result, report = encoding.encode_zeros(content)
    assert len(result) <= len(content) / 3
    # dense_1, 800 x 500, is the largest; it is decoded to the arena, or besides it.
    assert report.decoded_bytes >= 400_000
    assert report.arena_after >= report.arena_before + 380_000
    assert report.arena_alternate < report.arena_before + 4_000
    assert described(encoding.decode_zeros(result)) == described(content)
    path = tmp_path / "m.tflite"
    path.write_bytes(result)
    assert micro.arena_bytes(path) == report.arena_after


# --- Layout --------------------------------------------------------------------------


def test_layout_by_hand():
    words = np.array([0, 5, 0, 0, 7, 0, 0, 0, 0, 9], "<u2")
    stored, values = bits.pack_zeros(words, np.zeros(10, "<u2"))
    assert stored == bytes([0b01001000, 0b01000000])
    assert values == bytes([2, 1, 0, 0, 1] + [0] * 11) + bytes([5, 0, 7, 0, 9, 0])


def test_layout_with_zero_points_by_hand():
    tensor = schema.TensorT()
    tensor.type, tensor.shape = schema.TensorType.INT8, [2, 3]
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = [1.0] * 3
    tensor.quantization.zeroPoint = [0, -3, 4]
    tensor.quantization.quantizedDimension = 1
    points = bits.zero_points(tensor)
    assert points.view("i1").tolist() == [0, -3, 4, 0, -3, 4]
    words = np.array([0, 0, 4, 1, -3, 4], "i1").view("<u1")
    stored, values = bits.pack_zeros(words, points)
    assert stored == bytes([0b01010000])
    assert values[16:] == bytes([0, 1])
    tensor.quantization.scale, tensor.quantization.zeroPoint = [1.0] * 2, [-1, 7]
    tensor.quantization.quantizedDimension = 0
    assert bits.zero_points(tensor).view("i1").tolist() == [-1, -1, -1, 7, 7, 7]
    # One zero point stands for every channel, as it does in the runtime.
    tensor.quantization.zeroPoint = [-2]
    assert bits.zero_points(tensor).view("i1").tolist() == [-2] * 6
    tensor.quantization.scale = [1.0]
    assert bits.zero_points(tensor).view("i1").tolist() == [-2] * 6


@given(st.data(), st.sampled_from(["<u1", "<u2", "<u4", "<u8"]), st.integers(0, 40))
def test_unpacking_undoes_packing(draws, words, size):
    few = st.sampled_from([0, 1, 2**7, np.iinfo(words).max])
    values = np.array(draws.draw(st.lists(few, min_size=size, max_size=size)), words)
    points = np.array(draws.draw(st.lists(few, min_size=size, max_size=size)), words)
    pair = bits.pack_zeros(values, points)
    assert bits.unpack_zeros(*pair, points, "t") == values.tobytes()
    others = sum(int(a != b) for a, b in zip(values, points, strict=True))
    assert [len(part) for part in pair] == [(size + 7) // 8, 16 + others * points.itemsize]


def test_nan_and_the_least_are_kept_and_negative_zero_is_zero():
    shape, odd = [30, 128], [-0.0, np.nan, np.float32(1e-45), -np.nan, -0.0]

    def weights(root):
        return next(t for t in root.subgraphs[0].tensors if list(t.shape) == shape)

    def put_in(values):
        def change(root):
            tensor = weights(root)
            all_values = np.frombuffer(data(root, tensor), "float32").copy()
            all_values[: len(values)] = values
            root.buffers[tensor.buffer].data = all_values.view(np.uint8)

        return rewrite(plain("dense-half"), change)

    result, report = encoding.encode_zeros(put_in(odd), run=False)
    positive = put_in([0.0 if value == 0 else value for value in odd])
    assert described(encoding.decode_zeros(result)) == described(positive)
    assert len(result) == len(encoding.encode_zeros(positive, run=False)[0])
    assert report.encoded


@pytest.mark.slow
def test_zeros_that_batch_norm_turned_negative_take_a_bit_each():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(32, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(16, 3),
        ]
    )
    content = exported(model, 0.9, int8=False)  # its gammas are normal, half of them negative
    root = parse(content)
    tensor = next(t for t in root.subgraphs[0].tensors if list(t.shape) == [32, 3, 3, 2])
    words = np.frombuffer(data(root, tensor), "<u4")
    assert 100 < np.count_nonzero(words == 1 << 31) < 450
    _, report = encoding.encode_zeros(content)  # compares the outputs bit by bit
    one = next(one for one in report.encoded if one.elements == words.size)
    assert one.zeros == np.count_nonzero(np.frombuffer(data(root, tensor), "float32") == 0)


@pytest.mark.parametrize("name", ["conv-int8", "dense-half", "shared-int8"])
def test_each_decode_stands_before_its_reader(name):
    root = parse(encoded(name)[0])
    graph = root.subgraphs[0]
    seen = 0
    for place, operator in enumerate(graph.operators):
        if codes(root)[place].customCode != bits.OPERATOR:
            continue
        assert len(operator.inputs) == 2 * len(operator.outputs)
        assert set(operator.outputs) <= set(graph.operators[place + 1].inputs)
        for index in operator.outputs:
            readers = [o for o in graph.operators if index in o.inputs]
            assert len(readers) == 1
            assert data(root, graph.tensors[index]) is None
        seen += 1
    assert seen


def test_buffers_lie_at_multiples_of_16():
    content = encoded("conv-int8")[0]
    root = schema.Model.GetRootAs(content)
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    places = [
        root.Buffers(i).DataAsNumpy().__array_interface__["data"][0] - start
        for i in range(root.BuffersLength())
        if root.Buffers(i).DataLength()
    ]
    assert len(places) > 5
    assert all(place % 16 == 0 for place in places)


def test_weights_of_two_operators_are_stored_once():
    result, report = encoded("shared-int8")
    root = parse(result)
    assert len(decodes(root)) == 3
    pairs = [tuple(o.inputs[:2]) for o in decodes(root)]
    assert pairs[0] == pairs[2] != pairs[1]
    written = [index for o in decodes(root) for index in o.outputs]
    assert len(written) == len(set(written))
    assert sum(one.elements == 128 * 128 for one in report.encoded) == 2


@pytest.mark.slow
def test_a_layer_of_zeros_is_bits_and_a_header():
    def change(root):
        tensor = next(t for t in root.subgraphs[0].tensors if list(t.shape) == [16, 3, 3, 24])
        root.buffers[tensor.buffer].data = np.zeros(16 * 9 * 24, np.uint8)

    content = rewrite(plain("conv-int8"), change)
    result, report = encoding.encode_zeros(content)
    one = next(one for one in report.encoded if one.elements == 16 * 9 * 24)
    assert (one.zeros, one.bytes_after) == (one.elements, one.elements // 8 + 16)
    assert described(encoding.decode_zeros(result)) == described(content)
    assert report.arena_after is not None


# --- Zero points ---------------------------------------------------------------------


def shifted(content, shape, points, axis):
    """A file whose weights of a shape lie about other zero points."""

    def change(root):
        tensor = next(t for t in root.subgraphs[0].tensors if list(t.shape) == shape)
        values = np.frombuffer(data(root, tensor), "int8").reshape(shape).astype(int)
        channels = [1] * len(shape)
        channels[axis] = -1
        values = values // 2 + np.reshape(points, channels)
        root.buffers[tensor.buffer].data = values.astype("int8").view(np.uint8).ravel()
        tensor.quantization.zeroPoint = np.array(points, np.int64)
        if len(points) == 1:
            tensor.quantization.scale = tensor.quantization.scale[:1]

    return rewrite(content, change)


@pytest.mark.parametrize(
    ("name", "shape", "points", "axis"),
    [
        ("dense-int8", [30, 128], [-7], 0),
        ("conv-int8", [16, 3, 3, 24], list(range(-8, 8)), 0),
        pytest.param(
            "depthwise-int8", [1, 5, 5, 32], list(range(-16, 16)), 3, marks=pytest.mark.slow
        ),
    ],
)
def test_zero_points_other_than_zero(name, shape, points, axis, tmp_path):
    content = shifted(plain(name), shape, points, axis)
    result, report = encoding.encode_zeros(content, run=False)
    one = next(one for one in report.encoded if one.elements == np.prod(shape))
    # As many as there were zeros: 90 %, of random numbers.
    assert 0.85 < one.zeros / one.elements < 0.99
    assert described(encoding.decode_zeros(result)) == described(content)
    assert outputs(result, tmp_path) == outputs(content, tmp_path)


@pytest.mark.slow
def test_channels_that_the_runtime_does_not_decode_are_kept():
    keras.utils.set_random_seed(1)
    content = exported(one_channel(), 0.9, int8=True)
    result, report = encoding.encode_zeros(content)  # TFLite Micro would not prepare it
    reasons = {one.bytes: one.reason for one in report.kept}
    assert "Received: 1 on axis 3 of 4" in reasons[400]
    assert report.encoded
    assert len(result) < len(content)


def tensor_like(kind, shape, scales, points, axis=0):
    tensor = schema.TensorT()
    tensor.type, tensor.shape = kind, shape
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [1.0] * scales, points
    tensor.quantization.quantizedDimension = axis
    return tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (tensor_like(schema.TensorType.UINT8, [4], 1, [0]), "float32 or int8 to int64"),
        (tensor_like(schema.TensorType.INT8, [2, 3, 4], 3, [0] * 3, 1), "3 on axis 1 of 3"),
        (tensor_like(schema.TensorType.INT8, [4, 3], 4, [0] * 3), "4 scales and 3 zero points"),
        (tensor_like(schema.TensorType.INT8, [4, 3], 3, [0] * 3), "of 4 channels. Received: 3"),
        (tensor_like(schema.TensorType.INT8, [4], 1, [200]), "from -128 to 127. Received: 200"),
        (tensor_like(schema.TensorType.INT32, [4], 1, [3]), "from 0 to 0. Received: 3"),
    ],
)
def test_quantization_that_the_runtime_does_not_decode(tensor, message):
    with pytest.raises(encoding.EncodeError, match=message):
        bits.zero_points(tensor)


# --- The choice ----------------------------------------------------------------------


@pytest.mark.parametrize("name", cases("conv-int8", "dense-half", "depthwise-int8", "shared-int8"))
def test_the_choice_is_the_smallest_file_of_all(name):
    content = plain(name)
    root = whole_file.read(content)
    plans, _ = planning.plan(root, None)
    assert 3 <= len(plans) <= 10
    sizes = {
        chosen: len(whole_file.pack_sealed(assembly.assemble(root, plans, frozenset(chosen))))
        for count in range(len(plans) + 1)
        for chosen in itertools.combinations(sorted(plans), count)
    }
    assert len(encoded(name)[0]) == min(sizes.values())
    # It is a choice: all at once would be larger.
    assert sizes[tuple(sorted(plans))] > min(sizes.values())


def test_a_limit_keeps_what_is_larger():
    content, largest = plain("conv-int8"), 16 * 9 * 24
    _, report = encoding.encode_zeros(content, decoded_limit=largest, run=False)
    assert max(one.bytes_before for one in report.encoded) == largest
    _, report = encoding.encode_zeros(content, decoded_limit=largest - 1, run=False)
    assert max(one.bytes_before for one in report.encoded) < largest
    assert f"more than {largest - 1} bytes decoded" in {one.reason for one in report.kept}
    assert report.decoded_bytes < largest


@pytest.mark.slow
def test_a_buffer_is_encoded_for_all_its_tensors_or_none():
    shape = [16, 3, 3, 16]

    def two(root):
        first, second = [t for t in root.subgraphs[0].tensors if list(t.shape) == shape]
        second.buffer = first.buffer
        return first, second

    def differ(root):
        # In the second tensor other elements are the zero point.
        two(root)[1].quantization.zeroPoint = np.full(16, 3, np.int64)

    def read_otherwise(root):
        graph, tensor = root.subgraphs[0], two(root)[1]
        graph.outputs = np.append(graph.outputs, np.int32(graph.tensors.index(tensor)))

    alike = rewrite(plain("residual-int8"), two)
    result, report = encoding.encode_zeros(alike)
    assert sum(one.elements == 16 * 9 * 16 for one in report.encoded) == 2
    assert described(encoding.decode_zeros(result)) == described(alike)
    root = parse(result)
    stored = [data(root, t) for t in root.subgraphs[0].tensors if len(t.shape) == 1]
    buffers = [b.data.tobytes() for b in root.buffers if b.data is not None]
    found = [s for s in stored if s and len(s) == 16 * 9 * 16 // 8]
    assert len(found) == 2
    assert buffers.count(found[0]) == 1  # stored once
    root = whole_file.read(rewrite(plain("residual-int8"), differ))
    plans, _ = planning.plan(root, None)
    both = frozenset(b for b, ones in plans.items() if len(ones) == 2)
    assert len(both) == 1
    again = encoding.decode_zeros(whole_file.pack_sealed(assembly.assemble(root, plans, both)))
    assert whole_file.tree(parse(again)) == whole_file.tree(root)
    _, report = encoding.encode_zeros(rewrite(plain("residual-int8"), read_otherwise), run=False)
    reasons = [one.reason for one in report.kept if one.bytes == 16 * 9 * 16]
    assert reasons == ["shares its bytes with one kept"]


def test_weights_that_are_read_as_something_else_are_kept():
    def change(root):
        graph = root.subgraphs[0]
        index = next(i for i, t in enumerate(graph.tensors) if list(t.shape) == [16, 3, 3, 24])
        graph.outputs = np.append(graph.outputs, np.int32(index))

    _, report = encoding.encode_zeros(rewrite(plain("conv-int8"), change), run=False)
    assert 16 * 9 * 24 not in [one.elements for one in report.encoded]


# --- What is refused -----------------------------------------------------------------


@pytest.mark.parametrize("function", [encoding.encode_zeros, encoding.decode_zeros])
@pytest.mark.parametrize("content", [b"", b"TFL3", b"no model at all", bytes(100)])
def test_what_is_no_tflite_file_is_refused(function, content):
    with pytest.raises(encoding.EncodeError, match=r"Expected a .*\.tflite file.*Received: "):
        function(content)


@pytest.mark.parametrize("cut", [1, 4, 17, 300, 2000])
def test_a_file_cut_short_is_refused(cut):
    for content in (encoded("conv-int8")[0], encoded("dense-half")[0]):
        with pytest.raises(encoding.EncodeError, match="Received"):
            encoding.decode_zeros(content[:-cut])
        with pytest.raises(encoding.EncodeError, match="Received"):
            encoding.decode_zeros(content[: len(content) // cut - 1])
    with pytest.raises(encoding.EncodeError, match="cut short or altered"):
        encoding.encode_zeros(plain("conv-int8")[:-cut], run=False)


def test_a_file_with_any_byte_altered_is_refused():
    content = encoded("conv-int8")[0]
    name = content.index(whole_file.CHECKSUM)
    random = np.random.default_rng(0)
    for place in random.choice(len(content), 60, replace=False):
        if name <= place < name + len(whole_file.CHECKSUM):
            continue  # then it has no checksum, and the rest is as it was
        altered = bytearray(content)
        altered[place] ^= 1 << random.integers(8)
        with pytest.raises(encoding.EncodeError, match="Received"):
            encoding.decode_zeros(altered)
    with pytest.raises(encoding.EncodeError, match="CRC-32"):
        encoding.decode_zeros(content + b"\0")


@pytest.mark.parametrize("coded", [False, True])
def test_what_lies_outside_the_file_is_refused(coded):
    """The name of a tensor that would go on beyond the end, which Python cuts."""
    content = plain("conv-int8")
    if coded:
        content = rewrite(encoded("conv-int8")[0], lambda root: None)
    place = content.index(parse(content).subgraphs[0].tensors[1].name)
    altered = content[: place - 4] + (2**20).to_bytes(4, "little") + content[place:]
    with pytest.raises(encoding.EncodeError, match="not a valid Flatbuffer"):
        encoding.decode_zeros(altered)


def test_files_of_other_programs_are_decoded():
    """Such as leave the bits of a tensor its quantization, and write no checksum."""

    def change(root):
        for operator in decodes(root):
            tensors = root.subgraphs[0].tensors
            for place, index in enumerate(operator.outputs):
                quantization = tensors[index].quantization
                tensors[operator.inputs[2 * place]].quantization = quantization

    content = rewrite(encoded("conv-int8")[0], change)
    assert described(encoding.decode_zeros(content)) == described(plain("conv-int8"))


def largest_pair(root):
    """The buffers that the largest tensor is stored in, bits and values."""
    graph = root.subgraphs[0]
    pairs = [
        tuple(graph.tensors[i].buffer for i in o.inputs[place : place + 2])
        for o in decodes(root)
        for place in range(0, len(o.inputs), 2)
    ]
    return max(pairs, key=lambda pair: len(root.buffers[pair[0]].data))


def damage(part, change):
    """A change of one stored tensor, its shape with it, as bytes."""

    def apply(root):
        buffer = root.buffers[largest_pair(root)[part]]
        tensor = next(t for t in root.subgraphs[0].tensors if root.buffers[t.buffer] is buffer)
        content = bytearray(buffer.data.tobytes())
        content = bytearray(change(content) or content)
        buffer.data = np.frombuffer(bytes(content), np.uint8)
        tensor.shape = np.array([len(content)], np.int32)

    return apply


def put(place, value):
    def change(content):
        content[place] = value

    return change


def flip(place, bits):
    def change(content):
        content[place] ^= bits

    return change


def set_types(root):
    for index in decodes(root)[0].inputs[:1]:
        root.subgraphs[0].tensors[index].type = schema.TensorType.INT8


def drop_input(root):
    decodes(root)[0].inputs = decodes(root)[0].inputs[:-1]


def give_values(root):
    graph = root.subgraphs[0]
    tensor = graph.tensors[decodes(root)[0].outputs[0]]
    tensor.buffer = len(root.buffers)
    buffer = schema.BufferT()
    buffer.data = np.zeros(int(np.prod(tensor.shape)), np.uint8)
    root.buffers.append(buffer)


def read_stored(root):
    """Something else reads the bits as well."""
    graph = root.subgraphs[0]
    graph.outputs = np.append(graph.outputs, decodes(root)[0].inputs[0])


def write_twice(root):
    first = decodes(root)[0]
    second = copy.copy(first)
    second.inputs = first.inputs[::-1].copy()
    root.subgraphs[0].operators.insert(0, second)


def move_zero_points(root):
    for index in decodes(root)[-1].outputs:
        quantization = root.subgraphs[0].tensors[index].quantization
        quantization.zeroPoint = quantization.zeroPoint + 200


DAMAGES = {
    "type": (damage(1, put(0, 0)), "expected the header 0201.*Received: 0001"),
    "version": (damage(1, put(1, 2)), "expected the header 0201.*Received: 0202"),
    "pruning version": (damage(1, put(4, 2)), "expected the header .*Received: 0201000002"),
    "unused bytes": (damage(1, put(15, 9)), "expected the header .*Received: .*09$"),
    "no header": (damage(1, lambda content: content[:10]), "expected the header"),
    "a bit more or less": (damage(0, flip(3, 0b00010000)), "values of 1 bytes, one for each bit"),
    "a value more": (damage(1, lambda content: content + b"\1"), "values of 1 bytes"),
    "a value less": (damage(1, lambda content: content[:-1]), "values of 1 bytes"),
    "bits too many": (damage(0, lambda content: content + b"\0"), "432 bytes of bits.*: 433"),
    "bits too few": (damage(0, lambda content: content[:-1]), "432 bytes of bits.*: 431"),
    "type of the bits": (set_types, "constant uint8 tensors to decode. Received: type 9"),
    "number of inputs": (drop_input, "two inputs for each output"),
    "values of its own": (give_values, "no values of its own"),
    "read by others": (read_stored, "DECODE operators alone read"),
    "written twice": (write_twice, "expected|two"),
    "zero points": (move_zero_points, "zero points from .* Received: 200 to 200"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_malformed_encoded_tensors_are_refused(name):
    change, message = DAMAGES[name]
    # Without a checksum, as other programs may write it: the layout alone is wrong.
    good = rewrite(encoded("conv-int8")[0], lambda root: None)
    assert described(encoding.decode_zeros(good)) == described(plain("conv-int8"))
    with pytest.raises(encoding.EncodeError, match=message):
        encoding.decode_zeros(rewrite(encoded("conv-int8")[0], change))


def test_bits_beyond_the_last_element_are_refused():
    points = np.zeros(10, "<u1")
    with pytest.raises(encoding.EncodeError, match="no bit set beyond its 10 elements"):
        bits.unpack_zeros(bytes([0, 0b00100000]), bits.HEADER + b"\1", points, "t")


def point_too_far(root):
    root.subgraphs[0].tensors[0].buffer = 10_000


def cut_weights(root):
    tensor = max(root.subgraphs[0].tensors, key=lambda t: len(data(root, t) or b""))
    root.buffers[tensor.buffer].data = root.buffers[tensor.buffer].data[:-1]


def memory_plan(root):
    entry = schema.MetadataT()
    entry.name, entry.buffer = "OfflineMemoryAllocation", 0
    root.metadata.append(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (point_too_far, "buffers from 0 to .*Received: 10000"),
        (cut_weights, "expected 3456 elements, 3456 bytes. Received: 3455 bytes"),
        (memory_plan, "metadata OfflineMemoryAllocation"),
    ],
)
def test_plain_files_that_are_refused(change, message):
    with pytest.raises(encoding.EncodeError, match=message):
        encoding.encode_zeros(rewrite(plain("conv-int8"), change), run=False)


def test_weights_outside_the_flatbuffer_are_refused():
    root = parse(plain("conv-int8"))
    root.buffers[-1].offset = 1
    with pytest.raises(encoding.EncodeError, match="tensors inside the flatbuffer"):
        whole_file.check_indices(root)


def test_an_encoded_file_is_not_encoded_again():
    with pytest.raises(encoding.EncodeError, match="that is not encoded"):
        encoding.encode_zeros(encoded("conv-int8")[0], run=False)


def test_other_outputs_are_an_error(monkeypatch):
    """The run itself is a check: what decodes to the file but runs to something else."""
    real = micro.run

    def run(path, inputs, alternate_bytes=0):
        got = real(path, inputs, alternate_bytes)
        if path.name == "coded.tflite":
            got.outputs[0].flat[0] ^= 1
        return got

    monkeypatch.setattr(micro, "run", run)
    with pytest.raises(encoding.EncodeError, match=r"bit by bit, .*Received: 1 others"):
        encoding.encode_zeros(plain("dense-int8"))


def test_a_file_that_does_not_decode_to_what_it_was_is_an_error(monkeypatch):
    real = bits.pack_zeros

    def wrong(words, points):
        stored, values = real(words, points)
        return stored, values[:-1] + bytes([values[-1] ^ 1])

    monkeypatch.setattr(bits, "pack_zeros", wrong)
    with pytest.raises(encoding.EncodeError, match="decodes to the one that was given"):
        encoding.encode_zeros(plain("dense-int8"), run=False)


# --- Commands ------------------------------------------------------------------------


def test_command_line(tmp_path, capsys):
    source, small, again = (tmp_path / name for name in ("m.tflite", "s.tflite", "p.tflite"))
    source.write_bytes(plain("dense-int8"))
    assert encode_main([str(source), "--output", str(small)]) == 0
    text = capsys.readouterr().out
    assert f"flash    {len(plain('dense-int8'))} -> {small.stat().st_size} bytes" in text
    sizes = [len(gzip.compress(part, 9)) for part in (plain("dense-int8"), small.read_bytes())]
    assert f"gzip     {sizes[0]} -> {sizes[1]} bytes" in text
    assert "arena " in text
    assert small.read_bytes() == encoded("dense-int8")[0]
    assert encode_main([str(small), "--decode", "--output", str(again)]) == 0
    assert described(again.read_bytes()) == described(plain("dense-int8"))
    assert encode_main([str(source), "--output", str(small)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert encode_main([str(tmp_path / "no"), "--output", str(small)]) == 2
    assert encode_main([str(source), "--output", str(tmp_path / "x" / "y")]) == 2
    assert encode_main([str(source), "--output", "z", "--decoded-limit", "0"]) == 2
    assert encode_main([str(small), "--output", str(tmp_path / "z")]) == 1
    assert "expected" in capsys.readouterr().err.lower()
    assert not (tmp_path / "z").exists()


@pytest.mark.slow
def test_micro_runs_examples_one_after_another(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(plain("dense-int8"))
    inputs = np.random.default_rng(0).integers(-128, 128, (3, 1, *SHAPE)).astype("int8")
    run = micro.run(path, [inputs])
    assert run.outputs[0].shape == (3, 1, 5)
    assert run.arena_bytes == micro.arena_bytes(path)
    assert micro.run(path, [inputs[1:2]]).outputs[0].tobytes() == run.outputs[0][1].tobytes()
    path.write_bytes(b"no model")
    with pytest.raises(micro.MicroError, match=r"m\.tflite: expected a file that TFLite Micro"):
        micro.run(path, [inputs])


@pytest.mark.slow
def test_ids_are_run_within_their_table():
    """Random ids out of the table would end the run of a file that is right."""
    random = np.random.default_rng(0)
    table = random.normal(size=(50, 40)).astype("float32")
    weights = np.where(random.random((240, 50)) < 0.9, 0.0, 1.0).astype("float32")
    function = tf.function(lambda ids: tf.reshape(tf.gather(table, ids), (1, 240)) @ weights)
    concrete = function.get_concrete_function(tf.TensorSpec((1, 6), "int32"))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    small, report = encoding.encode_zeros(content)
    assert report.encoded
    assert len(small) < len(content)
