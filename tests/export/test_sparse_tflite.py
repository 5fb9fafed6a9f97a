"""Sparse files: what is refused and why, what is written, and that it is the same network."""

import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from cnn_l1.config import loading as configs
from cnn_l1.export import sparse_file, sparse_rules, sparse_tflite, tflite
from cnn_l1.models import builders
from cnn_l1.process import silence
from cnn_l1.tflite import file as tflite_file
from cnn_l1.tflite import metadata
from cnn_l1.tflite.file import parse

SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
PART = 0.85


def zero_part(model, part=PART, seed=0):
    """Zero a part of every kernel but depthwise ones; weights stay of a scale that lives."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        if depthwise or not isinstance(layer, (layers.Conv2D, layers.Dense)):
            continue
        shape = layer.kernel.shape
        reads = np.prod(shape[:-1])
        scale = np.sqrt(2.0 / max(1.0, reads * (1.0 - part)))
        mask = random.random(shape) >= part
        layer.kernel.assign(random.normal(0.0, scale, shape) * mask)
        if layer.use_bias:
            layer.bias.assign(random.uniform(0.0, 0.2, layer.bias.shape))
    return model


def network(middle=(), first=None, end=None, size=(16, 16, 3), part=PART):
    """A network that satisfies every rule, unless a part of it is replaced."""
    inputs = keras.Input(size)
    x = layers.Rescaling(1 / 255)(inputs)
    if first is None:
        first = [layers.ZeroPadding2D(1), layers.Conv2D(8, 3, strides=2, activation="relu")]
    block = [layers.DepthwiseConv2D(3, padding="same"), layers.Conv2D(16, 1, activation="relu")]
    for layer in [*first, *middle, *block, *(end or ending())]:
        x = layer(x)
    return zero_part(keras.Model(inputs, x), part)


def ending():
    return [layers.GlobalAveragePooling2D(), layers.Dense(4)]


def rich_network():
    """Every operator that is allowed."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling([0.01, 0.02, 0.015], [-1.0, 0.5, 0.2])(inputs)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2)(x)))
    y = layers.DepthwiseConv2D(5, padding="same", activation="relu6")(x)
    y = layers.Conv2D(8, 1, activation="hard_swish")(y)
    x = layers.Add()([x, y])
    x = layers.DepthwiseConv2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    x = layers.Conv2D(16, 1, activation="elu")(x)
    x = layers.DepthwiseConv2D(5, strides=2)(layers.ZeroPadding2D(2)(x))
    x = layers.LeakyReLU()(layers.Conv2D(32, 1)(x))
    x = layers.Activation("sigmoid")(layers.Conv2D(32, 1)(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(16, activation="relu")(x)
    return zero_part(keras.Model(inputs, layers.Dense(4, activation="softmax")(x)), 0.8)


def convert(model, **settings):
    fixed = tflite.plain_copy(model, batch_size=1)
    return tflite.convert(fixed, **{"sparse": True} | settings)


@pytest.fixture(scope="module")
def compliant():
    return convert(network([layers.ZeroPadding2D(1), layers.DepthwiseConv2D(3, strides=2)]))


def rules(content):
    return sorted({finding.rule for finding in sparse_file.lint(content)})


# --- the rules, each broken alone -----------------------------------------------------

SMALL = {"activation": "relu", "padding": "same"}
BROKEN = {
    "max-pooling": ("operator", "MAX_POOL_2D", lambda: network([layers.MaxPooling2D(2)])),
    "3x3 convolution": ("pointwise", "3x3", lambda: network([layers.Conv2D(8, 3, **SMALL)])),
    "depthwise, same at stride 2": (
        "padding", "SAME",
        lambda: network([layers.DepthwiseConv2D(3, strides=2, padding="same")]),
    ),
    "depthwise without padding": (
        "padding", "VALID without a PAD", lambda: network([layers.DepthwiseConv2D(3)]),
    ),
    "depthwise, padded by 2": (
        "padding", "PAD of [[0, 0], [2, 2], [2, 2], [0, 0]]",
        lambda: network([layers.ZeroPadding2D(2), layers.DepthwiseConv2D(3)]),
    ),
    "first: same": (
        "padding", "SAME", lambda: network(first=[layers.Conv2D(8, 3, strides=2, **SMALL)]),
    ),
    "odd size": ("padding", "odd sizes", lambda: network(size=(17, 17, 3))),
    "few zeros": ("zeros", "%", lambda: network(part=0.6)),
    "global max-pooling": (
        "operator", "REDUCE_MAX",
        lambda: network(end=[layers.GlobalMaxPooling2D(), layers.Dense(4)]),
    ),
    "1x1 with groups": ("pointwise", "2 groups", lambda: network([layers.Conv2D(8, 1, groups=2)])),
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case == "max-pooling" else pytest.mark.slow)
        for case in BROKEN
    ],
)
def test_networks_that_break_one_rule(case):
    rule, received, make = BROKEN[case]
    findings = sparse_file.lint(convert(make()))
    found = {finding.rule for finding in findings}
    if case == "global max-pooling":
        found -= {"pooling", "output"}  # its lack of an average follows
    assert found == {rule}
    text = str(next(f for f in findings if f.rule == rule))
    assert received in text
    assert "expected" in text
    assert "Received: " in text


