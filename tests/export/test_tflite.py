"""Exported files against the Keras model they come from."""

import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import cnn_l1
from cnn_l1 import L1
from cnn_l1.config import loading as configs
from cnn_l1.export import tflite as export
from cnn_l1.models import builders
from cnn_l1.sparsity import counting

CNN_BLOCKS = [
    {"type": "conv", "filters": 16, "padding": "same"},
    {"type": "batch_norm"},
    {"type": "pool"},
    {"type": "depthwise", "depth_multiplier": 2, "activation": "linear"},
    {"type": "batch_norm"},
    {"type": "activation", "activation": "relu6"},
    {"type": "pool", "kind": "average"},
    {"type": "conv", "filters": 96, "kernel_size": 1},
    {"type": "global_pool"},
    {"type": "dropout"},
    {"type": "dense", "units": 128},
    {"type": "dense", "units": "classes", "activation": "linear"},
]
CASES = {
    "cnn": ({"name": "cnn", "blocks": CNN_BLOCKS}, (12, 12, 3)),
    "lenet_300_100": ({"name": "lenet_300_100"}, (12, 12, 1)),
    "lenet5": ({"name": "lenet5"}, (20, 20, 1)),
    "resnet8": ({"name": "resnet8"}, (16, 16, 3)),
    "pointwise": ({"name": "pointwise"}, (16, 16, 3)),
}


@pytest.fixture(autouse=True)
def _float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


def build(settings, shape, **sections):
    resolved = configs.validate({"name": "t", "model": settings, **sections})
    return builders.build(resolved, shape, 10)


def make_sparse(model, images, seed=0, part=0.9):
    """Zero a random part of each kernel, and give batch-norms statistics of their own."""
    random = np.random.default_rng(seed)
    for _, variable in counting.kernels(model):
        value = keras.ops.convert_to_numpy(variable).copy()
        # Scaled up, so that signals keep their size through what is left.
        value *= (1.0 - part) ** -0.5
        value[random.random(value.shape) < part] = 0.0
        variable.assign(value)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.gamma.assign(random.uniform(0.5, 1.5, size))
            layer.beta.assign(random.normal(0.0, 0.1, size))
            # About those of the images, for signals to live.
            entering = keras.Model(model.inputs, layer.input)(images)
            mean, variance = keras.ops.moments(entering, axes=(0, 1, 2))
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance * random.uniform(0.5, 2.0, size) + 1e-6)


def make_images(shape, count, seed=1):
    """Ten smooth patterns in turn, with noise: inputs that differ in more than noise."""
    rows, cols, channels = shape
    coarse = np.random.default_rng(0).uniform(0.0, 255.0, (10, 4, 4, channels))
    smooth = keras.ops.convert_to_numpy(
        keras.ops.image.resize(coarse.astype("float32"), (rows, cols))
    )
    noise = np.random.default_rng(seed).normal(0.0, 8.0, (count, *shape))
    return np.clip(smooth[np.arange(count) % 10] + noise, 0.0, 255.0).astype("float32")


def teach(model, images, seed=0):
    """Fit the last dense layer to tell the ten patterns apart, by least squares.

    Half of its kernel stays zero. Outputs of an untaught sparse network hardly
    depend on the image, and int8 would be compared on noise.
    """
    last = model.layers[-2]
    features = keras.Model(model.inputs, last.input).predict_on_batch(images)
    targets = np.eye(10)[np.arange(len(images)) % 10] - 0.1
    features = features.astype("float64")
    centre = features.mean(axis=0)
    kept = np.random.default_rng(seed).random((features.shape[1], 10)) < 0.5
    kernel = np.zeros(kept.shape)
    for output in range(10):
        chosen = features[:, kept[:, output]] - centre[kept[:, output]]
        gram = chosen.T @ chosen
        gram += 1.0 * np.trace(gram) / len(gram) * np.eye(len(gram))
        kernel[kept[:, output], output] = np.linalg.solve(gram, chosen.T @ targets[:, output])
    last.kernel.assign(kernel)
    last.bias.assign(-centre @ kernel)


