"""Proximal and HoldZeros: single steps, fixed points, compiled training, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import Lasso

from cnn_l1.sparsity.counting import count
from cnn_l1.sparsity.optimizers import HoldZeros, Proximal
from cnn_l1.sparsity.penalties import L1, L1L2, attach, detach
from cnn_l1.sparsity.step_sizes import METRICS, metric_of

optimizers = keras.optimizers

# --- One step by hand ---------------------------------------------------------
# Every hyperparameter is dyadic, so that float32 (Keras's learning rate) and
# float64 (the variable) hold the same number and NumPy can be met to 1e-12.

LEARNING_RATE, MOMENTUM, BETA_1, BETA_2, EPSILON = 0.125, 0.75, 0.875, 0.96875, 2.0**-8
STRENGTH = 2.0**-4
START = np.array([1.5, -0.75, 0.25, -0.03125, 0.0, 2.0])


def soft(x, threshold):
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)


# Each takes (state, gradient, number of the step from 1) and returns what is
# subtracted from the weight and the step of the proximal operator.


def sgd(state, g, t):
    return LEARNING_RATE * g, LEARNING_RATE


def sgd_momentum(state, g, t):
    state["m"] = MOMENTUM * state.get("m", 0.0) - LEARNING_RATE * g
    return -state["m"], LEARNING_RATE / (1 - MOMENTUM)


def sgd_nesterov(state, g, t):
    _, step = sgd_momentum(state, g, t)
    return LEARNING_RATE * g - MOMENTUM * state["m"], step


def moments(state, g):
    state["m"] = BETA_1 * state.get("m", 0.0) + (1 - BETA_1) * g
    state["v"] = BETA_2 * state.get("v", 0.0) + (1 - BETA_2) * g**2
    return state["m"], state["v"]


def adam(state, g, t, amsgrad=False):
    m, v = moments(state, g)
    if amsgrad:
        v = state["max"] = np.maximum(v, state.get("max", 0.0))
    # Keras's epsilon stands beside √v, before the bias correction.
    step = LEARNING_RATE * np.sqrt(1 - BETA_2**t) / (np.sqrt(v) + EPSILON)
    return step * m / (1 - BETA_1**t), step


def adam_amsgrad(state, g, t):
    return adam(state, g, t, amsgrad=True)


def adam_decoupled(state, g, t):
    return adam(state, g, t)[0], LEARNING_RATE


def nadam(state, g, t):
    m, v = moments(state, g)
    now, following = (BETA_1 * (1 - 0.5 * 0.96**k) for k in (t, t + 1))
    state["product"] = state.get("product", 1.0) * now
    m_hat = following * m / (1 - state["product"] * following)
    m_hat = m_hat + (1 - now) * g / (1 - state["product"])
    step = LEARNING_RATE / (np.sqrt(v / (1 - BETA_2**t)) + EPSILON)
    return step * m_hat, step


def adamax(state, g, t):
    m, _ = moments(state, g)
    state["u"] = np.maximum(BETA_2 * state.get("u", 0.0), np.abs(g))
    step = LEARNING_RATE / (state["u"] + EPSILON)
    return step * m / (1 - BETA_1**t), step


def rmsprop(state, g, t, momentum=0.0, centered=False):
    state["v"] = BETA_2 * state.get("v", 0.0) + (1 - BETA_2) * g**2
    state["mean"] = BETA_2 * state.get("mean", 0.0) + (1 - BETA_2) * g
    variance = state["v"] - state["mean"] ** 2 if centered else state["v"]
    step = LEARNING_RATE / np.sqrt(variance + EPSILON)
    state["m"] = momentum * state.get("m", 0.0) + step * g
    return state["m"], step / (1 - momentum)


def rmsprop_all(state, g, t):
    return rmsprop(state, g, t, momentum=MOMENTUM, centered=True)


def adagrad(state, g, t):
    state["sum"] = state.get("sum", 0.125) + g**2
    step = LEARNING_RATE / np.sqrt(state["sum"] + EPSILON)
    return step * g, step


BETAS = {"beta_1": BETA_1, "beta_2": BETA_2, "epsilon": EPSILON}
RMS = {"rho": BETA_2, "epsilon": EPSILON}
CASES = {
    "sgd": (sgd, optimizers.SGD, {}, "scaled"),
    "sgd_momentum": (sgd_momentum, optimizers.SGD, {"momentum": MOMENTUM}, "scaled"),
    "sgd_momentum_decoupled": (sgd_momentum, optimizers.SGD, {"momentum": MOMENTUM}, "decoupled"),
    "sgd_nesterov": (
        sgd_nesterov,
        optimizers.SGD,
        {"momentum": MOMENTUM, "nesterov": True},
        "scaled",
    ),
    "adam": (adam, optimizers.Adam, BETAS, "scaled"),
    "adam_auto": (adam, optimizers.Adam, BETAS, "auto"),
    "adam_amsgrad": (adam_amsgrad, optimizers.Adam, {**BETAS, "amsgrad": True}, "scaled"),
    "adam_decoupled": (adam_decoupled, optimizers.Adam, BETAS, "decoupled"),
    "nadam": (nadam, optimizers.Nadam, BETAS, "scaled"),
    "adamax": (adamax, optimizers.Adamax, BETAS, "scaled"),
    "rmsprop": (rmsprop, optimizers.RMSprop, RMS, "scaled"),
    "rmsprop_all": (
        rmsprop_all,
        optimizers.RMSprop,
        {**RMS, "momentum": MOMENTUM, "centered": True},
        "scaled",
    ),
    "adagrad": (
        adagrad,
        optimizers.Adagrad,
        {"initial_accumulator_value": 0.125, "epsilon": EPSILON},
        "scaled",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_by_hand(case):
    """Four updates of one float64 variable, the penalty's gradient handed over as `fit` does."""
    reference, make, settings, threshold = CASES[case]
    optimizer = Proximal(make(learning_rate=LEARNING_RATE, **settings), threshold=threshold)
    variable = keras.Variable(START, dtype="float64")
    variable.regularizer = penalty = L1(STRENGTH)
    rng = np.random.default_rng(0)
    # Nadam writes 0.96 through float32 (off by 1e-8, relative); all else is float64.
    tolerance = 1e-6 if case == "nadam" else 1e-12
    weight, state = START, {}
    # Small second gradients, so that AMSGrad's maximum is not the last value.
    for t, size in enumerate([1.0, 2.0**-4, 2.0**-4, 0.5], start=1):
        gradient = size * rng.normal(size=START.shape) * [1, 1, 1, 2.0**-6, 0, 1]
        handed_over = gradient + np.asarray(penalty.gradient(weight))
        delta, step = reference(state, gradient, t)
        weight = soft(weight - delta, step * STRENGTH)
        optimizer.apply([tf.constant(handed_over)], [variable])
        np.testing.assert_allclose(variable.numpy(), weight, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(variable.numpy() == 0.0, weight == 0.0)
    assert 1 <= np.count_nonzero(weight == 0.0) <= 3  # both branches were met
    assert int(optimizer.iterations) == 4


def test_elastic_net_and_strength_scale_by_hand():
    optimizer = Proximal(optimizers.SGD(LEARNING_RATE))
    variable = keras.Variable(START, dtype="float64")
    variable.regularizer = penalty = L1L2(0.5, 0.25)
    optimizer.strength_scale.assign(0.5)
    gradient = np.linspace(-1.0, 1.0, START.size)
    optimizer.apply([tf.constant(gradient + np.asarray(penalty.gradient(START)))], [variable])
    step = LEARNING_RATE * 0.5
    expected = soft(START - LEARNING_RATE * gradient, step * 0.5) / (1 + 2 * step * 0.25)
    # float64 rounding; the penalty's gradient is added and taken out again.
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_each_variable_has_its_own_strength_by_hand():
    optimizer = Proximal(optimizers.SGD(LEARNING_RATE), variable_scales=True)
    first, second = (keras.Variable(START, dtype="float64") for _ in range(2))
    for variable in (first, second):
        variable.regularizer = L1(0.5)
    with pytest.raises(ValueError, match=r"built Proximal.*variable_scales=True, built=False"):
        optimizer.set_variable_scale(second, 2.0)
    optimizer.build([first, second])
    optimizer.strength_scale.assign(0.5)
    optimizer.set_variable_scale(second, 3.0)
    assert [optimizer.variable_scale(v) for v in (first, second)] == [1.0, 3.0]
    optimizer.apply([tf.constant(0.5 * np.sign(START))] * 2)  # the penalty's alone
    for variable, scale in ((first, 0.5), (second, 1.5)):
        expected = soft(START, LEARNING_RATE * scale * 0.5)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12, atol=1e-14)  # float64
    plain = Proximal(optimizers.SGD(LEARNING_RATE))
    plain.build([first])
    assert plain.variable_scales is None
    with pytest.raises(ValueError, match=r"variable_scales=False, built=True"):
        plain.set_variable_scale(first, 2.0)


