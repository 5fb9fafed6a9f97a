"""The Python front: a model and data in, a run's folder out, in one call."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cnn_l1.config import loading as configs
from cnn_l1.config.formats import chosen
from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.config.packages import check_packages
from cnn_l1.data.given_arrays import own_set
from cnn_l1.data.own_sets import part_own
from cnn_l1.data.splits import Data, select
from cnn_l1.data.task_choice import outputs_needed, task_of
from cnn_l1.errors import CnnL1Error
from cnn_l1.graph.loss_check import named_outputs
from cnn_l1.models.own_models import given_model
from cnn_l1.models.setup import Setup, prepared
from cnn_l1.runs import verification
from cnn_l1.runs.folders import check_output
from cnn_l1.sparsity.configured import attach_configured
from cnn_l1.sparsity.one_shot import zero_channels
from cnn_l1.sparsity.target_arguments import check_target, limits_of
from cnn_l1.train import pipeline, recipe
from cnn_l1.train.compiled import compiled_settings
from cnn_l1.train.file_costs import measure_of

# Of the epochs, the part under the penalty; then zeros are held. Of that part, the part until a
# target is met.
PENALISED_PART = 0.6
MET_AFTER = 0.75
# For a network that is trained already.
LEARNING_RATE = 1e-3
STRENGTHS = {"group_l1": 1e-4, "l1": 1e-3}


class ArgumentError(CnnL1Error, ValueError):
    """An argument of `sparsify` or `prune` that cannot be used."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Result:
    """What `sparsify` and `prune` give.

    Attributes:
        model: The plain Keras model of the smallest network: without the removed channels
            where there are any.
        report: The report, as in `report.json`.
        files: The exported file of each format, of the same network as `model`.
        folder: The run's folder.
    """

    model: keras.Model
    report: dict[str, Any]
    files: dict[str, pathlib.Path]
    folder: pathlib.Path


@dataclasses.dataclass(frozen=True)
class _Call:
    """What `sparsify` and `prune` were called with, alike for both."""

    model: keras.Model
    train: Any
    validation: Any
    test: Any
    output: str | pathlib.Path | None
    formats: Sequence[str]
    task: str
    batch_size: int
    seed: int
    settings: Mapping[str, Any] | None
    overwrite: bool


