"""Counts and figures that tests of tables and of reports print and write."""

from cnn_l1.measure.measurement import Measurement
from cnn_l1.sparsity.counting import LayerCount, ModelCount

COUNTS = ModelCount(
    layers=(
        LayerCount("conv_1", (5, 5, 1, 20), 500, 100),
        LayerCount("dense_1", (800, 500), 400_000, 399_000),
        LayerCount("dense_2", (500, 10), 5_000, 0),
    ),
    other_weights=530,
    other_zeros=30,
)
FILE = Measurement(
    accuracy=0.9725,
    accuracy_standard_error=0.0086,
    examples=360,
    agreement=0.9972,
    max_difference=0.01,
    bytes=12_345,
    deflated_bytes=2_345,
    weights=1_000,
    zeros=925,
    latency_median_ms=0.0123,
    latency_p90_ms=0.0456,
    macs=30_464,
)
SAVED_MODEL = Measurement(0.5, 0.026, 360, 1.0, 0.0, 99_999, 88_888)