def interpreter_for(path):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without delegates, which may repack constants that we want to read.
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter


def run_file(path, images):
    """Outputs of a TFLite file, by code that shares nothing with the package."""
    interpreter = interpreter_for(path)
    inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for image in images:
        batch = image[None]
        if inputs["dtype"] == np.int8:
            scale, zero = inputs["quantization"]
            batch = np.clip(np.round(batch / scale + zero), -128, 127).astype("int8")
        interpreter.set_tensor(inputs["index"], batch)
        interpreter.invoke()
        result = interpreter.get_tensor(outputs["index"])[0].astype("float32")
        if outputs["dtype"] == np.int8:
            scale, zero = outputs["quantization"]
            result = (result - zero) * scale
        results.append(result)
    return np.stack(results)


def constants(path):
    """The file's tensors that hold data, with zero points and scales applied."""
    interpreter = interpreter_for(path)
    found = []
    for detail in interpreter.get_tensor_details():
        try:
            value = interpreter.get_tensor(detail["index"])
        except ValueError:  # an intermediate result
            continue
        parameters = detail["quantization_parameters"]
        value = value.astype("float64")
        if len(parameters["scales"]):
            shape = [1] * value.ndim
            if len(parameters["scales"]) > 1:
                shape[parameters["quantized_dimension"]] = -1
            value = value - parameters["zero_points"].reshape(shape)
            value = value * parameters["scales"].reshape(shape)
        found.append(value)
    return found


def cosine(a, b):
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.sum(a * b) / norm) if norm else 0.0


def stored_kernel(kernel, tensors):
    """The file's tensor that a kernel became, found by its values, and its layout."""
    pairs = [
        (layout, tensor)
        for layout in export.file_layouts(kernel)
        for tensor in tensors
        if tensor.shape == layout.shape
    ]
    assert pairs, f"no tensor for a kernel of shape {kernel.shape}"
    layout, tensor = max(pairs, key=lambda pair: cosine(*pair))
    # A folded batch-norm scales each channel, which bends a kernel (seen: 0.59)
    # but leaves it more alike than another random sparse kernel, at some 0.1.
    assert cosine(layout, tensor) > 0.4
    return layout, tensor


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if name == "pointwise" else []) for name in CASES
    ],
)
def exported(request, tmp_path_factory):
    """A model with 90% zeros and its two TFLite files."""
    keras.utils.set_random_seed(1)
    settings, shape = CASES[request.param]
    model = build(settings, shape)
    make_sparse(model, make_images(shape, 50, seed=4))
    teach(model, make_images(shape, 200, seed=3))
    folder = tmp_path_factory.mktemp(request.param)
    float32, int8 = folder / "float32.tflite", folder / "int8.tflite"
    images = make_images(shape, 60)
    sizes = [
        export.export_tflite(model, float32),
        export.export_tflite(model, int8, make_images(shape, 60, seed=2)),
    ]
    assert sizes == [path.stat().st_size for path in (float32, int8)]
    return model, float32, int8, images


def test_float32_file_gives_the_models_outputs(exported):
    model, float32, _, images = exported
    expected = model.predict_on_batch(images)
    # Both sum in float32, in another order and with batch-norms folded.
    bound = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(run_file(float32, images), expected, rtol=0, atol=bound)


def test_int8_file_decides_as_the_model(exported):
    model, _, int8, images = exported
    expected, got = model.predict_on_batch(images), run_file(int8, images)
    assert len(set(expected.argmax(axis=1))) == 10
    assert np.mean(got.argmax(axis=1) == expected.argmax(axis=1)) >= 0.9
    # 8 bits in each of up to ten layers; seen: 0.02 to 0.24 of the range.
    assert np.abs(got - expected).max() < 0.4 * np.ptp(expected)