def operators(model, name):
    """The operators of one kind, in order."""
    names = {value: key for key, value in vars(schema.BuiltinOperator).items()}
    return [
        o
        for o in model.subgraphs[0].operators
        if names[model.operatorCodes[o.opcodeIndex].builtinCode] == name
    ]


def tensor(model, index):
    return model.subgraphs[0].tensors[index]


def edited(content, edit):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    edit(model)
    return metadata.pack(model)


def options(name, place=0, **values):
    """An edit that sets options of an operator."""

    def edit(model):
        for key, value in values.items():
            assert hasattr(operators(model, name)[place].builtinOptions, key)
            setattr(operators(model, name)[place].builtinOptions, key, value)

    return edit


def constant(name, place, which, values):
    """An edit that sets the constant that an operator reads."""

    def edit(model):
        index = operators(model, name)[place].inputs[which]
        data = np.frombuffer(np.asarray(values, "int32").tobytes(), "uint8")
        model.buffers[tensor(model, index).buffer].data = data

    return edit


def input_channels(model):
    tensor(model, model.subgraphs[0].inputs[0]).shape = np.array([1, 16, 16, 4], "int32")


def integer_weights(model):
    # As a dynamic-range file has them.
    tensor(model, operators(model, "CONV_2D")[1].inputs[0]).type = schema.TensorType.INT8


def early_output(model):
    model.subgraphs[0].outputs = [operators(model, "MEAN")[0].inputs[0]]


def two_inputs(model):
    model.subgraphs[0].inputs = [*model.subgraphs[0].inputs] * 2


def another_operator(name, place, code):
    """An edit that makes an operator another one, its inputs and outputs unchanged."""

    def edit(model):
        entry = schema.OperatorCodeT()
        entry.builtinCode = getattr(schema.BuiltinOperator, code)
        entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)
        model.operatorCodes.append(entry)
        operators(model, name)[place].opcodeIndex = len(model.operatorCodes) - 1

    return edit


def pad_read_twice(model):
    # The first pad's tensor becomes an input of the multiplication's sibling as well.
    pad = operators(model, "PAD")[-1]
    extra = schema.OperatorT()
    extra.opcodeIndex = operators(model, "DEPTHWISE_CONV_2D")[0].opcodeIndex
    source = operators(model, "DEPTHWISE_CONV_2D")[0]
    extra.inputs, extra.outputs = source.inputs, source.outputs
    extra.builtinOptions, extra.builtinOptionsType = (
        source.builtinOptions,
        source.builtinOptionsType,
    )
    assert pad.outputs[0] == source.inputs[0]
    place = model.subgraphs[0].operators.index(source)
    model.subgraphs[0].operators.insert(place, extra)


