"""The strengths λ of a path, and the smallest λ at which nothing is left."""

import math

from cnn_l1.config.loading import ConfigError, with_settings

BRACKET_FACTOR = 4.0
BRACKET_STEPS = 12  # a factor of 4^12 each way: further off, the start is no strength


def spaced(largest, min_ratio, points):
    """`points` strengths from `min_ratio · largest` to `largest`, evenly in the logarithm."""
    step = math.log(min_ratio) / max(1, points - 1)
    powers = range(points - 1, -1, -1)
    # Ten digits: a strength can be read, and typed again.
    return tuple(float(f"{largest * math.exp(step * power):.10g}") for power in powers)


def with_strength(config, strength):
    """A config at another strength; strengths by layer keep their proportion to it.

    Raises:
        ConfigError: If `penalty.layers` has strengths in proportion to 0.
    """
    penalty = config.penalty
    settings = {"penalty.l1_strength": strength}
    if penalty.layers:
        if not penalty.l1_strength:
            raise ConfigError(
                "penalty.l1_strength: expected more than 0, for the strengths of penalty.layers "
                "keep their proportion to it. Received: 0"
            )
        factor = strength / penalty.l1_strength
        settings["penalty.layers"] = {p: s * factor for p, s in penalty.layers.items()}
    return with_settings(config, settings)


def bracket(start, is_constant):
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


def largest_linear(config):
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
    import numpy as np

    from cnn_l1.data import sets as data
    from cnn_l1.data import tasks
    from cnn_l1.models.untrained import new_network

    dataset = data.load(config.data, config.seed)
    task = tasks.task_of(config.training.loss, dataset.about)
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
