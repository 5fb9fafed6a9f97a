"""Every builder in every format and runtime, against Keras and against each other."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from cnn_l1.config import loading as configs
from cnn_l1.export import tflite as export
from cnn_l1.measure import measurement
from cnn_l1.models import builders
from cnn_l1.sparsity import counting

pytestmark = pytest.mark.slow

SHAPES = {
    "cnn": (8, 8, 1),
    "linear": (8, 8, 1),
    "lenet_300_100": (8, 8, 1),
    "lenet5": (16, 16, 1),
    "resnet8": (8, 8, 3),
}
CASES = [(name, kind) for name in SHAPES for kind in export.KINDS]
MICRO = ("float32", "int8", "int16x8")
FLOATS = ("float32", "float16", "dynamic_int8")
FOREIGN = {"FLEX", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "CALL_ONCE"}


def make_images(shape, count, seed):
    return np.random.default_rng(seed).uniform(0, 255, (count, *shape)).astype("float32")


@pytest.fixture(scope="module")
def built():
    """`{name: (model, images, outputs)}`: half of each kernel zero."""
    found = {}
    for name, shape in SHAPES.items():
        keras.utils.set_random_seed(5)
        model = builders.build(configs.validate({"name": "t", "model": {"name": name}}), shape, 10)
        random = np.random.default_rng(6)
        for _, variable in counting.kernels(model):
            kept = random.random(variable.shape) < 0.5
            # Scaled up, so that signals keep their size through what is left.
            variable.assign(keras.ops.convert_to_numpy(variable) * kept * 2**0.5)
        images = make_images(shape, 20, seed=7)
        found[name] = model, images, model.predict_on_batch(images)
    return found


@pytest.fixture(scope="module")
def converted(built, tmp_path_factory):
    """The file of a builder in a kind, made once."""
    folder, made = tmp_path_factory.mktemp("formats"), {}

    def convert(name, kind, **settings):
        key = name, kind, *settings.items()
        if key not in made:
            path = folder / ("_".join(map(str, key)) + ".tflite")
            # Those that are measured among them: none leaves the range that they set.
            others = make_images(SHAPES[name], 40, seed=8)
            images = np.concatenate([built[name][1], others])
            images = images if kind in export.CALIBRATED else None
            export.export_tflite(built[name][0], path, images, kind, **settings)
            made[key] = path
        return made[key]

    return convert


def open_file(path, resolver=OpResolverType.AUTO):
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter


def quantize(images, detail):
    """Images as the input's type, by code that shares nothing with the package."""
    if detail["dtype"] == np.float32:
        return images
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    levels = np.rint(images.astype("float64") / scale) + zero_point
    return np.clip(levels, limits.min, limits.max).astype(detail["dtype"])


def stored_outputs(path, stored, resolver=OpResolverType.AUTO):
    """Outputs as the file gives them, for inputs as it takes them."""
    interpreter = open_file(path, resolver)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in stored:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(target["index"])[0])
    return np.stack(results)


def run_file(path, images):
    """Outputs of a file in real numbers."""
    interpreter = open_file(path)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = stored_outputs(path, quantize(images, source))
    if target["dtype"] == np.float32:
        return outputs
    scale, zero_point = target["quantization"]
    return (outputs.astype("float64") - zero_point) * scale


# Largest difference from Keras, as a part of the largest output; about twice what was seen.
# float32: the same sums in another order, the scaling folded into the first kernel: some
#   roundings of 6e-8 each, through up to ten layers.
# float16: each weight moves by 2⁻¹¹ of itself at most, 5e-4, and random signs average; the
#   first kernel, over 255, may be below float16's normal range and moves by 3e-8.
# dynamic_int8: weights move by 1/254 of their channel's largest, activations likewise; a
#   kernel of fewer than 1,024 weights stays float32.
# int16x8: weights as in int8, activations by 1/65534.
# int8: weights and activations, each layer, by 1/254 and 1/255 of their range.
BOUNDS = {"float32": 2e-6, "float16": 1.5e-3, "dynamic_int8": 0.02, "int16x8": 0.03, "int8": 0.06}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_outputs_in_litert(built, converted, name, kind):
    _, images, expected = built[name]
    difference = np.abs(run_file(converted(name, kind), images) - expected).max()
    assert difference <= BOUNDS[kind] * np.abs(expected).max()
    # And it does depend on the image: a constant would not pass for a network.
    assert np.ptp(expected, axis=0).max() > 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["int8", "int16x8"])
