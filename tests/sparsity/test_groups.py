"""Channel groups: one penalty over several variables, alone and under Proximal."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import MultiTaskLasso

from cnn_l1.graph.coupling import ChannelSpace, Member
from cnn_l1.graph.reading import GraphError
from cnn_l1.sparsity import counting
from cnn_l1.sparsity.groups import ChannelShare, CoupledGroupL1, attach_groups, attach_slimming
from cnn_l1.sparsity.optimizers import HoldZeros, Proximal
from cnn_l1.sparsity.penalties import L1, GroupL1, Penalty, attach, detach
from cnn_l1.sparsity.shapes import make_shape

optimizers, layers = keras.optimizers, keras.layers
STRENGTH, RATIO = 0.25, 0.25


def soft(x, threshold):
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)


def as_numpy(tensors):
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


# --- The penalty alone -------------------------------------------------------------

# A space of 4 channels by hand: two kernels, a bias, and two vectors of 6 positions,
# of which two belong to other channels and two to channel 1.
SHAPES = ((2, 2, 1, 4), (3, 4), (4,), (6,), (6,))
AXES = (3, -1, 0, 0, 0)
INDEX = np.array([-1, 0, 1, -1, 3, 1])
INDICES = (np.arange(4), np.arange(4), np.arange(4), INDEX, INDEX)
SIZES = np.array([4 + 3 + 1 + 2, 4 + 3 + 1 + 4, 4 + 3 + 1, 4 + 3 + 1 + 2])


def make_values():
    """Channel 0 is zero in all variables, channel 2 small, and so one weight of 1."""
    rng = np.random.default_rng(2)
    scale = np.array([0.0, 1.0, 0.05, 2.0])
    values = []
    for shape, axis, index in zip(SHAPES, AXES, INDICES, strict=True):
        factors = np.where(index < 0, 3.0, scale[index])
        values.append(rng.normal(size=shape) * factors if axis in (3, -1) else factors * 0.7)
    values[0][0, 0, 0, 1] = 0.0
    return values


def make_space(values=None, shapes=SHAPES, axes=AXES, indices=INDICES):
    values = [np.zeros(shape) for shape in shapes] if values is None else values
    variables = [keras.Variable(v, dtype="float64", name=f"v{i}") for i, v in enumerate(values)]
    members = zip(variables, axes, indices, strict=True)
    return ChannelSpace(
        int(max(map(np.max, indices))) + 1,
        tuple(Member(v, a, i, f"layer_{n}") for n, (v, a, i) in enumerate(members)),
    )


def channel(values, number):
    """The weights of a channel, one after another."""
    parts = []
    for value, axis, index in zip(values, AXES, INDICES, strict=True):
        parts.append(np.moveaxis(value, axis, 0)[index == number].ravel())
    return np.concatenate(parts)


def value_of(values, ratio, strength=STRENGTH):
    channels = [channel(values, number) for number in range(4)]
    norms = sum(np.sqrt(w.size) * np.linalg.norm(w) for w in channels)
    absolute = sum(np.abs(w).sum() for w in channels)
    return strength * ((1 - ratio) * norms + ratio * absolute)


RATIOS = pytest.mark.parametrize("ratio", [0.0, RATIO, 1.0])


@RATIOS
def test_value_is_the_formula_over_all_variables(ratio):
    values = make_values()
    group = CoupledGroupL1(make_space(values), STRENGTH, ratio)
    np.testing.assert_array_equal(group.sizes, SIZES)
    np.testing.assert_allclose(float(group.value()), value_of(values, ratio), rtol=1e-14)
    doubled = [2.0 * v for v in values]
    np.testing.assert_allclose(float(group.value(doubled)), value_of(doubled, ratio), rtol=1e-14)


@RATIOS
def test_gradients_are_autodiff_of_the_value_and_no_nan(ratio):
    group = CoupledGroupL1(make_space(make_values()), STRENGTH, ratio)
    with tf.GradientTape() as tape:
        value = group.value()
    automatic = tape.gradient(value, [v.value for v in group.variables])
    for own, expected in zip(group.gradients(), automatic, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-13)
        assert np.isfinite(own).all()
    gradients = as_numpy(group.gradients())
    np.testing.assert_array_equal(channel(gradients, 0), 0.0)  # a channel of zeros
    np.testing.assert_array_equal(gradients[3][INDEX < 0], 0.0)  # no channel
    # Its definition, for a channel that lives.
    w = channel(make_values(), 3)
    expected = (1 - ratio) * np.sqrt(w.size) * w / np.linalg.norm(w) + ratio * np.sign(w)
    np.testing.assert_allclose(channel(gradients, 3), STRENGTH * expected, rtol=1e-13)


def closed_form(values, steps, ratio, strength=STRENGTH):
    """The prox, channel by channel in NumPy; `steps` one array a variable."""
    results = [value.copy() for value in values]
    shrunk = [soft(v, s * strength * ratio) for v, s in zip(values, steps, strict=True)]
    for number, size in enumerate(SIZES):
        step = 1.0 / np.mean(1.0 / channel(steps, number))
        norm = np.linalg.norm(channel(shrunk, number))
        threshold = step * strength * (1 - ratio) * np.sqrt(size)
        factor = max(1.0 - threshold / norm, 0.0) if norm else 0.0
        for result, part, axis, index in zip(results, shrunk, AXES, INDICES, strict=True):
            np.moveaxis(result, axis, 0)[index == number] = (
                factor * np.moveaxis(part, axis, 0)[index == number]
            )
    return results


@RATIOS
@pytest.mark.parametrize("kind", ["scalar", "arrays", "mixed"])
def test_prox_closed_form(ratio, kind):
    values, rng = make_values(), np.random.default_rng(4)
    full = [np.full(v.shape, 0.5) for v in values]
    if kind != "scalar":
        full = [rng.uniform(0.1, 1.0, size=v.shape) for v in values]
    if kind == "mixed":
        full[1][:], full[4][:] = 0.5, 0.5
    steps = [tf.constant(step) for step in full]
    if kind == "scalar":
        steps = [0.5] * 5
    if kind == "mixed":
        steps[1], steps[4] = tf.constant(0.5, "float64"), 0.5
    got = as_numpy(CoupledGroupL1(make_space(), STRENGTH, ratio).prox_all(values, steps))
    for new, old, expected in zip(got, values, closed_form(values, full, ratio), strict=True):
        # float64: a root, a few divisions and products.
        np.testing.assert_allclose(new, expected, rtol=1e-12, atol=1e-15)
        assert new.shape == old.shape
    for position in (3, 4):
        np.testing.assert_array_equal(got[position][INDEX < 0], values[position][INDEX < 0])
    if ratio < 1.0:  # a whole channel is gone, in every variable
        assert not channel(got, 2).any()
        assert not np.signbit(channel(got, 2)).any()
    assert channel(got, 3).any()


@RATIOS
def test_no_neighbour_of_the_prox_is_better(ratio):
    values, rng, step = make_values(), np.random.default_rng(9), 0.5
    best = as_numpy(CoupledGroupL1(make_space(), STRENGTH, ratio).prox_all(values, [step] * 5))

    def objective(points):
        distance = sum(np.sum((z - x) ** 2) for z, x in zip(points, values, strict=True))
        return value_of(points, ratio) + distance / (2 * step)

    lowest = objective(best)
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(50):
            directions = [rng.normal(size=z.shape) for z in best]
            moved = [z + size * d for z, d in zip(best, directions, strict=True)]
            least = size**2 * sum(np.sum(d**2) for d in directions) / (2 * step)
            assert objective(moved) - lowest >= 0.999 * least  # strongly convex


@pytest.mark.parametrize("step", [0.5, 0.0, "array"])
def test_one_kernel_is_group_l1(step):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3, 3, 2, 4)) * [0.01, 0.1, 1.0, 2.0]
    step = rng.uniform(0.1, 1.0, size=x.shape) if step == "array" else step
    space = make_space([x], axes=[3], indices=[np.arange(4)])
    coupled, single = CoupledGroupL1(space, STRENGTH, RATIO), GroupL1(STRENGTH, RATIO)
    np.testing.assert_allclose(float(coupled.value()), float(single(x)), rtol=1e-14)
    (got,) = as_numpy(coupled.prox_all([tf.constant(x)], [step]))
    np.testing.assert_allclose(got, single.prox(tf.constant(x), step), rtol=1e-12, atol=1e-16)
    if isinstance(step, float) and step == 0.0:
        np.testing.assert_array_equal(got, x)


CONCAVE = pytest.mark.parametrize("shape", ["transformed", "mcp", "log"])


@CONCAVE
@pytest.mark.parametrize("step", [0.5, 0.0, 5.0, "array"])
def test_one_kernel_of_a_concave_shape_is_group_l1(shape, step):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3, 3, 2, 4)) * [0.01, 0.1, 1.0, 2.0]
    step = rng.uniform(0.1, 1.0, size=x.shape) if step == "array" else step
    space = make_space([x], axes=[3], indices=[np.arange(4)])
    coupled = CoupledGroupL1(space, STRENGTH, RATIO, shape, 0.4)
    single = GroupL1(STRENGTH, RATIO, shape=shape, scale=0.4)
    np.testing.assert_allclose(float(coupled.value()), float(single(x)), rtol=1e-14)
    np.testing.assert_allclose(coupled.gradients()[0], single.gradient(x), rtol=1e-13)
    (got,) = as_numpy(coupled.prox_all([tf.constant(x)], [step]))
    np.testing.assert_allclose(got, single.prox(tf.constant(x), step), rtol=1e-12, atol=1e-16)


@CONCAVE
def test_concave_channels_by_hand(shape):
    """Each channel's root mean square by the shape's own operator, in all variables."""
    values, step, scale = make_values(), 0.5, 0.4
    group = CoupledGroupL1(make_space(values), STRENGTH, 0.0, shape, scale)
    phi = make_shape(shape, scale)
    sizes = np.array([np.sqrt(np.mean(channel(values, c) ** 2)) for c in range(4)])
    expected = STRENGTH * np.sum(SIZES * phi.value(tf.constant(sizes)).numpy())
    np.testing.assert_allclose(float(group.value()), expected, rtol=1e-14)
    with tf.GradientTape() as tape:
        value = group.value()
    automatic = tape.gradient(value, [v.value for v in group.variables])
    for own, other in zip(group.gradients(), automatic, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-16)
    got = as_numpy(group.prox_all(values, [step] * 5))
    shrunk = phi.shrink(sizes, step * STRENGTH).numpy()
    for c in range(4):
        factor = shrunk[c] / sizes[c] if sizes[c] else 0.0
        np.testing.assert_allclose(channel(got, c), factor * channel(values, c), rtol=1e-12)
    np.testing.assert_array_equal([channel(got, c).any() for c in range(4)], [0, 1, 0, 1])
    np.testing.assert_array_equal(got[3][INDEX < 0], values[3][INDEX < 0])


def test_a_step_of_zero_changes_nothing():
    values = make_values()
    for steps in ([0.0] * 5, [tf.zeros(v.shape, "float64") for v in values]):
        got = as_numpy(CoupledGroupL1(make_space(), STRENGTH, RATIO).prox_all(values, steps))
        for new, old in zip(got, values, strict=True):
            np.testing.assert_array_equal(new, old)


def test_nan_stays():
    values = make_values()
    values[1][0, 1] = np.nan
    got = as_numpy(CoupledGroupL1(make_space(), STRENGTH).prox_all(values, [0.5] * 5))
    assert np.isnan(channel(got, 1)).all()
    assert np.isfinite(channel(got, 3)).all()


@pytest.mark.parametrize(
    ("index", "axis"),
    [([0, 1, 2, 4], 1), ([0, 1, 2, -2], 1), ([0, 1, 2], 1), ([0, 1, 2, 3], 2), ([0, 1, 2], -3)],
)
def test_members_that_do_not_fit(index, axis):
    space = make_space([np.zeros((3, 4))], axes=[axis], indices=[np.array(index)])
    space = ChannelSpace(4, space.members)
    with pytest.raises(ValueError, match="expects one channel from 0 to 3, or -1") as error:
        CoupledGroupL1(space)
    assert f"variable=v0, shape=(3, 4), axis={axis}, index={index}" in str(error.value)


def test_settings_that_are_refused():
    space = make_space()
    with pytest.raises(ValueError, match="`l1_strength` must be a finite number, 0 or more"):
        CoupledGroupL1(space, -1.0)
    with pytest.raises(ValueError, match="`l1_ratio` must be a number from 0 to 1"):
        CoupledGroupL1(space, 1.0, 2.0)
    with pytest.raises(ValueError, match="`shape` must be one of l1, transformed, mcp, log"):
        CoupledGroupL1(space, 1.0, 0.0, "scad")
    twice = ChannelSpace(4, space.members[:1] * 2)
    with pytest.raises(ValueError, match=r"expects a space that has each variable once.*v0, v0"):
        CoupledGroupL1(twice)


def share_out(group):
    """Give a group's variables their shares, as `attach_groups` does."""
    for variable in group.variables:
        variable.regularizer = ChannelShare(variable, (group,))
    return group


