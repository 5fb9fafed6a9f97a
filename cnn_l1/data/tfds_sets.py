"""Data sets of TFDS, the embedded ones too: found, prepared, read."""

import contextlib
import difflib
import math
import os
import pathlib
import re
import socket
from typing import Any

import absl.logging
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from cnn_l1.config.data_settings import SOURCES, DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.packages import check_data_packages
from cnn_l1.data import embedded, hub_sets
from cnn_l1.data.splits import EVALUATION_BATCH, Description, Split
from cnn_l1.errors import CnnL1Error
from cnn_l1.process.silence import silenced

EMBEDDED = ("digits", "xor", "diabetes", "sparse_regression")
IN_MEMORY_BYTES = 2 * 1024**3
NETWORK_PROBE = ("storage.googleapis.com", 443)
NETWORK_TIMEOUT_S = 5.0


class DataError(CnnL1Error, RuntimeError):
    """A data set that cannot be fetched or read."""


def _data_dir(config: DataConfig) -> str:
    if config.data_dir is not None:
        return str(pathlib.Path(config.data_dir).expanduser())
    return os.environ.get("TFDS_DATA_DIR") or str(
        pathlib.Path("~/tensorflow_datasets").expanduser()
    )


def _embedded_dir() -> str:
    """Embedded sets are prepared in the user's cache; a data folder may be read-only."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
    return str(pathlib.Path(cache) / "cnn_l1" / "tensorflow_datasets")


def find_builder(config: DataConfig) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a data set, prepared.

    Raises:
        ConfigError: If there is no such set, or it is not there and cannot be fetched.
        DataError: If preparing it fails.
    """
    tfds.disable_progress_bar()
    absl.logging.set_verbosity(absl.logging.ERROR)  # its remarks are answered by ours
    builder: tfds.core.DatasetBuilder | None
    if config.name in EMBEDDED:
        builder = embedded.BUILDERS[config.name](data_dir=_embedded_dir())
        try:
            with silenced(), contextlib.suppress(FileExistsError):  # prepared meanwhile
                builder.download_and_prepare()
        except (OSError, tf.errors.OpError) as error:
            raise DataError(
                f"data.name: expected to prepare {config.name!r} in {_embedded_dir()}, the user's "
                "cache (XDG_CACHE_HOME moves it). "
                f"Received: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from None
        return builder
    data_dir = _data_dir(config)
    of_hub = hub_sets.is_hub_name(config.name)
    builder = hub_sets.prepared(config.name, data_dir) if of_hub else _named(config.name, data_dir)
    if builder is not None and builder.is_prepared():
        return builder
    check_data_packages(config)
    if not config.download:
        raise ConfigError(
            f"data.name: expected {config.name!r} prepared for TFDS in {data_dir}. Received: no "
            "such data there. Set TFDS_DATA_DIR or data.data_dir to where it is, or "
            "data.download=true to fetch it."
        )
    _check_network(config.name, data_dir, hub_sets.PROBE if of_hub else NETWORK_PROBE)
    try:
        builder = hub_sets.unprepared(config.name, data_dir) if builder is None else builder
        builder.download_and_prepare()
    except Exception as error:  # a server's refusal, a cut-off archive, no room, a missing package
        # TFDS says no more than the name of a set of the hub; the hub's reason is the cause.
        reason = " ".join(str(error.__cause__ or error).split())[:300] or "no message"
        raise DataError(
            f"data.download: expected to fetch and prepare {config.name!r} in {data_dir}. "
            f"Received: {type(error).__name__}: {reason}"
        ) from None
    return builder


def _named(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    try:
        if ":" in name and not re.search(r":(\d+|\*)(\.(\d+|\*)){2}$", name):
            raise ValueError("a name of another hub, such as kaggle:mnist")
        # No look at the public bucket: it would wait for a network.
        tfds.core.utils.gcs_utils._is_gcs_disabled = True
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError):
        # Unknown; not a name at all; a version or a variant that the set does not have.
        known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        path = pathlib.Path(name)
        if name and path.exists():
            suffixes = {".csv": "table", ".parquet": "table", ".npz": "arrays"}
            kind = "folder" if path.is_dir() else suffixes.get(path.suffix.lower(), "folder")
            hint = f" For data of your own: name: {kind}, path: {name}"
        own = ", ".join(one for one in SOURCES if one != "given")
        raise ConfigError(
            f"data.name: expected one of {', '.join(EMBEDDED)}, the name of a TFDS data set, "
            f"huggingface:NAME, or data of your own: {own}. Received: {name!r}.{hint}"
        ) from None


def _check_network(name: str, data_dir: str, probe: tuple[str, int]) -> None:
    """Fail at once without a network; TFDS would retry for minutes."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    try:
        socket.create_connection(probe, timeout=NETWORK_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(
            f"data.download: expected a network to fetch {name!r} into {data_dir}. "
            f"Received: no connection to {probe[0]} ({error})"
        ) from None


def keys_of(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """The keys of input and target: an image or features, a label or values.

    Where the set does not say which they are, its one image and its one class label.
    """
    keys = builder.info.supervised_keys
    features = builder.info.features
    if keys is None:
        kinds = (tfds.features.Image, tfds.features.ClassLabel)
        found = [[key for key in features if isinstance(features[key], kind)] for kind in kinds]
        if all(len(one) == 1 for one in found):
            keys = (found[0][0], found[1][0])
    if keys is not None and len(keys) == 2:
        source, target = features[keys[0]], features[keys[1]]
        image = isinstance(source, tfds.features.Image)
        labels = isinstance(target, tfds.features.ClassLabel)
        if (image or _is_vector(source, 1)) and (labels or _is_vector(target, 0, 1)):
            return keys
    raise ConfigError(
        "data.name: expected a data set with an image or a row of floats, and a class label or "
        f"floats to predict. Received: {builder.info.name!r} with {', '.join(features)}"
    )


def _is_vector(feature: Any, *ranks: int) -> bool:
    """Whether a feature is numbers of a fixed shape, of one of these ranks."""
    shape, dtype = getattr(feature, "shape", None), getattr(feature, "np_dtype", None)
    if not isinstance(shape, tuple) or len(shape) not in ranks or None in shape:
        return False
    return dtype is not None and np.issubdtype(dtype, np.floating)


def _input_shape(
    builder: tfds.core.DatasetBuilder, input_key: str, config: DataConfig
) -> tuple[int, ...]:
    shape = tuple(builder.info.features[input_key].shape)
    if len(shape) == 1:
        if config.image_size is not None:
            raise ConfigError(
                f"data.image_size: expected nothing, for {builder.info.name!r} holds rows of "
                f"features, not images. Received: {list(config.image_size)}"
            )
        return shape
    rows, cols, channels = shape
    if config.image_size is not None:
        rows, cols = config.image_size
    if rows is None or cols is None:
        raise ConfigError(
            f"data.image_size: expected [rows, columns], for images in {builder.info.name!r} "
            "differ in size. Received: nothing"
        )
    return rows, cols, channels


def check_split(builder: tfds.core.DatasetBuilder, setting: str, split: str) -> None:
    """Raise `ConfigError` unless a split of a set has examples."""
    try:
        size = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError):
        size = 0
    if not size:
        raise ConfigError(
            f"data.{setting}: expected a split of {builder.info.name!r} with examples "
            f"({', '.join(builder.info.splits)}, or a part like train[:80%]). Received: {split!r}"
        )


def read_split(
    builder: tfds.core.DatasetBuilder,
    keys: tuple[str, str],
    input_shape: tuple[int, ...],
    config: DataConfig,
    split: str,
) -> Split:
    """Read a split: into memory where it fits, else as a stream."""
    input_key, target_key = keys
    target_feature = builder.info.features[target_key]
    labels = isinstance(target_feature, tfds.features.ClassLabel)
    target_type = tf.int64 if labels else tf.float32
    target_shape = () if labels else tuple(target_feature.shape)
    size = builder.info.splits[split].num_examples
    image = len(input_shape) == 3
    input_type = "uint8" if image else "float32"
    in_memory = config.in_memory
    if in_memory is None:
        in_memory = size * math.prod(input_shape) * (1 if image else 4) <= IN_MEMORY_BYTES
    options = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)

    def prepare(value: tf.Tensor) -> tf.Tensor:
        return _resize(config.image_size, value) if image else tf.cast(value, tf.float32)

    def stream() -> tf.data.Dataset:
        examples = builder.as_dataset(split=split, shuffle_files=False, read_config=options)
        return examples.map(
            lambda e: (prepare(e[input_key]), tf.cast(e[target_key], target_type)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    if in_memory:
        inputs = np.empty((size, *input_shape), input_type)
        targets = np.empty((size, *target_shape), target_type.as_numpy_dtype)
        start = 0
        try:
            for some_inputs, some_targets in stream().batch(EVALUATION_BATCH).prefetch(2):
                stop = start + len(some_targets)
                inputs[start:stop], targets[start:stop] = some_inputs.numpy(), some_targets.numpy()
                start = stop
        except (OSError, tf.errors.OpError) as error:
            raise DataError(
                f"data: expected to read {builder.info.name!r}, split {split!r}, in "
                f"{builder.data_dir}. "
                f"Received: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from None
        return Split(size, inputs, targets)
    bare = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=options,
        decoders={input_key: tfds.decode.SkipDecoding()} if image else None,
    ).map(lambda e: tf.cast(e[target_key], target_type))
    targets = np.concatenate([some.numpy() for some in bare.batch(10_000)])
    return Split(size, None, targets, stream)


def _resize(image_size: tuple[int, int] | None, image: tf.Tensor) -> tf.Tensor:
    if image_size is None:
        return image
    resized = tf.image.resize(tf.cast(image, tf.float32), image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def description_of(
    builder: tfds.core.DatasetBuilder, keys: tuple[str, str], config: DataConfig
) -> Description:
    """What a set is, by what its builder says of it."""
    input_key, target_key = keys
    target = builder.info.features[target_key]
    labels = isinstance(target, tfds.features.ClassLabel)
    metadata = builder.info.metadata or {}
    names, true = metadata.get("feature_names"), metadata.get("true_coefficients")
    return Description(
        name=config.name,
        input_shape=_input_shape(builder, input_key, config),
        class_names=tuple(target.names) if labels else None,
        target_count=1 if labels else math.prod(target.shape),
        feature_names=None if names is None else tuple(names),
        true_coefficients=None if true is None else tuple(map(float, true)),
    )