def test_zeros_are_the_files_zeros_weight_by_weight(exported):
    model, float32, int8, _ = exported
    plain, quantized = constants(float32), constants(int8)
    for name, variable in counting.kernels(model):
        kernel = keras.ops.convert_to_numpy(variable)
        layout, tensor = stored_kernel(kernel, plain)
        np.testing.assert_array_equal(tensor == 0, layout == 0, err_msg=name)
        layout, tensor = stored_kernel(kernel, quantized)
        assert np.all(tensor[layout == 0] == 0), name
        # Rounding makes further zeros out of weights below half a step; a step
        # is 1/127 of the channel's largest, so that is few of them (seen: 10%).
        assert np.mean(tensor[layout != 0] == 0) < 0.2, name


def test_counts_of_the_files(exported):
    model, float32, int8, _ = exported
    counts = counting.count(model)
    plain = export.read_tflite(float32.read_bytes())
    quantized = export.read_tflite(int8.read_bytes())
    assert (plain.weight_count, plain.zeros) == (counts.weights, counts.zeros)
    assert quantized.weight_count == counts.weights
    assert quantized.zeros >= counts.zeros
    assert {tensor.dtype for tensor in plain.weights} == {np.dtype("float32")}
    assert {tensor.dtype for tensor in quantized.weights} == {np.dtype("int8")}


def test_files_are_builtin_operators_at_batch_1(exported):
    _, float32, int8, images = exported
    for path, dtype in ((float32, np.float32), (int8, np.int8)):
        tflite = export.read_tflite(path.read_bytes())
        foreign = {"FLEX", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE"}
        assert not foreign & set(tflite.operators)
        interpreter = interpreter_for(path)
        (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert tuple(inputs["shape"]) == (1, *images.shape[1:])
        assert tuple(outputs["shape"]) == (1, 10)
        assert inputs["dtype"] == outputs["dtype"] == dtype


def test_lost_zeros_reports_a_zero_that_the_file_lacks(exported):
    model, _, int8, _ = exported
    tflite = export.read_tflite(int8.read_bytes())
    assert export.lost_zeros(tflite, model) == []
    # The last kernel, of a shape that no other one has.
    name, variable = counting.kernels(model)[-1]
    before = keras.ops.convert_to_numpy(variable).copy()
    changed = before.copy()
    changed[tuple(np.argwhere(np.abs(before) == np.abs(before).max())[0])] = 0.0
    try:
        variable.assign(changed)
        assert [layer for layer, _ in export.lost_zeros(tflite, model)] == [name]
        with pytest.raises(export.ExportError, match=name):
            export.check_tflite(tflite, model)
    finally:
        variable.assign(before)


def test_a_file_without_a_kernel_is_reported():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="only")])
    empty = export.TFLiteFile(("FULLY_CONNECTED",), ())
    assert export.lost_zeros(empty, model) == [("only", "Received: no weights of its size")]


def test_kernels_of_one_shape_find_their_own_tensor_in_any_order():
    """A kernel without zeros must not take the tensor that a sparse one needs."""
    full, sparse = np.ones((4, 4), "float32"), np.triu(np.ones((4, 4), "float32"))
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="full"), keras.layers.Dense(4)]
    )
    model.layers[0].kernel.assign(full)
    model.layers[1].kernel.assign(sparse)
    for weights in ((full.T, sparse.T), (sparse.T, full.T)):
        assert export.lost_zeros(export.TFLiteFile((), weights), model) == []


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_layers_that_are_all_zero_export(name, tmp_path):
    """The converter stores equal constants once: two kernels of zeros share one."""
    settings, shape = CASES[name]
    model = build(settings, shape)
    for _, variable in counting.kernels(model):
        variable.assign(np.zeros(variable.shape, "float32"))
    export.export_tflite(model, tmp_path / "zeros.tflite")
    tflite = export.read_tflite((tmp_path / "zeros.tflite").read_bytes())
    assert tflite.zeros == tflite.weight_count > 0


def test_weights_outside_the_file_are_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    function = tf.function(lambda x: model(x))
    concrete = function.get_concrete_function(tf.TensorSpec((1, 4)))
    # From concrete functions Keras 3 variables stay resources, without a value.
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model).convert()
    tflite = export.read_tflite(content)
    assert "VAR_HANDLE" in tflite.operators
    with pytest.raises(export.ExportError, match="VAR_HANDLE"):
        export.check_tflite(tflite, model)