def test_shares_report_the_group_once():
    group = share_out(CoupledGroupL1(make_space(make_values()), STRENGTH, RATIO))
    values = [float(v.regularizer(v)) for v in group.variables]
    np.testing.assert_allclose(values[0], value_of(make_values(), RATIO), rtol=1e-14)
    assert values[1:] == [0.0] * 4
    # Of the value that is handed over, as JAX does, where it is the first variable's.
    first = group.variables[0]
    changed = [2.0 * make_values()[0], *make_values()[1:]]
    np.testing.assert_allclose(
        float(first.regularizer(tf.constant(changed[0]))), value_of(changed, RATIO), rtol=1e-14
    )


def test_shares_have_no_gradient_and_prox_of_their_own():
    share = share_out(CoupledGroupL1(make_space())).variables[0].regularizer
    with pytest.raises(NotImplementedError, match=r"ChannelShare\.prox"):
        share.prox(tf.zeros(SHAPES[0]), 1.0)
    with pytest.raises(NotImplementedError, match=r"ChannelShare\.gradient"):
        share.gradient(tf.zeros(SHAPES[0]))


# --- Attaching ---------------------------------------------------------------------


def make_model(depthwise=True, first=None):
    """A residual network with batch-norm, a concatenation and a depthwise kernel."""
    keras.utils.set_random_seed(6)
    image = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="a", kernel_regularizer=first)(image)
    x = layers.BatchNormalization(name="a_norm")(x)
    y = layers.Conv2D(6, 3, padding="same", use_bias=False, name="b")(x)
    y = layers.BatchNormalization(name="b_norm")(y)
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, y]))
    if depthwise:
        x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    left = layers.Conv2D(4, 1, use_bias=False, name="left")(x)
    right = layers.Conv2D(3, 1, use_bias=False, name="right")(x)
    x = layers.BatchNormalization(name="norm")(layers.Concatenate(name="both")([left, right]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(2, name="out")(x), name="model")


INPUTS = np.random.default_rng(3).normal(size=(16, 6, 6, 2)).astype("float32")
LABELS = (INPUTS.mean(axis=(1, 2))[:, 0] > 0).astype("int32")


def by_path(model):
    return {variable.path: variable for variable in model.trainable_variables}


COUPLED = ["a/kernel", "a/bias", "a_norm/gamma", "a_norm/beta"]
COUPLED += ["b/kernel", "b_norm/gamma", "b_norm/beta", "depthwise/kernel", "depthwise/bias"]
ALL = [*COUPLED, "left/kernel", "right/kernel", "norm/gamma", "norm/beta"]


def test_attach_groups_on_a_residual_network():
    model = make_model()
    attached = attach_groups(model, STRENGTH)
    assert sorted(attached) == sorted(ALL)
    carried = {path: variable.regularizer for path, variable in by_path(model).items()}
    assert {path for path, penalty in carried.items() if penalty is not None} == set(ALL)
    (group,) = carried["a/kernel"].groups
    for path in COUPLED:
        assert carried[path].groups == (group,)
        assert carried[path].variable is by_path(model)[path]
    np.testing.assert_array_equal(group.sizes, [18 + 1 + 2 + 54 + 2 + 9 + 1] * 6)
    assert (group.l1_strength, group.l1_ratio) == (STRENGTH, 0.0)
    # Batch-norm behind the concatenation is in the groups of both of its inputs.
    (left,), (right,) = carried["left/kernel"].groups, carried["right/kernel"].groups
    assert set(carried["norm/gamma"].groups) == {left, right}
    np.testing.assert_array_equal(left.sizes, [6 + 2] * 4)
    # In the loss once.
    expected = sum(float(group.value()) for group in (group, left, right))
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-6)  # float32 sum
    np.testing.assert_allclose(counting.penalty_value(model), expected, rtol=1e-6)


