"""Models as users bring them: built with Keras alone, in the styles of many projects."""

import keras
import numpy as np
from keras import layers, ops

MODELS = {}


def model(function):
    MODELS[function.__name__] = function
    return function


def conv_norm(x, filters, kernel_size=3, strides=1):
    x = layers.Conv2D(filters, kernel_size, strides, padding="same", use_bias=False)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


@model
def unet():
    """Segmentation: skips, an upsampling, a transposed convolution, a softmax per pixel."""
    image = keras.Input((32, 32, 3))
    fine = conv_norm(image, 8)
    middle = conv_norm(layers.MaxPooling2D()(fine), 16)
    coarse = conv_norm(layers.MaxPooling2D()(middle), 32)
    x = layers.Concatenate()([layers.UpSampling2D()(coarse), middle])
    x = conv_norm(x, 16)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
    x = conv_norm(layers.Concatenate()([x, fine]), 8)
    return keras.Model(image, layers.Conv2D(2, 1, activation="softmax")(x))


@model
def ds_cnn():
    """Keyword spotting: depthwise and pointwise blocks."""
    spectrum = keras.Input((49, 10, 1))
    x = conv_norm(spectrum, 16, (10, 4), 2)
    for _ in range(3):
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = conv_norm(x, 16, 1)
    x = layers.AveragePooling2D((25, 5))(layers.Dropout(0.4)(x))
    return keras.Model(spectrum, layers.Dense(12)(layers.Flatten()(x)))


@model
def autoencoder():
    """Anomaly detection: its target is its input."""
    features = x = keras.Input((64,))
    for units in (32, 32, 8, 32, 32):
        x = layers.Activation("relu")(layers.BatchNormalization()(layers.Dense(units)(x)))
    return keras.Model(features, layers.Dense(64)(x))


@model
def ecg_gru():
    """A series: 1-D convolutions, then a recurrent layer."""
    series = keras.Input((24, 2))
    x = layers.Conv1D(8, 5, padding="same", activation="relu")(series)
    x = layers.MaxPooling1D()(x)
    x = layers.SeparableConv1D(16, 3, activation="relu")(x)
    x = layers.GRU(12, unroll=True)(x)
    return keras.Model(series, layers.Dense(4)(x))


@model
def lstm_stack():
    return keras.Sequential(
        [
            keras.Input((5, 6)),
            layers.Bidirectional(layers.LSTM(8, return_sequences=True, unroll=True)),
            layers.LSTM(8, unroll=True),
            layers.Dense(3),
        ]
    )


@model
def transformer():
    """Attention beside a table of positions that is added to the input."""
    tokens = keras.Input((16, 8))
    x = tokens + layers.Embedding(16, 8)(ops.arange(16))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    hidden = layers.Dense(8)(layers.Dense(32, activation="gelu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x + hidden))
    return keras.Model(tokens, layers.Dense(3)(x))


@model
def squeeze_excite():
    """A factor for each channel, and operators in place of layers."""
    image = keras.Input((16, 16, 3))
    x = conv_norm(image, 16)
    factor = layers.GlobalAveragePooling2D(keepdims=True)(x)
    factor = layers.Conv2D(4, 1, activation="relu")(factor)
    x = x * layers.Conv2D(16, 1, activation="sigmoid")(factor)
    return keras.Model(image, layers.Dense(5)(ops.mean(conv_norm(x, 8, 1), axis=(1, 2))))


@model
def siamese():
    """One encoder for two inputs, whose names TensorFlow would not take."""
    encoder = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
        ],
        name="encoder",
    )
    left, right = keras.Input((12, 12, 1), name="left image"), keras.Input((12, 12, 1), name="r:2")
    distance = ops.abs(encoder(left) - encoder(right))
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid")(distance))


@model
def two_heads():
    """A dict of outputs whose keys are in another order than their names sort, and keywords."""
    image = keras.Input((16, 16, 3), name="class")
    x = layers.Dense(16, activation="relu")(layers.Flatten()(conv_norm(image, 8, 3, 2)))
    label = layers.Dense(3, activation="softmax", name="lambda")(x)
    return keras.Model(image, {"z_box": layers.Dense(4, name="return")(x), "a_label": label})


@model
def residual_prelu():
    """Scaling inside, norms before convolutions, slopes, and an addition."""
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(16, 3, padding="same")(x)
    for _ in range(2):
        y = layers.Activation("swish")(layers.BatchNormalization()(x))
        y = layers.Conv2D(16, 3, padding="same", use_bias=False)(y)
        y = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(y))
        x = layers.Add()([x, layers.Conv2D(16, 3, padding="same")(y)])
    return keras.Model(image, layers.Dense(10)(layers.GlobalMaxPooling2D()(x)))


@model
def uint8_camera():
    """Pixels as they come."""
    frame = keras.Input((16, 16, 3), dtype="uint8")
    x = ops.cast(frame, "float32") / 255.0
    x = layers.Conv2D(8, 3, activation="leaky_relu")(x)
    return keras.Model(frame, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


@model
def text_cnn():
    ids = keras.Input((24,), dtype="int32")
    x = layers.Conv1D(16, 3, activation="relu")(layers.Embedding(50, 8)(ids))
    return keras.Model(ids, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))


