"""The embedded data sets, as TFDS builders: digits, xor, diabetes, sparse_regression.

TFDS finds a builder by its class, so importing this module registers them. A builder
may name its input features, and the true coefficients, in its metadata:
`feature_names` and `true_coefficients`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]

DIGITS_TEST_IMAGES = 360
DIABETES_TEST_ROWS = 88
SPARSE_FEATURES, SPARSE_SUPPORT, SPARSE_NOISE = 100, 10, 1.0
SPARSE_ROWS = {"train": 400, "test": 200}


class _Embedded(tfds.core.GeneratorBasedBuilder):
    """Examples from arrays that a subclass gives, split by split."""

    VERSION = tfds.core.Version("1.0.0")
    INPUT = "features"

    def arrays(self) -> Arrays:
        """`{split: (inputs, targets)}`."""
        raise NotImplementedError

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        return {
            name: self._generate_examples(inputs, targets)
            for name, (inputs, targets) in self.arrays().items()
        }

    def _generate_examples(self, inputs: np.ndarray, targets: np.ndarray) -> Iterator[Any]:
        for row, (value, target) in enumerate(zip(inputs, targets, strict=True)):
            yield row, {self.INPUT: value, self._target: target.item()}

    @property
    def _target(self) -> str:
        return "label" if isinstance(self, (Digits, Xor)) else "target"

    def _describe(
        self,
        description: str,
        inputs: Any,
        target: Any,
        homepage: str | None = None,
        **metadata: Any,
    ) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict({self.INPUT: inputs, self._target: target}),
            supervised_keys=(self.INPUT, self._target),
            homepage=homepage,
            metadata=tfds.core.MetadataDict(metadata) if metadata else None,
        )


class Digits(_Embedded):
    """1,797 digits, 8×8, in 10 classes: 1,437 to train on and 360 to test.

    The pixels, 0 to 16 in scikit-learn, are stretched to 0-255 like any camera
    image. The data set has no official split: ours is stratified and seeded.
    """

    INPUT = "image"

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            "Optical recognition of handwritten digits, as in scikit-learn.",
            tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            tfds.features.ClassLabel(num_classes=10),
            homepage="https://doi.org/10.24432/C50P49",
        )

    def arrays(self) -> Arrays:
        digits = load_digits()
        images = (digits.images[..., None] * 255.0 / 16.0).round().astype("uint8")
        train, test = train_test_split(
            range(len(images)),
            test_size=DIGITS_TEST_IMAGES,
            stratify=digits.target,
            random_state=0,
        )
        return {
            name: (images[sorted(rows)], digits.target[sorted(rows)])
            for name, rows in (("train", train), ("test", test))
        }


class Xor(_Embedded):
    """The four points of exclusive or: all of them in every split.

    There is nothing to generalise to: the question is whether four points are learnt.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            "Exclusive or of two bits.",
            tfds.features.Tensor(shape=(2,), dtype=np.float32),
            tfds.features.ClassLabel(names=["false", "true"]),
            feature_names=["a", "b"],
        )

    def arrays(self) -> Arrays:
        points = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
        labels = np.array([0, 1, 1, 0])
        return dict.fromkeys(("train", "validation", "test"), (points, labels))


class Diabetes(_Embedded):
    """Disease progression of 442 patients from ten measurements, in their own units.

    As in scikit-learn's `load_diabetes(scaled=False)` (Efron et al., 2004): 354 rows
    to train on and 88 to test, parted with a seed.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            "Ten baseline variables of 442 diabetes patients and the progression a year later.",
            tfds.features.Tensor(shape=(10,), dtype=np.float32),
            tfds.features.Scalar(dtype=np.float32),
            homepage="https://doi.org/10.1214/009053604000000067",
            feature_names=["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"],
        )

    def arrays(self) -> Arrays:
        inputs, targets = load_diabetes(return_X_y=True, scaled=False)
        inputs, targets = inputs.astype("float32"), targets.astype("float32")
        train, test = train_test_split(
            range(len(inputs)), test_size=DIABETES_TEST_ROWS, random_state=0
        )
        return {
            name: (inputs[sorted(rows)], targets[sorted(rows)])
            for name, rows in (("train", train), ("test", test))
        }


def true_coefficients() -> np.ndarray:
    """The coefficients of `sparse_regression`: 10 of 100 are not zero, ±1 to ±2."""
    random = np.random.default_rng(0)
    coefficients = np.zeros(SPARSE_FEATURES)
    support = random.choice(SPARSE_FEATURES, SPARSE_SUPPORT, replace=False)
    signs = random.choice([-1.0, 1.0], SPARSE_SUPPORT)
    coefficients[support] = signs * random.uniform(1.0, 2.0, SPARSE_SUPPORT)
    return coefficients


class SparseRegression(_Embedded):
    """`y = x·w + 3 + ε`: 100 standard normal features, of which 10 count; ε of deviation 1."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            "A made linear regression with a known support.",
            tfds.features.Tensor(shape=(SPARSE_FEATURES,), dtype=np.float32),
            tfds.features.Scalar(dtype=np.float32),
            feature_names=[f"x{number}" for number in range(SPARSE_FEATURES)],
            true_coefficients=true_coefficients().tolist(),
        )

    def arrays(self) -> Arrays:
        coefficients = true_coefficients()
        splits = {}
        for seed, (name, rows) in enumerate(SPARSE_ROWS.items(), start=1):
            random = np.random.default_rng(seed)
            inputs = random.standard_normal((rows, SPARSE_FEATURES))
            noise = SPARSE_NOISE * random.standard_normal(rows)
            targets = inputs @ coefficients + 3.0 + noise
            splits[name] = inputs.astype("float32"), targets.astype("float32")
        return splits


BUILDERS = {
    "digits": Digits,
    "xor": Xor,
    "diabetes": Diabetes,
    "sparse_regression": SparseRegression,
}