def test_weight_decay_comes_before_the_shrinking():
    optimizer = Proximal(optimizers.AdamW(LEARNING_RATE, weight_decay=0.25, **BETAS))
    variable = keras.Variable(START, dtype="float64")
    variable.regularizer = penalty = L1(STRENGTH)
    gradient = np.linspace(-1.0, 1.0, START.size)
    optimizer.apply([tf.constant(gradient + np.asarray(penalty.gradient(START)))], [variable])
    delta, step = adam({}, gradient, 1)
    expected = soft(START * (1 - LEARNING_RATE * 0.25) - delta, step * STRENGTH)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12, atol=1e-14)  # float64


def test_clipnorm_clips_the_data_gradient_only():
    optimizer = Proximal(optimizers.SGD(LEARNING_RATE, clipnorm=1.0))
    variable = keras.Variable(START, dtype="float64")
    variable.regularizer = penalty = L1(4.0)
    gradient = np.array([3.0, 4.0, 0.0, 0.0, 0.0, 0.0])  # norm 5
    optimizer.apply([tf.constant(gradient + np.asarray(penalty.gradient(START)))], [variable])
    expected = soft(START - LEARNING_RATE * gradient / 5.0, LEARNING_RATE * 4.0)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12, atol=1e-14)  # float64


def test_variables_without_our_penalty_are_the_inner_optimizers_own():
    ours, plain = (keras.Variable(START, dtype="float64") for _ in range(2))
    ours.regularizer = keras.regularizers.L1(STRENGTH)  # Keras's acts through its gradient
    gradient = tf.constant(np.linspace(-1.0, 1.0, START.size))
    Proximal(optimizers.Adam(LEARNING_RATE)).apply([gradient], [ours])
    optimizers.Adam(LEARNING_RATE).apply([gradient], [plain])
    np.testing.assert_array_equal(ours.numpy(), plain.numpy())


