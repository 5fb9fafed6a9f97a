"""The figures of one exported file: scores, sizes, zeros, latency, operators."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class OutputMeasurement:
    """The figures of one of several outputs; see `Measurement`.

    Attributes:
        name: Its name in the file; empty where it has none.
    """

    name: str
    max_difference: float
    agreement: float | None = None
    accuracy: float | None = None
    accuracy_standard_error: float | None = None
    mean_squared_error: float | None = None
    mean_squared_error_standard_error: float | None = None
    r2: float | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The figures of one exported file; `None` where a figure has no meaning.

    Scores are of the one output; of several, each has its own in `outputs`.

    Attributes:
        accuracy: Fraction of the examples, or pixels, whose class is right; of classes only.
        accuracy_standard_error: Binomial, `√(p (1 − p) / n)`; of pixels that of the mean
            over examples.
        examples: Number of examples, `n`.
        agreement: Fraction of examples, or pixels, for which file and Keras choose alike;
            of several outputs the smallest.
        max_difference: Largest difference of an output from Keras', in its unit; of several
            outputs the largest.
        bytes: Size of the file, or of all files in the folder.
        deflated_bytes: Size after zlib level 9, as a zipped package ships it.
        xz_bytes: Size after xz level 9, as a firmware update ships it.
        weights: Weights of convolutions and dense layers in the file.
        zeros: How many of them are exactly zero.
        mean_squared_error: Of values; the mean over examples and outputs.
        mean_squared_error_standard_error: Of that mean over examples.
        r2: Of values: 1 − squared error / squared deviation from the mean.
        latency_median_ms: Of one example, one thread, in CPU time.
        latency_p90_ms: The 90th percentile of the same runs.
        operators: Names of the operators, each once.
        ram_bytes: The arena that TFLite Micro needs for it, on this host.
        macs: Multiply-adds of one example, counted on the network that was exported.
        outputs: The figures of each output, of a file with several.
        float_operators: Operators that a quantized TFLite file computes in float.
        metrics: Keras metrics of a config, by name, on the file's outputs; of an autoencoder
            `auc`, of its reconstruction error as a sign of anomalies.
    """

    accuracy: float | None
    accuracy_standard_error: float | None
    examples: int
    agreement: float | None
    max_difference: float
    bytes: int
    deflated_bytes: int
    weights: int | None = None
    zeros: int | None = None
    latency_median_ms: float | None = None
    latency_p90_ms: float | None = None
    operators: tuple[str, ...] = ()
    macs: int | None = None
    mean_squared_error: float | None = None
    mean_squared_error_standard_error: float | None = None
    r2: float | None = None
    ram_bytes: int | None = None
    xz_bytes: int | None = None
    outputs: tuple[OutputMeasurement, ...] = ()
    float_operators: tuple[str, ...] = ()
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
