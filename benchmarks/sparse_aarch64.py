"""Does XNNPACK on ARM do what the linter of sparse files says? On aarch64, emulated or real.

    python benchmarks/sparse_aarch64.py [--only EXPRESSION] COMMAND…

The command runs a Python for aarch64 with `ai-edge-litert` and `numpy`; docs/sparse.md
says how to get one. For each network, the dense and the sparse file run there on the same
inputs, one thread: the largest difference of the outputs, over the largest output, and the
ratio of the CPU times. A ratio well below 1 is the sign that the sparse path is on;
emulated times say no more than that.

Every network keeps its signal: random weights of a scale that neither grows nor dies, and
outputs that move with the input by a good part of their size, which the table shows too.
In a collapsed network a wrong layout goes unnoticed.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 7


def run_there(folder, start):
    """On the other machine: run pairs of files, print a line of JSON for each."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    for dense in sorted(pathlib.Path(folder).glob("*.dense.tflite"))[start:]:
        name = dense.name.removesuffix(".dense.tflite")
        inputs = np.load(dense.with_name(f"{name}.npy"))
        runners, line = {}, {"name": name}
        try:
            for kind in ("dense", "sparse"):
                runner = Interpreter(str(dense.with_name(f"{name}.{kind}.tflite")), num_threads=1)
                runner.allocate_tensors()
                runners[kind] = runner
        except (RuntimeError, ValueError) as error:
            print(json.dumps(line | {"error": " ".join(str(error).split())[:120]}), flush=True)
            continue
        outputs = {kind: [] for kind in runners}
        for image in inputs:
            for kind, runner in runners.items():
                runner.set_tensor(runner.get_input_details()[0]["index"], image[None])
                runner.invoke()
                output = runner.get_tensor(runner.get_output_details()[0]["index"])
                outputs[kind].append(output.copy())
        times = {kind: [] for kind in runners}
        for _ in range(RUNS):
            for kind, runner in runners.items():
                start = time.thread_time_ns()
                runner.invoke()
                times[kind].append(time.thread_time_ns() - start)
        expected, received = np.stack(outputs["dense"]), np.stack(outputs["sparse"])
        largest = np.abs(expected).max()
        line["difference"] = float(np.abs(received - expected).max() / largest)
        line["signal"] = float(np.ptp(expected, axis=0).max() / largest)
        line["ratio"] = statistics.median(times["sparse"]) / statistics.median(times["dense"])
        print(json.dumps(line), flush=True)


def chain(layers, first=None, middle=(), end=None, size=(32, 32, 3), width=32, head=None):
    """A compliant network, a part of which another one replaces."""
    import keras

    inputs = x = keras.Input(size)
    x = (head or layers.Rescaling(1 / 255, name="rescale"))(x)
    if first is None:
        first = [layers.ZeroPadding2D(1), layers.Conv2D(width, 3, strides=2, activation="relu")]
    for layer in [*first, *pair(layers, width), *middle, *pair(layers, 2 * width)]:
        x = layer(x)
    for layer in end or [layers.GlobalAveragePooling2D(), layers.Dense(10)]:
        x = layer(x)
    return keras.Model(inputs, x)


