"""Pruning by PQuant's `pdp` on Keras 3, in its own environment; its quantization is off.

Parameter-free differentiable pruning (Cho, Adya and Naik, PDP, 2023): soft masks from each
layer's own distribution of weights. Train densely, prune while the sparsity rises a step each
epoch, fine-tune with hard masks; the best epoch by validation accuracy among the last is kept.
Of `settings`:

- `begin_epochs`, `end_epochs`: between them the sparsity rises to its final value;
- `restart_epochs`: where the cosine of the learning rate starts anew;
- `temperature`: of the soft masks;
- `allocation`: the layers' sparsities, one of `common.ALLOCATIONS`. The tool means one global
  threshold. The Keras side of version 0.1.0 comes to `uniform`: it takes the threshold of
  weights that are masked alike already, and stores the result under a name that it does not
  read.
"""

import time

import keras
import numpy as np
import pquant
from pquant.core.keras.layers import PQWeightBiasBase
from pquant.core.keras.train import PQuantCallback

from benchmarks.peers import common, shared


def main():
    settings, arrays, output = common.read_arguments()
    start = time.monotonic()
    keras.config.set_dtype_policy(settings["dtype_policy"])
    keras.utils.set_random_seed(settings["seed"])
    batches = shared.training_batches(arrays, settings["batch_size"], settings["seed"])
    validation = shared.validation_batches(arrays)
    steps, begin, end = len(batches), settings["begin_epochs"], settings["end_epochs"]
    (point,) = settings["points"]
    sparsity = float(point.removeprefix("sparsity_"))
    network = shared.lenet5(keras, settings["augmentation"], settings["seed"])
    config = tool_config(settings, sparsity)
    model = pquant.add_compression_layers(network, config)
    for each in (model, network):
        shared.compile_model(keras, each, settings, steps)
    prune = Prune(config, common.ALLOCATIONS[settings["allocation"]])
    stages, keep = {}, shared.best_epoch(keras)

    def fit(stage, model, first_epoch, last_epoch, *callbacks):
        times = shared.step_times(keras)
        model.fit(
            batches,
            validation_data=validation,
            initial_epoch=first_epoch,
            epochs=last_epoch,
            callbacks=[times, Progress(), *callbacks],
            verbose=0,  # a progress bar takes the mean of the stage's name, and fails
        )
        stages[stage] = shared.seconds_per_step(times, steps)

    fit("pretraining", model, 0, begin, prune)
    fit("pruning", model, begin, end, prune)
    fit("fine_tuning", model, end, settings["epochs"], prune, keep)
    model.set_weights(keep.weights)
    pquant.apply_final_compression(model)
    seconds = time.monotonic() - start
    # Masks are computed from the first epoch on: only the network without them is dense.
    fit("dense", network, 0, 2)
    shared.export(keras, kernels_and_biases(model), output / point)
    common.write_training(
        output,
        ("tensorflow", "keras", "pquant-ml", "numpy"),
        seconds=seconds,
        seconds_per_step=stages["pruning"]["wall"],
        seconds_per_step_by_stage=stages,
        best_epoch=keep.epoch + 1,
        keras_validation_accuracy=keep.best,
        layer_sparsities=prune.layer_sparsities,
    )


def tool_config(settings, sparsity):
    """The tool's own configuration for these stages."""
    config = pquant.pdp_config()
    pruning, training = config.pruning_parameters, config.training_parameters
    epochs = settings["end_epochs"] - settings["begin_epochs"]
    pruning.sparsity = sparsity
    pruning.temperature = settings["temperature"]
    # The part of the final sparsity that each epoch adds.
    pruning.epsilon = 1.0 / epochs
    config.quantization_parameters.enable_quantization = False
    training.pretraining_epochs = settings["begin_epochs"]
    training.epochs = epochs
    training.fine_tuning_epochs = settings["epochs"] - settings["end_epochs"]
    return config


class Prune(PQuantCallback):
    """The tool's callback, for a training in several calls of `fit`, with an allocation."""

    def __init__(self, config, allocation):
        super().__init__(
            config, log_ebops=False, log_keep_ratio=False, apply_final_compression=False
        )
        self.allocation = allocation
        self.layer_sparsities = {}

    def on_train_begin(self, logs=None):
        """Nothing: there are dense epochs, and the stages go on from call to call."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == self.pretraining_epochs - 1:
            layers = dict(zip(common.LAYERS, pruned_layers(self.model), strict=True))
            kernels = {name: np.array(layer._kernel) for name, layer in layers.items()}
            sparsity = self.config.pruning_parameters.sparsity
            self.layer_sparsities = self.allocation(kernels, sparsity)
            for name, layer in layers.items():
                layer.pruning_layer._init_r = self.layer_sparsities[name]


class Progress(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch {epoch + 1}: {logs['val_accuracy']:.4f}", flush=True)


def pruned_layers(model):
    return [layer for layer in model.layers if isinstance(layer, PQWeightBiasBase)]


def kernels_and_biases(model):
    """`{"<layer>/kernel": array, "<layer>/bias": array}`, under the network's own names."""
    found = {}
    for name, layer in zip(common.LAYERS, pruned_layers(model), strict=True):
        found[f"{name}/kernel"] = np.array(layer.kernel)
        found[f"{name}/bias"] = np.array(layer.bias)
    return found


if __name__ == "__main__":
    main()