# --- Fixed points: a linear model against scikit-learn's Lasso -------------------

RNG = np.random.default_rng(7)
ROWS, COLUMNS = 60, 10
MATRIX = RNG.normal(size=(ROWS, COLUMNS)) * np.linspace(0.5, 2.0, COLUMNS)
TARGET = MATRIX @ np.array([2.0, 0, 0, -1.5, 0, 0, 0.5, 0, 0, 1.0]) + RNG.normal(size=ROWS)
# Keras: (1/n)·|y − Xw|² + l1·|w|₁. scikit-learn: (1/2n)·|y − Xw|² + alpha·|w|₁.
ALPHA = 0.15
LASSO_STRENGTH = 2 * ALPHA


def fit_linear(optimizer, strength, steps):
    """Full-batch training, many steps in one call; returns the model."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_regularizer=L1(strength), dtype="float64")
    model = keras.Sequential([keras.layers.Input((COLUMNS,), dtype="float64"), layer])
    layer.kernel.assign(np.random.default_rng(1).normal(size=(COLUMNS, 1)))
    model.compile(optimizer, loss="mse", steps_per_execution=500)
    data = tf.data.Dataset.from_tensors((MATRIX, TARGET[:, None])).repeat()
    model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False)
    return model


def coefficients(model):
    return model.get_weights()[0][:, 0]


def data_gradient(weights):
    return 2.0 / ROWS * MATRIX.T @ (MATRIX @ weights - TARGET)


def falling(rate):
    # Adam does not settle at a fixed rate; a falling one makes it.
    return optimizers.schedules.CosineDecay(rate, 4000)


# A dyadic momentum: Keras rounds it to float32, which moves the fixed point by 2e-7 at 0.9.
LINEAR = {
    "sgd": lambda: optimizers.SGD(0.05),
    "momentum": lambda: optimizers.SGD(0.02, momentum=0.875),
    "nesterov": lambda: optimizers.SGD(0.02, momentum=0.875, nesterov=True),
    "adam": lambda: optimizers.Adam(falling(0.02)),
    "rmsprop": lambda: optimizers.RMSprop(falling(0.02)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", LINEAR)
def test_the_fixed_point_is_the_lasso(name):
    lasso = Lasso(alpha=ALPHA, fit_intercept=False, tol=1e-14, max_iter=100_000)
    lasso.fit(MATRIX, TARGET)
    # The adaptive ones end at a learning rate near 0, still a little under way.
    tolerance = 1e-8 if name in ("sgd", "momentum", "nesterov") else 1e-4
    weights = coefficients(fit_linear(Proximal(LINEAR[name]()), LASSO_STRENGTH, 4000))
    support = lasso.coef_ != 0.0
    assert 0 < support.sum() < COLUMNS
    np.testing.assert_array_equal(weights != 0.0, support)
    np.testing.assert_allclose(weights, lasso.coef_, atol=tolerance)
    # Optimality, without scikit-learn: 0 ∈ ∇data + λ·∂|w|.
    gradient = data_gradient(weights)
    assert np.all(np.abs(gradient[~support]) <= LASSO_STRENGTH)
    np.testing.assert_allclose(
        gradient[support], -LASSO_STRENGTH * np.sign(weights[support]), atol=20 * tolerance
    )  # the Hessian's largest eigenvalue is below 20


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_all_zero_above_lambda_max(name):
    lambda_max = np.abs(data_gradient(np.zeros(COLUMNS))).max()
    above = fit_linear(Proximal(LINEAR[name]()), 1.01 * lambda_max, 4000)
    assert not coefficients(above).any()
    below = fit_linear(Proximal(LINEAR[name]()), 0.95 * lambda_max, 4000)
    assert np.count_nonzero(coefficients(below)) == 1


@pytest.mark.usefixtures("float64")
def test_decoupled_adam_stands_elsewhere():
    """Its fixed point is nearly least squares: |g|/√v̂ is 1 there, far above the strength."""
    optimizer = Proximal(LINEAR["adam"](), threshold="decoupled")
    weights = coefficients(fit_linear(optimizer, LASSO_STRENGTH, 4000))
    scaled = coefficients(fit_linear(Proximal(LINEAR["adam"]()), LASSO_STRENGTH, 4000))
    least_squares = np.linalg.lstsq(MATRIX, TARGET)[0]
    # Loose: the schedule ends before it is quite there. The two are 1.0 apart.
    assert np.abs(weights - least_squares).max() < 0.1
    assert np.abs(weights - scaled).max() > 0.5


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_subgradient_leaves_no_exact_zeros_where_proximal_does(name):
    plain = fit_linear(LINEAR[name](), LASSO_STRENGTH, 2000)
    proximal = fit_linear(Proximal(LINEAR[name]()), LASSO_STRENGTH, 2000)
    assert count(plain).zeros == 0
    assert count(proximal).zeros > 0


# --- Compiled training -----------------------------------------------------------

INPUTS = np.random.default_rng(3).normal(size=(16, 8)).astype("float32")
LABELS = (INPUTS[:, 0] - INPUTS[:, 3] > 0).astype("int32")


def make_model(strength=0.02, regularizer=L1):
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.layers.Input((8,)),
            keras.layers.Dense(6, activation="tanh", kernel_regularizer=regularizer(strength)),
            keras.layers.Dense(2, kernel_regularizer=regularizer(strength)),
        ]
    )


def compile_model(model, optimizer, **settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, **settings)
    return model


def train(optimizer, batch_size=16, epochs=6, strength=0.02, **settings):
    model = compile_model(make_model(strength), optimizer, **settings)
    model.fit(INPUTS, LABELS, batch_size, epochs, verbose=0, shuffle=False)
    return model


def assert_same_weights(model, other, tolerance=2e-6):
    """float32 sums in another order, over a few steps."""
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def trained():
    """The plain run that the settings below must reproduce."""
    return train(Proximal(optimizers.SGD(0.5)))


def test_the_penalty_is_in_the_reported_loss_and_not_in_the_gradient():
    model = compile_model(make_model(strength=0.5), Proximal(optimizers.SGD(0.5)))
    start = model.get_weights()
    with tf.GradientTape() as tape:
        data_loss = model.loss(LABELS, model(INPUTS))
    gradients = tape.gradient(data_loss, [v.value for v in model.trainable_variables])
    penalty = 0.5 * sum(np.abs(w).sum() for w in start if w.ndim == 2)
    logs = model.train_on_batch(INPUTS, LABELS, return_dict=True)
    assert logs["loss"] == pytest.approx(float(data_loss) + penalty, rel=1e-6)  # float32
    for before, gradient, after in zip(start, gradients, model.get_weights(), strict=True):
        expected = before - 0.5 * gradient.numpy()
        if before.ndim == 2:
            expected = soft(expected, 0.5 * 0.5)
        np.testing.assert_allclose(after, expected, atol=1e-6)  # float32


def test_some_zeros_in_the_compiled_run(trained):
    assert 0 < count(trained).zeros < count(trained).weights


def test_jit_compile(trained):
    assert_same_weights(train(Proximal(optimizers.SGD(0.5)), jit_compile=True), trained)


def test_run_eagerly(trained):
    assert_same_weights(train(Proximal(optimizers.SGD(0.5)), run_eagerly=True), trained)


def test_steps_per_execution():
    runs = [
        train(Proximal(optimizers.Adam(0.05)), batch_size=4, epochs=2, steps_per_execution=steps)
        for steps in (1, 4)
    ]
    assert_same_weights(*runs)


@pytest.mark.parametrize("make", [lambda **s: optimizers.SGD(0.5, **s), optimizers.Adam])
def test_gradient_accumulation_shrinks_once_an_update(make):
    accumulated = train(Proximal(make(gradient_accumulation_steps=2)), batch_size=8, strength=0.1)
    together = train(Proximal(make()), batch_size=16, strength=0.1)
    assert_same_weights(accumulated, together, 5e-6)


def test_no_shrinking_between_updates():
    model = make_model()
    compile_model(model, Proximal(optimizers.SGD(0.5, gradient_accumulation_steps=3)))
    start = model.get_weights()
    model.train_on_batch(INPUTS, LABELS)
    model.train_on_batch(INPUTS, LABELS)
    for before, now in zip(start, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, now)
    model.train_on_batch(INPUTS, LABELS)
    assert np.abs(model.get_weights()[0] - start[0]).max() > 0


def test_loss_scaling_around_and_inside(trained):
    around = optimizers.LossScaleOptimizer(Proximal(optimizers.SGD(0.5)))
    assert_same_weights(train(around), trained)
    assert_same_weights(train(Proximal(optimizers.SGD(0.5, loss_scale_factor=1024.0))), trained)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = train(Proximal(optimizers.Adam(0.05)), strength=0.1, epochs=10)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.trainable_variables[0].dtype == "float32"
    assert 0 < count(model).zeros < count(model).weights
    assert all(np.isfinite(w).all() for w in model.get_weights())
    if policy == "mixed_float16":  # `compile` puts its own around ours
        assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)


def test_mixed_bfloat16_takes_the_whole_penalty_gradient_out():
    """A weight without data gradient moves by its shrinking alone, in bfloat16 too."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model(strength=0.01)
    finally:
        keras.config.set_dtype_policy("float32")
    compile_model(model, Proximal(optimizers.SGD(0.5)))
    start = model.get_weights()[0]
    model.train_on_batch(np.zeros_like(INPUTS), LABELS)
    # One float32 subtraction: bfloat16 would be off by 1e-3.
    np.testing.assert_allclose(model.get_weights()[0], soft(start, 0.005), atol=1e-7)


