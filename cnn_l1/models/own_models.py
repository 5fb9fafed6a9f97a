"""Networks of the user's own, from a file, a function or keras.applications, made to train on."""

import dataclasses
import fnmatch
import math
import pathlib
from typing import Any

import keras

from cnn_l1.config.loading import ConfigError
from cnn_l1.config.model_settings import ModelConfig
from cnn_l1.config.own_code import OwnCodeError, call, find_function, import_modules
from cnn_l1.data.splits import InputStatistics
from cnn_l1.graph.reading import GraphError, as_functional, read_graph
from cnn_l1.models import applications
from cnn_l1.models.flat_copies import FlatError, flat_copy
from cnn_l1.models.input_range import rescaling, scaling_inside
from cnn_l1.models.saved import LoadError, check_file, load_model

Shape = tuple[int, ...]
# Values an example: how many, or their whole shape; by name where there are several outputs.
Outputs = int | Shape | dict[str, int] | dict[str, Shape]


def own_model(
    config: ModelConfig,
    input_shape: Shape,
    outputs: Outputs,
    statistics: InputStatistics | None = None,
) -> keras.Model:
    """The network that `model` names, as a flat Functional model, ready to be trained.

    Args:
        config: The `model` section, of the name `file`, `function` or `application`.
        input_shape: Shape of an example.
        outputs: How many values the targets need, or the shape of an example's values; by the
            output's name for several outputs. A number is also met by as many at each pixel
            or step.
        statistics: `InputStatistics` of the training split; for `input_range: standardized`.

    Returns:
        An uncompiled model with what `input_range` asks for in front, and without what
        `freeze` names in its trainable weights. With several outputs it gives a dict.

    Raises:
        ConfigError, OwnCodeError: If it cannot be had, or does not fit the data.
    """
    input_shape = tuple(input_shape)
    if config.name == "file":
        _check_policy(config)
        model = _of_file(config)
        return _fitted(model, config, input_shape, outputs, statistics, _of(config))
    if config.name == "function":
        model = _of_function(config, input_shape, outputs)
        return _fitted(model, config, input_shape, outputs, statistics, _of(config))
    if config.name == "application":
        return _of_application(config, input_shape, outputs, statistics)
    raise ConfigError(
        "model.name: expected file, function or application, for which a config is enough. "
        f"Received: {config.name}"
    )


def check_source(config: ModelConfig) -> None:
    """Raise at once where a file or function is not there, before data are read."""
    if config.name == "file":
        try:
            check_file(config.path)
        except LoadError as error:
            raise ConfigError(f"model.path: {error}") from None
    elif config.name == "function":
        find_function(str(config.function), "model.function")


