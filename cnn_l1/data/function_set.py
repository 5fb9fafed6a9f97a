"""Data that a function of the user's returns: arrays, `tf.data` or `PyDataset`."""

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.own_code import call, find_function
from cnn_l1.data.given_arrays import own_set
from cnn_l1.data.origin import Origin
from cnn_l1.data.own_sets import OwnSet


def read(config: DataConfig) -> OwnSet:
    """Call the function of a config and read what it returns.

    It returns `(train, validation, test)`, each as `given_arrays.own_set` takes them;
    validation and test may be `None`. Three axes of inputs are a series: images have an axis
    for their channels.

    Args:
        config: A `DataConfig` of name `function`.

    Raises:
        ConfigError: If what it returns cannot be used.
        OwnCodeError: If there is no such function, or it fails.
    """
    name = config.function or ""
    function = find_function(name, "data.function")
    returned = call(function, "data.function", **config.arguments)
    origin = Origin("data.function", f" from {name}")
    if not isinstance(returned, tuple | list) or len(returned) != 3:
        kind = type(returned).__name__
        size = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
        raise origin.error("(train, validation, test)", f"{kind}{size}")
    if returned[0] is None:
        raise origin.error("(train, validation, test) with examples to train on", "None for train")
    train, validation, test = returned
    return own_set(
        train,
        validation,
        test,
        name=name,
        series=None,
        in_memory=config.in_memory,
        origin=origin,
    )
