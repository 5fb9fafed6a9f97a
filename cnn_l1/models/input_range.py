"""What a network's input takes: scaled in the network, or with the data before it.

Data are raw: pixels from 0 to 255, or series and features as they are. `model.input_range`
says what a network of the user's own takes, and an application knows it by its family. With
`normalization: none` nothing is put into the network, and the data are scaled instead; an
autoencoder's always are, for its target is its input.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.model_settings import ModelConfig
from cnn_l1.data.splits import InputScaling, InputStatistics
from cnn_l1.models import applications

# A network that scores so much better on another range was trained for that.
BETTER_BY = 0.1  # of accuracy
LOWER_BY = 0.5  # factor on a loss


def standardizing(
    statistics: InputStatistics | None, input_shape: Sequence[int] = ()
) -> InputScaling:
    """What makes each channel or feature of mean 0 and variance 1.

    Args:
        statistics: Mean and variance of the training split.
        input_shape: Shape of an example, for the words alone.

    Raises:
        ValueError: If there are no statistics.
    """
    if statistics is None:
        raise ValueError(
            "`statistics` must be given for normalization='standardize'. Received: None"
        )
    # As one scale and offset, which converters fold into one multiplication and
    # one addition; a channel without any variance is only centred.
    scales = tuple(1.0 / max(v, 1e-6) ** 0.5 for v in statistics.variance)
    offsets = tuple(-m * s for m, s in zip(statistics.mean, scales, strict=True))
    what = {2: "series, each channel", 3: "pixels, each channel"}.get(len(input_shape), "features,")
    meaning = f"{what}{' each' if what == 'features,' else ''} of mean 0 and variance 1"
    return InputScaling(scales, offsets, meaning)


def scaling_inside(
    config: ModelConfig, input_shape: Sequence[int], statistics: InputStatistics | None = None
) -> InputScaling | None:
    """What is put in front of a network of the user's own; `None` for nothing.

    Args:
        config: The `model` section.
        input_shape: Shape of an example.
        statistics: For `input_range: standardized`.

    Raises:
        ConfigError: If the range is one of pixels, and the inputs are no images.
    """
    if not config.is_own or config.normalization == "none":
        return None
    return _wanted(config, tuple(input_shape), statistics)


def input_scaling(
    config: ModelConfig, input_shape: Sequence[int], statistics: InputStatistics | None = None
) -> InputScaling | None:
    """What is to be done to raw data before the network reads them; `None` for nothing.

    Args:
        config: The `model` section.
        input_shape: Shape of an example.
        statistics: Of the training split, for what is standardized.

    Raises:
        ConfigError: If the range is one of pixels, and the inputs are no images.
    """
    shape = tuple(input_shape)
    if config.name == "autoencoder" and config.normalization != "none":
        rescales = config.normalization == "rescale" or (
            config.normalization == "auto" and len(shape) == 3
        )
        return _pixels("0-1") if rescales else standardizing(statistics, shape)
    if config.normalization != "none":
        return None
    return _wanted(config, shape, statistics)


def for_autoencoder(config: ModelConfig, input_shape: Sequence[int]) -> ModelConfig:
    """A builder's settings where the target is the input: the data are scaled, not the network.

    Otherwise the network would have to give back raw values from scaled ones.
    """
    if config.is_own or config.name == "autoencoder" or config.normalization == "none":
        return config
    rescales = config.normalization == "rescale" or (
        config.normalization == "auto" and len(input_shape) == 3
    )
    input_range = "0-1" if rescales else "standardized"
    return config.model_copy(update={"normalization": "none", "input_range": input_range})


def rescaling(scaling: InputScaling) -> layers.Layer:
    """A scaling as a Keras layer, `input_range`."""
    scale: Any = list(scaling.scale)
    offset: Any = list(scaling.offset)
    if len(scale) == len(offset) == 1:
        (scale,), (offset,) = scale, offset
    return layers.Rescaling(scale, offset=offset, name="input_range")


def _pixels(input_range: str) -> InputScaling:
    if input_range == "0-1":
        return InputScaling((1.0 / 255.0,), (0.0,), "pixels from 0 to 1")
    return InputScaling((1.0 / 127.5,), (-1.0,), "pixels from -1 to 1")


def _wanted(
    config: ModelConfig, shape: tuple[int, ...], statistics: InputStatistics | None
) -> InputScaling | None:
    """What raw data need to be what the network's input takes."""
    chosen = config.input_range
    if config.normalization == "rescale":
        if chosen not in (None, "0-1"):
            raise ConfigError(
                f"model.normalization: expected auto or none with input_range {chosen}. "
                "Received: rescale"
            )
        chosen = "0-1"
    if config.normalization == "standardize" and chosen != "standardized":
        raise ConfigError(
            f"model.normalization: expected auto or none with input_range {chosen}. "
            "Received: standardize"
        )
    if chosen is None and config.name == "application":
        return applications.preprocessing(config, shape).scaling
    if chosen is None:
        return None
    if chosen == "standardized":
        return standardizing(statistics, shape)
    if len(shape) != 3:
        raise ConfigError(
            "model.input_range: expected standardized, or none, for inputs that are no images, "
            f"which a network gets as they are. Received: {chosen}"
        )
    return None if chosen == "0-255" else _pixels(chosen)