def test_learning_rate_schedule_moves_the_shrinking():
    rates = [0.5, 0.25, 0.125]
    schedule = optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    optimizer = Proximal(optimizers.SGD(schedule))
    variable = keras.Variable([2.0, -3.0], dtype="float32")
    variable.regularizer = L1(1.0)
    step = tf.function(lambda: optimizer.apply([tf.sign(variable.value)], [variable]))
    optimizer.build([variable])
    expected = np.array([2.0, -3.0])
    for rate in rates:
        step()
        expected = soft(expected, rate)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)  # pow in float32


def test_learning_rate_is_the_inner_optimizers():
    optimizer = Proximal(optimizers.SGD(0.5))
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    assert float(optimizer.learning_rate) == 0.25


def test_custom_loop_without_the_penalty_in_the_loss(trained):
    model = make_model()
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = Proximal(optimizers.SGD(0.5), penalty_in_loss=False)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = loss_fn(LABELS, model(INPUTS, training=True))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)

    for _ in range(6):
        step()
    assert_same_weights(model, trained)


def test_one_cpu_mirrored_strategy(trained):
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        model = train(Proximal(optimizers.SGD(0.5)))
    assert_same_weights(model, trained)


def test_embeddings_sparse_gradient():
    """Rows of an embedding that no input names shrink like any other weight."""
    layer = keras.layers.Embedding(5, 2, name="words")
    model = keras.Sequential([keras.layers.Input((3,), dtype="int32"), layer])
    layer.embeddings.assign(np.full((5, 2), 0.5))
    attach(model, L1(0.25))
    model.compile(Proximal(optimizers.SGD(0.5)), loss="mse")
    model.train_on_batch(np.array([[0, 1, 1]]), np.full((1, 3, 2), 0.5))  # data gradient 0
    np.testing.assert_allclose(layer.embeddings.numpy(), np.full((5, 2), 0.375), rtol=1e-6)


