"""Linear regression: the networks of `linear` against scikit-learn and least squares.

Ours is `mean((y − f)²) + l1_strength · Σ|w| + l2_strength · Σw²`, the mean over n
examples, the intercept free. scikit-learn's three objectives are multiples of that:

    Lasso       (1/2n) ‖y − f‖² + α‖w‖₁                          times 2:  l1_strength = 2α
    Ridge       ‖y − f‖² + α‖w‖²                                 over n:   l2_strength = α/n
    ElasticNet  (1/2n) ‖y − f‖² + αρ‖w‖₁ + ½α(1 − ρ)‖w‖²         times 2:  l1_strength = 2αρ,
                                                                 l2_strength = α(1 − ρ)

scikit-learn is given the inputs that the network makes inside: each feature less the
training split's mean, over its deviation.
"""

import math

import keras
import numpy as np
import pytest
from sklearn import linear_model

from cnn_l1.config import loading as configs
from cnn_l1.config.data_settings import DataConfig
from cnn_l1.data import embedded, sets
from cnn_l1.graph import features
from cnn_l1.models.setup import configured
from cnn_l1.train import stages

# Full batches. With momentum 31/32 and a rate of 0.05 the slowest direction of diabetes,
# of curvature 2 · 0.0096, is at rest to float32 after some
# 1,000 steps: heavy balls slow down by √momentum a step.
STEPS = 1200
SETTINGS = {
    "name": "linear",
    "model": {"name": "linear"},
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.05,
        "momentum": 0.96875,
        "schedule": {"name": "constant"},
    },
    "training": {
        "epochs": 1,
        "batch_size": 1000,
        "steps_per_epoch": STEPS,
        "steps_per_execution": 200,
    },
    "fine_tuning": {"epochs": 1},
}

# The network runs in float32, with 6e-8 of rounding a term. In the gradient's mean over
# some 400 terms of the size of y that leaves some 1e-7 of y's deviation, and the curvature
# along the path of the coefficients (down to 0.02, where they are large) divides it. The
# largest difference seen is 2e-6 of the largest coefficient.
COEFFICIENT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-5


class Problem:
    """A data set, its standardized inputs in float64, and what training makes of it."""

    def __init__(self, name, **settings):
        self.name = name
        self.settings = {f"data.{key}": value for key, value in settings.items()}
        self.dataset = sets.load(DataConfig(name=name, **settings), seed=0)
        inputs = self.dataset.train.inputs.astype("float64")
        self.scales = inputs.std(axis=0)
        self.x = (inputs - inputs.mean(axis=0)) / self.scales
        self.y = self.dataset.train.targets.astype("float64")

    def start(self, **penalty):
        self.config = configs.validate({**SETTINGS, "penalty": penalty})
        self.config = configs.with_settings(self.config, {"data.name": self.name, **self.settings})
        stages.seed_everything(0, "float32")
        self.setup = configured(self.config)
        self.model = stages.start_model(self.setup)

    def fit(self, **penalty):
        """Coefficients and intercept at the end of the stage under the penalty."""
        self.start(**penalty)
        stages.sparsify(self.model, stages.Run(self.setup))
        return self.coefficients()

    def debias(self):
        """Coefficients and intercept after fine-tuning, the zeros held."""
        stages.fine_tune(self.model, stages.Run(self.setup))
        return self.coefficients()

    def coefficients(self):
        layer = self.model.get_layer("dense")
        kernel, bias = map(keras.ops.convert_to_numpy, (layer.kernel, layer.bias))
        assert kernel.dtype == "float32"
        return kernel[:, 0].astype("float64"), float(bias[0])

    def gradient(self, w, b):
        """Of `mean((y − f)²)`, by the coefficients and by the intercept."""
        residuals = self.y - self.x @ w - b
        return -2.0 * self.x.T @ residuals / len(self.y), -2.0 * residuals.mean()

    def check_optimal(self, w, b, l1, l2=0.0):
        """The conditions of Karush, Kuhn and Tucker, which only the minimum meets."""
        by_w, by_b = self.gradient(w, b)
        by_w = by_w + 2.0 * l2 * w
        tolerance = GRADIENT_TOLERANCE * self.y.std()
        assert abs(by_b) < tolerance
        np.testing.assert_allclose(by_w[w != 0], -l1 * np.sign(w[w != 0]), atol=tolerance)
        assert np.all(np.abs(by_w[w == 0]) <= l1 + tolerance)

    def check_equal(self, w, b, reference, l1):
        """Coefficients as scikit-learn's, and zeros where its are."""
        scale = max(1.0, np.abs(reference.coef_).max())
        tolerance = COEFFICIENT_TOLERANCE * scale
        np.testing.assert_allclose(w, reference.coef_, rtol=0, atol=tolerance)
        # At rest the intercept is y's mean, as the inputs have mean 0.
        assert b == pytest.approx(reference.intercept_, rel=1e-5)
        # A coefficient is at the boundary where its gradient is at the threshold.
        slack = l1 - np.abs(self.gradient(reference.coef_, reference.intercept_)[0])
        clear = (np.abs(reference.coef_) > tolerance) | (slack > 1e-3 * l1)
        assert clear.all(), "choose another strength: zeros are in doubt"
        np.testing.assert_array_equal(w == 0, reference.coef_ == 0)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def problems(_cache):
    return {
        "diabetes": Problem("diabetes"),
        # All 400 rows to train on, as the theory below counts them.
        "sparse_regression": Problem("sparse_regression", validation_split="test"),
    }


def test_the_network_standardizes_as_is_said(problems):
    problem = problems["diabetes"]
    problem.start(name="none")
    standardize = keras.Model(problem.model.input, problem.model.get_layer("standardize").output)
    found = standardize(problem.dataset.train.inputs).numpy()
    # float32: an offset of up to 12 deviations beside each value.
    np.testing.assert_allclose(found, problem.x, atol=1e-5)


