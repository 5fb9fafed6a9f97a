"""A small model around each layer class of `keras.layers`, and what is right for it.

Kernels and multiply-adds are worked out by hand from Keras' documentation, not asked of
`cnn_l1`, which the table of support checks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as L  # noqa: N812

# What the layer under test gets: the output of a layer with 6 channels, two of them zero.
AFTER = {"vector": (4,), "steps": (8, 4), "image": (8, 8, 4), "volume": (4, 4, 4, 2)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model around a layer.

    Attributes:
        make: Makes the layer; its name is `"layer"`.
        feed: A key of `AFTER`; or the shape of the model's input, which the layer takes.
        kernels: Names of the layer's kernels, each as often as it has one.
        macs: Multiply-adds of the layer for one sample.
        call: From `(layer, tensor)` to its output. Default: the layer on the tensor.
        dtype: Of the input: `"float32"`, `"int32"`, `"string"`.
        values: `"normal"`, `"pixels"` in 0-255, or `"ids"` below 5.
    """

    make: Callable[[], Any]
    feed: Any = "vector"
    kernels: tuple[str, ...] = ()
    macs: int = 0
    call: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    dtype: str = "float32"
    values: str = "normal"


def branched(layer, x):
    """The layer on a tensor and a branch of it."""
    return layer([x, L.ReLU(name="branch")(x)])


def twice(layer, x):
    return layer(x, x)


def image(make):
    """A layer for images as they come, three channels in 0-255."""
    return Case(make, (8, 8, 3), values="pixels")


def ids(make, **settings):
    return Case(make, (5,), dtype="int32", values="ids", **settings)


def words(make):
    return Case(make, (1,), dtype="string", values="words")


_RECURRENT = ("kernel", "recurrent_kernel")
_SEPARABLE = ("depthwise_kernel", "pointwise_kernel")
_N = {"name": "layer"}

