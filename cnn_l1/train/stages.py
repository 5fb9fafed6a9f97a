"""The stages of a training: under the penalty, thresholding, fine-tuning, dense baseline."""

import dataclasses
import pathlib
import warnings
from typing import Any

import keras

from cnn_l1.config.loading import Config
from cnn_l1.config.training_settings import PenaltyConfig, TrainingConfig
from cnn_l1.data.augmentation import with_augmentation
from cnn_l1.data.splits import Data
from cnn_l1.export import tflite
from cnn_l1.models import fused
from cnn_l1.models.setup import Setup
from cnn_l1.process.stoppable_fit import fit_stoppably
from cnn_l1.sparsity import callbacks, misuse, penalties, targets
from cnn_l1.train.dense_baseline import dense_baseline
from cnn_l1.train.file_costs import measure_of

History = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage of a run needs.

    Attributes:
        setup: The `Setup`: config, data, task and network.
        logs: Folder of TensorBoard's logs, or `None`.
        watchers: Further Keras callbacks, such as a progress display's.
    """

    setup: Setup
    logs: pathlib.Path | None = None
    watchers: tuple[keras.callbacks.Callback, ...] = ()

    @property
    def config(self) -> Config:
        """The `Config`."""
        return self.setup.config

    @property
    def dataset(self) -> Data:
        """The `Data`."""
        return self.setup.dataset

    @property
    def task(self) -> Any:
        """The `Task`, or `SeveralTasks`."""
        return self.setup.task


def start_model(setup: Setup) -> keras.Model:
    """The network as training finds it, with the config's penalties on it."""
    return setup.new_network(setup.config)