@pytest.mark.parametrize(("alpha", "zeros"), [(1.0, 4), (10.0, 6)])
def test_lasso(problems, alpha, zeros):
    problem = problems["diabetes"]
    reference = linear_model.Lasso(alpha, tol=1e-12, max_iter=10**6).fit(problem.x, problem.y)
    assert np.count_nonzero(reference.coef_ == 0) == zeros
    w, b = problem.fit(name="l1", l1_strength=2.0 * alpha)
    problem.check_optimal(w, b, l1=2.0 * alpha)
    problem.check_equal(w, b, reference, l1=2.0 * alpha)


def test_ridge(problems):
    problem, alpha = problems["diabetes"], 30.0
    reference = linear_model.Ridge(alpha, solver="cholesky").fit(problem.x, problem.y)
    l2 = alpha / len(problem.y)
    w, b = problem.fit(name="l1l2", l1_strength=0.0, l2_strength=l2)
    assert np.all(w != 0)
    problem.check_optimal(w, b, l1=0.0, l2=l2)
    problem.check_equal(w, b, reference, l1=0.0)


@pytest.mark.parametrize(
    ("name", "alpha", "ratio"), [("diabetes", 2.0, 0.75), ("sparse_regression", 0.5, 0.5)]
)
def test_elastic_net(problems, name, alpha, ratio):
    problem = problems[name]
    reference = linear_model.ElasticNet(alpha, l1_ratio=ratio, tol=1e-12, max_iter=10**6)
    reference.fit(problem.x, problem.y)
    assert 0 < np.count_nonzero(reference.coef_) < len(reference.coef_)
    l1, l2 = 2.0 * alpha * ratio, alpha * (1.0 - ratio)
    w, b = problem.fit(name="l1l2", l1_strength=l1, l2_strength=l2)
    problem.check_optimal(w, b, l1, l2)
    problem.check_equal(w, b, reference, l1)


@pytest.mark.slow
def test_nothing_is_left_above_the_largest_strength(problems):
    """From `max |2/n Xᵀ(y − mean(y))|` on, the Lasso is all zero; just below, it is not."""
    problem = problems["diabetes"]
    largest = np.abs(problem.gradient(np.zeros(10), problem.y.mean())[0]).max()
    with pytest.warns(UserWarning, match="all zero"):
        w, b = problem.fit(name="l1", l1_strength=1.001 * largest)
    assert np.all(w == 0)
    assert b == pytest.approx(problem.y.mean(), rel=1e-5)
    w, _ = problem.fit(name="l1", l1_strength=0.99 * largest)
    assert np.count_nonzero(w) == 1


# Theory: Wainwright, Sharp thresholds for high-dimensional and noisy sparsity recovery
# using l1-constrained quadratic programming (Lasso), 2009.
#
# With n = 400 rows of p = 100 independent normal features, of which k = 10 count, n is far
# above the threshold 2k log(p − k) = 90. At α = c · σ√(2 log(p)/n), which is 0.15 c, the
# smallest true coefficient, 1, is far above α and the estimates' deviation of 1/√n = 0.05:
# every true feature is found, with its sign. A feature that does not count comes in where
# its correlation with the residuals, of deviation s/√n, passes α: s² = σ² + kα². For c = 1
# that is 90 · P(|z| > 3.03/1.11) = 0.6 in the mean, and more than 4 in 1 of 2,000 data sets;
# for c = 2 it is 90 · P(|z| > 6.07/1.39) = 0.001.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "most_false"), [(1.0, 4), pytest.param(2.0, 0, marks=pytest.mark.slow)]
)
def test_support_recovery_and_debiasing(problems, factor, most_false):
    problem = problems["sparse_regression"]
    true = embedded.true_coefficients() * problem.scales
    count, size = problem.x.shape
    assert (count, size) == (400, 100)
    alpha = factor * embedded.SPARSE_NOISE * math.sqrt(2.0 * math.log(size) / count)
    reference = linear_model.Lasso(alpha, tol=1e-12, max_iter=10**6).fit(problem.x, problem.y)
    w, b = problem.fit(name="l1", l1_strength=2.0 * alpha)
    problem.check_optimal(w, b, l1=2.0 * alpha)
    problem.check_equal(w, b, reference, l1=2.0 * alpha)

    found = features.read_features(problem.model)
    recovery = features.support_recovery(found, problem.dataset.about.true_coefficients)
    assert (recovery["true"], recovery["found"]) == (10, 10)
    assert recovery["false"] == np.count_nonzero(w[true == 0]) <= most_false
    np.testing.assert_array_equal(np.sign(w[true != 0]), np.sign(true[true != 0]))
    # Each is too small by some α.
    shrunk = np.abs(true[true != 0]) - np.abs(w[true != 0])
    assert shrunk.mean() == pytest.approx(alpha, rel=0.5)

    # Debiased: least squares on the features that are left, the others at zero still.
    debiased, intercept = problem.debias()
    np.testing.assert_array_equal(debiased == 0, w == 0)
    support = w != 0
    columns = np.column_stack([problem.x[:, support], np.ones(count)])
    expected = np.linalg.lstsq(columns, problem.y, rcond=None)[0]
    np.testing.assert_allclose(debiased[support], expected[:-1], rtol=0, atol=COEFFICIENT_TOLERANCE)
    assert intercept == pytest.approx(expected[-1], abs=COEFFICIENT_TOLERANCE)
    # Least squares has a deviation of σ/√n = 0.05 each, at most 4 of them in 10 draws.
    assert np.abs(debiased - true)[true != 0].max() < 4 / math.sqrt(count)