def test_one_layer_is_off_by_its_quantization_steps(kind, tmp_path):
    """Dense, 12 → 4: a bound from the steps alone.

    Input x and weights w are rounded by half a step: |Σ wx − Σ w'x'| is at most
    Σ (|w| s_x + |x| s_w + s_x s_w / 2) / 2, and the output's own rounding adds half of its
    step, and half of one more for the kernel's fixed-point multiplier. The range's end may
    be half a step off.
    """
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4)])
    inputs = np.random.default_rng(1).uniform(-1, 1, (200, 12)).astype("float32")
    path = tmp_path / "one.tflite"
    export.export_tflite(model, path, inputs, kind)
    interpreter = open_file(path, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    input_step, output_step = source["quantization"][0], target["quantization"][0]
    weight_steps = np.abs(kernel).max(axis=0) / 127
    bound = (
        np.abs(kernel).sum(axis=0) * input_step
        + np.abs(inputs).sum(axis=1)[:, None] * weight_steps
        + 12 * input_step * weight_steps / 2
    ) / 2
    bound += 1.5 * output_step
    expected = model.predict_on_batch(inputs)
    assert np.all(np.abs(run_file(path, inputs) - expected) <= bound)
    # And rounding shows: the bound is not idle.
    assert np.abs(run_file(path, inputs) - expected).max() > 0.1 * bound.min()


IN_MICRO = """
import sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime
for name in sys.argv[2:]:
    interpreter = runtime.Interpreter.from_file(f"{sys.argv[1]}/{name}.tflite", arena_size=2**24)
    outputs = []
    for image in np.load(f"{sys.argv[1]}/{name}.in.npy"):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    np.save(f"{sys.argv[1]}/{name}.out.npy", np.stack(outputs))
"""


@pytest.fixture(scope="module")
def in_micro(built, converted, tmp_path_factory):
    """`{(name, kind): (path, inputs, outputs)}` in TFLite Micro, all in one process."""
    pytest.importorskip("tflite_micro")
    folder, found = tmp_path_factory.mktemp("micro"), {}
    for name in SHAPES:
        for kind in MICRO:
            path, images = converted(name, kind), built[name][1]
            stored = quantize(images, open_file(path).get_input_details()[0])
            np.save(folder / f"{name}-{kind}.in.npy", stored)
            (folder / f"{name}-{kind}.tflite").write_bytes(path.read_bytes())
            found[name, kind] = path, stored
    names = [f"{name}-{kind}" for name, kind in found]
    command = [sys.executable, "-c", IN_MICRO, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        key: (*value, np.load(folder / f"{'-'.join(key)}.out.npy")) for key, value in found.items()
    }


@pytest.mark.parametrize("name", SHAPES)
def test_float32_in_tflite_micro_is_bit_identical_to_reference_kernels(in_micro, name):
    """Both are the same C++ loops over the same numbers, in the same order."""
    path, stored, outputs = in_micro[name, "float32"]
    np.testing.assert_array_equal(outputs, stored_outputs(path, stored, OpResolverType.BUILTIN_REF))


@pytest.mark.parametrize("kind", ["int8", "int16x8"])
@pytest.mark.parametrize("name", SHAPES)
def test_integers_in_tflite_micro(in_micro, name, kind):
    """Integer sums are exact; rescaling rounds in one step or in two, once a layer."""
    path, stored, outputs = in_micro[name, kind]
    expected = stored_outputs(path, stored, OpResolverType.BUILTIN_REF)
    assert outputs.dtype == expected.dtype == (np.int8 if kind == "int8" else np.int16)
    # A level of int16 is 1/256 of one of int8, and what one layer leaves adds up; seen: 2.
    limit = 1 if kind == "int8" else 4
    assert np.abs(outputs.astype(int) - expected.astype(int)).max() <= limit
    assert np.ptp(outputs.astype(int)) > 20


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_zeros_are_zeros_in_the_file(built, converted, name, kind):
    model, tflite = built[name][0], export.read_tflite(converted(name, kind).read_bytes())
    assert export.lost_zeros(tflite, model) == []
    counts = counting.count(model)
    assert tflite.weight_count == counts.weights
    assert tflite.is_finite
    # float32 adds none; narrower types round some small weights to zero.
    more = tflite.zeros - counts.zeros
    assert more == 0 if kind == "float32" else 0 <= more < 0.05 * counts.weights


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_operators_batch_and_types(converted, name, kind):
    path = converted(name, kind)
    assert not FOREIGN & set(export.read_tflite(path.read_bytes()).operators)
    interpreter = open_file(path)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    for detail, shape in ((source, SHAPES[name]), (target, (10,))):
        assert tuple(detail["shape"]) == tuple(detail["shape_signature"]) == (1, *shape)
        integers = {"int8": np.int8, "int16x8": np.int16}
        assert detail["dtype"] == integers.get(kind, np.float32)
    assert interpreter.get_signature_list() == {}


@pytest.mark.parametrize("kind", export.KINDS)
def test_conversion_says_nothing(built, tmp_path, capfd, kind):
    model, images, _ = built["linear"]
    capfd.readouterr()
    export.export_tflite(model, tmp_path / "m.tflite", images, kind)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_uint8_is_int8_moved_by_128(built, converted, name):
    _, images, _ = built[name]
    signed, unsigned = converted(name, "int8"), converted(name, "int8", io_type="uint8")
    for get in ("get_input_details", "get_output_details"):
        (one,), (other,) = getattr(open_file(signed), get)(), getattr(open_file(unsigned), get)()
        assert (one["dtype"], other["dtype"]) == (np.int8, np.uint8)
        assert other["quantization"][0] == one["quantization"][0]
        assert other["quantization"][1] == one["quantization"][1] + 128
    stored = quantize(images, open_file(signed).get_input_details()[0])
    moved = (stored.astype(int) + 128).astype("uint8")
    # The same kernels between one QUANTIZE at each end, which only moves.
    np.testing.assert_array_equal(
        stored_outputs(unsigned, moved).astype(int) - 128, stored_outputs(signed, stored)
    )


@pytest.mark.parametrize("kind", export.KINDS)
def test_names_can_stay(built, converted, kind):
    _, images, _ = built["cnn"]
    bare, named = converted("cnn", kind), converted("cnn", kind, strip=False)
    np.testing.assert_array_equal(run_file(named, images), run_file(bare, images))
    assert bare.stat().st_size < named.stat().st_size
    assert "serving_default" in open_file(named).get_signature_list()
    (detail,) = open_file(named).get_input_details()
    assert "image" in detail["name"]
    assert open_file(bare).get_input_details()[0]["name"] == ""


@pytest.mark.parametrize("name", SHAPES)
def test_onnx_in_onnx_runtime(built, tmp_path, name):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, images, expected = built[name]
    path = tmp_path / "m.onnx"
    export.export_onnx(export.plain_copy(model), path)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    assert tuple(source.shape[1:]) == SHAPES[name]
    # Any batch size, so the whole batch at once; float32 as above.
    outputs = session.run([target.name], {source.name: images})[0]
    difference = np.abs(outputs - expected).max()
    assert difference <= BOUNDS["float32"] * np.abs(expected).max()
    labels = expected.argmax(axis=1)
    figures = measurement.measure_onnx(path, [(images, labels)], expected)
    assert (figures.accuracy, figures.agreement, figures.bytes) == (1.0, 1.0, path.stat().st_size)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"kind": "int4"}, r"`kind` must be one of float32, .*Received: kind='int4'"),
        ({"kind": "int8"}, r"`calibration_data` must be given for kind='int8'. Received: None"),
        ({"io_type": "int4"}, r"`io_type` must be 'int8' or 'uint8'. Received: io_type='int4'"),
    ],
)
def test_wrong_arguments(built, tmp_path, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        export.export_tflite(built["linear"][0], tmp_path / "m.tflite", **arguments)
    assert not pathlib.Path(tmp_path / "m.tflite").exists()


def test_the_arena_command_gives_the_outputs_shape(converted):
    pytest.importorskip("tflite_micro")
    command = [sys.executable, "-m", "cnn_l1.tflite.micro", str(converted("linear", "int8"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout.splitlines()[-1]) == {"output_shape": [1, 10]}
