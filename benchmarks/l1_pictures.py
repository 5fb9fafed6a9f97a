"""Draw the pictures of docs/l1.md and print the figures behind them.

    python benchmarks/l1_pictures.py

Writes docs/pictures/*.svg. Two of the pictures are of training runs, configs/digits.yaml
and configs/linear.yaml, which take a minute or two.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile

import numpy as np

from cnn_l1.config import loading as configs
from cnn_l1.process.silence import import_tensorflow

import_tensorflow()

import keras  # noqa: E402

from cnn_l1.data import sets  # noqa: E402
from cnn_l1.runs import pictures  # noqa: E402
from cnn_l1.sparsity import penalties  # noqa: E402
from cnn_l1.train import pipeline  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
SMALL = 1e-3
UNDER_PENALTY_ALONE = (
    "training.ramp_epochs=0",
    "thresholding=null",
    "fine_tuning.epochs=0",
    "baseline=false",
    "tensorboard=false",
    "export.formats=[]",
    "shrink.enabled=false",
    "measure.split=validation",
)

PLAIN_L1 = (
    "data.augmentation={}",
    "penalty={l1_strength: 2e-3}",
    "optimizer.learning_rate=2e-3",
    "training.epochs=60",
    "target=null",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs" / "pictures")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for draw in (draw_shrinkage, draw_weights, draw_path):
            name, figure = draw(pathlib.Path(scratch))
            pictures.save(figure, pathlib.Path(scratch) / name)
            shutil.copy(pathlib.Path(scratch) / f"{name}.svg", folder)
    return 0


def draw_shrinkage(scratch):
    """What each operator makes of a weight."""
    x = np.linspace(-3, 3, 601, dtype="float32")
    soft = np.asarray(penalties.L1(1.0).prox(x, 1.0))
    ridge = np.asarray(penalties.L1L2(0.0, 0.5).prox(x, 1.0))
    elastic = np.asarray(penalties.L1L2(1.0, 0.25).prox(x, 1.0))
    hard = np.where(np.abs(x) < 1.0, 0.0, x)
    jump = np.flatnonzero(np.diff(hard == 0)) + 1
    figure, axes = pictures.new_figure(5.6, 4.2)
    axes.plot(x, x, color=pictures.GREY, linewidth=0.8, label="no change")
    axes.plot(x, soft, color=pictures.BLUE, linewidth=2.2, label="L1: soft threshold, λ = 1")
    axes.plot(
        np.insert(x, jump, np.nan), np.insert(hard, jump, np.nan),
        color=pictures.ORANGE, linestyle="--", label="hard threshold at 1",
    )  # fmt: skip
    axes.plot(x, ridge, color="black", linestyle="-.", label="L2, λ₂ = ½")
    axes.plot(x, elastic, color=pictures.BLUE, linestyle=":", label="elastic net, λ = 1, λ₂ = ¼")
    axes.set_xlabel("weight before")
    axes.set_ylabel("weight after (step 1)")
    axes.legend(fontsize=8)
    return "shrinkage", figure


def draw_weights(scratch):
    """Sizes of the weights of configs/digits.yaml's network after either method."""
    figure, both = pictures.new_figure(5.0, 3.4, columns=2)
    edges = np.arange(-10, 1.01, 0.5)
    for axes, method in zip(both, ("subgradient", "proximal"), strict=True):
        weights, accuracy = trained_kernels(scratch / method, method)
        sizes = np.abs(weights)
        zeros, small = int((sizes == 0).sum()), float((sizes < SMALL).mean())
        print(
            f"{method}: {zeros:,} of {sizes.size:,} kernel weights exactly zero, {small:.2%} "
            f"below {SMALL}, validation accuracy {accuracy:.2%}"
        )
        exponents = np.log10(sizes[sizes > 0])
        print(f"  smallest that is not zero: {sizes[sizes > 0].min():.1e}")
        axes.hist(np.clip(exponents, edges[0], None), edges, color=pictures.BLUE)
        axes.bar(-11, zeros, width=0.8, color=pictures.ORANGE)
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylim(0, 30_000)
        axes.set_xticks([-11, -9, -6, -3, 0], ["0", "$10^{-9}$", "$10^{-6}$", "$10^{-3}$", "1"])
        axes.set_xlabel("|weight|")
        axes.set_title(f"{method}: {zeros:,} of {sizes.size:,} exactly 0", fontsize=10)
    both[0].set_ylabel("weights")
    return "weights", figure


