"""The embedded data set: scikit-learn's 8×8 handwritten digits, as a TFDS builder.

TFDS finds a builder by its class, so importing this module registers `digits`.
"""

import tensorflow_datasets as tfds

TEST_IMAGES = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits, 8×8, in 10 classes: 1,437 to train on and 360 to test.

    The pixels, 0 to 16 in scikit-learn, are stretched to 0-255 like any camera
    image. The data set has no official split: ours is stratified and seeded.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, as in scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = (digits.images[..., None] * 255.0 / 16.0).round().astype("uint8")
        train, test = train_test_split(
            range(len(images)), test_size=TEST_IMAGES, stratify=digits.target, random_state=0
        )
        return {
            name: self._generate_examples(images, digits.target, sorted(rows))
            for name, rows in (("train", train), ("test", test))
        }

    def _generate_examples(self, images, labels, rows):
        for row in rows:
            yield row, {"image": images[row], "label": int(labels[row])}
