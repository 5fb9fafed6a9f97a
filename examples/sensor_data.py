"""Series of a wearable's sensors, for configs with `data: {name: function}`.

    data:
      name: function
      function: sensor_data:basic_motions
      arguments: {window_steps: 50, hop_steps: 10}
    modules_dir: ../examples

BasicMotions is in the wheel of `aeon`: accelerometer and gyroscope of a smart watch, 6 channels,
10 steps a second, 10 seconds a recording; 40 recordings to train on and 40 to test on, of
badminton, running, standing and walking. `pip install --no-deps aeon==1.6.0`: its files are read,
its code is not, so that what it depends on is not needed. `folder` names files of your own in the
same format.
"""

import importlib.util
import pathlib

import numpy as np

NAME = "BasicMotions"
FOLDS = 5
FLOOR = 0.1  # added to magnitudes: below it is the sensors' noise, whose logarithm says nothing


def basic_motions(window_steps=100, hop_steps=None, fold=0, folder=None):
    """Windows of the recordings, and which motion they are.

    Args:
        window_steps: Steps of a window; 100 is a whole recording.
        hop_steps: Steps from one window to the next. Default: `window_steps`, no overlap.
        fold: Which fifth of the training recordings is for validation, 0 to 4.
        folder: Where `BasicMotions_TRAIN.ts` and `BasicMotions_TEST.ts` are. Default: in aeon.

    Returns:
        `(train, validation, test)`, each `(windows, names of motions)`; windows are `(windows,
        steps, channels)`. Recordings are parted, not windows: overlapping windows of one
        recording are never in two parts.
    """
    parts = recordings(fold, folder)
    return tuple(windows(*part, window_steps, hop_steps or window_steps) for part in parts)


def odd_motions(normal="Walking", window_steps=32, hop_steps=5, bands=True, fold=0, folder=None):
    """Windows of one motion, `normal`, and of all others, each an `anomaly`.

    Args:
        normal: The motion that is learnt.
        window_steps: As `basic_motions` takes it.
        hop_steps: As `basic_motions` takes it.
        bands: Whether a window is described by `octaves`, or by its values as they are.
        fold: As `basic_motions` takes it.
        folder: As `basic_motions` takes it.

    Returns:
        `(train, validation, test)`, each `(features, labels)`; features are `(windows,
        features)`, with mean 0 and variance 1 over the normal windows of `train`. An
        autoencoder's training takes the normal windows alone.
    """
    found = []
    for series, names in basic_motions(window_steps, hop_steps, fold, folder):
        if normal not in names:
            raise ValueError(f"normal must be one of {', '.join(np.unique(names))}, not {normal!r}")
        features = octaves(series) if bands else series.reshape(len(series), -1)
        found.append((features, np.where(names == normal, "normal", "anomaly")))
    features, labels = found[0]
    learnt = features[labels == "normal"]
    mean, deviation = learnt.mean(axis=0), learnt.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)  # a channel that never moves
    return tuple((((x - mean) / deviation).astype("float32"), y) for x, y in found)


def octaves(series):
    """How strongly each channel swings in each octave of frequencies, `(windows, features)`.

    The logarithm of the root mean square magnitude. A window at rest is near the mean of a motion
    that swings around 0, so that an autoencoder of the values themselves rebuilds it well. By
    octaves it is far from the motion.

    Args:
        series: `(windows, steps, channels)`.
    """
    swings = series - series.mean(axis=1, keepdims=True)
    power = np.square(np.abs(np.fft.rfft(swings * np.hanning(series.shape[1])[:, None], axis=1)))
    parts, start, end = [], 1, 2  # bin 0 is the mean
    while start < power.shape[1]:
        parts.append(power[:, start:end].mean(axis=1))
        start, end = end, 2 * end - 1
    return np.log(np.sqrt(np.stack(parts, axis=1)) + FLOOR).reshape(len(series), -1)


def windows(series, names, window_steps, hop_steps):
    """Cut each recording into windows; returns them and the names that go with them."""
    steps = series.shape[1]
    if not 1 <= window_steps <= steps:
        raise ValueError(f"window_steps must be 1 to {steps}, not {window_steps}")
    starts = range(0, steps - window_steps + 1, hop_steps)
    cut = np.stack([series[:, start : start + window_steps] for start in starts], axis=1)
    return cut.reshape(-1, window_steps, series.shape[2]), np.repeat(names, len(starts))


def recordings(fold=0, folder=None):
    """`(train, validation, test)`, each `(series, names)` of whole recordings."""
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold must be 0 to {FOLDS - 1}, not {fold}")
    folder = pathlib.Path(folder) if folder is not None else data_of_aeon() / NAME
    series, names = read_ts(folder / f"{NAME}_TRAIN.ts")
    # The k-th recording of each motion goes to the fold k mod 5.
    number = np.array([np.sum(names[:row] == name) for row, name in enumerate(names)])
    held = number % FOLDS == fold
    train, validation = (series[~held], names[~held]), (series[held], names[held])
    return train, validation, read_ts(folder / f"{NAME}_TEST.ts")


def data_of_aeon():
    """The folder of the data sets in the installed `aeon`, which is not imported."""
    found = importlib.util.find_spec("aeon")
    places = [] if found is None else found.submodule_search_locations or []
    for place in places:
        folder = pathlib.Path(place) / "datasets" / "data"
        if (folder / NAME).is_dir():
            return folder
    raise FileNotFoundError(f"{NAME} comes with aeon: pip install --no-deps aeon==1.6.0")


def read_ts(path):
    """Read a `.ts` file of series of one length.

    Lines of `#` are comments, those of `@` say what the file is. After `@data` each line is one
    recording: its channels, numbers between commas, and last its class, parted by colons.

    Args:
        path: The file.

    Returns:
        `(series, names)`: `(recordings, steps, channels)` float32, and the classes.

    Raises:
        ValueError: If a line cannot be read; it names file and line.
    """
    path = pathlib.Path(path)
    series, names, begun = [], [], False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#@":
            begun = begun or line.lower() == "@data"
            continue
        *channels, name = line.split(":")
        where = f"{path}, line {number}"
        if not begun or not channels:
            raise ValueError(f"{where}: expected @data, then channels and a class between colons")
        try:
            values = np.array([channel.split(",") for channel in channels], "float32")
        except ValueError:  # text, or channels that differ in length
            raise ValueError(f"{where}: expected channels of as many numbers each") from None
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: expected finite numbers")
        if series and values.shape != series[0].shape:
            wanted, there = series[0].shape, values.shape
            raise ValueError(
                f"{where}: expected channels and steps {wanted}, as before, not {there}"
            )
        series.append(values)
        names.append(name.strip())
    if not series:
        raise ValueError(f"{path}: expected recordings after a line @data")
    return np.stack(series).transpose(0, 2, 1), np.array(names)