def trained_kernels(folder, method):
    """The kernel weights of that network under plain L1, and its validation accuracy."""
    overrides = [*UNDER_PENALTY_ALONE, *PLAIN_L1, f"training.method={method}"]
    report = pipeline.run(configs.load(ROOT / "configs" / "digits.yaml", overrides), folder)
    model = keras.models.load_model(folder / "model.keras")
    kernels = [v for v in model.trainable_variables if penalties.is_kernel(v)]
    weights = np.concatenate([keras.ops.convert_to_numpy(v).ravel() for v in kernels])
    return weights, report["validation"]["sparse"]["accuracy"]


def draw_path(scratch):
    """The lasso's coefficients on `diabetes` against λ, and those that training found."""
    config = configs.load(ROOT / "configs" / "linear.yaml", UNDER_PENALTY_ALONE)
    dataset = sets.load(config.data, config.seed)
    names = dataset.about.feature_names
    inputs = dataset.train.inputs.astype("float64")
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    targets = dataset.train.targets.astype("float64")
    targets -= targets.mean()
    largest = 2 * np.abs(inputs.T @ targets).max() / len(targets)
    strengths = np.geomspace(largest, largest / 1000, 50)
    paths = lasso_path(inputs, targets, strengths)

    pipeline.run(config, scratch / "linear")
    model = keras.models.load_model(scratch / "linear" / "model.keras")
    trained = keras.ops.convert_to_numpy(model.layers[-2].kernel)[:, 0]
    strength = config.penalty.l1_strength
    there = lasso_path(inputs, targets, np.array([strength]))[:, 0]
    difference = np.abs(trained - there).max()
    print(f"training at λ = {strength}: differs from the path by {difference:.1e} at most")
    print(f"  zeros of both: {np.sum(trained == 0)}, {np.sum(there == 0)}")

    figure, axes = pictures.new_figure(6.4, 4.2)
    colours = [f"C{number}" for number in range(len(names))]
    for path, value, colour in zip(paths, trained, colours, strict=True):
        axes.plot(strengths, path, color=colour, linewidth=1.2)
        axes.plot(strength, value, "o", color=colour, markersize=4)
    offset, below = 0, -np.inf
    for row in np.argsort(paths[:, -1]):
        end = paths[row, -1]
        offset = offset + 22 if end - below < 1.5 else 4  # names side by side where ends meet
        axes.annotate(
            names[row], (strengths[-1], end), xytext=(offset, 0), textcoords="offset points",
            color=colours[row], fontsize=8, va="center",
        )  # fmt: skip
        below = end
    axes.axhline(0, color=pictures.GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(1.2 * strengths[0], strengths[-1] / 2.5)
    axes.set_xlabel("λ (l1_strength)")
    axes.set_ylabel("coefficient of the standardised feature")
    return "lasso_path", figure


def lasso_path(inputs, targets, strengths, steps=20_000):
    """Minimise `mean((y − Xw)²) + λ·sum|w|`, a column a λ, by proximal gradient steps."""
    count = len(targets)
    gram, moment = 2 * inputs.T @ inputs / count, 2 * inputs.T @ targets[:, None] / count
    step = 1 / np.linalg.eigvalsh(gram).max()
    penalty = penalties.L1(1.0)
    # Accelerated (FISTA, Beck and Teboulle, 2009): s1 to s4 are nearly collinear.
    weights = ahead = np.zeros((inputs.shape[1], len(strengths)))
    momentum = 1.0
    for _ in range(steps):
        moved = ahead - step * (gram @ ahead - moment)
        shrunk = np.asarray(penalty.prox(moved, step * strengths))
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = shrunk + (momentum - 1) / following * (shrunk - weights)
        weights, momentum = shrunk, following
    return weights


if __name__ == "__main__":
    sys.exit(main())
