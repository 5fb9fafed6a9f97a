"""Proof that a TFLite file computes what its Keras model does."""

import dataclasses
from typing import Any

import keras
import numpy as np

from cnn_l1.export.calibration import InputSpec, input_specs
from cnn_l1.export.copying import input_shapes
from cnn_l1.export.names import output_names
from cnn_l1.graph.reading import GraphError, as_functional, read_graph
from cnn_l1.process import keras_internals
from cnn_l1.tflite.file import ExportError, operator_name, parse
from cnn_l1.tflite.runner import TFLiteRunner

EXAMPLES = 8
SIZES = (32, 64, 128, 224)  # tried where the model leaves a size open

# Largest difference of a floating-point file, as a part of the output's largest value.
# Sums come in another order, and float16 rounds weights to 11 bits.
FLOAT_TOLERANCE = {"float32": 1e-3, "float16": 5e-2}
# Below it a difference is rounding, whatever the output's size. Sums that cancel round more:
# as much as ten times what Keras' own outputs move by on inputs changed in their last bits.
FLOOR = 1e-7
NOISE = 1e-6  # of an input's value: some eight steps of float32
# Root mean square difference of an integer file, as a part of the output's spread, that is
# its standard deviation. Two unrelated outputs have 1.4.
SPREAD_TOLERANCE = 0.6
# The same of one channel of it, which has fewer values: a few classes may change places
# without a trace in the whole.
CHANNEL_TOLERANCE = 1.0
# Integer outputs of an integer file, such as a class: rounding may tip a few over.
DIFFERING_TOLERANCE = {"float32": 0.01, "float16": 0.01}
DIFFERING_INTEGER_TOLERANCE = 0.75
# Or in steps: 1/255 of the output's range with 0 in it, or the file's own step if larger.
STEPS_TOLERANCE = 8.0
LEAST_STEP = 1e-7  # the converter takes 1e-8 for outputs that are 0 throughout
LARGEST_STEPS = 48.0


def prove_tflite(
    content: bytes,
    model: keras.Model,
    kind: str,
    examples: list[list[np.ndarray]] | None = None,
    name: str = "The file",
    input_shape: Any = None,
) -> None:
    """Run a TFLite file and compare every output with the Keras model's.

    Outputs are compared by position: their number, shape, kind of values, and values.

    | kind | bound on one output, over all examples |
    |---|---|
    | float32 | largest difference ≤ 1e-3 of the largest value + rounding |
    | float16 | largest difference ≤ 5e-2 of the largest value + rounding |
    | dynamic_int8, int8, int16x8 | r.m.s. difference ≤ 0.6 of the standard deviation, and |
    | | ≤ 1.0 in each channel, or ≤ 8 steps there; or |
    | | r.m.s. ≤ 8 steps and none over 48, a step being 1/255 of the range |

    Rounding is 1e-7, or ten times what Keras' own outputs move by when the inputs' last bits
    change. Integer outputs, such as a class, may differ in 1% of their values in a float
    file, and in three quarters in an integer one.

    Args:
        content: The file's bytes.
        model: The Keras model to compare with.
        kind: See `export_tflite`.
        examples: Inputs to compare on, of which eight are taken, evenly spread. Default:
            seeded random ones in the range that the first layers take.
        name: The file's name, for errors.
        input_shape: Sizes that were fixed in the file; see `plain_copy`.

    Raises:
        ExportError: If the file does not run, or an output is not the model's.
    """
    chosen = _chosen(examples) if examples else None
    if chosen is None:
        chosen = invented_examples(model, name, input_shape)
    try:
        runner = TFLiteRunner(content, name=name)
    except ExportError as error:
        raise ExportError(f"{error}{_without_range(content)}") from None
    rows = [_run(runner, example) for example in chosen]
    received = [np.stack(column) for column in zip(*rows, strict=True)]
    scales = [float(details["quantization"][0]) for details in runner.outputs]
    failure = failure_of(received, model, chosen, kind, name, scales)
    if failure:
        raise ExportError(f"{name} ({kind}): expected Keras' outputs. Received: {failure}")