def test_tensorflow_operators_are_refused():
    @tf.function(input_signature=[tf.TensorSpec((1, 3, 3))])
    def inverse(x):
        return tf.linalg.inv(x)  # TFLite has no such operator

    converter = tf.lite.TFLiteConverter.from_concrete_functions([inverse.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    tflite = export.read_tflite(converter.convert())
    assert "FLEX" in tflite.operators
    with pytest.raises(export.ExportError, match="FLEX"):
        export.check_tflite(tflite, keras.Sequential([keras.Input((3, 3))]))


def nested_model():
    """A Functional model with a Functional and a Sequential one inside, all penalised."""
    images = keras.Input((8, 8, 1))
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.RandomFlip(name="flip"),
            keras.layers.Conv2D(3, 3, kernel_regularizer=L1(1e-3)),
        ],
        name="inner",
    )
    features = keras.Input((6, 6, 3))
    middle = keras.Model(
        features,
        keras.layers.DepthwiseConv2D(3, depthwise_regularizer=L1(1e-3))(features),
        name="middle",
    )
    x = keras.layers.Flatten()(middle(inner(images)))
    return keras.Model(images, keras.layers.Dense(5, kernel_regularizer=L1(1e-3))(x), name="outer")


def sequential_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.RandomTranslation(0.2, 0.2, name="shift"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, kernel_regularizer=L1(1e-3), bias_regularizer=L1(1e-3)),
        ],
        name="line",
    )


LOAD_WITHOUT_PACKAGE = """
import sys
sys.modules["cnn_l1"] = None  # importing it fails now
import keras, numpy as np
folder = sys.argv[1]
images = np.load(folder + "/images.npy")
for name in ("nested", "sequential", "built"):
    model = keras.models.load_model(f"{folder}/{name}.keras")
    np.save(f"{folder}/{name}.npy", model.predict_on_batch(images))
try:
    keras.models.load_model(folder + "/ours.keras")
except Exception:
    print("ours failed")
"""


@pytest.mark.slow
def test_plain_files_load_without_the_package(tmp_path):
    keras.utils.set_random_seed(3)
    images = make_images((8, 8, 1), 6)
    built = build({"name": "cnn"}, (8, 8, 1), penalty={"biases": True, "batch_norm": True})
    originals = {"nested": nested_model(), "sequential": sequential_model(), "built": built}
    for name, model in originals.items():
        export.export_keras(export.plain_copy(model), tmp_path / f"{name}.keras")
    # The model as it is needs the package: what makes the check above worth something.
    originals["nested"].save(tmp_path / "ours.keras")
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_PACKAGE, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ours failed" in done.stdout
    for name, model in originals.items():
        # The same graph in another process: float32 rounding at most.
        expected = model.predict_on_batch(images)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [nested_model, sequential_model])
def test_plain_copy_equals_its_model(make):
    model = make()
    copy = export.plain_copy(model)
    assert all(variable.regularizer is None for variable in copy.trainable_variables)
    assert all(variable.regularizer is not None for _, variable in counting.kernels(model))
    assert getattr(copy, "optimizer", None) is None
    assert [v.shape for v in copy.weights] == [v.shape for v in model.weights]
    images = make_images((8, 8, 1), 4)
    # The very same operations on the very same weights.
    np.testing.assert_array_equal(copy.predict_on_batch(images), model.predict_on_batch(images))
    # And a copy: it shares no variable.
    copy.weights[0].assign_add(np.ones(copy.weights[0].shape, "float32"))
    assert np.any(copy.predict_on_batch(images) != model.predict_on_batch(images))