@dataclasses.dataclass(frozen=True)
class BetterRange:
    """A range of inputs on which a network scores clearly better than as it gets them now.

    Attributes:
        name: As `model.input_range` has it; `"none"` for series and features as they are.
        now: The accuracy, or the loss, on inputs as they are now.
        better: The same on inputs of this range.
        examples: How many examples that is of.
        is_accuracy: Whether they are accuracies.
    """

    name: str
    now: float
    better: float
    examples: int
    is_accuracy: bool = True

    def __str__(self) -> str:
        is_raw = self.name in ("0-255", "none")
        setting = f"set model.input_range: {self.name}"
        advice = "leave model.input_range out" if self.name == "none" else setting
        where = "unscaled" if is_raw else f"at {self.name}"
        count = f"{self.examples} training examples"
        if self.is_accuracy:
            return (
                f"model.input_range: the network is right for {self.now:.0%} of {count} as the "
                f"data are and for {self.better:.0%} {where}: {advice}"
            )
        return (
            f"model.input_range: the network has a loss of {self.now:.3g} on {count} as the data "
            f"are and of {self.better:.3g} {where}: {advice}"
        )


def better_range(
    outputs_of: Callable[[np.ndarray], Any],
    inputs: np.ndarray,
    score: Callable[[Any], float],
    scaling_now: InputScaling | None = None,
    statistics: InputStatistics | None = None,
    is_accuracy: bool = True,
) -> BetterRange | None:
    """Whether a network with trained weights does far better on inputs of another range.

    Args:
        outputs_of: From raw inputs to the network's outputs, what is done to inputs now included.
        inputs: Raw training examples, such as 256.
        score: From outputs to the fraction that is right, or to a loss.
        scaling_now: What `outputs_of` does to raw inputs, in the network or before it.
        statistics: Of the training split; without them nothing is standardized.
        is_accuracy: Whether `score` is the fraction that is right. Default `True`.

    Returns:
        The better range, as text one line that names it; `None` where none has an accuracy
        higher by 0.1, or half the loss.
    """
    raw = np.asarray(inputs, "float32")
    candidates: dict[str, InputScaling | None] = {"0-255" if raw.ndim == 4 else "none": None}
    if raw.ndim == 4:
        candidates |= {name: _pixels(name) for name in ("0-1", "-1-1")}
    if statistics is not None:
        candidates["standardized"] = standardizing(statistics)
    now = float(score(outputs_of(raw)))
    scores = {}
    for name, scaling in candidates.items():
        # So that what is done now makes of it what this range asks for.
        given = _undone(_done(raw, scaling), scaling_now).astype("float32")
        scores[name] = float(score(outputs_of(given)))
    best = max(scores, key=lambda name: scores[name] if is_accuracy else -scores[name])
    better = scores[best]
    if not (better >= now + BETTER_BY if is_accuracy else better <= LOWER_BY * now):
        return None
    return BetterRange(best, now, better, len(raw), is_accuracy)


def _done(x: np.ndarray, scaling: InputScaling | None) -> np.ndarray:
    return x if scaling is None else x * np.array(scaling.scale) + np.array(scaling.offset)


def _undone(x: np.ndarray, scaling: InputScaling | None) -> np.ndarray:
    return x if scaling is None else (x - np.array(scaling.offset)) / np.array(scaling.scale)