def test_attach_groups_with_plain_l1_for_the_last_layer():
    model = make_model()
    attached = attach_groups(model, STRENGTH, RATIO)
    assert sorted(attached) == sorted([*ALL, "out/kernel"])
    last = model.get_layer("out").kernel.regularizer
    assert isinstance(last, L1)
    assert last.l1_strength == STRENGTH * RATIO
    assert model.get_layer("left").kernel.regularizer.groups[0].l1_ratio == RATIO


def test_attach_groups_with_a_shape():
    model = make_model()
    attach_groups(model, STRENGTH, RATIO, shape="mcp", scale=0.2)
    group = model.get_layer("left").kernel.regularizer.groups[0]
    assert (group.shape, group.scale) == ("mcp", 0.2)
    assert type(model.get_layer("out").kernel.regularizer) is L1
    with pytest.raises(ValueError, match="`scale` must be left out for shape 'l1'"):
        attach_groups(model, STRENGTH, scale=0.2)
    assert model.get_layer("left").kernel.regularizer.groups[0] is group  # nothing was changed


@pytest.mark.slow
def test_training_under_concave_channels_makes_whole_channels_zero():
    model = make_model()
    attach_groups(model, 0.02, shape="mcp", scale=0.3)
    compile_model(model, Proximal(optimizers.Adam(0.02))).fit(INPUTS, LABELS, 4, 15, verbose=0)
    gone = {
        name: (model.get_layer(name).kernel.numpy() == 0.0).all(axis=(0, 1, 2))
        for name in ("a", "b", "left", "right")
    }
    depthwise = (model.get_layer("depthwise").kernel.numpy() == 0.0).all(axis=(0, 1, 3))
    np.testing.assert_array_equal(gone["a"], gone["b"])
    np.testing.assert_array_equal(gone["a"], depthwise)
    gone = np.concatenate(list(gone.values()))
    assert gone.any()
    assert not gone.all()


