"""The dense baseline: the network that a sparse one is compared with."""

from cnn_l1.config.loading import Config, with_settings

NO_PENALTY: dict = {
    "penalty.name": "none",
    "penalty.shape": "l1",
    "penalty.scale": None,
    "penalty.layers": {},
    "penalty.l2_strength": 0.0,
    "penalty.l1_ratio": 0.0,
    "penalty.channel_cost": "weights",
    "training.ramp_epochs": 0,
    "thresholding": None,
    "target": None,
}


# A network that is given with its weights is the dense baseline as it is.
NO_TRAINING: dict = {
    "training.epochs": 0,
    "fine_tuning.epochs": 0,
    "shrink.fine_tuning_epochs": 0,
}


def dense_baseline(config: Config) -> Config:
    """A config's dense baseline: same network, data, stages and epochs, and no penalty.

    Its stages are the sparse network's: `training`, `fine_tuning`, and
    `shrink.fine_tuning_epochs`, which it trains too, though no channel goes. Of a network
    that comes with its weights, the network as it is.

    Args:
        config: A `Config`.

    Returns:
        A validated `Config`.

    Raises:
        ConfigError: If the settings do not go together.
    """
    settings = NO_PENALTY
    if config.model.has_weights:
        settings = settings | NO_TRAINING
    return with_settings(config, settings)