EDITS = {
    "4 channels": ("input", "shape (1, 16, 16, 4)", input_channels),
    "two inputs": ("graph", "2 inputs", two_inputs),
    "int8 activations": ("type", "INT8", integer_weights),
    "first, stride 1": ("first", "stride 1x1", options("CONV_2D", strideH=1, strideW=1)),
    "first, dilated": ("first", "dilation 2x1", options("CONV_2D", dilationHFactor=2)),
    "first, padding 2": (
        "padding", "PAD of [[0, 0], [2, 2]",
        constant("PAD", 0, 1, [[0, 0], [2, 2], [2, 2], [0, 0]]),
    ),
    "first, uneven padding": (
        "padding", "PAD of", constant("PAD", 0, 1, [[0, 0], [0, 1], [0, 1], [0, 0]]),
    ),
    "1x1, stride 2": ("pointwise", "stride 2x2", options("CONV_2D", 1, strideH=2, strideW=2)),
    "depthwise, stride 3": (
        "depthwise", "stride 3x3",
        options("DEPTHWISE_CONV_2D", 1, strideH=3, strideW=3, padding=VALID),
    ),
    "depthwise, dilated": (
        "depthwise", "dilation 1x2", options("DEPTHWISE_CONV_2D", 1, dilationWFactor=2),
    ),
    "pad read twice": ("padding", "a PAD that others read too", pad_read_twice),
    "fused tanh": (
        "activation", "TANH",
        options("CONV_2D", 1, fusedActivationFunction=schema.ActivationFunctionType.TANH),
    ),
    "mean over channels": ("pooling", "over [2, 3]", constant("MEAN", 0, 1, [2, 3])),
    "scaling by EXP": ("operator", "EXP", another_operator("MUL", 0, "EXP")),
    "dense layer as EXP": ("after_pooling", "EXP", another_operator("FULLY_CONNECTED", 0, "EXP")),
    "early output": ("output", "before it", early_output),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_files_that_break_one_rule(case, compliant):
    rule, received, edit = EDITS[case]
    findings = sparse_file.lint(edited(compliant, edit))
    found = {finding.rule for finding in findings}
    if case == "depthwise, stride 3":
        found -= {"padding"}  # SAME is judged with its stride
    assert found == {rule}
    assert any(received in finding.received for finding in findings)


@pytest.mark.slow
def test_1x1_convolution_after_the_pooling():
    """Such a file loads here, and on ARM it does not."""
    end = [layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(4, 1), layers.Flatten()]
    (finding,) = sparse_file.lint(convert(network(end=end)))
    assert (finding.rule, finding.received) == ("after_pooling", "CONV_2D")


def test_editing_by_itself_breaks_nothing(compliant):
    assert rules(edited(compliant, lambda model: None)) == []


@pytest.mark.slow
def test_adds_of_other_shapes_and_of_constants():
    model = network([layers.Rescaling(1.0, offset=0.5)])
    findings = sparse_file.lint(convert(model))
    assert [f.rule for f in findings] == ["add"]
    assert "a constant" in findings[0].received


@pytest.mark.slow
def test_inputs_from_both_sides_of_the_first_convolution():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(3, 3, strides=2, activation="relu")(layers.ZeroPadding2D(1)(inputs))
    x = layers.Conv2D(3, 1)(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.Add()([x, layers.AveragePooling2D(2)(inputs)])
    for layer in ending():
        x = layer(x)
    found = rules(convert(zero_part(keras.Model(inputs, x))))
    assert "operator" in found


@pytest.mark.slow
def test_without_pointwise_convolutions():
    inputs = x = keras.Input((16, 16, 3))
    for layer in [layers.ZeroPadding2D(1), layers.Conv2D(8, 3, strides=2), *ending()]:
        x = layer(x)
    (finding,) = sparse_file.lint(convert(zero_part(keras.Model(inputs, x))))
    assert (finding.rule, finding.received) == ("zeros", "none")


@pytest.mark.slow
def test_dense_layers_count_among_the_zeros():
    model = network(end=[layers.GlobalAveragePooling2D(), layers.Dense(64), layers.Dense(4)])
    assert rules(convert(model)) == []
    for layer in model.layers[-2:]:
        layer.kernel.assign(np.random.default_rng(0).normal(0, 0.2, layer.kernel.shape))
    (finding,) = sparse_file.lint(convert(model))
    assert finding.rule == "zeros"
    assert "dense layers" in finding.where


@pytest.mark.slow
def test_dense_weights_are_a_finding(compliant):
    model = network([layers.ZeroPadding2D(1), layers.DepthwiseConv2D(3, strides=2)])
    assert rules(convert(model, sparse=False)) == ["storage"]
    assert rules(compliant) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dynamic_int8", "int8"])
def test_quantized_files_are_found(kind, tmp_path):
    # Of a kernel below 1024 weights the converter makes no int8 where it need not.
    model = network([layers.Conv2D(96, 1), layers.Conv2D(96, 1)])
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
    calibration = images if kind == "int8" else None
    tflite.export_tflite(model, tmp_path / "a.tflite", calibration, kind=kind, strip=False)
    findings = sparse_file.lint((tmp_path / "a.tflite").read_bytes())
    assert "INT8" in next(f.received for f in findings if f.rule == "type")


def test_every_finding_has_a_source():
    for rule, source in sparse_rules.RULES.items():
        finding = sparse_rules.Finding(rule, "a", "b", "c")
        assert finding.source == source
        assert str(finding).startswith("a: expected b. Received: c (")
    tried = {case[0] for case in (*BROKEN.values(), *EDITS.values())}
    assert tried | {"add", "storage"} == set(sparse_rules.RULES)


@pytest.mark.slow
def test_names_of_operators_are_given():
    model = network([layers.MaxPooling2D(2, name="squeeze")])
    (finding,) = sparse_file.lint(model)  # of a Keras model: of its sparse float32 file
    assert finding.where.startswith("MAX_POOL_2D (operator ")
    assert "squeeze" in finding.where
    assert finding.source == sparse_rules.CHECK


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(100)])
def test_not_a_tflite_file(content):
    with pytest.raises(ValueError, match="`model` must be the bytes of a TFLite file"):
        sparse_file.lint(content)