def test_attach_groups_takes_the_strength_of_the_first_layer():
    model, asked = make_model(), []

    def strengths(name):
        asked.append(name)
        return {"a": 0.1, "b": 0.2, "left": 0.3, "right": 0.4, "out": 0.5}[name]

    attach_groups(model, STRENGTH, RATIO, strengths)
    found = {n: model.get_layer(n).kernel.regularizer.groups[0] for n in ("a", "b", "left")}
    assert [group.l1_strength for group in found.values()] == [0.1, 0.1, 0.3]
    assert model.get_layer("out").kernel.regularizer.l1_strength == 0.5 * RATIO
    assert sorted(asked) == ["a", "left", "out", "right"]


def test_attach_groups_by_multiply_adds():
    """LeNet-5 by hand: filters at 24x24 and 8x8 positions, each read by the next layer."""
    inputs = keras.Input((28, 28, 1))
    x = layers.MaxPooling2D(2)(layers.Conv2D(20, 5, name="conv_1")(inputs))
    x = layers.MaxPooling2D(2)(layers.Conv2D(50, 5, name="conv_2")(x))
    x = layers.Dense(500, name="dense_1")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(10, name="dense_2")(x))
    attach_groups(
        model,
        STRENGTH,
        RATIO,
        lambda name: 2.0 if name == "conv_1" else STRENGTH,
        channel_cost="macs",
    )
    macs = {"conv_1": 576 * 25 + 64 * 25 * 50, "conv_2": 64 * 500 + 16 * 500, "dense_1": 810}
    weights = {"conv_1": 26, "conv_2": 501, "dense_1": 801}
    for name, base in (("conv_1", 2.0), ("conv_2", STRENGTH), ("dense_1", STRENGTH)):
        (group,) = model.get_layer(name).kernel.regularizer.groups
        expected = base * (macs[name] / weights[name]) ** 0.5
        np.testing.assert_allclose(group.l1_strength, expected, rtol=1e-12)  # float64
    # What makes no channel keeps the strength that was asked for.
    assert model.get_layer("dense_2").kernel.regularizer.l1_strength == STRENGTH * RATIO
    with pytest.raises(ValueError, match="`channel_cost` must be one of weights, macs"):
        attach_groups(model, STRENGTH, channel_cost="bytes")


def test_attach_groups_replaces_our_penalties_and_leaves_the_users():
    model = make_model()
    attach(model, L1(0.1), kernels_only=False)
    bias = model.get_layer("out").bias
    bias.regularizer = users = keras.regularizers.L2(0.5)
    attach_groups(model, STRENGTH)
    assert model.get_layer("out").kernel.regularizer is None
    assert bias.regularizer is users
    assert attach(model, None, kernels_only=False) == []
    assert not any(isinstance(v.regularizer, Penalty) for v in model.trainable_variables)


def test_attach_groups_leaves_frozen_layers_out():
    model = make_model()
    model.get_layer("b").trainable = False
    attached = attach_groups(model, STRENGTH)
    # Nor are channels taken that "b" makes together with others.
    assert attached
    assert not {"a/kernel", "a_norm/gamma", "b/kernel", "b_norm/gamma"} & set(attached)


def test_attach_groups_refuses_what_it_cannot_use():
    model = make_model()
    attach(model, L1(0.1))
    with pytest.raises(ValueError, match="`l1_strength` must be a finite number, 0 or more"):
        attach_groups(model, -1.0)
    with pytest.raises(ValueError, match="`l1_ratio` must be a number from 0 to 1"):
        attach_groups(model, 1.0, 1.5)
    with pytest.raises(ValueError, match="`l1_strength` must be a finite number, 0 or more"):
        attach_groups(model, 1.0, strengths=lambda name: -1.0)
    assert isinstance(model.get_layer("a").kernel.regularizer, L1)  # nothing was changed
    single = keras.Sequential([keras.Input((2,)), layers.Dense(1)], name="single")
    with pytest.raises(
        ValueError, match=r"channels that can be removed.*Received: 'single', where"
    ):
        attach_groups(single, 1.0)
    with pytest.raises(GraphError, match="Expected a built Functional or Sequential"):
        attach_groups(keras.Sequential([layers.Dense(1)]), 1.0)