def pair(layers, filters, kernel=3, strides=1, padding=None, activation="relu", **settings):
    """Depthwise and 1×1 convolution, the padding explicit at stride 2."""
    explicit = strides == 2 and padding is None
    return [
        *([layers.ZeroPadding2D(kernel // 2)] if explicit else []),
        layers.DepthwiseConv2D(
            kernel, strides=strides, activation=activation,
            padding="valid" if explicit else padding or "same", **settings,
        ),
        layers.Conv2D(filters, 1, activation=activation),
    ]  # fmt: skip


def networks():
    """`{name: (Keras model, part of zeros, kind)}`."""
    import keras
    from keras import layers

    from cnn_l1.config.loading import validate
    from cnn_l1.models import builders

    def pointwise(size=(64, 64, 3), **settings):
        config = validate({
            "name": "a", "model": {"name": "pointwise", "pointwise": settings},
            "penalty": {"name": "none"},
        })  # fmt: skip
        return builders.build(config, size, 10)

    def plain(middle=(), **settings):
        return chain(layers, middle=middle, **settings)

    def joined(join, **settings):
        """A pair whose input and output are joined by a function."""
        base = plain(**settings)
        inputs = keras.Input(base.input.shape[1:])
        x = inputs
        for position, layer in enumerate(base.layers[1:]):
            if position == 5:
                x = join(x)
            x = layer(x)
        return keras.Model(inputs, x)

    def two_readers(x):
        padded = layers.ZeroPadding2D(1)(x)
        a = layers.DepthwiseConv2D(3, strides=2, activation="relu")(padded)
        b = layers.DepthwiseConv2D(3, strides=2, activation="relu")(padded)
        return layers.Add()([a, b])

    def gate(x):
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        y = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(y)
        return layers.Multiply()([x, y])

    def skip(x):
        return layers.ReLU()(layers.Add()([x, layers.Conv2D(x.shape[-1], 1)(x)]))

    def early_output():
        base = plain()
        return keras.Model(base.input, base.layers[-3].output)

    def first(**settings):
        return {"first": [layers.ZeroPadding2D(1), layers.Conv2D(32, **settings)]}

    pooled = layers.GlobalAveragePooling2D
    square = pair(layers, 32, kernel=5)
    return {
        "pointwise, 70%": (pointwise(width=32), 0.70, "float32"),
        "pointwise, 80%": (pointwise(width=32), 0.80, "float32"),
        "pointwise, 90%": (pointwise(width=32), 0.90, "float32"),
        "pointwise, 90%, float16": (pointwise(width=32), 0.90, "float16"),
        "pointwise, no adds, 90%": (pointwise(width=32, residual=False), 0.90, "float32"),
        "5x5 depthwise": (plain(square), 0.9, "float32"),
        "5x5 depthwise, stride 2": (plain(pair(layers, 32, 5, 2)), 0.9, "float32"),
        "relu6": (plain(pair(layers, 32, activation="relu6")), 0.9, "float32"),
        "leaky_relu": (plain(pair(layers, 32, activation="leaky_relu")), 0.9, "float32"),
        "elu": (plain(pair(layers, 32, activation="elu")), 0.9, "float32"),
        "hard_swish": (plain(pair(layers, 32, activation="hard_swish")), 0.9, "float32"),
        "sigmoid": (plain([layers.Activation("sigmoid")]), 0.9, "float32"),
        "tanh": (plain([layers.Activation("tanh")]), 0.9, "float32"),
        "two dense layers, softmax": (
            plain(end=[pooled(), layers.Dense(32, "relu"), layers.Dense(10, "softmax")]),
            0.9, "float32",
        ),
        "standardized": (
            plain(head=layers.Rescaling([0.01, 0.02, 0.015], [-1.0, 0.5, 0.2])), 0.9, "float32",
        ),
        "1x1 after the pooling": (
            plain(end=[pooled(keepdims=True), layers.Conv2D(10, 1), layers.Flatten()]),
            0.9, "float32",
        ),
        "pooled twice, dense 1x1": (
            plain(end=[pooled(keepdims=True), layers.Conv2D(10, 1), pooled()]), 0.9, "float32",
        ),
        "13 channels, 20x36 images": (plain(width=13, size=(20, 36, 3)), 0.9, "float32"),
        "add, then relu": (joined(skip), 0.9, "float32"),
        "pixels as they are": (plain(head=layers.Activation("linear")), 0.9, "float32"),
        "60% zeros": (plain(pair(layers, 32, strides=2)), 0.60, "float32"),
        "dense layer with few zeros": (
            plain(end=[pooled(), layers.Dense(512, "relu", name="full"), layers.Dense(10)]),
            0.9, "float32",
        ),
        "1 channel": (plain(size=(32, 32, 1)), 0.9, "float32"),
        "odd size": (plain(size=(33, 33, 3)), 0.9, "float32"),
        "first: same": (
            plain(first=[layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")]),
            0.9, "float32",
        ),
        "first: valid": (
            plain(first=[layers.Conv2D(32, 3, strides=2, activation="relu")]), 0.9, "float32",
        ),
        "first: stride 1": (plain(**first(kernel_size=3, activation="relu")), 0.9, "float32"),
        "first: 5x5": (
            plain(first=[layers.ZeroPadding2D(2), layers.Conv2D(32, 5, strides=2)]),
            0.9, "float32",
        ),
        "3x3 convolution": (
            plain([layers.Conv2D(32, 3, padding="same", activation="relu")]), 0.9, "float32",
        ),
        "3x3 convolution, stride 2, padded": (
            plain([layers.ZeroPadding2D(1), layers.Conv2D(32, 3, strides=2)]), 0.9, "float32",
        ),
        "max-pooling": (plain([layers.MaxPooling2D(2)]), 0.9, "float32"),
        "average pooling": (plain([layers.AveragePooling2D(2)]), 0.9, "float32"),
        "depthwise: same, stride 2": (
            plain(pair(layers, 32, strides=2, padding="same")), 0.9, "float32",
        ),
        "depthwise: valid": (plain(pair(layers, 32, padding="valid")), 0.9, "float32"),
        "depthwise: dilation 2": (plain(pair(layers, 32, dilation_rate=2)), 0.9, "float32"),
        "depthwise: multiplier 2": (plain(pair(layers, 32, depth_multiplier=2)), 0.9, "float32"),
        "depthwise: 7x7": (plain(pair(layers, 32, 7)), 0.9, "float32"),
        "1x1, stride 2": (plain([layers.Conv2D(32, 1, strides=2)]), 0.9, "float32"),
        "1x1, groups": (plain([layers.Conv2D(32, 1, groups=2)]), 0.9, "float32"),
        "padding read twice": (joined(two_readers), 0.9, "float32"),
        "gate by MUL": (joined(gate), 0.9, "float32"),
        "concatenation": (
            joined(lambda x: layers.Concatenate()([layers.Conv2D(16, 1)(x) for _ in "ab"])),
            0.9, "float32",
        ),
        "bilinear upsampling": (
            plain([layers.UpSampling2D(2, interpolation="bilinear")]), 0.9, "float32",
        ),
        "softmax over channels": (plain([layers.Softmax()]), 0.9, "float32"),
        "global max-pooling": (
            plain(end=[layers.GlobalMaxPooling2D(), layers.Dense(10)]), 0.9, "float32",
        ),
        "flattened": (plain(end=[layers.Flatten(), layers.Dense(10)]), 0.9, "float32"),
        "output before the pooling": (early_output(), 0.9, "float32"),
    }  # fmt: skip


def randomize(model, zeros, seed=0):
    """Random weights that keep the signal; a part of each, but of a layer `full`, is 0."""
    import numpy as np
    from keras import layers

    random = np.random.default_rng(seed)
    for layer in model.layers:
        if not isinstance(layer, (layers.Conv2D, layers.Dense, layers.DepthwiseConv2D)):
            continue
        kernel, *biases = layer.weights
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        reads = np.prod(kernel.shape[:2] if depthwise else kernel.shape[:-1])
        keep = 1.0 if depthwise or layer.name == "full" else 1.0 - zeros
        mask = random.random(kernel.shape) < keep
        scale = np.sqrt(2.0 / max(1.0, reads * keep))
        kernel.assign(random.normal(0.0, scale, kernel.shape) * mask)
        for bias in biases:
            bias.assign(random.uniform(0.0, 0.2, bias.shape))


def run_pairs(command, folder):
    """Lines of `run_there`; a network that ends its process is one, and the next go on."""
    names = sorted(
        file.name.removesuffix(".dense.tflite")
        for file in pathlib.Path(folder).glob("*.dense.tflite")
    )
    script, lines = str(pathlib.Path(__file__).resolve()), []
    while len(lines) < len(names):
        there = [*command, script, "--there", folder, str(len(lines))]
        done = subprocess.run(there, capture_output=True, text=True, check=False)
        lines += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if len(lines) < len(names):
            error = f"ends with {done.returncode}: " + " ".join(done.stderr.split())[-60:]
            lines.append({"name": names[len(lines)], "error": error})
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="a regular expression for the networks' names")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="runs an aarch64 Python")
    options = parser.parse_args()
    if not options.command:
        parser.error("expected a command that runs an aarch64 Python. Received: none")

    from cnn_l1.process.silence import import_tensorflow

    import_tensorflow()

    import numpy as np

    from cnn_l1.export import sparse_rules, tflite

    findings, bytes_of = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        print(f"Writing networks to {folder}", file=sys.stderr)
        for name, (model, zeros, kind) in networks().items():
            if options.only and not re.search(options.only, name):
                continue
            randomize(model, zeros)
            fixed = tflite.plain_copy(model, batch_size=1)
            file = f"{len(findings):02d} " + name.replace("/", " ")
            for sparse in (False, True):
                content = tflite.convert(fixed, kind, sparse=sparse)
                target = pathlib.Path(folder, f"{file}.{'sparse' if sparse else 'dense'}.tflite")
                target.write_bytes(content)
                bytes_of[name, sparse] = len(content)
            findings[name] = sorted({f.rule for f in sparse_rules.find(content)})
            images = np.random.default_rng(1).uniform(0, 255, (4, *model.input.shape[1:]))
            # Smooth pictures: of plain noise, means over the picture are all alike.
            images = images.mean((1, 2), keepdims=True) * 1.5 + 0.5 * images - 100
            images *= np.linspace(0.2, 1.0, 4)[:, None, None, None]
            np.save(pathlib.Path(folder, f"{file}.npy"), images.astype("float32"))
        lines = run_pairs(options.command, folder)
    print("| network | linter | sparse/dense time | difference | signal | bytes sparse/dense |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        name = line["name"].split(" ", 1)[1]
        ratio = bytes_of[name, True] / bytes_of[name, False]
        rules = ", ".join(findings[name]) or "passes"
        figures = (
            line["error"] + " | | "
            if "error" in line
            else f"{line['ratio']:.2f} | {line['difference']:.0e} | {line['signal']:.2f}"
        )
        print(f"| {name} | {rules} | {figures} | {ratio:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--there"]:
        run_there(sys.argv[2], int(sys.argv[3]))
    else:
        main()