# --- files that are written -----------------------------------------------------------


def images_for(model, count=3):
    shape = (count, *model.input.shape[1:])
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


def run(content, images):
    runner = Interpreter(model_content=content, num_threads=1)
    runner.allocate_tensors()
    given, taken = runner.get_input_details()[0], runner.get_output_details()[0]
    rows = []
    for image in images:
        runner.set_tensor(given["index"], image[None])
        runner.invoke()
        rows.append(runner.get_tensor(taken["index"])[0].copy())
    return np.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_export(kind, tmp_path):
    model, path = rich_network(), tmp_path / "sparse.tflite"
    written = sparse_file.export_sparse_tflite(model, path, kind)
    content = path.read_bytes()
    assert sparse_file.lint(content) == []
    dense = tflite.strip_names(convert(model, kind=kind, sparse=False))
    assert written.bytes == len(content)
    assert written.dense_bytes == len(dense)
    assert written.deflated_bytes == len(zlib.compress(content, 9))
    assert written.dense_deflated_bytes == len(zlib.compress(dense, 9))
    kernels = [
        layer.kernel.numpy()
        for layer in model.layers
        if type(layer) is layers.Conv2D and layer.kernel_size == (1, 1)
    ]
    assert written.weights == sum(kernel.size for kernel in kernels)
    assert written.zeros == sum(int((kernel == 0).sum()) for kernel in kernels)
    images = images_for(model)
    outputs, expected = run(content, images), model.predict_on_batch(images)
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()
    # Half precision has 11 bits: some 5e-4 of each weight, through seven layers.
    rounding = 1e-5 if kind == "float32" else 1e-2
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=rounding * np.abs(expected).max())


@pytest.mark.slow
def test_sparse_pays_in_bytes_at_many_zeros(tmp_path):
    middle = [layers.Conv2D(96, 1), layers.Conv2D(96, 1)]
    written = sparse_file.export_sparse_tflite(network(middle, part=0.9), tmp_path / "a.tflite")
    assert written.bytes < 0.6 * written.dense_bytes


@pytest.mark.parametrize("kind", ["int8", "dynamic_int8", "int16x8"])
def test_refused_kinds(kind, tmp_path):
    with pytest.raises(ValueError, match="does not load sparse int8") as caught:
        sparse_file.export_sparse_tflite(network(), tmp_path / "a.tflite", kind)
    assert f"Received: kind={kind!r}" in str(caught.value)