def test_attach_slimming():
    model = make_model()
    attach(model, L1(0.1))
    assert attach_slimming(model, STRENGTH) == ["a_norm/gamma", "b_norm/gamma", "norm/gamma"]
    for name in ("a_norm", "b_norm", "norm"):
        scale, shift = model.get_layer(name).gamma, model.get_layer(name).beta
        assert isinstance(scale.regularizer, L1)
        assert scale.regularizer.l1_strength == STRENGTH
        assert shift.regularizer is None
    assert model.get_layer("a").kernel.regularizer.l1_strength == 0.1


def test_attach_slimming_makes_exact_zeros():
    model = make_model()
    attach_slimming(model, 1.5)
    compile_model(model, Proximal(optimizers.SGD(0.1))).fit(INPUTS, LABELS, 4, 2, verbose=0)
    scales = np.concatenate([model.get_layer(n).gamma.numpy() for n in ("a_norm", "norm")])
    assert np.any(scales == 0.0)


def test_attach_slimming_needs_batch_norm_scales():
    fixed = layers.BatchNormalization(scale=False)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1), fixed], name="small")
    with pytest.raises(ValueError, match=r"BatchNormalization that has a trainable scale") as error:
        attach_slimming(model, 1.0)
    assert "Received: 'small' of Dense, BatchNormalization" in str(error.value)
    with pytest.raises(ValueError, match="`l1_strength` must be a finite number, 0 or more"):
        attach_slimming(model, -1.0)


# --- Single updates by hand -----------------------------------------------------------

LEARNING_RATE, MOMENTUM, BETA_1, BETA_2, EPSILON = 0.125, 0.75, 0.875, 0.96875, 2.0**-8


def sgd(state, i, g, t):
    state[i] = MOMENTUM * state.get(i, 0.0) - LEARNING_RATE * g
    return -state[i], np.full(g.shape, LEARNING_RATE / (1 - MOMENTUM))


def adam(state, i, g, t):
    m, v = state.get(i, (0.0, 0.0))
    m, v = state[i] = BETA_1 * m + (1 - BETA_1) * g, BETA_2 * v + (1 - BETA_2) * g**2
    step = LEARNING_RATE * np.sqrt(1 - BETA_2**t) / (np.sqrt(v) + EPSILON)
    return step * m / (1 - BETA_1**t), step


CASES = {
    "sgd": (sgd, lambda: optimizers.SGD(LEARNING_RATE, MOMENTUM)),
    "adam": (
        adam,
        lambda: optimizers.Adam(LEARNING_RATE, beta_1=BETA_1, beta_2=BETA_2, epsilon=EPSILON),
    ),
}


@pytest.mark.parametrize("handed_over", ["penalty in gradient", "detached", "not in loss"])
@pytest.mark.parametrize("case", CASES)
def test_steps_by_hand(case, handed_over):
    """Four updates; all variables first, by the data gradient, then all groups together."""
    update, make = CASES[case]
    optimizer = Proximal(make(), penalty_in_loss=handed_over != "not in loss")
    optimizer.strength_scale.assign(0.5)
    values, rng, state = make_values(), np.random.default_rng(0), {}
    group = share_out(CoupledGroupL1(make_space(values), STRENGTH, RATIO))
    for variable in group.variables:
        variable.regularizer.in_gradient = handed_over == "penalty in gradient"
    for t in range(1, 5):
        gradients = [0.3 * rng.normal(size=v.shape) * (rng.random() < 0.7) for v in values]
        given = list(gradients)
        if handed_over == "penalty in gradient":
            with tf.GradientTape() as tape:
                value = sum(v.regularizer(v) for v in group.variables)
            own = tape.gradient(value, [v.value for v in group.variables])
            given = [g + o.numpy() for g, o in zip(gradients, own, strict=True)]
        optimizer.apply([tf.constant(g) for g in given], list(group.variables))
        deltas, steps = zip(*(update(state, i, g, t) for i, g in enumerate(gradients)), strict=True)
        values = [v - delta for v, delta in zip(values, deltas, strict=True)]
        values = closed_form(values, [0.5 * step for step in steps], RATIO)
        for variable, expected in zip(group.variables, values, strict=True):
            np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-11, atol=1e-13)
            np.testing.assert_array_equal(variable.numpy() == 0.0, expected == 0.0)
    zeros = sum(np.count_nonzero(value == 0.0) for value in values)
    assert 0 < zeros < sum(SIZES)


def test_a_variable_in_two_groups():
    """Batch-norm behind a concatenation: each half shrinks with its own kernel."""
    kernels = [keras.Variable(np.full((2, 2), size), dtype="float64") for size in (0.01, 1.0)]
    scale = keras.Variable([0.01, 0.01, 1.0, 1.0], dtype="float64")
    halves = np.array([0, 1, -1, -1]), np.array([-1, -1, 0, 1])
    groups = [
        CoupledGroupL1(
            ChannelSpace(2, (Member(k, 1, np.arange(2), "k"), Member(scale, 0, half, "norm"))), 0.5
        )
        for k, half in zip(kernels, halves, strict=True)
    ]
    for k, group in zip(kernels, groups, strict=True):
        k.regularizer = ChannelShare(k, (group,))
    scale.regularizer = ChannelShare(scale, groups)
    optimizer = Proximal(optimizers.SGD(0.5))
    with tf.GradientTape() as tape:
        value = sum(v.regularizer(v) for v in (*kernels, scale))
    variables = [*kernels, scale]
    optimizer.apply(tape.gradient(value, [v.value for v in variables]), variables)
    factor = 1.0 - 0.5 * 0.5 * np.sqrt(3) / np.sqrt(3)
    np.testing.assert_array_equal(kernels[0].numpy(), 0.0)
    np.testing.assert_allclose(kernels[1].numpy(), factor, rtol=1e-12)
    np.testing.assert_allclose(scale.numpy(), [0.0, 0.0, factor, factor], rtol=1e-12)


