"""The smallest strength λ at which nothing is left: in closed form, or by trying."""

import json
import math
import pathlib
from collections.abc import Callable

import numpy as np

from cnn_l1.config.loading import Config, ConfigError, with_settings
from cnn_l1.data import sets
from cnn_l1.data.task_choice import task_of
from cnn_l1.models.untrained import new_network
from cnn_l1.sweep.engines import Job, run_job
from cnn_l1.sweep.plan import base_of, is_in_closed_form
from cnn_l1.sweep.selection import NoChoiceError
from cnn_l1.sweep.strengths import spaced, with_strength

BRACKET_FACTOR = 4.0
BRACKET_STEPS = 12  # a factor of 4^12 each way: further off, the start is no strength


def find_strengths(config: Config, output: pathlib.Path) -> tuple[float, ...]:
    """The path's strengths, ascending; found once, and kept for a resumed sweep."""
    settings = config.sweep
    if settings.strengths is not None:
        return tuple(sorted(settings.strengths))
    largest = settings.max_strength
    if largest is None:
        kept = output / "max_strength.json"
        if kept.is_file():
            largest = json.loads(kept.read_text(encoding="utf-8"))["max_strength"]
        else:
            largest = find_largest(config, output)
            written = output / ".max_strength.json"
            written.write_text(json.dumps({"max_strength": largest}) + "\n", encoding="utf-8")
            written.replace(kept)  # in one step: half a file could not be gone on with
    return spaced(largest, settings.min_ratio, settings.points)


def find_largest(config: Config, output: pathlib.Path) -> float:
    """The smallest strength that leaves nothing: computed, or found by trying."""
    if is_in_closed_form(config):
        largest = largest_linear(config)
        print(f"Largest strength: {largest:.6g}, at which every weight is zero")
        return largest

    def is_constant(strength: float) -> bool:
        point = with_strength(base_of(config), strength)
        quick: dict = {
            "fine_tuning.epochs": 0,
            "export.formats": [],
            "shrink.enabled": False,
            "training.empty_layers": "warn",  # what is looked for is an empty network
            "tensorboard": False,
        }
        point = with_settings(point, quick)
        folder = output / "bracket"
        job = Job(f"{strength:.6g}", point.model_dump(mode="json"), strength)
        event = run_job(folder, job)
        if event.state == "failed":
            raise NoChoiceError(f"strength {strength:.3g}: {event.reason}")
        text = (folder / "points" / job.name / "report.json").read_text(encoding="utf-8")
        constant = json.loads(text)["constant_output"]
        print(f"Strength {strength:.3g}: {'nothing' if constant else 'something'} is left")
        return constant

    return bracket(config.penalty.l1_strength, is_constant)


def bracket(start: float, is_constant: Callable[[float], bool]) -> float:
    """The strength at which a network's output has become constant, by trying.

    Multiplies or divides by 4 until a strength that leaves something and one that
    leaves nothing are known, then halves the gap once, in the logarithm.

    Args:
        start: First strength to try, more than 0.
        is_constant: From a strength to whether the trained network is constant.

    Returns:
        A strength that leaves nothing, at most twice the smallest such.

    Raises:
        ConfigError: If 12 steps find no such pair.
    """
    strength, constant = start, is_constant(start)
    first = constant
    for _ in range(BRACKET_STEPS):
        previous = strength
        strength = strength / BRACKET_FACTOR if first else strength * BRACKET_FACTOR
        constant = is_constant(strength)
        if constant != first:
            break
    else:
        state = "nothing" if first else "something"
        raise ConfigError(
            f"penalty.l1_strength: expected a start from which the path's end can be found. "
            f"Received: {start:g}, and {strength:g} still leaves {state}. Set "
            "sweep.max_strength or sweep.strengths."
        )
    alive, dead = (strength, previous) if first else (previous, strength)
    middle = math.sqrt(alive * dead)
    return middle if is_constant(middle) else dead


def largest_linear(config: Config) -> float:
    """The smallest λ at which a linear model's weights are all zero, in closed form.

    At w = 0 the intercept alone is fitted; a weight stays zero as long as λ is not
    below the gradient of the loss there:

        λ_max = max_j |mean_i (2 / outputs) x_ij (ȳ − y_i)|   squared error
        λ_max = max_jk |mean_i x_ij (p̄_k − y_ik)|             crossentropy, p̄ the classes' shares

    (Friedman, Hastie and Tibshirani, 2010, section 2.5, for the first.) Penalised
    intercepts are anywhere between fitted and 0: the larger gradient of the two is
    enough, and is the smallest λ where the inputs have mean 0. Where `penalty.layers`
    gives the layer a strength of its own, λ is the path's that brings it there.

    Args:
        config: A `Config` with `model.name: linear` and an L1 penalty of shape `l1`:
            under a concave one weights can stay above this λ that were large before.
    """
    dataset = sets.load(config.data, config.seed)
    task = task_of(config.training, dataset.about)
    model = new_network(config, dataset.about.input_shape, task.outputs, dataset.statistics())
    inputs, targets = dataset.train.inputs, dataset.train.targets
    if inputs is None:
        raise ConfigError(
            "sweep.max_strength: expected a number, for the data set is streamed, not in "
            "memory. Received: nothing"
        )
    normalize = model.layers[1] if type(model.layers[1]).__name__ == "Rescaling" else None
    rows = inputs.astype("float32")
    if normalize is not None:
        rows = np.asarray(normalize(rows))
    rows = rows.reshape(len(rows), -1).astype("float64")
    if task.kind == "classes" and task.outputs > 1:
        values = np.eye(task.outputs)[targets]
    else:
        values = np.asarray(targets, "float64").reshape(len(rows), -1)
    shares = values.mean(axis=0)
    intercepts = [shares]
    if config.penalty.biases:
        empty = 1.0 / task.outputs if task.loss == "crossentropy" else 0.0
        intercepts.append(np.full(task.outputs, empty))
    factor = 1.0 if task.loss == "crossentropy" else 2.0 / task.outputs
    largest = max(np.abs(rows.T @ (fitted - values)).max() for fitted in intercepts)
    own = 1.0
    if config.penalty.layers and config.penalty.l1_strength:
        dense = next(layer for layer in model.layers if type(layer).__name__ == "Dense")
        own = dense.kernel.regularizer.l1_strength / config.penalty.l1_strength
    if not own:
        raise ConfigError(
            "penalty.layers: expected a strength above 0 for the linear model's layer, or "
            "sweep.max_strength. Received: 0"
        )
    return float(factor * largest / len(rows) / own)
