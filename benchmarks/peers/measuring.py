"""Measure what a peer exported, with our own code: in our environment alone."""

import dataclasses
import pathlib
import zlib

import numpy as np

from cnn_l1.config import training_settings
from cnn_l1.data import sets, splits
from cnn_l1.export import tflite
from cnn_l1.graph import macs
from cnn_l1.measure import measurement
from cnn_l1.models import builders
from cnn_l1.sparsity import counting

FILE = "model_float32.tflite"
# Another converter and another interpreter, but float32 and the same network.
LARGEST_DIFFERENCE = 1e-2


@dataclasses.dataclass(frozen=True)
class Examples:
    """A task's data, as our own runs read it.

    Attributes:
        config: The task's `Config`, with the seed.
        dataset: Its `data.Data`.
    """

    config: object
    dataset: splits.Data

    @classmethod
    def load(cls, config):
        return cls(config, sets.load(config.data, config.seed))

    def write_arrays(self, path):
        """The training and validation splits as an `.npz`; peers never see the test split."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial.npz")
        splits = {"train": self.dataset.train, "validation": self.dataset.validation}
        arrays = {}
        for name, split in splits.items():
            arrays |= {f"{name}_images": split.inputs, f"{name}_labels": split.targets}
        np.savez_compressed(partial, **arrays)
        partial.rename(path)


def whole_network(examples):
    """The task's network as it is before anything is taken out, without augmentation."""
    config, about = examples.config, examples.dataset.about
    plain = config.model_copy(update={"penalty": training_settings.PenaltyConfig(name="none")})
    return builders.build(plain, about.input_shape, len(about.class_names))


def rebuild(whole, folder):
    """The network of the weights beside the file, as wide as they are.

    Args:
        whole: What `whole_network` gave.
        folder: With `weights.npz`: `{"<layer>/<variable>": array}`, all of each layer.
    """
    import keras

    with np.load(folder / "weights.npz") as arrays:
        weights = dict(arrays)
    layout = whole.get_config()
    for layer in layout["layers"]:
        layer.pop("build_config", None)  # shapes of the whole network
        kernel = weights.get(f"{layer['config']['name']}/kernel")
        if kernel is not None:
            layer["config"]["units" if kernel.ndim == 2 else "filters"] = kernel.shape[-1]
    model = keras.Model.from_config(layout)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([weights[f"{layer.name}/{v.name}"] for v in layer.weights])
    return model


def measure_folder(examples, folder, split):
    """Measure a peer's file on `"validation"` or `"test"`.

    Returns:
        `(Measurement, rebuilt model)`.

    Raises:
        ExportError: If the file is not the network whose weights lie beside it.
    """
    model = rebuild(whole_network(examples), folder)
    if not (folder / FILE).is_file():
        # Of a tool that has no exporter of its own.
        tflite.export_tflite(model, folder / FILE)
    chosen = examples.dataset.validation if split == "validation" else examples.dataset.load_test()
    batches = list(chosen.evaluation_batches())
    reference = measurement.predict(model, chosen)
    measured = measurement.measure_tflite(folder / FILE, batches, reference)
    if measured.max_difference > LARGEST_DIFFERENCE:
        raise tflite.ExportError(
            f"{folder / FILE}: expected the outputs of the network of weights.npz. "
            f"Received: outputs up to {measured.max_difference:.3g} away"
        )
    tflite.check_tflite(tflite.read_tflite((folder / FILE).read_bytes()), model)
    return measured, model


def figures(examples, folder):
    """A result's figures from the test split: `file` and the counts of parameters."""
    measured, model = measure_folder(examples, folder, "test")
    counts = counting.count(model)
    bare = tflite.strip_names(pathlib.Path(folder / FILE).read_bytes())
    return {
        "file": {
            "name": FILE,
            "accuracy": measured.accuracy,
            "accuracy_standard_error": measured.accuracy_standard_error,
            "examples": measured.examples,
            "bytes": measured.bytes,
            "deflated_bytes": measured.deflated_bytes,
            # As our own files are: without names, which no runtime needs.
            "stripped_bytes": len(bare),
            "stripped_deflated_bytes": len(zlib.compress(bare, 9)),
            "weights": measured.weights,
            "zeros": measured.zeros,
            "macs": sum(macs.count_macs(model).values()),
            "largest_difference": measured.max_difference,
        },
        "nonzero_parameters": counts.nonzero_parameters,
        "parameters": counting.count(whole_network(examples)).parameters,
        "layers": [
            {"layer": c.layer, "weights": c.weights, "nonzero": c.nonzero} for c in counts.layers
        ],
    }