def sparsify(
    model: keras.Model,
    train: Any,
    validation: Any = 0.1,
    test: Any = None,
    *,
    target: Mapping[str, Any] | None = None,
    sparsity: float | None = None,
    l1_strength: float | None = None,
    max_bytes: int | None = None,
    epochs: int = 20,
    output: str | pathlib.Path | None = None,
    formats: Sequence[str] = ("float32", "int8"),
    task: str = "auto",
    batch_size: int = 128,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Result:
    """Train a model to zeros, shrink it, export it, and measure the files: a run in one call.

    The stages are those of `cnn-l1 train`: a penalty that zeroes weights or whole channels,
    zeros held while the rest trains on, removal of empty channels, export, proof, report. The
    model that is handed over stays as it is; measured as it is, it is the dense baseline,
    `given/` in the report. Where it is compiled, its loss, metrics and optimizer are used;
    else Adam at 0.001 and a loss by the task.

    Args:
        model: A built `keras.Model` with one input, trained or not.
        train: `(x, y)` arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset` of such pairs;
            `x` alone for an autoencoder; `y` a dict for several outputs. Labels are whole
            numbers from 0 or one-hot rows.
        validation: A part of the training examples, between 0 and 1, or data in any form of
            `train`. All choices are made on it. Default 0.1.
        test: Data in any form of `train`, for the final figures. Default: they are of the
            validation data, and the report says so.
        target: One of `{"macs": …}` (a part, or a number of multiply-adds), `{"bytes": …}`
            (the int8 file), `{"ram_bytes": …}` (TFLite Micro's arena) and `{"board": …}`:
            whole channels are removed until it is met.
        sparsity: In place of `target`: the fraction of kernel weights to become zero,
            between 0 and 1.
        l1_strength: In place of `target`: the strength λ of a plain L1 penalty, above 0.
        max_bytes: In place of `target`: the same as `target={"bytes": max_bytes}`.
        epochs: Epochs in all, 2 or more: 60% under the penalty, then with zeros held.
            Default 20.
        output: The run's folder. Default: `saved_models/` and the model's name.
        formats: As `export.formats` of a config. Default: `float32` and `int8`.
        task: As `training.task` of a config. Default: by the targets and the outputs.
        batch_size: Examples a step. Default 128.
        seed: Seeds the split and the training. Default 0.
        settings: Further settings of a config by dotted key, such as
            `{"optimizer.schedule.name": "constant"}`. They come before all else.
        overwrite: Whether a run that is there may be replaced. Default `False`.

    Returns:
        A `Result`.

    Raises:
        CnnL1Error: With one line that names the argument or setting, if model, data and
            settings do not go together.

    Example:
        >>> x, y = np.random.rand(80, 8, 8, 1), np.arange(80) % 2
        >>> layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        >>> result = cnn_l1.sparsify(
        ...     model, (x, y), target={"macs": 0.5}, epochs=3, output=folder / "mine"
        ... )  # doctest: +SKIP
    """
    named = {
        "target": target,
        "sparsity": sparsity,
        "l1_strength": l1_strength,
        "max_bytes": max_bytes,
    }
    given = [name for name, value in named.items() if value is not None]
    if len(given) != 1:
        raise ArgumentError(
            f"expected exactly one of `{'`, `'.join(named)}`. Received: {' and '.join(given)}"
            if given
            else f"expected one of `{'`, `'.join(named)}`. Received: none of them"
        )
    if not isinstance(epochs, int) or epochs < 2:
        raise ArgumentError(f"`epochs` must be a whole number from 2. Received: {epochs!r}")
    if max_bytes is not None:
        target = {"bytes": max_bytes}
    penalised = max(1, round(PENALISED_PART * epochs))
    data: dict[str, Any] = {
        "training": {"epochs": penalised},
        "fine_tuning": {"epochs": epochs - penalised},
    }
    by_epochs = max(1, round(MET_AFTER * penalised))
    if target is not None:
        data["penalty"] = {
            "name": "group_l1",
            "l1_strength": STRENGTHS["group_l1"],
            "channel_cost": "macs",
        }
        data["target"] = {"by_epochs": by_epochs, **target}
    elif sparsity is not None:
        recipe.check_sparsity(sparsity)
        recipe.apply_recipe(data, {}, sparsity)
        data["target"]["by_epochs"] = by_epochs
    else:
        data["penalty"] = {"name": "l1", "l1_strength": l1_strength}
        data["training"]["ramp_epochs"] = penalised // 3
        data["thresholding"] = {"threshold": 1e-3}
    call = _Call(
        model, train, validation, test, output, formats, task, batch_size, seed, settings, overwrite
    )
    return _run(call, data)


def prune(
    model: keras.Model,
    data: Any,
    target: Mapping[str, Any],
    *,
    test: Any = None,
    epochs: int = 0,
    criterion: str = "taylor",
    examples: int = 512,
    output: str | pathlib.Path | None = None,
    formats: Sequence[str] = ("float32", "int8"),
    task: str = "auto",
    batch_size: int = 128,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Result:
    """Take channels out of a trained model in one go, by some examples: no training, or little.

    For a model whose training data are gone. Channels go by what they mean for the loss on
    the examples (see `sparsity.one_shot.zero_channels`); statistics of batch-norms are
    measured anew. Files are exported, proved and reported as by `sparsify`; the given model
    is `given/` in the report.

    Args:
        model: A trained, built `keras.Model` with one input, which stays as it is.
        data: Examples in any form of `sparsify`'s `train`. A fifth of them is kept to choose
            by and to measure on. `x` alone stands for what the model itself says of it: then
            scores are agreement with the given model.
        target: As `sparsify` takes it.
        test: As `sparsify` takes it.
        epochs: Epochs of fine-tuning of the smaller network. Default 0.
        criterion: `"second_order"`, `"taylor"` or `"magnitude"`. Default `"taylor"`.
        examples: How many training examples tell the importance. Default 512.
        output: As `sparsify` takes it, and all that follow.
        formats: See `sparsify`.
        task: See `sparsify`.
        batch_size: See `sparsify`.
        seed: See `sparsify`.
        settings: See `sparsify`.
        overwrite: See `sparsify`.

    Returns:
        A `Result`.

    Raises:
        CnnL1Error: With one line that names the argument or setting.

    Example:
        >>> result = cnn_l1.prune(
        ...     model, (x, y), {"macs": 0.7}, output="saved_models/pruned"
        ... )  # doctest: +SKIP
    """
    if not isinstance(epochs, int) or epochs < 0:
        raise ArgumentError(f"`epochs` must be a whole number from 0. Received: {epochs!r}")
    kinds = dict.fromkeys(("sparsity", "layers", "macs", "bytes", "ram_bytes", "board"))
    unknown = sorted(set(target) - {"macs", "bytes", "ram_bytes", "board"})
    if unknown:
        raise ArgumentError(
            "`target` must be of macs, bytes, ram_bytes or board, for whole channels go. "
            f"Received: {', '.join(unknown)}"
        )
    try:
        check_target({**kinds, **target})
        limits = limits_of({**kinds, **target})
    except ValueError as error:
        raise ArgumentError(f"target: {error}") from None
    board = target.get("board")
    settings_of: dict[str, Any] = {
        "penalty": {"name": "none"},
        "training": {"epochs": 0},
        "fine_tuning": {"epochs": 0},
        "shrink": {"fine_tuning_epochs": epochs},
    }

    def zeroed(network: keras.Model, setup: Setup) -> None:
        split = setup.dataset.train
        some = select(split, split.sampled(examples)).evaluation_batches().unbatch()
        # Mixed, for data may be ordered by class, and a batch's gradient is of all its examples.
        mixed = some.shuffle(examples, seed=seed, reshuffle_each_iteration=False)
        batches = setup.task.encode(mixed.batch(32))
        measure = measure_of(setup) if {"bytes", "ram_bytes"} & limits.keys() else None
        for line in zero_channels(
            network, batches, setup.task.keras_loss(), limits, criterion, measure, board
        ):
            print(line)

    examples_of = with_own_targets(model, data)
    call = _Call(
        model, examples_of, 0.2, test, output, formats, task, batch_size, seed, settings, overwrite
    )
    return _run(call, settings_of, zeroed)


def check_model(model: Any) -> None:
    """Raise `ArgumentError` unless a model is one of Keras."""
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            "`model` must be a keras.Model, e.g. keras.models.load_model(path). "
            f"Received: {type(model).__name__}"
        )


def with_own_targets(model: keras.Model, data: Any) -> Any:
    """Examples without targets, with what a model decides of them as targets."""
    check_model(model)
    if not hasattr(data, "__array__"):
        return data
    outputs = model.predict(np.asarray(data), verbose=0)
    if isinstance(outputs, (list, tuple, dict)):
        raise ArgumentError("`data` must have targets, for the model has several outputs")
    several = outputs.ndim == 2 and outputs.shape[-1] > 1
    return np.asarray(data), outputs.argmax(axis=-1) if several else outputs


def verify(folder: str | pathlib.Path, data: Any = None) -> list[str]:
    """Check a run's folder: every file against the report, in the runtime of its kind.

    Args:
        folder: The run's folder.
        data: For a run of `sparsify` or `prune`: the examples that its files were measured on,
            in any form of `sparsify`'s `train`. Without them scores are not checked. Other
            runs find their data by their config.

    Returns:
        Lines, one a mismatch; empty if all is well.

    Example:
        >>> cnn_l1.verify("saved_models/mine")  # doctest: +SKIP
        []
    """
    folder = pathlib.Path(folder)
    given = None
    if data is not None:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        names = report["data"]["class_names"]
        given = own_set(data, known_classes={"": len(names)} if names else None)
    return verification.verification(folder, given=given).mismatches


def _run(
    call: _Call,
    data: dict[str, Any],
    prepare: Callable[[keras.Model, Setup], None] | None = None,
) -> Result:
    """Run the pipeline on a given model.

    Args:
        call: What was asked for.
        data: The sections of the config that are the caller's own; the rest is filled in.
        prepare: Changes the network before it is trained. Default: nothing does.
    """
    check_model(call.model)
    compiled = compiled_settings(call.model)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", call.model.name).lstrip("_.-") or "model"
    folder = (
        pathlib.Path(call.output) if call.output is not None else pathlib.Path("saved_models", name)
    )
    data |= {"name": name, "seed": call.seed, "model": {"name": "given"}, "data": {"name": "given"}}
    data.setdefault("optimizer", {})
    data["optimizer"]["learning_rate"] = compiled.learning_rate or LEARNING_RATE
    if compiled.optimizer_name is not None:
        data["optimizer"]["name"] = compiled.optimizer_name
    data["training"] |= {"batch_size": call.batch_size, "task": call.task, **compiled.recorded()}
    data["export"] = {"formats": list(call.formats)}
    data["measure"] = {"split": "validation" if call.test is None else "test"}
    validation = call.validation
    part = isinstance(validation, (int, float)) and not isinstance(validation, bool)
    if part:
        if not 0 < validation < 1:
            raise ArgumentError(
                f"`validation` must be a part between 0 and 1, or data. Received: {validation!r}"
            )
        data["data"]["validation_fraction"] = float(validation)
    for key, value in (call.settings or {}).items():
        _set(data, key, value)
    config = configs.validate(data, "settings")
    check_packages(config)
    check_output(folder, call.overwrite)

    def make_setup() -> Setup:
        dataset = given_data(
            call.train,
            None if part else validation,
            call.test,
            config,
            known_classes(call.model),
        )
        about, statistics = dataset.about, dataset.statistics()
        wanted = compiled.training(config.training)
        outputs = outputs_needed(wanted, about)

        def fresh(model: keras.Model) -> keras.Model:
            return given_model(model, config.model, about.input_shape, outputs, statistics)

        def new_network(config: Config) -> keras.Model:
            found = fresh(call.model)
            if prepare is not None:
                prepare(found, setup)
            attach_configured(found, config.penalty)
            return found

        network = fresh(call.model)
        chosen_task = task_of(wanted, about, network)
        dataset, statistics = prepared(dataset, chosen_task, config, statistics)
        setup = Setup(
            config=config,
            dataset=dataset,
            task=chosen_task,
            statistics=statistics,
            new_network=new_network,
            given=network,
            own_optimizer=compiled.optimizer,
        )
        return setup

    forewarn = prepare is None
    summary = pipeline.run_setup(make_setup, config, folder, call.overwrite, forewarn=forewarn)
    prefix = "shrunk/" if (folder / "shrunk" / "model.keras").is_file() else ""
    paths = {
        one.name: folder / prefix / one.file_name
        for one in chosen(config.export.formats)
        if (folder / prefix / one.file_name).exists()
    }
    final = keras.models.load_model(folder / prefix / "model.keras", compile=False)
    return Result(final, summary, paths, folder)


def known_classes(model: keras.Model) -> dict[str, int]:
    """How many classes a model's outputs know, by output; `""` for its only one."""
    widths = {name: tensor.shape[-1] for name, tensor in named_outputs(model).items()}
    several = len(widths) > 1
    return {name if several else "": width for name, width in widths.items() if (width or 0) > 1}


def given_data(
    train: Any, validation: Any, test: Any, config: Config, known: Mapping[str, int]
) -> Data:
    """Data given in Python, parted where splits are missing.

    Without test data nothing is parted for a test: figures are of the validation data.
    """
    own = own_set(train, validation, test, known_classes=known)
    if test is None:
        own = dataclasses.replace(own, test=own.train)
    dataset = part_own(own, config.data, config.seed)
    if test is not None:
        return dataset
    return dataclasses.replace(dataset, load_test=lambda: dataset.validation)


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"settings: expected a section at {section!r}. Received: {key!r}")
    data[last] = value