def test_clipping_sees_the_data_gradient_only():
    values = make_values()
    group = share_out(CoupledGroupL1(make_space(values), 4.0, RATIO))
    gradients = [np.zeros(v.shape) for v in values]
    gradients[2][:2] = 3.0, 4.0  # norm 5
    optimizer = Proximal(optimizers.SGD(LEARNING_RATE, clipnorm=1.0))
    given = [g + o for g, o in zip(gradients, as_numpy(group.gradients()), strict=True)]
    optimizer.apply([tf.constant(g) for g in given], list(group.variables))
    moved = [v - LEARNING_RATE * g / 5.0 for v, g in zip(values, gradients, strict=True)]
    expected = closed_form(moved, [np.full(v.shape, LEARNING_RATE) for v in moved], RATIO, 4.0)
    for variable, value in zip(group.variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-12, atol=1e-13)


def test_a_variable_without_gradient_is_under_its_group_all_the_same():
    values = make_values()
    group = share_out(CoupledGroupL1(make_space(values), STRENGTH, RATIO))
    optimizer = Proximal(optimizers.SGD(LEARNING_RATE), penalty_in_loss=False)
    gradients = [tf.zeros(SHAPES[0], "float64"), None, None, None, None]
    optimizer.apply(gradients, list(group.variables))
    expected = closed_form(values, [np.full(v.shape, LEARNING_RATE) for v in values], RATIO)
    for variable, value in zip(group.variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-12, atol=1e-15)


def test_held_zeros_stay_zero():
    values = make_values()
    group = share_out(CoupledGroupL1(make_space(values), 1e-3, RATIO))
    optimizer = Proximal(optimizers.SGD(1.0), hold_zeros=True, penalty_in_loss=False)
    optimizer.apply([tf.ones(v.shape, "float64") for v in values], list(group.variables))
    for variable, value in zip(group.variables, values, strict=True):
        np.testing.assert_array_equal(variable.numpy() == 0.0, value == 0.0)


# --- Fixed points: linear models against the group lasso --------------------------------

RNG = np.random.default_rng(7)
ROWS, COLUMNS, TASKS = 60, 10, 3
MATRIX = RNG.normal(size=(ROWS, COLUMNS)) * np.linspace(0.5, 2.0, COLUMNS)
TRUE = RNG.normal(size=(COLUMNS, TASKS)) * np.isin(np.arange(COLUMNS), [0, 3, 6, 9])[:, None]
TARGETS = MATRIX @ TRUE + RNG.normal(size=(ROWS, TASKS))
FEATURES = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])  # groups of 3, 2, 4 and 1


def fit_linear(optimizer, targets, attach_penalty, steps):
    """Full-batch training, many steps in one call; returns the weights."""
    layer = layers.Dense(targets.shape[1], use_bias=False)
    model = keras.Sequential([keras.Input((COLUMNS,)), layer])
    layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
    attach_penalty(layer.kernel)
    model.compile(optimizer, loss="mse", steps_per_execution=500)
    data = tf.data.Dataset.from_tensors((MATRIX, targets)).repeat()
    model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False)
    return model.get_weights()[0]


def couple_features(strength, ratio=0.0):
    def attach_penalty(kernel):
        member = Member(kernel, 0, FEATURES, "dense")
        share_out(CoupledGroupL1(ChannelSpace(4, (member,)), strength, ratio))

    return attach_penalty


def data_gradient(weights, targets):
    return 2.0 / targets.size * MATRIX.T @ (MATRIX @ weights - targets)


# A dyadic momentum: Keras rounds it to float32, which moves the fixed point at 0.9.
LINEAR = {
    "sgd": lambda: optimizers.SGD(0.05),
    "nesterov": lambda: optimizers.SGD(0.02, momentum=0.875, nesterov=True),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "ratio"), [("sgd", 0.0), ("sgd", 0.5), ("nesterov", 0.5)])
def test_the_fixed_point_is_the_group_lasso(name, ratio):
    strength, target = 0.4, TARGETS[:, :1]
    penalty = couple_features(strength, ratio)
    weights = fit_linear(Proximal(LINEAR[name]()), target, penalty, 3000)[:, 0]
    gradient = data_gradient(weights[:, None], target)[:, 0]
    members = [np.flatnonzero(number == FEATURES) for number in range(4)]
    live = [number for number in range(4) if weights[members[number]].any()]
    assert 0 < len(live) < 4
    for number in range(4):
        w, g = weights[members[number]], gradient[members[number]]
        bound = strength * (1 - ratio) * np.sqrt(w.size)
        if number not in live:
            # 0 ∈ g + λ(1−r)√n·{‖v‖ <= 1} + λr·[−1, 1]
            assert np.linalg.norm(soft(g, strength * ratio)) <= bound
            continue
        at_zero = np.abs(g) <= strength * ratio
        pull = bound * w / np.linalg.norm(w) + strength * ratio * np.sign(w)
        np.testing.assert_allclose(g[w != 0], -pull[w != 0], atol=2e-8)  # the fit's end
        assert np.all(at_zero[w == 0])


