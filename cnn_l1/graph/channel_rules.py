"""What each kind of layer does to channels: one rule a kind, by exact type.

A rule gives a call's outputs their labels (which channels go together), their
constants (which channels have the same known value everywhere), and says which of
the layer's weights belong to which channel. `coupling.analyse` runs the rules over
a graph; a layer without a rule keeps all channels that it touches.
"""

from keras import layers

from cnn_l1.graph.channel_labels import Rule
from cnn_l1.graph.kernel_rules import Conv, ConvTranspose, Dense, Depthwise, SeparableConv
from cnn_l1.graph.merge_rules import ADD, AVERAGE, MAXIMUM, MINIMUM, MULTIPLY, SUBTRACT, Concatenate
from cnn_l1.graph.normalization_rules import (
    BatchNormalization,
    GroupNormalization,
    Normalization,
    Rescaling,
)
from cnn_l1.graph.passing_rules import (
    Elementwise,
    GlobalPooling,
    Mixing,
    PReLU,
    Reshaping,
    Spatial,
    ZeroPadding,
)

PASSING_NAMES = (
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
    "Identity",
)
PASS, SPATIAL, RESHAPING, ELEMENT = Rule(), Spatial(), Reshaping(), Elementwise()

RULES: dict[type, Rule] = {
    layers.Dense: Dense(),
    layers.Conv1D: Conv(),
    layers.Conv2D: Conv(),
    layers.Conv3D: Conv(),
    layers.Conv1DTranspose: ConvTranspose(),
    layers.Conv2DTranspose: ConvTranspose(),
    layers.Conv3DTranspose: ConvTranspose(),
    layers.SeparableConv1D: SeparableConv(),
    layers.SeparableConv2D: SeparableConv(),
    layers.DepthwiseConv1D: Depthwise(),
    layers.DepthwiseConv2D: Depthwise(),
    layers.BatchNormalization: BatchNormalization(),
    layers.GroupNormalization: GroupNormalization(),
    layers.LayerNormalization: Mixing(),
    layers.Softmax: Mixing(),
    layers.Activation: ELEMENT,
    layers.ReLU: ELEMENT,
    layers.LeakyReLU: ELEMENT,
    layers.ELU: ELEMENT,
    layers.PReLU: PReLU(),
    layers.Rescaling: Rescaling(),
    layers.Normalization: Normalization(),
    layers.Flatten: RESHAPING,
    layers.Reshape: RESHAPING,
    layers.Permute: RESHAPING,
    layers.Add: ADD,
    layers.Subtract: SUBTRACT,
    layers.Multiply: MULTIPLY,
    layers.Average: AVERAGE,
    layers.Maximum: MAXIMUM,
    layers.Minimum: MINIMUM,
    layers.Concatenate: Concatenate(),
}
for _dimensions in ("1D", "2D", "3D"):
    for _kind in ("MaxPooling", "AveragePooling", "UpSampling", "Cropping"):
        RULES[getattr(layers, f"{_kind}{_dimensions}")] = SPATIAL
    RULES[getattr(layers, f"ZeroPadding{_dimensions}")] = ZeroPadding()
    RULES[getattr(layers, f"SpatialDropout{_dimensions}")] = PASS
    for _kind in ("Max", "Average"):
        RULES[getattr(layers, f"Global{_kind}Pooling{_dimensions}")] = GlobalPooling()
for _kind in PASSING_NAMES:
    RULES[getattr(layers, _kind)] = PASS