def failure_of(
    received: list[np.ndarray],
    model: keras.Model,
    examples: list[list[np.ndarray]],
    kind: str,
    name: str,
    scales: list[float] | None = None,
) -> str:
    """What is wrong with a file's outputs on examples, rounding allowed for; else empty.

    Args:
        received: The file's outputs, `(examples, …)` each.
        model: The Keras model.
        examples: The inputs.
        kind: See `prove_tflite`.
        name: The file's name, for errors.
        scales: See `compare`.
    """
    names = output_names(model)
    whole = predict(model, examples, name)
    failure = compare(received, whole, kind, names, scales)
    if not failure:
        return ""
    # A model that mixes the examples of a batch is compared on batches of one too, as a
    # TFLite file takes them.
    one_by_one = [predict(model, [example], name) for example in examples]
    single = [np.concatenate(column) for column in zip(*one_by_one, strict=True)]
    floors = _rounding(model, examples, whole, name)
    if not compare(received, whole, kind, names, scales, floors):
        return ""
    return compare(received, single, kind, names, scales, floors)


def _without_range(content: bytes) -> str:
    """What to say of a file whose conversion found a layer with nothing but zeros."""
    root = parse(content)
    graph = root.subgraphs[0]
    for number, operator in enumerate(graph.operators):
        for index in operator.outputs:
            quantization = graph.tensors[index].quantization
            scales = None if quantization is None else quantization.scale
            if scales is not None and len(scales) and np.max(scales) < LEAST_STEP:
                return (
                    f". The outputs of operator {number} ({operator_name(root, operator)}) are 0 "
                    "on all calibration data, which leaves them no range: is its layer dead?"
                )
    return ""


def _chosen(examples: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    count = min(EXAMPLES, len(examples))
    places = np.linspace(0, len(examples) - 1, count).round().astype(int)
    first = [array.shape for array in examples[0]]
    rows = [examples[place] for place in places]
    return [row for row in rows if [array.shape for array in row] == first]


def _rounding(
    model: keras.Model, examples: list[list[np.ndarray]], reference: list[np.ndarray], name: str
) -> list[float]:
    """How far rounding may move each output: at least `FLOOR`."""
    random = np.random.default_rng(0)
    moved = [
        [
            (a * (1 + NOISE * random.uniform(-1, 1, a.shape))).astype(a.dtype)
            if a.dtype.kind == "f"
            else a
            for a in example
        ]
        for example in examples
    ]
    floors = []
    for one, other in zip(predict(model, moved, name), reference, strict=True):
        if one.dtype.kind != "f" or one.shape != other.shape:
            floors.append(FLOOR)
            continue
        difference = np.abs(one.astype("float64") - other)
        floors.append(max(FLOOR, 10 * float(difference[np.isfinite(difference)].max(initial=0))))
    return floors


def _run(runner: TFLiteRunner, example: list[np.ndarray]) -> list[np.ndarray]:
    outputs = runner(*example)
    return outputs if isinstance(outputs, list) else [outputs]


def predict(model: keras.Model, examples: list[list[np.ndarray]], name: str) -> list[np.ndarray]:
    """Keras' outputs on examples, flattened, as arrays."""
    columns = [np.stack(column) for column in zip(*examples, strict=True)]
    packed = keras.tree.pack_sequence_as(
        keras_internals.input_structure(as_functional(model)), columns
    )
    try:
        outputs = keras.tree.flatten(model(packed, training=False))
    except Exception as error:  # whatever layers raise on inputs that they do not take
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{name}: expected inputs that the model takes, to prove the file. Received: "
            f"{type(error).__name__}: {reason}. Give `calibration_data`, or `check=False`"
        ) from None
    arrays = [keras.ops.convert_to_numpy(output) for output in outputs]
    return [a.astype("float32") if a.dtype.name == "bfloat16" else a for a in arrays]