@pytest.mark.usefixtures("float64")
def test_the_fixed_point_is_scikit_learns_multi_task_lasso():
    """Group l1 over the rows of a kernel, the weights of one input in all tasks."""
    alpha = 0.2
    lasso = MultiTaskLasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=100_000)
    lasso.fit(MATRIX, TARGETS)
    # Keras: |Y − XW|² / (n·tasks) + l1·√tasks·Σ‖w‖. scikit-learn: |Y − XW|² / 2n + alpha·Σ‖w‖.
    strength = 2 * alpha / TASKS / np.sqrt(TASKS)

    def attach_penalty(kernel):
        kernel.regularizer = GroupL1(strength, axis=0)

    weights = fit_linear(Proximal(optimizers.SGD(0.2)), TARGETS, attach_penalty, 3000)
    assert 0 < np.count_nonzero(lasso.coef_.any(axis=0)) < COLUMNS
    np.testing.assert_array_equal(weights == 0.0, lasso.coef_.T == 0.0)
    np.testing.assert_allclose(weights, lasso.coef_.T, atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "make", [LINEAR["sgd"], lambda: optimizers.Adam(optimizers.schedules.CosineDecay(0.02, 3000))]
)
def test_all_zero_above_lambda_max(make):
    target = TARGETS[:, :1]
    gradient = data_gradient(np.zeros((COLUMNS, 1)), target)[:, 0]
    norms = [np.linalg.norm(gradient[n == FEATURES]) for n in range(4)]
    lambda_max = max(norms / np.sqrt([3, 2, 4, 1]))
    if isinstance(make(), optimizers.SGD):
        above = fit_linear(Proximal(make()), target, couple_features(1.01 * lambda_max), 3000)
        below = fit_linear(Proximal(make()), target, couple_features(0.95 * lambda_max), 3000)
        assert len({FEATURES[i] for i in np.flatnonzero(below)}) == 1
    else:  # its group steps stand elsewhere, but not that far
        above = fit_linear(Proximal(make()), target, couple_features(2 * lambda_max), 3000)
    assert not above.any()


# --- Compiled training -------------------------------------------------------------------

ROWS_IN = np.random.default_rng(3).normal(size=(16, 8)).astype("float32")
CLASSES = (ROWS_IN[:, 0] - ROWS_IN[:, 3] > 0).astype("int32")