CASES: dict[str, Case] = {
    "Activation": Case(lambda: L.Activation("tanh", **_N)),
    "ActivityRegularization": Case(lambda: L.ActivityRegularization(l1=0.1, **_N)),
    "AdaptiveAveragePooling1D": Case(lambda: L.AdaptiveAveragePooling1D(4, **_N), "steps"),
    "AdaptiveAveragePooling2D": Case(lambda: L.AdaptiveAveragePooling2D(4, **_N), "image"),
    "AdaptiveAveragePooling3D": Case(lambda: L.AdaptiveAveragePooling3D(2, **_N), "volume"),
    "AdaptiveMaxPooling1D": Case(lambda: L.AdaptiveMaxPooling1D(4, **_N), "steps"),
    "AdaptiveMaxPooling2D": Case(lambda: L.AdaptiveMaxPooling2D(4, **_N), "image"),
    "AdaptiveMaxPooling3D": Case(lambda: L.AdaptiveMaxPooling3D(2, **_N), "volume"),
    "Add": Case(lambda: L.Add(**_N), "image", call=branched),
    # Scores of 8 x 8 pairs, 6 products each, then as many with the values.
    "AdditiveAttention": Case(
        lambda: L.AdditiveAttention(**_N), "steps", macs=64 * (6 + 6), call=branched
    ),
    "AlphaDropout": Case(lambda: L.AlphaDropout(0.5, **_N)),
    "Attention": Case(lambda: L.Attention(**_N), "steps", macs=64 * (6 + 6), call=branched),
    "AugMix": image(lambda: L.AugMix(**_N)),
    "AutoContrast": image(lambda: L.AutoContrast(**_N)),
    "Average": Case(lambda: L.Average(**_N), "image", call=branched),
    "AveragePooling1D": Case(lambda: L.AveragePooling1D(2, **_N), "steps"),
    "AveragePooling2D": Case(lambda: L.AveragePooling2D(2, **_N), "image"),
    "AveragePooling3D": Case(lambda: L.AveragePooling3D(2, **_N), "volume"),
    "BatchNormalization": Case(lambda: L.BatchNormalization(**_N), "image"),
    "Bidirectional": Case(
        lambda: L.Bidirectional(L.LSTM(3), **_N), "steps", _RECURRENT * 2, 2 * 8 * (6 + 3) * 12
    ),
    "CategoryEncoding": Case(
        lambda: L.CategoryEncoding(5, **_N), (1,), dtype="int32", values="ids"
    ),
    "CenterCrop": Case(lambda: L.CenterCrop(4, 4, **_N), "image"),
    "Concatenate": Case(lambda: L.Concatenate(**_N), "image", call=branched),
    "ContrastLimitedAdaptiveHistogramEqualization": image(
        lambda: L.ContrastLimitedAdaptiveHistogramEqualization(tile_grid_size=(2, 2), **_N)
    ),
    "Conv1D": Case(lambda: L.Conv1D(5, 3, **_N), "steps", ("kernel",), 6 * 3 * 6 * 5),
    "Conv1DTranspose": Case(
        lambda: L.Conv1DTranspose(5, 3, **_N), "steps", ("kernel",), 8 * 3 * 6 * 5
    ),
    "Conv2D": Case(lambda: L.Conv2D(5, 3, **_N), "image", ("kernel",), 36 * 9 * 6 * 5),
    "Conv2DTranspose": Case(
        lambda: L.Conv2DTranspose(5, 3, **_N), "image", ("kernel",), 64 * 9 * 6 * 5
    ),
    "Conv3D": Case(lambda: L.Conv3D(5, 3, **_N), "volume", ("kernel",), 8 * 27 * 6 * 5),
    "Conv3DTranspose": Case(
        lambda: L.Conv3DTranspose(5, 3, **_N), "volume", ("kernel",), 64 * 27 * 6 * 5
    ),
    # At each of 3 steps, two convolutions to 4 gates of 2 filters: of 4 or 2 channels, and of 2.
    "ConvLSTM1D": Case(
        lambda: L.ConvLSTM1D(2, 3, padding="same", **_N),
        (3, 8, 4), _RECURRENT, 3 * 8 * 3 * (4 + 2) * 8,
    ),
    "ConvLSTM2D": Case(
        lambda: L.ConvLSTM2D(2, 3, padding="same", **_N),
        (3, 6, 6, 4), _RECURRENT, 3 * 36 * 9 * (4 + 2) * 8,
    ),
    "ConvLSTM3D": Case(
        lambda: L.ConvLSTM3D(2, 3, padding="same", **_N),
        (2, 4, 4, 4, 2), _RECURRENT, 2 * 64 * 27 * (2 + 2) * 8,
    ),
    "Cropping1D": Case(lambda: L.Cropping1D(1, **_N), "steps"),
    "Cropping2D": Case(lambda: L.Cropping2D(1, **_N), "image"),
    "Cropping3D": Case(lambda: L.Cropping3D(1, **_N), "volume"),
    "CutMix": image(lambda: L.CutMix(**_N)),
    "Dense": Case(lambda: L.Dense(5, **_N), "vector", ("kernel",), 6 * 5),
    "DepthwiseConv1D": Case(lambda: L.DepthwiseConv1D(3, **_N), "steps", ("kernel",), 6 * 3 * 6),
    "DepthwiseConv2D": Case(lambda: L.DepthwiseConv2D(3, **_N), "image", ("kernel",), 36 * 9 * 6),
    "Discretization": Case(
        lambda: L.Discretization([-0.5, 0.5], output_mode="multi_hot", **_N), (4,)
    ),
    "Dot": Case(lambda: L.Dot(1, **_N), "steps", macs=6 * 6 * 8, call=branched),
    "Dropout": Case(lambda: L.Dropout(0.5, **_N)),
    "ELU": Case(lambda: L.ELU(**_N), "image"),
    "EinsumDense": Case(lambda: L.EinsumDense("ab,bc->ac", 5, **_N), "vector", ("kernel",), 6 * 5),
    "Embedding": ids(lambda: L.Embedding(10, 4, **_N), kernels=("embeddings",)),
    "Equalization": image(lambda: L.Equalization(**_N)),
    "Flatten": Case(lambda: L.Flatten(**_N), "image"),
    "GRU": Case(lambda: L.GRU(3, **_N), "steps", _RECURRENT, 8 * (6 + 3) * 9),
    "GRUCell": Case(lambda: L.RNN(L.GRUCell(3), **_N), "steps", _RECURRENT, 8 * (6 + 3) * 9),
    "GaussianDropout": Case(lambda: L.GaussianDropout(0.5, **_N)),
    "GaussianNoise": Case(lambda: L.GaussianNoise(0.5, **_N)),
    "GlobalAveragePooling1D": Case(lambda: L.GlobalAveragePooling1D(**_N), "steps"),
    "GlobalAveragePooling2D": Case(lambda: L.GlobalAveragePooling2D(**_N), "image"),
    "GlobalAveragePooling3D": Case(lambda: L.GlobalAveragePooling3D(**_N), "volume"),
    "GlobalMaxPooling1D": Case(lambda: L.GlobalMaxPooling1D(**_N), "steps"),
    "GlobalMaxPooling2D": Case(lambda: L.GlobalMaxPooling2D(**_N), "image"),
    "GlobalMaxPooling3D": Case(lambda: L.GlobalMaxPooling3D(**_N), "volume"),
    "GroupNormalization": Case(lambda: L.GroupNormalization(2, **_N), "image"),
    # Queries and output of 2 heads of 3, keys and values of one; 64 pairs, 2 heads, 3 + 3.
    "GroupQueryAttention": Case(
        lambda: L.GroupQueryAttention(3, 2, 1, **_N),
        "steps", ("kernel",) * 4, 8 * 6 * (6 + 3 + 3 + 6) + 64 * 2 * 6, twice,
    ),
    "HashedCrossing": ids(
        lambda: L.HashedCrossing(5, output_mode="one_hot", **_N),
        call=lambda layer, x: layer([x[:, :1], x[:, 1:2]]),
    ),
    "Hashing": Case(
        lambda: L.Hashing(5, output_mode="one_hot", **_N), (1,), dtype="int32", values="ids"
    ),
    "Identity": Case(lambda: L.Identity(**_N)),
    "InputLayer": Case(lambda: L.Identity(**_N)),
    "IntegerLookup": ids(
        lambda: L.IntegerLookup(vocabulary=[1, 2, 3], output_mode="multi_hot", **_N)
    ),
    "LSTM": Case(lambda: L.LSTM(3, **_N), "steps", _RECURRENT, 8 * (6 + 3) * 12),
    "LSTMCell": Case(lambda: L.RNN(L.LSTMCell(3), **_N), "steps", _RECURRENT, 8 * (6 + 3) * 12),
    "Lambda": Case(lambda: L.Lambda(lambda x: 2.0 * x, output_shape=(6,), **_N)),
    "LayerNormalization": Case(lambda: L.LayerNormalization(**_N), "image"),
    "LeakyReLU": Case(lambda: L.LeakyReLU(**_N), "image"),
    "Masking": Case(lambda: L.Masking(**_N), "steps"),
    "MaxNumBoundingBoxes": image(lambda: L.MaxNumBoundingBoxes(2, **_N)),
    "MaxPooling1D": Case(lambda: L.MaxPooling1D(**_N), "steps"),
    "MaxPooling2D": Case(lambda: L.MaxPooling2D(**_N), "image"),
    "MaxPooling3D": Case(lambda: L.MaxPooling3D(**_N), "volume"),
    "Maximum": Case(lambda: L.Maximum(**_N), "image", call=branched),
    "MelSpectrogram": Case(
        lambda: L.MelSpectrogram(
            fft_length=64, sequence_stride=32, sequence_length=64, sampling_rate=2000,
            num_mel_bins=8, max_freq=900, **_N,
        ),
        (256,), macs=-1,
    ),
    "Minimum": Case(lambda: L.Minimum(**_N), "image", call=branched),
    "MixUp": image(lambda: L.MixUp(**_N)),
    # Four projections of 6 by 6 at 8 steps; 64 pairs, 2 heads, 3 + 3.
    "MultiHeadAttention": Case(
        lambda: L.MultiHeadAttention(2, 3, **_N),
        "steps", ("kernel",) * 4, 8 * 36 * 4 + 64 * 2 * 6, twice,
    ),
    "Multiply": Case(lambda: L.Multiply(**_N), "image", call=branched),
    "Normalization": Case(lambda: L.Normalization(mean=0.5, variance=2.0, **_N), "image"),
    "PReLU": Case(lambda: L.PReLU(alpha_initializer="ones", shared_axes=[1, 2], **_N), "image"),
    "Permute": Case(lambda: L.Permute((2, 1), **_N), "steps"),
    "Pipeline": Case(lambda: L.Pipeline([L.Rescaling(0.5), L.Rescaling(0.5)], **_N)),
    "RMSNormalization": Case(lambda: L.RMSNormalization(**_N), "image"),
    "RNN": Case(lambda: L.RNN(L.SimpleRNNCell(3), **_N), "steps", _RECURRENT, 8 * (6 + 3) * 3),
    "RandAugment": image(lambda: L.RandAugment(**_N)),
    "RandomBrightness": image(lambda: L.RandomBrightness(0.1, **_N)),
    "RandomColorDegeneration": image(lambda: L.RandomColorDegeneration(0.1, **_N)),
    "RandomColorJitter": image(lambda: L.RandomColorJitter(brightness_factor=0.1, **_N)),
    "RandomContrast": image(lambda: L.RandomContrast(0.1, **_N)),
    # Of the whole image: Keras 3.15 does not crop in inference, though its shapes say so.
    "RandomCrop": image(lambda: L.RandomCrop(8, 8, **_N)),
    "RandomElasticTransform": image(lambda: L.RandomElasticTransform(**_N)),
    "RandomErasing": image(lambda: L.RandomErasing(**_N)),
    "RandomFlip": image(lambda: L.RandomFlip(**_N)),
    "RandomGaussianBlur": image(lambda: L.RandomGaussianBlur(**_N)),
    "RandomGrayscale": image(lambda: L.RandomGrayscale(**_N)),
    "RandomHue": image(lambda: L.RandomHue(0.1, **_N)),
    "RandomInvert": image(lambda: L.RandomInvert(**_N)),
    "RandomPerspective": image(lambda: L.RandomPerspective(**_N)),
    "RandomPosterization": image(lambda: L.RandomPosterization(4, **_N)),
    "RandomRotation": image(lambda: L.RandomRotation(0.1, **_N)),
    "RandomSaturation": image(lambda: L.RandomSaturation(0.1, **_N)),
    "RandomSharpness": image(lambda: L.RandomSharpness(0.1, **_N)),
    "RandomShear": image(lambda: L.RandomShear(0.1, 0.1, **_N)),
    "RandomTranslation": image(lambda: L.RandomTranslation(0.1, 0.1, **_N)),
    "RandomZoom": image(lambda: L.RandomZoom(0.1, **_N)),
    "ReLU": Case(lambda: L.ReLU(6.0, **_N), "image"),
    "RepeatVector": Case(lambda: L.RepeatVector(3, **_N)),
    "Rescaling": Case(lambda: L.Rescaling(0.5, **_N), "image"),
    "Reshape": Case(lambda: L.Reshape((16, 24), **_N), "image"),
    "Resizing": Case(lambda: L.Resizing(4, 4, **_N), "image"),
    "ReversibleEmbedding": ids(
        lambda: L.ReversibleEmbedding(10, 4, **_N), kernels=("embeddings",)
    ),
    "STFTSpectrogram": Case(
        lambda: L.STFTSpectrogram(frame_length=64, frame_step=32, **_N), (256, 1), macs=-1
    ),
    "SeparableConv1D": Case(
        lambda: L.SeparableConv1D(5, 3, **_N), "steps", _SEPARABLE, 6 * (3 * 6 + 6 * 5)
    ),
    "SeparableConv2D": Case(
        lambda: L.SeparableConv2D(5, 3, **_N), "image", _SEPARABLE, 36 * (9 * 6 + 6 * 5)
    ),
    "SimpleRNN": Case(lambda: L.SimpleRNN(3, **_N), "steps", _RECURRENT, 8 * (6 + 3) * 3),
    "SimpleRNNCell": Case(
        lambda: L.RNN(L.SimpleRNNCell(3), **_N), "steps", _RECURRENT, 8 * (6 + 3) * 3
    ),
    "Softmax": Case(lambda: L.Softmax(**_N), "image"),
    "Solarization": image(lambda: L.Solarization(**_N)),
    "SpatialDropout1D": Case(lambda: L.SpatialDropout1D(0.5, **_N), "steps"),
    "SpatialDropout2D": Case(lambda: L.SpatialDropout2D(0.5, **_N), "image"),
    "SpatialDropout3D": Case(lambda: L.SpatialDropout3D(0.5, **_N), "volume"),
    "SpectralNormalization": Case(
        lambda: L.SpectralNormalization(L.Conv2D(5, 3), **_N), "image", ("kernel",), 36 * 9 * 30
    ),
    "StackedRNNCells": Case(
        lambda: L.RNN(L.StackedRNNCells([L.LSTMCell(3), L.GRUCell(2)]), **_N),
        "steps", _RECURRENT * 2, 8 * ((6 + 3) * 12 + (3 + 2) * 6),
    ),
    "StringLookup": words(
        lambda: L.StringLookup(vocabulary=["a", "b"], output_mode="multi_hot", **_N)
    ),
    "Subtract": Case(lambda: L.Subtract(**_N), "image", call=branched),
    "TextVectorization": words(
        lambda: L.TextVectorization(vocabulary=["a", "b"], output_mode="multi_hot", **_N)
    ),
    "TimeDistributed": Case(
        lambda: L.TimeDistributed(L.Dense(5), **_N), "steps", ("kernel",), 8 * 6 * 5
    ),
    "UnitNormalization": Case(lambda: L.UnitNormalization(**_N), "image"),
    "UpSampling1D": Case(lambda: L.UpSampling1D(**_N), "steps"),
    "UpSampling2D": Case(lambda: L.UpSampling2D(interpolation="bilinear", **_N), "image"),
    "UpSampling3D": Case(lambda: L.UpSampling3D(**_N), "volume"),
    "ZeroPadding1D": Case(lambda: L.ZeroPadding1D(1, **_N), "steps"),
    "ZeroPadding2D": Case(lambda: L.ZeroPadding2D(1, **_N), "image"),
    "ZeroPadding3D": Case(lambda: L.ZeroPadding3D(1, **_N), "volume"),
}  # fmt: skip