def given_model(
    model: keras.Model,
    config: ModelConfig,
    input_shape: Shape,
    outputs: Outputs,
    statistics: InputStatistics | None = None,
) -> keras.Model:
    """A flat copy of a model that was handed over in Python, ready to be trained.

    Args:
        model: A Functional, Sequential or subclassed model, which stays as it is.
        config: The `model` section, for `freeze` and `input_range`.
        input_shape, outputs, statistics: As `own_model` takes them.

    Raises:
        ConfigError: If it does not fit the data, or cannot be made a graph.
    """
    if not isinstance(model, keras.Model):
        raise ConfigError(f"model: expected a keras.Model. Received: {type(model).__name__}")
    _check_policy(config)
    source = Source("model", model.name)
    return _fitted(model, config, tuple(input_shape), outputs, statistics, source)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a network comes from: the setting, and what it says, for errors."""

    setting: str
    what: str

    def error(self, expected: str, received: str) -> ConfigError:
        """A `ConfigError` about it."""
        return ConfigError(f"{self.setting}: expected {expected}. Received: {received}")


def _of(config: ModelConfig) -> Source:
    if config.name == "file":
        return Source("model.path", pathlib.Path(str(config.path)).name)
    return Source("model.function", str(config.function))


def _check_policy(config: ModelConfig) -> None:
    """Raise where a policy is asked for that layers which exist already would not take."""
    if config.dtype_policy != "float32":
        raise ConfigError(
            f"model.dtype_policy: expected none for name {config.name}, whose layers have their "
            f"own. Received: {config.dtype_policy}"
        )


def _of_file(config: ModelConfig) -> keras.Model:
    import_modules(config.modules, "model.modules")
    try:
        return load_model(config.path)
    except LoadError as error:
        message, is_unknown, _ = str(error).partition(" Pass custom_objects=")
        advice = " Name the module that registers them in model.modules" if is_unknown else ""
        raise ConfigError(f"model.path: {message}{advice}") from None


def _of_function(config: ModelConfig, input_shape: Shape, outputs: Outputs) -> keras.Model:
    import_modules(config.modules, "model.modules")
    function = find_function(str(config.function), "model.function")
    model = call(
        function, "model.function", input_shape=input_shape, outputs=outputs, **config.arguments
    )
    if not isinstance(model, keras.Model):
        raise OwnCodeError(
            "model.function: expected a function that returns a keras.Model. "
            f"Received: {config.function}, which returns {type(model).__name__}"
        )
    return model


def _of_application(
    config: ModelConfig,
    input_shape: Shape,
    outputs: Outputs,
    statistics: InputStatistics | None,
) -> keras.Model:
    counts = {
        name: _count(value)
        for name, value in (outputs if isinstance(outputs, dict) else {"head": outputs}).items()
    }
    scaling = scaling_inside(config, input_shape, statistics)
    scaled = None if scaling is None else rescaling(scaling)
    model = applications.build(config, input_shape, counts, scaled)
    if not isinstance(outputs, dict):
        model = keras.Model(model.inputs[0], model.output["head"], name=model.name)
    if config.freeze is True and config.weights is None:
        raise ConfigError(
            "model.freeze: expected true for a network with model.weights, or a pattern. "
            f"Received: true for {config.application} with random weights"
        )
    source = Source("model.application", str(config.application))
    _freeze(model, config.freeze, frozenset(counts), source)
    return model


def _count(value: int | Shape) -> int:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    if len(sizes) != 1:
        raise ConfigError(
            "model.application: expected targets that are one value, or one row of values, an "
            f"example. Received: a shape of {sizes}"
        )
    return sizes[0]


def _fitted(
    model: keras.Model,
    config: ModelConfig,
    input_shape: Shape,
    outputs: Outputs,
    statistics: InputStatistics | None,
    source: Source,
) -> keras.Model:
    """A flat copy of a network, checked against the data."""
    _check_input(model, input_shape, source)
    scaling = scaling_inside(config, input_shape, statistics)
    try:
        flat = flat_copy(model, input_shape, None if scaling is None else rescaling(scaling))
    except FlatError as error:
        raise ConfigError(f"{source.setting}: {source.what}: {error}") from None
    flat = _with_outputs(flat, input_shape, outputs, source)
    _freeze(flat, config.freeze, frozenset(), source)
    return flat


def _check_input(model: keras.Model, input_shape: Shape, source: Source) -> None:
    """Raise unless the model reads such examples; of a subclassed one its call will tell."""
    if as_functional(model) is None:
        return
    try:
        shapes = [value.shape[1:] for value in read_graph(model).inputs]
    except GraphError as error:
        raise ConfigError(f"{source.setting}: {error}") from None
    if len(shapes) != 1:
        raise source.error("a network with one input", f"{source.what} with {len(shapes)}")
    (own,) = shapes
    fits = len(own) == len(input_shape) and all(
        fixed in (None, size) for fixed, size in zip(own, input_shape, strict=True)
    )
    if not fits:
        raise source.error(
            f"an input of shape {input_shape}, as the data have", f"{source.what} with {own}"
        )


def _with_outputs(
    model: keras.Model, input_shape: Shape, outputs: Outputs, source: Source
) -> keras.Model:
    """The model, its outputs checked; with several in a dict by their names."""
    tensors = dict(zip(model.output_names, model.outputs, strict=True))
    if isinstance(model.output, dict):
        tensors = dict(model.output)
    if isinstance(outputs, dict):
        if tensors.keys() != outputs.keys():
            raise source.error(
                f"outputs of the names {', '.join(sorted(outputs))}, as the targets have",
                f"{source.what} with {', '.join(sorted(tensors))}",
            )
        for name, value in outputs.items():
            _check_output(tensors[name], input_shape, value, f"output {name!r} ", source)
        inputs = model.inputs[0]
        return keras.Model(inputs, {name: tensors[name] for name in outputs}, name=model.name)
    if len(tensors) != 1:
        raise source.error("a network with one output", f"{source.what} with {', '.join(tensors)}")
    (tensor,) = tensors.values()
    _check_output(tensor, input_shape, outputs, "", source)
    if model.output is tensor:
        return model
    return keras.Model(model.inputs[0], tensor, name=model.name)


def _check_output(
    tensor: Any, input_shape: Shape, wanted: int | Shape, which: str, source: Source
) -> None:
    shape = tuple(tensor.shape[1:])
    if not isinstance(wanted, int):
        if shape != tuple(wanted):
            raise source.error(
                f"{which}values of shape {tuple(wanted)}, as the targets have".lstrip(),
                f"{source.what} with {shape}",
            )
        return
    allowed = [(wanted,), (*input_shape[:-1], wanted)]
    if math.prod(input_shape) == wanted:
        allowed.append(input_shape)
    # Two classes may be one value; and a network may know classes that the data do not have.
    # The task, which knows what the targets are, looks again.
    lenient = (shape == (1,) and wanted == 2) or (len(shape) == 1 and shape[0] > wanted)
    if shape not in allowed and not lenient:
        received = shape[0] if len(shape) == 1 else f"values of shape {shape}"
        raise source.error(
            f"{which}{'of ' if which else ''}{wanted} outputs, as the targets need",
            f"{source.what} with {received}",
        )


def _freeze(model: keras.Model, freeze: bool | str, heads: frozenset[str], source: Source) -> None:
    """Make layers untrainable: all but new heads, or those of a pattern."""
    if not freeze:
        return
    weighted = [layer for layer in model.layers if layer.weights]
    if freeze is True:
        chosen = [layer for layer in weighted if layer.name not in heads]
    else:
        chosen = [x for x in weighted if fnmatch.fnmatchcase(x.name, str(freeze))]
        if not chosen:
            names = ", ".join(layer.name for layer in weighted[:8])
            if len(weighted) > 8:
                names += f" and {len(weighted) - 8} more"
            raise ConfigError(
                "model.freeze: expected a pattern that matches one of the layers with weights, "
                f"{names}. Received: {freeze}"
            )
    for layer in chosen:
        layer.trainable = False
    if not model.trainable_weights:
        raise ConfigError(
            "model.freeze: expected a pattern that leaves layers to be trained. "
            f"Received: {str(freeze).lower() if freeze is True else freeze}, which freezes all of "
            f"{source.what}"
        )