def make_small():
    """Two dense kernels that an addition binds together, with a batch-norm behind."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((8,))
    x = layers.Dense(6, activation="tanh", name="a")(inputs)
    x = layers.Add(name="add")([x, layers.Dense(6, use_bias=False, name="b")(x)])
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="small")


def compile_model(model, optimizer, **settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, **settings)
    return model


def train(optimizer, batch_size=16, epochs=4, strength=0.25, detached=False, **settings):
    model = make_small()
    attach_groups(model, strength, RATIO)
    if detached:
        detach(model)
    compile_model(model, optimizer, **settings)
    model.fit(ROWS_IN, CLASSES, batch_size, epochs, verbose=0, shuffle=False)
    return model


def assert_same_weights(model, other, tolerance=1e-5):
    """float32 sums in another order, over a few steps; the same channels are gone."""
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(a == 0.0, b == 0.0)


@pytest.fixture(scope="module")
def trained():
    """The plain run that the settings below must reproduce."""
    return train(Proximal(optimizers.SGD(0.5)))


def test_some_channels_are_gone_in_the_compiled_run(trained):
    dead = [~v.numpy().reshape(-1, 6).any(axis=0) for v in group_of(trained).variables]
    assert 0 < dead[0].sum() < 6
    for one in dead:
        np.testing.assert_array_equal(one & dead[0], dead[0])


def group_of(model):
    (group,) = model.get_layer("a").kernel.regularizer.groups
    return group


def test_whole_channels_vanish_together_and_exactly():
    """Convolutions that an addition binds together, and the depthwise kernel behind."""
    model = make_model()
    attach_groups(model, 0.2, RATIO)
    detach(model)
    compile_model(model, Proximal(optimizers.SGD(0.1)))
    model.fit(INPUTS, LABELS, 4, 3, verbose=0)
    zeros = {}
    for variable in group_of(model).variables:
        assert not np.signbit(variable.numpy()[variable.numpy() == 0.0]).any()
        axis = 2 if variable.path == "depthwise/kernel" else -1
        slices = np.moveaxis(variable.numpy() == 0.0, axis, 0)
        zeros[variable.path] = slices.reshape(6, -1).all(axis=1)
    assert set(zeros) == set(COUPLED)
    gone = zeros["a/kernel"]
    assert 0 < gone.sum() < 6
    for path, zero in zeros.items():
        if path.endswith("kernel"):
            np.testing.assert_array_equal(zero, gone)
        assert zero[gone].all()  # biases, scales and shifts too


@pytest.mark.parametrize(
    "settings",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        {"detached": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_compiled_in_other_ways(settings, trained):
    # Penalty gradients added and taken out again: ulps.
    assert_same_weights(train(Proximal(optimizers.SGD(0.5)), **settings), trained)


def test_loss_scaling_around_and_inside(trained):
    around = optimizers.LossScaleOptimizer(Proximal(optimizers.SGD(0.5)))
    assert_same_weights(train(around), trained)
    assert_same_weights(train(Proximal(optimizers.SGD(0.5, loss_scale_factor=1024.0))), trained)


def test_one_cpu_mirrored_strategy(trained):
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = train(Proximal(optimizers.SGD(0.5)))
    assert_same_weights(model, trained)


def test_the_loss_is_the_data_loss_and_each_group_once():
    model = make_small()
    attach_groups(model, 0.5, RATIO)
    compile_model(model, Proximal(optimizers.SGD(0.5)))
    data_loss = float(model.loss(CLASSES, model(ROWS_IN, training=True)))
    last = model.get_layer("out").kernel
    expected = data_loss + float(group_of(model).value()) + float(last.regularizer(last))
    logs = model.train_on_batch(ROWS_IN, CLASSES, return_dict=True)
    assert logs["loss"] == pytest.approx(expected, rel=1e-6)  # float32


@pytest.mark.parametrize("make", [lambda **s: optimizers.SGD(0.5, **s), optimizers.Adam])
def test_gradient_accumulation_shrinks_once_an_update(make):
    """A batch given twice is one update with it; batch-norm sees each by itself."""

    def run(optimizer, repeats):
        model = make_small()
        attach_groups(model, 0.25, RATIO)
        compile_model(model, Proximal(optimizer))
        for _ in range(3):
            before = [v.numpy() for v in model.trainable_variables]
            for repeat in range(repeats):
                for variable, value in zip(model.trainable_variables, before, strict=True):
                    np.testing.assert_array_equal(variable.numpy(), value, err_msg=str(repeat))
                model.train_on_batch(ROWS_IN, CLASSES)
        return [v.numpy() for v in model.trainable_variables]

    accumulated = run(make(gradient_accumulation_steps=2), 2)
    together = run(make(), 1)
    for one, other in zip(accumulated, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)  # float32 sums
        np.testing.assert_array_equal(one == 0.0, other == 0.0)


@pytest.mark.parametrize("make", [lambda: optimizers.SGD(0.25), lambda: optimizers.Adam(0.02)])
def test_fused_shrinking_is_the_shrinking(make, monkeypatch):
    fused_keys = []

    def run(fuse_from_weights):
        monkeypatch.setattr("cnn_l1.sparsity.hold_zeros.FUSE_FROM_WEIGHTS", fuse_from_weights)
        proximal = Proximal(make())
        model = train(proximal, batch_size=8, detached=True)
        fused_keys.append([key for key in proximal._fused if key.startswith("group_")])
        return model

    apart, together = run(10**9), run(30)  # more than any variable but the kernels
    assert fused_keys == [[], ["group_0"]]
    assert_same_weights(apart, together)
    assert 0 < (~group_of(apart).variables[0].numpy().any(axis=0)).sum() < 6


def test_detach_keeps_the_groups_shared():
    model = make_model()
    attach_groups(model, STRENGTH, RATIO)
    before = {v.path: v.regularizer for v in model.trainable_variables}
    value = float(sum(model.losses))
    detach(model)
    with tf.GradientTape() as tape:
        detached = sum(model.losses)
    assert float(detached) == value
    kernels = [v.value for v in model.trainable_variables]
    assert tape.gradient(detached, kernels) == [None] * len(kernels)
    for variable in model.trainable_variables:
        if before[variable.path] is not None:
            assert variable.regularizer.groups == before[variable.path].groups
            assert before[variable.path].in_gradient


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = train(Proximal(optimizers.SGD(0.5)))
    finally:
        keras.config.set_dtype_policy("float32")
    kernel = model.get_layer("a").kernel.numpy()
    assert kernel.dtype == "float32"
    assert 0 < (~kernel.any(axis=0)).sum() < 6
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_saved_models_are_plain_and_training_goes_on(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert not any(v.regularizer for v in loaded.trainable_variables)
    assert not any("cnn_l1" in str(layer.get_config()) for layer in loaded.layers)
    attach_groups(loaded, 0.25, RATIO)
    compile_model(loaded, Proximal(optimizers.SGD(0.5)))
    loaded.fit(ROWS_IN, CLASSES, 16, verbose=0, shuffle=False)
    assert_same_weights(train(Proximal(optimizers.SGD(0.5)), epochs=5), loaded)


# --- What is refused -------------------------------------------------------------------------


def test_a_group_without_one_of_its_variables_is_refused():
    model = make_model()
    attach_groups(model, STRENGTH)
    model.get_layer("b_norm").gamma.regularizer = L1(0.1)
    with pytest.raises(ValueError, match="expects to train all variables of a channel group") as e:
        Proximal(optimizers.SGD()).build(model.trainable_variables)
    assert "Received: 'a+a_norm+b+b_norm+depthwise' without b_norm/gamma" in str(e.value)
    attach_groups(model, STRENGTH)
    model.get_layer("b").trainable = False
    with pytest.raises(ValueError, match="without b/kernel"):
        Proximal(optimizers.SGD()).build(model.trainable_variables)


def test_a_part_of_a_group_in_one_call_is_refused():
    group = share_out(CoupledGroupL1(make_space(make_values()), STRENGTH))
    other = keras.Variable(np.ones(2), dtype="float64")
    optimizer = Proximal(optimizers.SGD(0.5), penalty_in_loss=False)
    optimizer.build([*group.variables, other])
    with pytest.raises(ValueError, match="gradients of all variables of a channel group") as error:
        optimizer.apply([tf.zeros(SHAPES[0], "float64")], [group.variables[0]])
    assert "Received: 'layer_0+layer_1+layer_2+layer_3+layer_4' without v1, v2" in str(error.value)
    # None of them is fine: the group rests.
    before = [v.numpy() for v in group.variables]
    optimizer.apply([tf.ones(2, "float64")], [other])
    np.testing.assert_array_equal(other.numpy(), 0.5)
    for variable, value in zip(group.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_replicas_are_refused(monkeypatch):
    model = make_small()
    attach_groups(model, STRENGTH)
    compile_model(model, Proximal(optimizers.SGD()))
    monkeypatch.setattr("cnn_l1.sparsity.optimizers.replica_count", lambda: 2)
    with pytest.raises(ValueError, match="expects one replica for channel groups") as error:
        model.train_on_batch(ROWS_IN, CLASSES)
    assert "(`attach_groups`). Received: 2 replicas" in str(error.value)


def test_hold_zeros_alone_takes_groups_as_plain_regularizers():
    model = make_small()
    attach_groups(model, 0.1)
    compile_model(model, HoldZeros(optimizers.SGD(0.1)))
    kernel = model.get_layer("b").kernel
    kernel.assign(kernel.numpy() * (np.arange(6) != 2))
    model.fit(ROWS_IN, CLASSES, 8, verbose=0)
    np.testing.assert_array_equal(kernel.numpy().any(axis=0), np.arange(6) != 2)