# Classes of which no model can be made here, and why.
WITHOUT_MODEL = {
    "Layer": "the base class: what it does is its subclass'",
    "Wrapper": "a base class: what it does is its subclass'",
    "InputSpec": "no layer: it says which inputs a layer takes",
    "FlaxLayer": "needs the package flax, which Keras' TensorFlow users do not have",
    "JaxLayer": "runs functions of JAX, which is no part of this package's TensorFlow path",
    "TorchModuleWrapper": "needs Keras' PyTorch backend, which writes no TFLite file",
    "TFSMLayer": "holds a SavedModel, whose weights and operations Keras does not see",
}


def layer_classes():
    """`{name: other names}` of all classes that `keras.layers` exports."""
    names: dict[type, list[str]] = {}
    for name in sorted(dir(L)):
        found = getattr(L, name)
        if isinstance(found, type):
            names.setdefault(found, []).append(name)
    chosen = {}
    for found, some in names.items():
        first = found.__name__ if found.__name__ in some else some[0]
        chosen[first] = [name for name in some if name != first]
    return dict(sorted(chosen.items()))


def build(case, seed=0):
    """`(model, inputs)` of a case: weights and 8 examples from a seed, channels planted zero."""
    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    shape = AFTER.get(case.feed, case.feed) if isinstance(case.feed, str) else case.feed
    x = inputs = keras.Input(shape, dtype=case.dtype, name="input")
    if isinstance(case.feed, str):
        before = {1: L.Dense, 2: L.Conv1D, 3: L.Conv2D, 4: L.Conv3D}[len(shape)]
        sizes = (6,) if len(shape) == 1 else (6, 1)
        x = before(*sizes, name="before")(x)
    layer = case.make()
    x = case.call(layer, x)
    if len(x.shape) > 2:
        x = L.Flatten(name="flatten")(x)
    model = keras.Model(inputs, L.Dense(3, name="after")(x), name="model")
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype) and "seed" not in variable.name:
            values = random.normal(size=variable.shape).astype("float32") * 0.3
            positive = any(part in variable.name for part in ("variance", "gamma", "alpha"))
            if not any(part in variable.path for part in ("vector_u", "count")):
                variable.assign(np.abs(values) + 0.2 if positive else values)
    if isinstance(case.feed, str):
        layer_before = model.get_layer("before")
        kernel, bias = (np.array(v) for v in layer_before.weights)
        kernel[..., [1, 4]] = 0.0
        bias[[1, 4]] = 0.0
        layer_before.set_weights([kernel, bias])
    return model, draw(case, shape, random)


def draw(case, shape, random, examples=8):
    """Examples for a case's input."""
    size = (examples, *shape)
    if case.values == "pixels":
        return random.uniform(0, 255, size).astype("float32")
    if case.values == "ids":
        return random.integers(0, 5, size).astype("int32")
    if case.values == "words":
        return np.array([["a"], ["b"], ["c"]] * 3)[:examples]
    return random.normal(size=size).astype("float32")
