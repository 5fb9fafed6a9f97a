"""The penalties of a config, put on a model: the `penalty` section, as `attach` calls."""

from typing import Any

import keras

from cnn_l1.config.layer_patterns import first_match
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.training_settings import PenaltyConfig
from cnn_l1.graph.coupling import channel_spaces
from cnn_l1.sparsity import groups, penalties


def attach_configured(model: keras.Model, config: PenaltyConfig) -> None:
    """Put the penalties of a config's `penalty` section on a model.

    Args:
        model: A built `keras.Model`.
        config: The section.

    Raises:
        ConfigError: If the model has nothing to put the penalty on, or a pattern of
            `penalty.layers` matches none of its layers.
    """
    used: set[str] = set()

    def strength_of(layer_name: str) -> float:
        pattern = first_match(layer_name, config.layers)
        if pattern is None:
            return config.l1_strength
        used.add(pattern)
        return config.layers[pattern]

    owners = {}
    for layer in model.layers:
        normalizes = isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.trainable_variables:
            if normalizes:
                penalised = config.batch_norm
            elif penalties.is_kernel(variable):
                penalised = True
            else:
                penalised = config.biases and variable.name == "bias"
            if penalised:
                strength_of(layer.name)
                owners[id(variable)] = layer.name

    def penalty_of(variable: Any) -> penalties.Penalty | None:
        name = owners.get(id(variable))
        return None if name is None else _penalty(config, strength_of(name))

    try:
        if config.name == "group_l1":
            groups.attach_groups(
                model, config.l1_strength, config.l1_ratio, strength_of, config.shape,
                config.scale, config.channel_cost,
            )  # fmt: skip
        elif config.name == "slimming":
            groups.attach_slimming(model, config.l1_strength)
        elif config.name != "none":
            penalties.attach(model, penalty_of, kernels_only=False)
    except ValueError as error:
        raise ConfigError(f"penalty.name: {error}") from None
    unused = sorted(config.layers.keys() - used)
    if unused:
        names = [layer.name for layer in model.layers if layer.trainable_variables]
        if config.name == "group_l1":
            # Channels that several layers make take the strength of the first.
            names = [space.members[0].layer for space in channel_spaces(model)]
        raise ConfigError(
            f"penalty.layers: expected patterns that match one of {', '.join(names)}. "
            f"Received: {', '.join(unused)}"
        )


def _penalty(config: PenaltyConfig, strength: float) -> penalties.Penalty:
    if config.name == "l1l2":
        return penalties.L1L2(strength, config.l2_strength)
    if config.shape == "reweighted":
        assert config.scale is not None  # its validator fills it in
        return penalties.ReweightedL1(strength, config.scale)
    if config.shape != "l1":
        return penalties.Concave(strength, config.shape, config.scale)
    return penalties.L1(strength)
