"""Where a batch-norm stays, and that the copy gives what the model gives in any case."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from random_models import randomize

from cnn_l1.graph.reading import GraphError, read_graph
from cnn_l1.shrink.fold import fold_batch_norm

RANDOM = np.random.default_rng(0)
ROUNDING = 1e-5  # float32 sums of some tens of terms near 1, in another order


def stack(*inside, shape=(8, 8, 3)):
    return randomize(keras.Sequential([keras.Input(shape), *inside]))


def assert_folds(model, norms_left, inputs=None, rounding=ROUNDING):
    folded = fold_batch_norm(model)
    left = [layer for layer in folded.layers if isinstance(layer, layers.BatchNormalization)]
    assert len(left) == norms_left
    if inputs is None:
        inputs = RANDOM.normal(size=(4, *model.inputs[0].shape[1:])).astype("float32")
    for training in (None, False):
        outputs = [keras.tree.flatten(m(inputs, training=training)) for m in (model, folded)]
        for pair in zip(*outputs, strict=True):
            expected, received = (ops.convert_to_numpy(x).astype("float64") for x in pair)
            largest = abs(expected).max()
            np.testing.assert_allclose(received, expected, rtol=0, atol=rounding * largest)


@pytest.mark.parametrize("outer", [None, True, False])
@pytest.mark.parametrize("told", [None, True, False])
def test_training_that_is_told(told, outer):
    """A model that is told overrides what the layers inside it were told."""
    images = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(images), training=told)
    inner = keras.Model(images, x)
    inputs = keras.Input((8, 8, 3))
    model = randomize(keras.Model(inputs, inner(inputs, training=outer)))
    assert_folds(model, int(bool(told if outer is None else outer)))


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_layers(mode):
    model = stack(layers.Dense(6), layers.BatchNormalization(), layers.Dense(4), shape=(8,))
    model.quantize(mode)
    assert_folds(model, 1)


def test_float8_is_refused_by_name():
    """A new layer has its weights in another order."""
    model = stack(layers.Dense(6, name="d"), layers.BatchNormalization(), shape=(8,))
    model.quantize("float8")
    with pytest.raises(GraphError, match="d: expected"):
        fold_batch_norm(model)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Dense(6), (8,)),
        (lambda: layers.Conv2D(6, 3), (8, 8, 3)),
        (lambda: layers.EinsumDense("abc,cd->abd", output_shape=(6, 4)), (6, 3)),
    ],
    ids=["Dense", "Conv2D", "EinsumDense"],
)
def test_lora(layer, shape):
    model = stack(layer(), layers.BatchNormalization(), shape=shape)
    model.layers[0].enable_lora(2)
    for variable in model.layers[0].weights:
        variable.assign(RANDOM.normal(size=variable.shape))
    assert_folds(model, 1)


class Doubled(layers.BatchNormalization):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training)


class Shifted(layers.Dense):
    def call(self, x):
        return super().call(x) + 1


@pytest.mark.parametrize(
    ("inside", "shape"),
    [
        ((lambda: layers.Conv2D(4, 3), Doubled), (8, 8, 3)),
        ((lambda: Shifted(4), layers.BatchNormalization), (8,)),
        ((lambda: layers.Dense(5), lambda: layers.BatchNormalization(axis=1)), (6, 4)),
        ((lambda: layers.Dense(4), lambda: layers.BatchNormalization(axis=-2)), (4, 4)),
        (
            (
                lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)),
                layers.BatchNormalization,
            ),
            (8, 8, 3),
        ),
        ((lambda: layers.TimeDistributed(layers.Dense(4)), layers.BatchNormalization), (6, 3)),
    ],
    ids=["norm's subclass", "dense's subclass", "axis 1", "axis -2", "spectral", "each step"],
)
def test_norms_that_stay(inside, shape):
    assert_folds(stack(*(layer() for layer in inside), shape=shape), 1)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_low_precision_stays(policy):
    layer, norm = layers.Conv2D(4, 3, dtype=policy), layers.BatchNormalization(dtype=policy)
    assert_folds(stack(layer, norm), 1)


def test_float64_folds():
    inside = (layers.Conv2D(4, 3, dtype="float64"), layers.BatchNormalization(dtype="float64"))
    assert_folds(stack(*inside), 0)


def test_a_scale_that_is_not_finite_stays():
    model = stack(layers.Conv2D(4, 3), layers.BatchNormalization(epsilon=0.0))
    model.layers[1].moving_variance.assign([0.0, 1.0, 1.0, 1.0])
    folded = fold_batch_norm(model)
    assert isinstance(folded.layers[-1], layers.BatchNormalization)


def test_a_masked_norm_stays():
    ids = keras.Input((10,), dtype="int32")
    x = layers.Dense(5)(layers.Embedding(20, 6, mask_zero=True)(ids))
    model = keras.Model(ids, layers.LSTM(5)(layers.BatchNormalization()(x)))
    samples = RANDOM.integers(0, 20, (4, 10))
    samples[:, 6:] = 0
    assert_folds(randomize(model), 1, samples)


def test_shared_layers_stay():
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same")
    model = keras.Model(inputs, layers.BatchNormalization()(conv(conv(inputs))))
    assert_folds(randomize(model), 1)


# --- reading graphs ----------------------------------------------------------------


@pytest.mark.parametrize("outer", ["list", "dict", "dict as keyword", "twice"])
@pytest.mark.parametrize("inner", [list, dict])
def test_nested_models_with_several_inputs(inner, outer):
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    taken = {"zeta": zeta, "alpha": alpha} if inner is dict else [zeta, alpha]
    nested = keras.Model(taken, layers.Dense(6)(zeta) - 2.0 * layers.Dense(6)(alpha))
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    hidden = layers.Dense(4)(x)
    if outer in ("list", "twice") and inner is dict:
        pytest.skip("Keras does not take a list there")
    named = {"alpha": y, "zeta": hidden}
    result = {
        "list": lambda: nested([hidden, y]),
        "dict": lambda: nested(named),
        "dict as keyword": lambda: nested(inputs=named),
        "twice": lambda: nested([hidden, y]) + nested([y, hidden]),
    }[outer]()
    model = randomize(keras.Model([x, y], layers.Dense(2)(result)))
    samples = [RANDOM.normal(size=(3, 4)).astype("float32") for _ in range(2)]
    assert_folds(model, 0, samples)


def test_structures_and_inputs_that_pass_through():
    a, b = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    x = layers.BatchNormalization()(layers.Dense(5)(a))
    model = keras.Model({"zeta": a, "alpha": b}, {"x": x, "raw": (a, [x, b])})
    samples = {name: RANDOM.normal(size=(3, 4)).astype("float32") for name in ("zeta", "alpha")}
    assert_folds(randomize(model), 0, samples)


def test_a_nested_model_casts_its_input():
    ids = keras.Input((4,), dtype="int32")
    inner = keras.Model(ids, layers.Dense(3)(ops.cast(ids, "float32")))
    inputs = keras.Input((4,))
    assert_folds(randomize(keras.Model(inputs, inner(3.0 * layers.Dense(4)(inputs)))), 0)


def test_subclassed_models_are_refused_with_a_way_out():
    class Own(keras.Model):
        def call(self, x):
            return x

    class OwnSequence(keras.Sequential):
        def call(self, x, training=None, mask=None):
            return 2 * super().call(x)

    for model in (Own(), OwnSequence([keras.Input((4,)), layers.Dense(3)])):
        with pytest.raises(GraphError, match=r"keras\.Model\(inputs, outputs\)"):
            read_graph(model)