def compare(
    received: list[np.ndarray],
    reference: list[np.ndarray],
    kind: str,
    names: list[str],
    scales: list[float] | None = None,
    floors: list[float] | None = None,
) -> str:
    """What is wrong with the first output that is not the reference's; else empty.

    Args:
        received: A file's outputs, `(examples, …)` each.
        reference: Keras' outputs.
        kind: See `prove_tflite`.
        names: Names of the outputs, for what is said.
        scales: Quantization steps of the file's outputs. Default: none are quantized.
        floors: Differences that are rounding. Default: `FLOOR` each.
    """
    if len(received) != len(reference):
        return f"{len(received)} outputs instead of {len(reference)}"
    scales = scales or [0.0] * len(names)
    floors = floors or [FLOOR] * len(names)
    rows = zip(received, reference, names, scales, floors, strict=True)
    for number, (got, expected, name, scale, floor) in enumerate(rows):
        wrong = _compare(got, expected, kind, scale, floor)
        if wrong:
            return f"{wrong} in output {number} ({name!r})"
    return ""


def _compare(got: np.ndarray, expected: np.ndarray, kind: str, scale: float, floor: float) -> str:
    if got.shape != expected.shape:
        return f"shape {got.shape[1:]} instead of {expected.shape[1:]}"
    if not expected.size:
        return ""
    if (got.dtype.kind == "f") != (expected.dtype.kind == "f"):
        return f"{got.dtype} instead of {expected.dtype}"
    if expected.dtype.kind != "f":
        differing = float(np.mean(got != expected))
        if differing > DIFFERING_TOLERANCE.get(kind, DIFFERING_INTEGER_TOLERANCE):
            return f"{differing:.0%} other values of type {expected.dtype}"
        return ""
    finite = np.isfinite(expected)
    if not np.all(np.isfinite(got[finite])):
        return "NaN or infinity where Keras has finite values"
    if kind in FLOAT_TOLERANCE and not np.array_equal(
        got[~finite], expected[~finite], equal_nan=True
    ):
        return "finite values where Keras has NaN or infinity"
    if not finite.any():
        return ""
    truth = expected[finite].astype("float64")
    errors = got[finite].astype("float64") - truth
    if kind in FLOAT_TOLERANCE:
        largest = np.abs(truth).max()
        bound = FLOAT_TOLERANCE[kind] * largest + floor
        if np.abs(errors).max() > bound:
            return f"a difference of {np.abs(errors).max():.3g}, of at most {bound:.3g} allowed,"
        return ""
    root_mean_square = float(np.sqrt(np.mean(errors**2)))
    step = max((max(truth.max(), 0.0) - min(truth.min(), 0.0)) / 255, scale, floor)
    few = root_mean_square <= STEPS_TOLERANCE * step
    if few and np.abs(errors).max() <= LARGEST_STEPS * step:
        return ""
    if root_mean_square <= SPREAD_TOLERANCE * truth.std():
        return _wrong_channel(got, expected, step) if finite.all() else ""
    return (
        f"a root mean square difference of {root_mean_square / step:.1f} quantization steps, "
        f"{root_mean_square / max(truth.std(), 1e-30):.2g} of the output's spread,"
    )


def _wrong_channel(got: np.ndarray, expected: np.ndarray, step: float) -> str:
    """What is wrong with the first channel that is another than the reference's."""
    truth = expected.reshape(-1, expected.shape[-1]).astype("float64")
    errors = np.sqrt(np.mean((got.reshape(truth.shape) - truth) ** 2, axis=0))
    allowed = np.maximum(CHANNEL_TOLERANCE * truth.std(axis=0), STEPS_TOLERANCE * step)
    if not np.any(errors > allowed):
        return ""
    worst = int(np.argmax(errors / allowed))
    return (
        f"a root mean square difference of {errors[worst]:.3g}, of at most "
        f"{allowed[worst]:.3g} allowed, in channel {worst}"
    )


@dataclasses.dataclass
class _Range:
    """Values that an input takes: `low` to `high`, or about `mean`."""

    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    mean: Any = None
    deviation: Any = None


def invented_examples(model: keras.Model, name: str, input_shape: Any) -> list[list[np.ndarray]]:
    """Seeded inputs that a model takes, with sizes that are open chosen."""
    shapes = input_shapes(model, input_shape=input_shape)
    specs = [
        spec._replace(shape=shape[1:])
        for spec, shape in zip(input_specs(model), shapes, strict=True)
    ]
    ranges = _ranges(model, specs)
    is_open = any(None in spec.shape for spec in specs)
    for size in SIZES if is_open else (1,):
        random = np.random.default_rng(0)
        examples = [
            [_draw(random, one, spec, size) for one, spec in zip(ranges, specs, strict=True)]
            for _ in range(EXAMPLES)
        ]
        if not is_open:
            return examples
        try:
            predict(model, examples[:1], name)
        except ExportError:
            if size == SIZES[-1]:
                raise
            continue
        return examples
    raise AssertionError("unreachable")