def seed_everything(seed: int, dtype_policy: str) -> None:
    """Seed Python, NumPy and Keras, and set the dtype policy for new layers."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(dtype_policy)


def sparsify(model: keras.Model, this: Run) -> History:
    """The stage under the penalty; returns its history, one dict an epoch."""
    config = this.config
    training, thresholding = config.training, config.thresholding
    if not training.epochs:
        return []
    steps = steps_per_epoch(this) * training.epochs
    optimizer = this.setup.optimizer(config.optimizer.learning_rate, steps)
    strength: list[keras.callbacks.Callback] = [
        callbacks.LogValue("l1_strength", config.penalty.l1_strength)
    ]
    if config.penalty.name == "none":
        strength = [callbacks.LogValue("l1_strength", 0.0)]
    elif training.method == "proximal":
        penalties.detach(model)
        optimizer = callbacks.Proximal(
            optimizer,
            threshold=training.proximal_threshold,
            include=held_variables(config.penalty),
            variable_scales=config.target is not None and config.target.layers is not None,
        )
        mover: keras.callbacks.Callback = callbacks.StrengthRamp(training.ramp_epochs)
        if config.target is not None:
            mover = targets.TargetSparsity(
                **config.target.model_dump(),
                empty_layers=training.empty_layers,
                measure=measure_of(this.setup),
            )
        strength = [mover, *strength]
        if config.penalty.shape == "reweighted":
            strength = [callbacks.Reweight(), *strength]
    steering = strength
    if thresholding is not None and thresholding.start_epochs is not None:
        if not isinstance(optimizer, callbacks.HoldZeros):
            optimizer = callbacks.HoldZeros(
                optimizer, hold_zeros=False, include=held_variables(config.penalty)
            )
        steering += [
            callbacks.Threshold(
                thresholding.threshold,
                thresholding.relative_threshold,
                thresholding.start_epochs,
                thresholding.every_epochs,
                training.empty_layers,
                kind,
            )
            for kind in config.penalty.zeroes
        ]
    if training.early_stopping_epochs:
        patience = training.early_stopping_epochs
        start = training.ramp_epochs if config.target is None else config.target.by_epochs
        steering.append(_early_stopping("val_loss", patience, False, start))
    return fit(model, optimizer, this, training.epochs, steering)


def threshold_at_the_end(model: keras.Model, config: Config) -> None:
    """The thresholding that is due after the stage under the penalty."""
    thresholding = config.thresholding
    if thresholding is None:
        if config.penalty.name == "slimming":
            callbacks.zero_shifts_without_scale(model)
        return
    for kind in config.penalty.zeroes:
        callbacks.apply_threshold(
            model,
            thresholding.threshold,
            thresholding.relative_threshold,
            config.training.empty_layers,
            kind,
        )


def fine_tune(model: keras.Model, this: Run) -> History:
    """The stage without the penalty, zeros held exactly; keeps the best epoch."""
    return tune(model, this, this.config.fine_tuning.epochs, this.config.training.epochs)


def tune(model: keras.Model, this: Run, epochs: int, first_epoch: int) -> History:
    """Train without penalty, zeros held exactly, and keep the best epoch."""
    config, task = this.config, this.task
    if not epochs:
        return []
    tuning = config.fine_tuning
    penalties.attach(model, None, kernels_only=False)
    rate = tuning.learning_rate or config.optimizer.learning_rate
    steps = steps_per_epoch(this) * epochs
    optimizer = this.setup.optimizer(rate, steps)
    if config.penalty.name != "none" or config.thresholding is not None:
        optimizer = callbacks.HoldZeros(optimizer, include=held_variables(config.penalty))
    score, larger = f"val_{task.score}", task.larger_is_better
    steering = [callbacks.LogValue("l1_strength", 0.0), callbacks.BestWeights(score, larger)]
    if tuning.early_stopping_epochs:
        steering.append(_early_stopping(score, tuning.early_stopping_epochs, larger))
    return fit(model, optimizer, this, epochs, steering, first_epoch)


def steps_per_epoch(this: Run) -> int:
    """Training steps in an epoch."""
    training = this.config.training
    return training.steps_per_epoch or this.dataset.train.batches_per_epoch(training.batch_size)


def steps_per_execution(training: TrainingConfig) -> int:
    """Steps in one call of the compiled function, at most as many as are configured.

    Where an epoch's steps are counted, Keras makes whole calls only: they must come out
    even, or the epoch would be longer than asked for, and longer than its schedule.
    """
    most, steps = training.steps_per_execution, training.steps_per_epoch
    if steps is None:
        return most
    return max(n for n in range(1, min(most, steps) + 1) if steps % n == 0)


def held_variables(penalty: PenaltyConfig) -> str:
    """Where zeros are held: wherever the penalty can make some."""
    everywhere = penalty.biases or penalty.batch_norm or penalty.zeroes != ("weights",)
    return "all" if everywhere else "kernels"


def fit(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    this: Run,
    epochs: int,
    steering: list[keras.callbacks.Callback],
    first_epoch: int = 0,
) -> History:
    """Compile and fit one stage; returns its history, one dict an epoch."""
    config, dataset, task = this.config, this.dataset, this.task
    training = config.training
    # Totals before the progress bar, so that it shows them; layers after it.
    monitor = callbacks.SparsityMonitor(per_layer=False, empty_layers=training.empty_layers)
    watching = [
        callbacks.StopOnNaN(),
        monitor,
        keras.callbacks.ProgbarLogger(),
        callbacks.LogLayers(monitor),
    ]
    if this.logs is not None:
        watching.append(
            keras.callbacks.TensorBoard(str(this.logs), histogram_freq=1, write_graph=False)
        )
    batches = task.encode(dataset.train.training_batches(training.batch_size, config.seed))
    if training.steps_per_epoch is not None:
        batches = batches.repeat()
    with warnings.catch_warnings(), fused.fused_batch_norm(model):
        # Keras warns that a shuffled tf.data.Dataset is not shuffled again.
        warnings.filterwarnings("ignore", message=".*shuffle=True.*")
        warnings.simplefilter("always", callbacks.EmptyLayerWarning)
        if training.method == "subgradient":  # asked for, to see what it does
            warnings.simplefilter("ignore", misuse.MisuseWarning)
        model.compile(
            optimizer=optimizer,
            loss=task.keras_loss(),
            loss_weights=task.loss_weights(),
            metrics=task.keras_metrics(),
            steps_per_execution=steps_per_execution(training),
            jit_compile=training.jit_compile,
        )
        fitted = fit_stoppably(
            model,
            batches,
            steps_per_epoch=training.steps_per_epoch,
            validation_data=task.encode(dataset.validation.evaluation_batches()),
            epochs=first_epoch + epochs,
            initial_epoch=first_epoch,
            callbacks=[*steering, *watching, *this.watchers],
        )
    columns = fitted.history
    rows = []
    for position, epoch in enumerate(fitted.epoch):
        row = {"epoch": epoch + 1}
        row.update({name: float(values[position]) for name, values in columns.items()})
        rows.append(row)
    return rows


def _early_stopping(
    monitor: str, patience: int, larger_is_better: bool, start: int = 0
) -> keras.callbacks.EarlyStopping:
    mode = "max" if larger_is_better else "min"
    return keras.callbacks.EarlyStopping(
        monitor=monitor, patience=patience, mode=mode, start_from_epoch=start
    )


def train_dense_baseline(this: Run) -> keras.Model:
    """The same network on the same data for the same stages and epochs, without penalty."""
    print("Dense baseline: the same run without penalty")
    config = dense_baseline(this.config)
    seed_everything(config.seed, config.model.dtype_policy)
    alone = Run(dataclasses.replace(this.setup, config=config))
    network = start_model(alone.setup)
    trained = with_augmentation(network, config.data.augmentation, config.seed)
    sparsify(trained, alone)
    fine_tune(trained, alone)
    if config.shrink.fine_tuning_epochs:
        # As the sparse network is after shrinking: its augmentation starts anew.
        trained = with_augmentation(network, config.data.augmentation, config.seed)
        first = config.training.epochs + config.fine_tuning.epochs
        tune(trained, alone, config.shrink.fine_tuning_epochs, first)
    return tflite.plain_copy(network)