@pytest.mark.slow
def test_export_refuses_what_the_linter_finds(tmp_path):
    model = network([layers.MaxPooling2D(2), layers.MaxPooling2D(2)])
    with pytest.raises(tflite.ExportError, match="expected a network for XNNPACK") as caught:
        sparse_file.export_sparse_tflite(model, tmp_path / "a.tflite")
    assert str(caught.value).count("MAX_POOL_2D (operator") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_export_refuses_a_network_whose_outputs_do_not_move(tmp_path):
    model = network()
    model.layers[-1].kernel.assign(np.zeros(model.layers[-1].kernel.shape))
    model.layers[-1].bias.assign(np.ones(4))
    with pytest.raises(tflite.ExportError, match="outputs that depend on the input"):
        sparse_file.export_sparse_tflite(model, tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_a_file_that_is_not_the_network(compliant):
    """One weight stored wrong: its bits are seen, and so are its outputs."""

    def edit(root):
        index = operators(root, "FULLY_CONNECTED")[0].inputs[1]
        stored = next(o for o in operators(root, "DENSIFY") if o.outputs[0] == index)
        buffer = root.buffers[tensor(root, stored.inputs[0]).buffer]
        values = np.frombuffer(bytes(buffer.data), "float32").copy()
        values[0] *= 1.5
        buffer.data = np.frombuffer(values.tobytes(), "uint8")

    wrong = edited(compliant, edit)
    sparse_file._check_weights("a", parse(compliant), parse(compliant))
    with pytest.raises(tflite.ExportError, match="decode to the dense file's"):
        sparse_file._check_weights("a", parse(wrong), parse(compliant))
    assert sparse_file._check_outputs("a", compliant, compliant, None) == 0.0
    with pytest.raises(tflite.ExportError, match="expected the dense file's outputs"):
        sparse_file._check_outputs("a", wrong, compliant, None)


# --- the encoding ---------------------------------------------------------------------


def encoded(dense, block=()):
    """A `SparsityParametersT` and values of a matrix, encoded here: rows, or blocks of them."""
    rows, columns = dense.shape
    width = block[0] if block else 1
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = [0, 1, 2] if block else [0, 1]
    sparsity.blockMap = [1] if block else []
    segments, indices, values = [0], [], []
    for row in range(rows):
        for place in range(columns // width):
            piece = dense[row, place * width : (place + 1) * width]
            if piece.any():
                indices.append(place)
                values.extend(piece)
        segments.append(len(indices))

    def level(kind, size=0):
        made = schema.DimensionMetadataT()
        made.format, made.denseSize = kind, size
        return made

    compressed = level(1)
    compressed.arraySegments, compressed.arrayIndices = (schema.Int32VectorT() for _ in "ab")
    compressed.arraySegments.values, compressed.arrayIndices.values = segments, indices
    sparsity.dimMetadata = [level(0, rows), compressed, *([level(0, width)] if block else [])]
    return sparsity, np.array(values, dense.dtype)


@pytest.mark.parametrize("block", [(), (4,)])
def test_decode(block):
    random = np.random.default_rng(0)
    dense = random.normal(size=(6, 12)).astype("float32") * (random.random((6, 12)) < 0.2)
    dense[2] = 0.0
    np.testing.assert_array_equal(tflite_file.decode_sparse(*encoded(dense, block), (6, 12)), dense)


# --- the builder ----------------------------------------------------------------------


def pointwise(size=(16, 16, 3), **settings):
    section = {"name": "pointwise", "pointwise": {"width": 8, **settings}}
    resolved = configs.validate({"name": "a", "model": section})
    return builders.build(resolved, size, 10)


@pytest.mark.slow
def test_the_builder_satisfies_every_rule(tmp_path):
    model = zero_part(pointwise(halvings=1))
    written = sparse_file.export_sparse_tflite(model, tmp_path / "a.tflite")
    assert written.zeros > 2 / 3 * written.weights


@pytest.mark.slow
def test_the_builder_without_adds_satisfies_every_rule():
    model = zero_part(pointwise(residual=False, halvings=1, repeats=1))
    assert sparse_file.lint(model) == []


# --- the command ----------------------------------------------------------------------


def test_command(compliant, tmp_path, capsys):
    good, bad = tmp_path / "good.tflite", tmp_path / "bad.tflite"
    good.write_bytes(compliant)
    bad.write_bytes(edited(compliant, options("CONV_2D", strideH=1, strideW=1)))
    assert sparse_tflite.main([str(good)]) == 0
    assert "nothing in the way; 8" in capsys.readouterr().out
    assert sparse_tflite.main([str(bad)]) == 1
    assert "stride 1x1" in capsys.readouterr().out
    assert sparse_tflite.main([str(tmp_path / "none.tflite")]) == 2
    assert "none.tflite" in capsys.readouterr().err


def test_command_takes_no_tensorflow(compliant, tmp_path):
    """A file is judged in a second, not in ten."""
    (tmp_path / "good.tflite").write_bytes(compliant)
    code = (
        "import sys; from cnn_l1.export import sparse_tflite; "
        f"status = sparse_tflite.main([{str(tmp_path / 'good.tflite')!r}]); "
        "sys.exit(status or 'tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_sparse_int8_does_not_load():
    """The reason for the refusal; where this fails, LiteRT has learnt it."""
    model = tflite.plain_copy(network(), batch_size=1)
    random = np.random.default_rng(0)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [
        tf.lite.Optimize.DEFAULT,
        tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
    ]
    converter.representative_dataset = lambda: (
        [random.uniform(0, 255, (1, 16, 16, 3)).astype("float32")] for _ in range(4)
    )
    with silence.silenced():
        content = converter.convert()
    runner = Interpreter(model_content=content, num_threads=1)
    with pytest.raises(RuntimeError, match="failed to"):
        runner.allocate_tensors()