def _draw(random: np.random.Generator, one: _Range, spec: InputSpec, size: int) -> np.ndarray:
    shape = tuple(size if axis is None else axis for axis in spec.shape)
    if spec.dtype == "bool":
        return random.random(shape) < 0.5
    if one.mean is not None:
        drawn = one.mean + one.deviation * random.normal(size=shape)
        return np.asarray(drawn, spec.dtype).reshape(shape)
    drawn = random.uniform(one.low, one.high, shape)
    return (np.floor(drawn) if one.whole else drawn).astype(spec.dtype)


# Layers and operations that hand on values as they are, or some of them.
HANDS_ON = (
    *("Reshape", "Flatten", "Permute", "RepeatVector", "Cast", "Identity", "GetItem"),
    *("Squeeze", "ExpandDims", "Transpose", "Dropout", "Masking"),
    *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D"),
)


def _ranges(model: keras.Model, specs: list[InputSpec]) -> list[_Range]:
    try:
        graph = read_graph(model)
    except GraphError:
        return [_default(spec) for spec in specs]
    return [_range_of(value, graph, spec) for value, spec in zip(graph.inputs, specs, strict=True)]


def _range_of(value: Any, graph: Any, spec: InputSpec) -> _Range:
    reached, limits = {value}, []
    found = None
    for call in graph.calls:
        if not reached.intersection(call.inputs):
            continue
        operation = call.operation
        limit = _vocabulary(operation)
        if limit:
            limits.append(limit)
        elif found is None and isinstance(operation, keras.layers.Rescaling):
            found = _before_rescaling(operation)
        elif found is None and isinstance(operation, keras.layers.Normalization):
            found = _before_normalization(operation, spec)
        if call.kind in HANDS_ON:
            reached.update(call.outputs)
    if limits:
        return _Range(0, min(limits), whole=True)
    return found if found is not None and spec.dtype.startswith("float") else _default(spec)


def _vocabulary(operation: Any) -> int:
    """How many different ids an operation takes, or 0 where it takes none."""
    parts = [operation]
    if isinstance(operation, keras.layers.Layer):
        parts = keras_internals.flatten_layers(operation)
    sizes = []
    for part in parts:
        for attribute in ("input_dim", "num_tokens", "num_classes", "depth"):
            kinds = ("Embedding", "CategoryEncoding", "OneHot", "ReversibleEmbedding")
            size = getattr(part, attribute, None)
            if type(part).__name__ in kinds and isinstance(size, int):
                sizes.append(size)
    return min(sizes, default=0)


def _before_rescaling(layer: Any) -> _Range | None:
    scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    if scale.ndim or offset.ndim or not scale:
        return None
    # −1 to 1, or 0 to 1: what scaling is for. Pixels otherwise.
    low = -1.0 if offset < 0 else 0.0
    low, high = sorted((end - float(offset)) / float(scale) for end in (low, 1.0))
    return _Range(low, high)


def _before_normalization(layer: Any, spec: InputSpec) -> _Range | None:
    if layer.mean is None or layer.variance is None or layer.invert:
        return None
    mean = keras.ops.convert_to_numpy(layer.mean)[0]
    deviation = np.sqrt(keras.ops.convert_to_numpy(layer.variance)[0])
    shape = tuple(1 if size is None else size for size in spec.shape)
    try:
        np.broadcast_to(mean, shape)
    except ValueError:
        return None
    return _Range(mean=mean, deviation=deviation)


def _default(spec: InputSpec) -> _Range:
    if spec.dtype.startswith(("float", "bfloat")):
        return _Range(mean=0.0, deviation=1.0)
    if spec.dtype == "int8":
        return _Range(-128, 128, whole=True)
    return _Range(0, 256, whole=True)