@model
def table():
    """A dict of inputs: numbers that are normalised, and a category."""
    numbers = keras.Input((4,), name="numbers")
    category = keras.Input((1,), dtype="int32", name="category")
    scaled = layers.Normalization(mean=np.arange(4.0), variance=np.full(4, 2.0))(numbers)
    x = layers.Concatenate()([scaled, layers.Flatten()(layers.Embedding(6, 3)(category))])
    x = layers.Dense(8, activation="relu")(layers.Dense(16, activation="relu")(x))
    return keras.Model({"numbers": numbers, "category": category}, layers.Dense(1)(x))


@model
def shared_convolution():
    image = keras.Input((12, 12, 4))
    shared = layers.Conv2D(4, 3, padding="same", activation="relu")
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(shared(shared(image)))))


@model
def channel_shuffle():
    """ShuffleNet's: halves that are split, joined and interleaved by reshaping."""
    image = keras.Input((8, 8, 6))
    x = layers.Conv2D(8, 3, padding="same")(image)
    first, second = ops.split(x, 2, axis=-1)
    first = layers.Conv2D(4, 3, padding="same", activation="relu")(first)
    x = ops.reshape(ops.concatenate([second, first], -1), (-1, 8, 8, 2, 4))
    x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 8, 8, 8))
    return keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(x)))


@model
def open_size():
    image = keras.Input((None, None, 3))
    x = conv_norm(conv_norm(image, 8), 8, 3, 2)
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


@model
def backbone_in_a_model():
    backbone = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
        ],
        name="backbone",
    )
    middle = keras.Model(backbone.inputs, layers.MaxPooling2D()(backbone.outputs[0]))
    image = keras.Input((16, 16, 3))
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(middle(image))))


@model
def frames():
    """A network for each frame of a film."""
    film = keras.Input((4, 12, 12, 2))
    x = layers.TimeDistributed(layers.Conv2D(8, 3, activation="relu"))(film)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.Flatten()(layers.LayerNormalization()(x))
    return keras.Model(film, layers.Dense(3)(x))


@model
def volumes():
    volume = keras.Input((8, 8, 8, 1))
    x = layers.BatchNormalization()(layers.Conv3D(4, 3, activation="relu")(volume))
    return keras.Model(volume, layers.Dense(2)(layers.Flatten()(x)))


@model
def slices():
    """Operators on parts of a tensor, and a grouped convolution."""
    image = keras.Input((16, 16, 3))
    x = conv_norm(image, 12)[:, 1:-1, 1:-1, :8]
    x = layers.ZeroPadding2D(1)(ops.relu(x) - 0.1 * ops.tanh(x))
    x = layers.Conv2D(6, 3, strides=2, groups=2)(x)
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))


@model
def maxout():
    features = keras.Input((20,))
    x = ops.maximum(layers.Dense(8)(features), layers.Dense(8)(features))
    x = ops.clip(ops.where(x > 0, x, x * 0.1), -1, 3)
    return keras.Model(features, layers.Dense(1, activation="sigmoid")(x))


@model
def embedding_of_unit_length():
    image = keras.Input((16, 16, 1))
    x = layers.Dense(8)(layers.Flatten()(conv_norm(image, 8, 3, 2)))
    return keras.Model(image, ops.normalize(x, axis=-1))


@model
def attention_by_einsum():
    sequence = keras.Input((10, 12))
    heads = layers.EinsumDense("abc,cde->abde", (None, 2, 6), bias_axes="de")(sequence)
    scores = ops.softmax(ops.einsum("abhd,achd->ahbc", heads, heads) / 6**0.5)
    x = ops.reshape(ops.einsum("ahbc,achd->abhd", scores, heads), (-1, 10, 12))
    return keras.Model(sequence, layers.Dense(4)(x[:, 0]))


def build(name):
    """A model with random norms and biases, and inputs for it in its own structure."""
    keras.utils.set_random_seed(0)
    built = MODELS[name]()
    random = np.random.default_rng(1)
    for layer in built._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(random.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(random.uniform(0.5, 2, layer.moving_variance.shape))
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(random.normal(0, 0.2, layer.beta.shape))
        elif hasattr(getattr(layer, "bias", None), "assign"):
            layer.bias.assign(random.normal(0.1, 0.2, layer.bias.shape))
    arrays = []
    for tensor in built.inputs:
        shape = (12, *(16 if size is None else size for size in tensor.shape[1:]))
        if tensor.dtype == "uint8":
            arrays.append(random.integers(0, 256, shape).astype("uint8"))
        elif "int" in tensor.dtype:
            arrays.append(random.integers(0, 6, shape).astype(tensor.dtype))
        else:
            arrays.append(random.normal(size=shape).astype("float32"))
    functional = built._functional if isinstance(built, keras.Sequential) else built
    return built, keras.tree.pack_sequence_as(functional._inputs_struct, arrays)
