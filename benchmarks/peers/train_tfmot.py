"""Magnitude pruning by TensorFlow Model Optimization, in its own environment.

Train densely, prune under a polynomial decay of the sparsity, fine-tune at the final one;
the best epoch by validation accuracy among the last is kept. Of `settings`:

- `sparsity`: the final one, where the point does not say it;
- `begin_epochs`, `end_epochs`: between them it rises;
- `frequency_steps`: training steps between two updates of the masks;
- `restart_epochs`: where the cosine of the learning rate starts anew;
- `allocation`: the layers' sparsities: `uniform`, the tool's default, or `lamp` (Lee et
  al., 2021), of the network at `begin_epochs`.
"""

import os

# The tool is written for Keras 2.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import time

import tensorflow_model_optimization as tfmot
import tf_keras as keras

from benchmarks.peers import common, shared


def main():
    settings, arrays, output = common.read_arguments()
    start = time.monotonic()
    keras.mixed_precision.set_global_policy(settings["dtype_policy"])
    keras.utils.set_random_seed(settings["seed"])
    batches = shared.training_batches(arrays, settings["batch_size"], settings["seed"])
    validation = shared.validation_batches(arrays)
    steps, begin, end = len(batches), settings["begin_epochs"], settings["end_epochs"]
    (point,) = settings["points"]
    sparsity = settings.get("sparsity") or float(point.removeprefix("sparsity_"))
    network = shared.lenet5(keras, settings["augmentation"], settings["seed"])
    stages = {}

    def fit(model, first_epoch, last_epoch, *callbacks):
        stage = "fine_tuning" if first_epoch == end else "pruning" if first_epoch else "dense"
        times = shared.step_times(keras)
        model.fit(
            batches,
            validation_data=validation,
            initial_epoch=first_epoch,
            epochs=last_epoch,
            callbacks=[times, *callbacks],
            verbose=2,
        )
        stages[stage] = shared.seconds_per_step(times, steps)

    def compiled(model, first_epoch):
        return shared.compile_model(keras, model, settings, steps, first_epoch)

    fit(compiled(network, 0), 0, begin)
    kernels = {name: network.get_layer(name).get_weights()[0] for name in common.LAYERS}
    targets = common.ALLOCATIONS[settings["allocation"]](kernels, sparsity)
    pruned = compiled(prune(network, targets, settings, steps), begin)
    keep = shared.best_epoch(keras)
    update = tfmot.sparsity.keras.UpdatePruningStep()
    fit(pruned, begin, end, update)
    fit(pruned, end, settings["epochs"], update, keep)
    pruned.set_weights(keep.weights)
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    seconds = time.monotonic() - start
    shared.export(keras, shared.kernels_and_biases(stripped), output / point)
    common.write_training(
        output,
        ("tensorflow", "tf_keras", "tensorflow-model-optimization", "numpy"),
        seconds=seconds,
        seconds_per_step=stages["pruning"]["wall"],
        seconds_per_step_by_stage=stages,
        best_epoch=keep.epoch + 1,
        keras_validation_accuracy=keep.best,
        layer_sparsities=targets,
    )


def prune(network, targets, settings, steps_per_epoch):
    """The network with its kernels' layers wrapped, each with its own final sparsity."""
    every = settings["frequency_steps"]
    stages = settings["end_epochs"] - settings["begin_epochs"]
    # The masks move at whole multiples alone: another end would miss the final sparsity.
    last = max(stages * steps_per_epoch // every, 1) * every

    def wrapped(layer):
        if layer.name not in targets:
            return layer
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=targets[layer.name],
            begin_step=0,
            end_step=last,
            frequency=every,
        )
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    return keras.models.clone_model(network, clone_function=wrapped)


if __name__ == "__main__":
    main()
