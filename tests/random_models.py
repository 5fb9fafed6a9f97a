"""Small random Keras graphs with planted zeros, for tests of channel removal.

A graph is built from a recipe of plain Python values, so a failing example prints as
`build((...))`, which makes the very same model again. Every step of a recipe is
applied to whatever tensor is there; one that does not fit (a kernel larger than the
image) is left out, so that any step can be dropped to make a failing recipe smaller.
"""

import dataclasses
import random as random_module

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

ACTIVATIONS = (
    "linear",
    "relu",
    "relu6",
    "tanh",
    "elu",
    "leaky_relu",
    "silu",
    "sigmoid",  # this one and softplus are not 0 at 0
    "softplus",
)
ELEMENTWISE = {
    "add": layers.Add,
    "subtract": layers.Subtract,
    "multiply": layers.Multiply,
    "average": layers.Average,
    "maximum": layers.Maximum,
    "minimum": layers.Minimum,
}
LARGEST_SIDE = 14

NORMS = (layers.BatchNormalization, layers.GroupNormalization, layers.LayerNormalization)


def leaf_layers(model):
    """All layers, nested models opened, each once."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found.update({id(leaf): leaf for leaf in leaf_layers(layer)})
        else:
            found[id(layer)] = layer
    return list(found.values())


def output_channels(layer):
    """How many channels a layer with weights makes; None if it has no kernel or scale."""
    if isinstance(layer, NORMS):
        scale = layer.gamma if layer.beta is None else layer.beta
        return None if scale is None else int(scale.shape[-1])
    if isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D):
        return int(np.prod(layer.kernel.shape[-2:]))
    if isinstance(layer, layers.SeparableConv1D | layers.SeparableConv2D):
        return int(layer.pointwise_kernel.shape[-1])
    if isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose):
        return int(layer.kernel.shape[-2])
    if hasattr(layer, "kernel"):
        return int(layer.kernel.shape[-1])
    return None


def edit(variable, change):
    """Let `change` write into a numpy copy, and assign it."""
    value = keras.ops.convert_to_numpy(variable).copy()
    change(value)
    variable.assign(value)


def zero_outputs(layer, channels, bias=0.0):
    """Make output channels constant: their weights 0, their biases `bias`."""
    channels = np.asarray(channels, "int64")

    def wipe(value):
        if isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D):
            value.reshape(*value.shape[:-2], -1)[..., channels] = 0.0
        elif isinstance(
            layer, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose
        ):
            value[..., channels, :] = 0.0
        else:
            value[..., channels] = 0.0

    def shift(value):
        value[channels] = bias

    if isinstance(layer, NORMS):
        scale, offset = layer.gamma, layer.beta
    elif isinstance(layer, layers.SeparableConv1D | layers.SeparableConv2D):
        scale, offset = layer.pointwise_kernel, layer.bias
    else:
        scale, offset = layer.kernel, layer.bias
    if scale is not None:
        edit(scale, wipe)
    if offset is not None:
        edit(offset, shift)


def zero_reads(layer, channels):
    """Make a convolution or dense layer ignore some channels of its input."""
    channels = np.asarray(channels, "int64")

    def wipe(value):
        if isinstance(
            layer, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose
        ):
            value[..., channels] = 0.0
        else:
            value[..., channels, :] = 0.0

    if isinstance(layer, layers.SeparableConv1D | layers.SeparableConv2D):
        edit(layer.depthwise_kernel, wipe)
    else:
        edit(layer.kernel, wipe)


def randomize(model, seed=0):
    """Give every weight a random value, none of them 0, that keeps signals near 1."""
    random = np.random.default_rng(seed)
    for layer in leaf_layers(model):
        if isinstance(layer, layers.Normalization):
            continue  # it reads its weights but once, when it is adapted
        for variable in layer.weights:
            name, shape = variable.name, tuple(variable.shape)
            if "seed" in name or not shape:
                continue
            if name in ("gamma", "moving_variance", "variance"):
                value = random.uniform(0.5, 1.5, shape)
                if name == "gamma":
                    value *= random.choice([-1.0, 1.0], shape)
            elif "kernel" in name:
                transposed = "transpose" in type(layer).__name__.lower()
                fan_in = np.prod(shape) / (shape[-2] if transposed else shape[-1])
                if "depthwise" in f"{type(layer).__name__} {name}".lower():
                    fan_in = np.prod(shape[:-2])
                value = 1.2 * random.normal(0.0, fan_in**-0.5, shape)
            else:  # biases, shifts, means, PReLU's slopes
                value = random.uniform(0.1, 0.4, shape) * random.choice([-1.0, 1.0], shape)
            variable.assign(value.astype("float32"))
    return model


def random_inputs(model, count=3, seed=0):
    """A batch for each input of a model, as the list or the tensor that it takes."""
    random = np.random.default_rng(seed)
    batches = []
    for tensor in model.inputs:
        noise = random.normal(0.0, 1.0, (count, *tensor.shape[1:]))
        # Channels differ in their mean too, which is what pooling leaves of noise.
        spatial = [1] * (len(tensor.shape) - 2)
        noise += random.normal(0.0, 1.0, (count, *spatial, tensor.shape[-1]))
        batches.append(noise.astype("float32"))
    return batches if len(batches) > 1 else batches[0]


@dataclasses.dataclass(frozen=True)
class RandomModel:
    """A model and the recipe that it was built from."""

    recipe: tuple
    model: keras.Model
    branch_ends: tuple

    def __repr__(self):
        return f"build({self.recipe!r})"

    def plant(self, variant=0):
        """Weights and zeros anew, others for each `variant`, until a signal gets through."""
        seed, part = self.recipe[-2:]
        for attempt in range(4):
            randomize(self.model, [seed, variant, attempt])
            # Fewer zeros each time.
            plant_zeros(self.model, self.branch_ends, [seed, variant, attempt], part * 0.7**attempt)
            # Outputs that are constant are right for many wrong reasons; some are kept.
            if seed % 8 == 7 or is_alive(self.model):
                break


class _Builder:
    """Turns steps into layers, and remembers what to zero."""

    def __init__(self):
        self.history = []  # tensors that later steps may read again
        self.branch_ends = []  # last layers of branches that merge elementwise

    def run(self, steps, x, keep_size=False):
        for step in steps:
            kind, *settings = step
            y = getattr(self, kind)(x, *settings, keep_size=keep_size)
            if y is None or (keep_size and y.shape[1:3] != x.shape[1:3]):
                continue
            x = y
            self.history.append(x)
        return x

    def _padding(self, x, kernel, padding, dilation=1, keep_size=False):
        """The padding to use; None if the kernel does not fit."""
        if keep_size:
            return "same"
        if padding == "valid" and (kernel - 1) * dilation + 1 > min(x.shape[1:3]):
            return None
        return padding

    def conv(
        self, x, filters, kernel, padding, strides, dilation, activation, use_bias, keep_size=False
    ):
        strides = 1 if keep_size else strides
        dilation = 1 if strides > 1 else dilation
        padding = self._padding(x, kernel, padding, dilation, keep_size)
        if padding is None:
            return None
        return layers.Conv2D(
            filters,
            kernel,
            strides=strides,
            padding=padding,
            dilation_rate=dilation,
            activation=activation,
            use_bias=use_bias,
        )(x)

    def grouped(self, x, groups, per_group, kernel, padding, activation, keep_size=False):
        padding = self._padding(x, kernel, padding, keep_size=keep_size)
        if padding is None:
            return None
        if x.shape[-1] % groups:
            x = layers.Conv2D(2 * groups, 1)(x)
        return layers.Conv2D(
            groups * per_group, kernel, groups=groups, padding=padding, activation=activation
        )(x)

    def depthwise(self, x, multiplier, kernel, padding, strides, activation, keep_size=False):
        strides = 1 if keep_size else strides
        padding = self._padding(x, kernel, padding, keep_size=keep_size)
        if padding is None or multiplier * x.shape[-1] > 12:
            return None
        return layers.DepthwiseConv2D(
            kernel,
            strides=strides,
            padding=padding,
            depth_multiplier=multiplier,
            activation=activation,
        )(x)

    def separable(self, x, filters, multiplier, kernel, padding, activation, keep_size=False):
        padding = self._padding(x, kernel, padding, keep_size=keep_size)
        if padding is None:
            return None
        return layers.SeparableConv2D(
            filters, kernel, padding=padding, depth_multiplier=multiplier, activation=activation
        )(x)

    def transposed(self, x, filters, kernel, strides, padding, activation, keep_size=False):
        if keep_size:
            strides, padding = 1, "same"
        if strides * max(x.shape[1:3]) + kernel > LARGEST_SIDE:
            return None
        return layers.Conv2DTranspose(
            filters, kernel, strides=strides, padding=padding, activation=activation
        )(x)

    def dense(self, x, units, activation, keep_size=False):
        return layers.Dense(units, activation=activation)(x)

    def batch_norm(self, x, center, scale, keep_size=False):
        return layers.BatchNormalization(center=center, scale=scale)(x)

    def mixing(self, x, kind, keep_size=False):
        if kind == "group_norm":
            groups = 2 if x.shape[-1] % 2 == 0 else 1
            return layers.GroupNormalization(groups)(x)
        return layers.LayerNormalization()(x) if kind == "layer_norm" else layers.Softmax()(x)

    def activation(self, x, name, keep_size=False):
        special = {
            "ReLU": lambda: layers.ReLU(max_value=2.0, negative_slope=0.1),
            "LeakyReLU": lambda: layers.LeakyReLU(0.2),
            "PReLU": lambda: layers.PReLU(shared_axes=[1, 2]),
            "PReLU per position": layers.PReLU,
        }
        return special.get(name, lambda: layers.Activation(name))()(x)

    def pool(self, x, kind, size, strides, padding, keep_size=False):
        strides = 1 if keep_size else strides
        padding = self._padding(x, size, padding, keep_size=keep_size)
        if padding is None:
            return None
        pooling = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[kind]
        return pooling(size, strides=strides, padding=padding)(x)

    def resize(self, x, kind, keep_size=False):
        if kind == "pad":
            return layers.ZeroPadding2D(((1, 0), (1, 2)))(x) if x.shape[1] < 10 else None
        if kind == "crop":
            return layers.Cropping2D(((1, 0), (0, 1)))(x) if min(x.shape[1:3]) > 2 else None
        if 2 * max(x.shape[1:3]) > LARGEST_SIDE:
            return None
        return layers.UpSampling2D(2, interpolation=kind)(x)

    def through(self, x, kind, keep_size=False):
        return {
            "dropout": lambda: layers.Dropout(0.3),
            "spatial_dropout": lambda: layers.SpatialDropout2D(0.3),
            "rescale": lambda: layers.Rescaling(0.7),
            "rescale_offset": lambda: layers.Rescaling(-0.7, offset=0.2),
            "permute": lambda: layers.Permute((2, 1, 3)),
        }[kind]()(x)

    def _match(self, x, y):
        """`y` with as many channels as `x`, by a 1x1 convolution if need be."""
        if x.shape[-1] == y.shape[-1]:
            return y
        projection = layers.Conv2D(x.shape[-1], 1)
        self.branch_ends.append(projection)
        return projection(y)

    def merge(self, x, kind, index, keep_size=False):
        """Join with an earlier tensor of the same size: a skip connection."""
        others = [t for t in self.history if t.shape[1:3] == x.shape[1:3] and t is not x]
        if not others:
            return None
        other = others[index % len(others)]
        if kind == "concatenate":
            return layers.Concatenate()([other, x]) if other.shape[-1] < 9 else None
        return ELEMENTWISE[kind]()([x, self._match(x, other)])

    def residual(self, x, kind, steps, project, swap, keep_size=False):
        """A branch of its own next to the tensor itself, or next to a 1x1 convolution."""
        y = self.run(steps, x, keep_size=True)
        if project:
            shortcut = layers.Conv2D(x.shape[-1], 1)
            self.branch_ends.append(shortcut)
            side = shortcut(x)
        else:
            side = x
        if kind == "concatenate":
            return layers.Concatenate()([side, y])
        end = layers.Conv2D(x.shape[-1], 1, use_bias=swap)
        self.branch_ends.append(end)
        y = end(y)
        return ELEMENTWISE[kind]()([y, side] if swap else [side, y])

    def shared(self, x, kind, index, activation, keep_size=False):
        """One convolution called twice: in a row, or on two tensors."""
        layer = layers.Conv2D(x.shape[-1], 3, padding="same", activation=activation)
        if kind == "row":
            return layer(layer(x))
        others = [t for t in self.history if t.shape[1:] == x.shape[1:] and t is not x]
        other = others[index % len(others)] if others else x
        merge = layers.Concatenate() if kind == "concatenate" else ELEMENTWISE[kind]()
        return merge([layer(x), layer(other)])

    def nested(self, x, steps, twice, keep_size=False):
        """A model inside the model; its tensors are no part of the outer history."""
        inputs = keras.Input(x.shape[1:])
        history, self.history = self.history, []
        y = self.run(steps, inputs, keep_size)
        self.history = history
        if y is inputs:
            return None
        model = keras.Model(inputs, y)
        x = model(x)
        return model(x) if twice and y.shape == inputs.shape else x

    def squeeze(self, x, keep_size=False):
        """Squeeze and excite: a product with one value a channel."""
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        y = layers.Conv2D(2, 1, activation="relu")(y)
        y = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(y)
        return layers.Multiply()([x, y])

    def head(self, x, kind, units):
        if kind == "none":
            return x
        reduce = {
            "flatten": layers.Flatten,
            "average": layers.GlobalAveragePooling2D,
            "max": layers.GlobalMaxPooling2D,
        }[kind]
        x = layers.Dense(units[0], activation="silu")(reduce()(x))
        return layers.Dense(units[1])(x)


def build(recipe):
    """The model of a recipe, the same one each time: see `recipes` for its parts."""
    side, channels, steps, head, units, second, *_ = recipe
    builder = _Builder()
    inputs = keras.Input((side, side, channels))
    builder.history.append(inputs)
    x = builder.run(steps, inputs)
    if x is inputs:
        x = layers.Conv2D(3, 3)(x)
    outputs = [builder.head(x, head, units)]
    if second is not None:
        kind, index = second
        other = builder.history[index % len(builder.history)]
        if kind == "none" and other is inputs:
            kind = "average"
        outputs.append(builder.head(other, kind, units))
    model = keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0])
    built = RandomModel(recipe, model, tuple(builder.branch_ends))
    built.plant()
    return built


def is_alive(model):
    """Whether every output depends on the input."""
    outputs = model(random_inputs(model, count=2), training=False)
    for output in outputs if isinstance(outputs, list | tuple) else [outputs]:
        first, second = keras.ops.convert_to_numpy(output)
        if np.abs(first - second).max() < 0.01 * np.abs(first).max():
            return False
    return True


def plant_zeros(model, branch_ends, seed, part):
    """Zero whole output channels, whole branches and whole reads, about `part` of each."""
    random = np.random.default_rng([*seed, 1])
    for layer in leaf_layers(model):
        channels = output_channels(layer)
        if channels is None or isinstance(layer, layers.LayerNormalization):
            continue
        # The last layer of a branch is emptied more often, for bypasses to be met.
        whole = 0.3 if any(layer is end for end in branch_ends) else 0.08
        if random.random() < whole * min(1.0, 3 * part):
            chosen, bias = np.arange(channels), random.choice([0.0, 0.0, 0.0, 0.3])
        elif random.random() < 0.7:
            chosen = np.flatnonzero(random.random(channels) < part)
            # Zeros go away; other constants have to be folded or kept.
            bias = random.choice([0.0, 0.3, -0.3])
        else:
            continue
        zero_outputs(layer, chosen, bias)
    for layer in leaf_layers(model):
        if not hasattr(layer, "kernel") and not hasattr(layer, "pointwise_kernel"):
            continue
        if isinstance(layer, layers.DepthwiseConv2D) or getattr(layer, "groups", 1) > 1:
            continue
        if random.random() < 0.3:
            transposed = isinstance(layer, layers.Conv2DTranspose)
            kernel = getattr(layer, "depthwise_kernel", None)
            kernel = layer.kernel if kernel is None else kernel
            reads = kernel.shape[-1 if transposed else -2]
            zero_reads(layer, np.flatnonzero(random.random(reads) < part))


FILTERS, KERNELS, ONE_OR_TWO, FLAGS = (2, 3, 4, 5, 6), (1, 2, 3), (1, 2), (False, True)
PADDINGS, INDICES = ("valid", "same"), (0, 1, 2, 3, 4, 5)
JOINING = (*ELEMENTWISE, "add", "concatenate", "concatenate")
# The settings of each kind of step, in the order that `_Builder` takes them.
PLAIN_STEPS: dict[str, tuple] = {
    "conv": (FILTERS, KERNELS, PADDINGS, ONE_OR_TWO, ONE_OR_TWO, ACTIVATIONS, FLAGS),
    "grouped": ((2, 3), ONE_OR_TWO, KERNELS, PADDINGS, ACTIVATIONS),
    "depthwise": (ONE_OR_TWO, KERNELS, PADDINGS, ONE_OR_TWO, ACTIVATIONS),
    "separable": (FILTERS, ONE_OR_TWO, KERNELS, PADDINGS, ACTIVATIONS),
    "transposed": (FILTERS, KERNELS, ONE_OR_TWO, PADDINGS, ACTIVATIONS),
    "dense": (FILTERS, ACTIVATIONS),
    "batch_norm": (FLAGS, FLAGS),
    "mixing": (("group_norm", "layer_norm", "softmax"),),
    "activation": ((*ACTIVATIONS, "ReLU", "LeakyReLU", "PReLU", "PReLU per position"),),
    "pool": (("max", "average"), (2, 3), ONE_OR_TWO, PADDINGS),
    "resize": (("pad", "pad", "crop", "nearest", "bilinear"),),
    "through": (("dropout", "spatial_dropout", "rescale", "rescale_offset", "permute"),),
    "merge": (JOINING, INDICES),
    "squeeze": (),
}
INNER = "up to three plain steps"
STEPS: dict[str, tuple] = {
    **PLAIN_STEPS,
    "residual": (JOINING, INNER, FLAGS, FLAGS),
    "shared": (("row", "add", "multiply", "concatenate"), INDICES, ACTIVATIONS),
    "nested": (INNER, FLAGS),
}
OFTEN = ("conv", "conv", "conv", "conv", "depthwise", "batch_norm", "batch_norm")
PLAIN_KINDS = (*PLAIN_STEPS, *OFTEN)
KINDS = (*STEPS, *OFTEN, "residual", "residual", "merge")


def _draw_step(drawn, kinds):
    kind = drawn.choice(kinds)
    settings = []
    for options in STEPS[kind]:
        if options is INNER:
            count = drawn.randrange(4)
            settings.append(tuple(_draw_step(drawn, PLAIN_KINDS) for _ in range(count)))
        else:
            settings.append(drawn.choice(options))
    return (kind, *settings)


def recipe_of(seed):
    """A recipe for `build`, all of its parts drawn evenly."""
    drawn = random_module.Random(seed)
    return (
        drawn.randint(6, 9),  # rows and columns of the input
        drawn.randint(2, 4),  # its channels
        tuple(_draw_step(drawn, KINDS) for _ in range(drawn.randint(2, 7))),
        drawn.choice(("flatten", "average", "max", "none")),  # before the dense head
        (drawn.choice(FILTERS), drawn.choice(FILTERS)),  # of the dense head
        # A second output, of an earlier tensor.
        drawn.choice((None, None, (drawn.choice(("none", "average")), drawn.choice(INDICES)))),
        drawn.randrange(10_000),  # seed of the weights and of what is zeroed
        drawn.choice((0.15, 0.3, 0.5, 0.7)),  # how much is zeroed
    )


def smaller_recipe(recipe, fails):
    """A recipe that fails still, without the steps that do not matter."""
    side, channels, steps, *rest = recipe
    for i in reversed(range(len(steps))):
        without = (side, channels, steps[:i] + steps[i + 1 :], *rest)
        if fails(without):
            steps = without[2]
    return (side, channels, steps, *rest)


def recipes():
    """Recipes for `build`.

    Drawn part by part, Hypothesis repeats small values and earlier ones, which makes
    for graphs of one kind of layer; so it draws the seed of a recipe, no more.
    """
    return st.integers(0, 2**24 - 1).map(recipe_of)


def random_models():
    """Small random models with random weights and planted zeros, as `RandomModel`."""
    return recipes().map(build)
