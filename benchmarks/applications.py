"""Write docs/applications.md: the networks of keras.applications, shrunk and exported.

    python -m benchmarks.applications [--only MobileNetV2,...] [--results FILE]

One network of each family, with random weights and small images, goes through each step in a
child process, and what comes out is compared with Keras. Ends with 1 where a cell is wrong,
refused or crashed.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import numpy as np

from benchmarks import children

PAGE = pathlib.Path("docs/applications.md")
# The smallest image that each takes, or a little more, with its classifier.
IMAGE_SIZES = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Large": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "VGG19": 32,
    "Xception": 71,
}
STEPS = ("count", "MACs", "shrink", "fold", "copy", "float32")
SECONDS = 400  # of one step
HEAD = """# The networks of keras.applications

Made by `python -m benchmarks.applications`: one network of each family, with random weights,
batch-norm statistics of its inputs, ten classes and small images. A quarter of the channels of
each convolution and dense layer is set to zero first.

- **count**: `count` lists every kernel once.
- **MACs**: `count_macs` knows every layer.
- **shrink**: `plan_shrink` and `apply_shrink`: fewer parameters, the same output.
- **fold**, **copy**: `fold_batch_norm` and `plain_copy`: the same output.
- **float32**: the TFLite file gives what Keras gives.

*equal*: the largest difference is at most 1e-4 of the largest output, or twice what Keras' own
outputs move by when the inputs' last bits change: deep networks enlarge the rounding of sums.
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.applications")
    parser.add_argument("--only", help="networks, separated by commas; the page stays")
    parser.add_argument("--results", type=pathlib.Path, help="a file that keeps cells as they come")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        children.serve(perform)
        return 0
    names = flags.only.split(",") if flags.only else list(IMAGE_SIZES)
    cells = measure(names, STEPS, flags.results, flags.workers, True)
    if not flags.only:
        PAGE.write_text(page(cells), encoding="utf-8")
        print(f"Wrote {PAGE}")
    found = faults(cells)
    for fault in found:
        print(fault)
    print(f"{len(names)} networks, {len(found)} faults")
    return 1 if found else 0


def measure(names, steps=STEPS, results=None, workers=1, show=False):
    """`{(network, step): [verdict, reason, figure]}`, made in child processes."""
    cells = {}
    if results is not None and results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            name, step, cell = json.loads(line)
            cells[name, step] = cell
    wanted = [(name, step) for name in names for step in steps]
    tasks = [list(pair) for pair in wanted if pair not in cells]
    done = children.run("benchmarks.applications", tasks, SECONDS, len(STEPS), workers)
    for (name, step), result in done:
        cell = ["crashed", result["crashed"], ""] if "crashed" in result else result["cell"]
        cells[name, step] = cell
        if show:
            print(f"{name:20} {step:8} {cell[0]:8} {cell[2]} {cell[1][:150]}", flush=True)
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, step, cell]) + "\n")
    return {pair: cells[pair] for pair in wanted}


def faults(cells):
    """Lines about cells that are not right: here a refusal is a fault too."""
    return [
        f"{name}, {step}: {verdict}: {reason}"
        for (name, step), (verdict, reason, _) in cells.items()
        if verdict != "yes"
    ]


def page(cells):
    """The page's text."""
    lines = [HEAD, "| network | image | parameters, and once shrunk | " + " | ".join(STEPS) + " |"]
    lines.append("|---" * (len(STEPS) + 3) + "|")
    notes: dict[str, int] = {}
    for name in dict.fromkeys(name for name, _ in cells):
        size = IMAGE_SIZES[name]
        row = [name, f"{size} × {size}", cells[name, "shrink"][2]]
        for step in STEPS:
            verdict, reason, _ = cells[name, step]
            shown = "equal" if verdict == "yes" else verdict
            if reason:
                shown += f" [{notes.setdefault(reason, len(notes) + 1)}](#notes)"
            row.append(shown)
        lines.append("| " + " | ".join(row) + " |")
    if notes:
        lines += ["", "## Notes", ""]
        lines += [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join(lines) + "\n"


# --- in the child -------------------------------------------------------------------


def perform(task):
    """One cell, `[verdict, reason, figure]`."""
    import keras

    from benchmarks import steps

    name, step = task
    keras.utils.clear_session()
    figures: list[str] = []
    cell = steps.judged(lambda: network_step(name, step, figures))
    return {"cell": [*dataclasses.astuple(cell), *(figures or [""])]}


def network_step(name, step, figures):
    import cnn_l1
    from benchmarks import steps
    from benchmarks.third_party import count_cell

    model, inputs = build(name)
    if step == "count":
        return count_cell(model)
    if step == "MACs":
        total = sum(cnn_l1.count_macs(model).values())  # an unknown layer would be an error
        return steps.YES if total > 0 else steps.Cell("wrong", "no multiply-adds")
    if step == "copy":
        return steps.copy_cell(model, inputs)
    rounding = steps.rounding(model, inputs)
    if step == "shrink":
        shrunk = cnn_l1.apply_shrink(model, cnn_l1.plan_shrink(model))
        before, after = model.count_params(), shrunk.count_params()
        figures.append(f"{before:,} → {after:,}")
        if after >= before:
            return steps.Cell("wrong", "no channel went")
        expected, received = (steps.keras_outputs(one, inputs) for one in (model, shrunk))
        return steps.compare(expected, received, step, "shrunk model", rounding)
    if step == "fold":
        return steps.fold_cell(model, inputs, rounding)
    return steps.file_cell(model, inputs, step, rounding)


def build(name, seed=0):
    """A network whose signal neither dies nor explodes, with a quarter of its channels at zero.

    Weights are drawn anew and batch-norm takes the statistics of the inputs, so that a wrong
    output differs by the outputs' own size.
    """
    import keras

    size = IMAGE_SIZES[name]
    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    random = np.random.default_rng(seed)
    inputs = random.uniform(0, 255, size=(8, size, size, 3)).astype("float32")
    norms = []
    *makers, _ = [layer for layer in model.layers if kernel_of(layer) is not None]
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            norms.append(layer)
            layer.momentum = 0.0
            if layer.gamma is not None:
                layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
            if layer.beta is not None:
                layer.beta.assign(random.normal(0, 0.1, layer.beta.shape))
        elif type(layer).__name__ == "LayerScale":  # ConvNeXt's, which begins at 1e-6
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
    for layer in makers:
        kernel = np.array(kernel_of(layer))
        channel_axis = -2 if isinstance(layer, keras.layers.DepthwiseConv2D) else -1
        kernel = np.moveaxis(kernel, channel_axis, -1)
        kernel[..., ::4] = 0.0
        kernel_of(layer).assign(np.moveaxis(kernel, -1, channel_axis))
        if getattr(layer, "bias", None) is not None:
            bias = random.normal(0, 0.1, layer.bias.shape)
            bias[::4] = 0.0
            layer.bias.assign(bias)
    model(inputs, training=True)  # each norm now has the statistics of its inputs
    for layer in norms:
        layer.momentum = 0.99
        if layer.beta is not None:
            dead = np.array(layer.moving_variance) == 0.0
            layer.beta.assign(np.where(dead, 0.0, np.array(layer.beta)))
    return model, inputs


def kernel_of(layer):
    """The kernel of a convolution, depthwise or dense layer; `None` for others."""
    from keras import layers

    if isinstance(layer, layers.SeparableConv2D):
        return layer.pointwise_kernel
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
        return layer.kernel
    return None


if __name__ == "__main__":
    sys.exit(main())