# --- Saving ----------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [Proximal, HoldZeros])
def test_save_and_load_continues_to_the_bit(wrapper, tmp_path):
    def fresh():
        schedule = optimizers.schedules.CosineDecay(0.05, 16)
        return compile_model(make_model(0.05), wrapper(optimizers.Adam(schedule)))

    def fit(model, first, last):
        model.fit(INPUTS, LABELS, 4, initial_epoch=first, epochs=last, shuffle=False, verbose=0)

    straight = fresh()
    fit(straight, 0, 4)
    halved = fresh()
    fit(halved, 0, 2)
    halved.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert type(loaded.optimizer) is wrapper
    assert int(loaded.optimizer.iterations) == 8
    fit(loaded, 2, 4)
    for a, b in zip(straight.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(straight.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_settings_and_controls_are_saved(tmp_path):
    optimizer = Proximal(
        optimizers.RMSprop(0.01),
        threshold="decoupled",
        include="all",
        penalty_in_loss=False,
        variable_scales=True,
        name="mine",
    )
    model = compile_model(make_model(), optimizer)
    model.train_on_batch(INPUTS, LABELS)
    optimizer.set_variable_scale(model.trainable_variables[2], 4.0)
    optimizer.strength_scale.assign(0.25)
    optimizer.hold_zeros.assign(1.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert loaded.get_config() == optimizer.get_config()
    assert (loaded.threshold, loaded.include, loaded.penalty_in_loss, loaded.name) == (
        "decoupled",
        "all",
        False,
        "mine",
    )
    assert float(loaded.strength_scale.numpy()) == 0.25
    np.testing.assert_array_equal(loaded.variable_scales.numpy()[:4], [1.0, 1.0, 4.0, 1.0])
    assert float(loaded.hold_zeros.numpy()) == 1.0


# --- HoldZeros -------------------------------------------------------------------

INNER = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.02),
    "adamw": lambda: optimizers.AdamW(0.02, weight_decay=0.1),
    "lion": lambda: optimizers.Lion(0.01),  # unknown to Proximal, no matter here
}


def zero_half(model):
    """Zero every other weight of each kernel; returns the masks of all zeros."""
    for variable in model.trainable_variables:
        if len(variable.shape) == 2:
            value = variable.numpy()
            value.flat[::2] = 0.0
            variable.assign(value)
    return [w == 0.0 for w in model.get_weights()]


@pytest.mark.parametrize("name", INNER)
def test_held_zeros_stay_through_momentum_and_toggle_under_one_compiled_step(name):
    optimizer = HoldZeros(INNER[name](), hold_zeros=False)
    model = compile_model(make_model(strength=0.0), optimizer)

    def fit():
        model.fit(INPUTS, LABELS, 4, epochs=2, verbose=0, shuffle=False)

    fit()  # builds up momentum
    compiled = model.train_function
    masks = zero_half(model)
    optimizer.hold_zeros.assign(1.0)
    before = model.get_weights()
    fit()
    for mask, old, new in zip(masks, before, model.get_weights(), strict=True):
        if mask.ndim == 2:
            np.testing.assert_array_equal(new == 0.0, mask)  # to the bit
        if not mask.all():
            assert np.mean(new[~mask] != old[~mask]) > 0.5  # the others go on
    optimizer.hold_zeros.assign(0.0)
    fit()
    # Lion's steps are all of one size, so that one may lead back to zero by chance.
    assert count(model).zeros <= (1 if name == "lion" else 0)
    assert model.train_function is compiled


def test_include_all_holds_biases_too():
    def biases(include):
        model = train(HoldZeros(optimizers.Adam(0.02), include=include), epochs=2)
        return [w for w in model.get_weights() if w.ndim == 1]

    assert not any(b.any() for b in biases("all"))  # they start at zero
    assert all(b.all() for b in biases("kernels"))


def test_a_bias_with_a_penalty_is_held():
    model = compile_model(make_model(), HoldZeros(optimizers.SGD(0.1)))
    attach(model, L1(0.0), kernels_only=False)
    model.train_on_batch(INPUTS, LABELS)
    assert not any(w.any() for w in model.get_weights() if w.ndim == 1)


def test_proximal_that_holds_only_gains_zeros():
    model = compile_model(
        make_model(strength=0.05), Proximal(optimizers.Adam(0.05), hold_zeros=True)
    )
    previous = np.zeros(count(model).weights, bool)
    for _ in range(5):
        model.fit(INPUTS, LABELS, 4, verbose=0, shuffle=False)
        zeros = np.concatenate([w.ravel() == 0.0 for w in model.get_weights() if w.ndim == 2])
        assert np.all(zeros[previous])
        previous = zeros
    assert previous.any()


def test_without_holding_a_zero_may_come_back():
    variable = keras.Variable([0.0], dtype="float32")
    variable.regularizer = L1(0.5)
    optimizer = Proximal(optimizers.SGD(1.0))
    optimizer.apply([tf.constant([-2.0])], [variable])
    assert variable.numpy()[0] == 1.5


# --- What is refused ---------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [HoldZeros, Proximal])
def test_inner_optimizers_that_are_refused(wrapper):
    name = wrapper.__name__
    with pytest.raises(ValueError, match=f"of {name} must be a keras.optimizers.Optimizer.*'sgd'"):
        wrapper("sgd")
    for inner in (
        HoldZeros(optimizers.SGD()),
        Proximal(optimizers.SGD()),
        optimizers.LossScaleOptimizer(optimizers.SGD()),
    ):
        with pytest.raises(ValueError, match="LossScaleOptimizer goes around the wrapper"):
            wrapper(inner)
    built = optimizers.SGD()
    built.build([keras.Variable([1.0])])
    with pytest.raises(ValueError, match=r"must not be built yet.*make a new SGD"):
        wrapper(built)
    with pytest.raises(ValueError, match="use_ema=False"):
        wrapper(optimizers.SGD(use_ema=True))
    with pytest.raises(ValueError, match=r"must be 'kernels' or 'all'.*include='some'"):
        wrapper(optimizers.SGD(), include="some")


def test_threshold_values_that_are_refused():
    with pytest.raises(ValueError, match=r"'auto', 'scaled' or 'decoupled'.*threshold='hard'"):
        Proximal(optimizers.SGD(), threshold="hard")
    with pytest.raises(ValueError, match=r"known metric.*Adam.*inner_optimizer=Lion"):
        Proximal(optimizers.Lion(), threshold="scaled")


def test_auto_falls_back_around_an_unknown_optimizer():
    assert metric_of(optimizers.Lion()) is None
    optimizer = Proximal(optimizers.Lion(LEARNING_RATE))
    variable = keras.Variable(START, dtype="float64")
    variable.regularizer = L1(STRENGTH)
    optimizer.apply([tf.constant(STRENGTH * np.sign(START))], [variable])  # data gradient 0
    np.testing.assert_allclose(variable.numpy(), soft(START, LEARNING_RATE * STRENGTH), rtol=1e-12)


def test_metric_of_subclasses():
    class Mine(optimizers.AdamW):
        pass

    assert metric_of(Mine()) is METRICS[optimizers.Adam]
    # Every other optimizer of Keras is unknown, none is taken for another.
    others = [optimizers.Adadelta, optimizers.Adafactor, optimizers.Ftrl, optimizers.Lion]
    assert [metric_of(make()) for make in others] == [None] * 4


def test_apply_needs_variables_once():
    with pytest.raises(ValueError, match="expects `trainable_variables` on its first call"):
        Proximal(optimizers.SGD()).apply([tf.constant([1.0])])


def test_apply_without_variables_when_built():
    variable = keras.Variable([1.0])
    optimizer = HoldZeros(optimizers.SGD(0.5))
    optimizer.build([variable])
    optimizer.apply([tf.constant([1.0])])
    assert variable.numpy()[0] == 0.5


# --- One pass over memory -------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop", "Lion"])
def test_fused_update_is_the_update(optimizer, clip, monkeypatch):
    """Large kernels are updated by one compiled loop; it must change nothing."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(64, 8)).astype("float32"), rng.normal(size=(64, 4)).astype("float32")
    fused_calls = []

    def train(fuse_from_weights):
        monkeypatch.setattr("cnn_l1.sparsity.hold_zeros.FUSE_FROM_WEIGHTS", fuse_from_weights)
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        attach(model, L1(0.3))
        schedule = optimizers.schedules.CosineDecay(2e-2, 20)
        proximal = Proximal(vars(optimizers)[optimizer](schedule, clipnorm=clip), hold_zeros=True)
        model.compile(proximal, "mse", steps_per_execution=2)
        model.fit(x, y, batch_size=16, epochs=5, shuffle=False, verbose=0)
        fused_calls.append(len(proximal._fused))
        return [np.asarray(w) for w in model.get_weights()]

    apart, together = train(10**9), train(1)
    assert fused_calls == [0, 1]  # the kernel; the bias has no penalty
    assert np.count_nonzero(apart[0] == 0) > 0
    for one, other in zip(apart, together, strict=True):
        # XLA may fuse a product and a sum into one rounding: a few float32 ulps a step.
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
        assert np.array_equal(one == 0, other == 0)


def test_detached_penalties_train_alike_and_stay_in_the_loss():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(64, 8)).astype("float32"), rng.normal(size=(64, 4)).astype("float32")

    def train(detached):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        attach(model, L1(2e-2))
        if detached:
            detach(model)
        model.compile(Proximal(optimizers.Adam(1e-2)), "mse")
        losses = model.fit(x, y, batch_size=16, epochs=5, shuffle=False, verbose=0).history["loss"]
        return losses, model.get_weights()

    usual, detached = train(False), train(True)
    # Adding the penalty's gradient and taking it out again rounds: float32 ulps a step.
    np.testing.assert_allclose(usual[0], detached[0], rtol=1e-5)
    for one, other in zip(usual[1], detached[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