def test_plain_copy_of_a_mixed_bfloat16_model_is_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build({"name": "cnn", "blocks": CNN_BLOCKS}, (12, 12, 3))
    assert "bfloat16" in {layer.compute_dtype for layer in model.layers}
    copy = export.plain_copy(model)
    # The input layer computes nothing; its tensor is float32 either way.
    assert {layer.compute_dtype for layer in copy.layers[1:]} == {"float32"}
    assert copy.inputs[0].dtype == copy.outputs[0].dtype == "float32"
    for got, expected in zip(copy.get_weights(), model.get_weights(), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    images = make_images((12, 12, 3), 4)
    keras.config.set_dtype_policy("float32")
    same = build({"name": "cnn", "blocks": CNN_BLOCKS}, (12, 12, 3))
    same.set_weights(model.get_weights())
    # The same operations in float32, so the same values.
    np.testing.assert_array_equal(copy.predict_on_batch(images), same.predict_on_batch(images))


def test_plain_copy_fixes_the_batch_axis():
    model = nested_model()
    fixed = export.plain_copy(model, batch_size=1)
    assert fixed.inputs[0].shape == (1, 8, 8, 1)
    assert fixed.outputs[0].shape == (1, 5)
    images = make_images((8, 8, 1), 1)
    np.testing.assert_array_equal(fixed.predict_on_batch(images), model.predict_on_batch(images))


def test_a_nested_model_exports_to_tflite(tmp_path):
    model, images = nested_model(), make_images((8, 8, 1), 8)
    export.export_tflite(model, tmp_path / "nested.tflite")
    expected = model.predict_on_batch(images)
    got = run_file(tmp_path / "nested.tflite", images)
    # float32 sums in another order.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_saved_model_serves(tmp_path):
    model, images = sequential_model(), make_images((8, 8, 1), 4)
    export.export_saved_model(model, tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    assert {"serving_default", "serve"} <= set(loaded.signatures)
    expected = model.predict_on_batch(images)
    (output,) = loaded.signatures["serving_default"](tf.constant(images)).values()
    # The same operations, compiled anew.
    np.testing.assert_allclose(output, expected, rtol=1e-5)
    np.testing.assert_allclose(loaded.serve(images), expected, rtol=1e-5)
    # Any batch size.
    assert loaded.serve(images[:1]).shape == (1, 5)


def test_conversions_say_nothing(tmp_path, capfd):
    model, images = sequential_model(), make_images((8, 8, 1), 4)
    capfd.readouterr()
    export.export_keras(export.plain_copy(model), tmp_path / "m.keras")
    export.export_saved_model(model, tmp_path / "saved")
    export.export_tflite(model, tmp_path / "f.tflite")
    export.export_tflite(model, tmp_path / "i.tflite", images)
    assert capfd.readouterr() == ("", "")


def test_plain_copy_of_a_compiled_model_leaves_the_optimizer_out(tmp_path):
    """Keras clones a model's compilation too; a saved copy would need `cnn_l1` to load."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(cnn_l1.HoldZeros(keras.optimizers.Adam()), "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    copy = export.plain_copy(model)
    assert not copy.compiled
    assert copy.optimizer is None
    copy.save(tmp_path / "plain.keras")
    with zipfile.ZipFile(tmp_path / "plain.keras") as archive:
        assert b"cnn_l1" not in archive.read("config.json")
    assert model.compiled  # the original stays as it was


def test_plain_copy_keeps_an_adapted_normalization():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.array([[1.0, 10.0], [3.0, 30.0]]))
    model = keras.Sequential([keras.Input((2,)), normalization, keras.layers.Dense(1)])
    x = np.array([[2.0, 5.0]], "float32")
    assert np.array_equal(export.plain_copy(model)(x), model(x))


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        pytest.param(
            keras.layers.AveragePooling3D(2, name="pool"),
            r"AvgPool3D \(of layer 'pool'\)$",
            marks=pytest.mark.slow,
        ),
        # Keras' own shape of it in inference is another than it says.
        (keras.layers.RandomCrop(3, 3), "Received: Input 0 .* expected axis -1 of input shape"),
    ],
    ids=["no kernel", "Keras' own error"],
)
def test_a_refused_conversion_says_the_reason_without_places_in_code(layer, told, tmp_path):
    inputs = keras.Input((4, 4, 4, 2) if layer.name == "pool" else (4, 4, 2))
    x = keras.layers.Flatten()(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    with pytest.raises(export.ExportError, match=told) as caught:
        export.export_tflite(model, tmp_path / "m.tflite")
    assert "\x1b" not in str(caught.value)
    assert "loc(" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
