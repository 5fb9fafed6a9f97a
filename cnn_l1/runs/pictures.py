"""Pictures, each as SVG and as PNG."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:  # a picture needs no Keras
    from cnn_l1.graph.features import Features

BLUE, ORANGE, GREY = "#2c6fbb", "#d95f02", "#8a8a8a"
BARS = 60  # a bar chart of more features cannot be read; points are drawn instead


def new_figure(
    width: float = 6.4, height: float = 4.0, columns: int = 1, rows: int = 1
) -> tuple[Figure, Any]:
    """A matplotlib figure that needs no screen, and its axes."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns)


def save(figure: Figure, path: pathlib.Path) -> None:
    """Write `path.svg` and `path.png`.

    The SVG holds no date and fixed names, so that equal data give equal bytes.
    """
    with matplotlib.rc_context({"svg.hashsalt": "cnn_l1"}):
        figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None})
    figure.savefig(path.with_name(path.name + ".png"), dpi=120)


def draw_features(
    path: pathlib.Path, features: "Features", names: Sequence[str] | None = None
) -> None:
    """Which inputs are read, and how strongly: an image of pixels, or bars by name.

    Args:
        path: Where to write, without suffix.
        features: A `features.Features`.
        names: Names of the features, or `None`.
    """
    magnitudes, selected = features.magnitudes, features.selected
    title = f"{selected.sum()} of {len(selected)} inputs have a weight left"
    if len(features.input_shape) == 3:
        figure, axes = new_figure(5.0, 4.2)
        image = magnitudes.reshape(features.input_shape).sum(axis=-1)
        gone = ~selected.reshape(features.input_shape).any(axis=-1)
        drawn = axes.imshow(np.ma.masked_array(image, gone), cmap="viridis", vmin=0)
        axes.set_facecolor("lightgrey")
        figure.colorbar(drawn, ax=axes, label="sum of |outgoing weights| (grey: all zero)")
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        figure, axes = new_figure()
        values = features.weights[:, 0] if features.weights.shape[1] == 1 else magnitudes
        axes.axhline(0, color=GREY, linewidth=0.8)
        positions = np.arange(len(values))
        if len(values) <= BARS:
            axes.bar(positions, values, color=BLUE)
            axes.set_xticks(positions, features.names(names), rotation=60, ha="right")
        else:
            axes.vlines(positions[selected], 0, values[selected], color=BLUE)
            axes.plot(positions[selected], values[selected], ".", color=BLUE)
            axes.set_xlabel("feature")
        single = features.weights.shape[1] == 1
        axes.set_ylabel("weight" if single else "sum of |outgoing weights|")
    axes.set_title(title)
    save(figure, path)


def draw_sweep(
    folder: pathlib.Path, rows: Sequence[Any], dense: Any = None, classes: bool = True
) -> None:
    """Score against sparsity, bytes and multiply-adds, with standard errors.

    Args:
        folder: Where to write `score_sparsity`, `score_bytes` and `score_macs`.
        rows: `selection.Row`s of a path, the choice marked.
        dense: The dense baseline's row, or `None`.
        classes: Whether the score is an accuracy, else a mean squared error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = [row for row in rows if row.score is not None]
    kinds = {"sparsity": "sparsity", "bytes": "bytes of the file", "macs": "multiply-adds"}
    for kind, label in kinds.items():
        shown = [row for row in done if getattr(row, kind) is not None]
        if not shown:
            continue
        figure, axes = new_figure()
        factor = 100.0 if classes else 1.0
        places = [getattr(row, kind) * (100.0 if kind == "sparsity" else 1.0) for row in shown]
        axes.errorbar(
            places,
            [factor * row.score for row in shown],
            [factor * row.standard_error for row in shown],
            fmt="o-",
            color=BLUE,
            capsize=3,
            markersize=4,
            label="mean ± standard error",
        )
        for place, row in zip(places, shown, strict=True):
            if row.chosen:
                score = factor * row.score
                axes.plot([place], [score], "*", color=ORANGE, markersize=15, label="chosen")
        if dense is not None and dense.score is not None:
            axes.axhline(factor * dense.score, color=GREY, linestyle="--", label="dense baseline")
        if kind != "sparsity" and max(places) > 4 * min(places) > 0:
            axes.set_xscale("log")
        axes.set_xlabel(f"{label}, %" if kind == "sparsity" else label)
        axes.set_ylabel("validation accuracy, %" if classes else "validation mean squared error")
        axes.legend()
        axes.grid(alpha=0.3)
        save(figure, folder / f"score_{kind}")


NAMED_PATHS = 12


def draw_paths(
    path: pathlib.Path,
    strengths: Sequence[float],
    paths: Mapping[str, Sequence[float | None]],
    label: str,
    chosen: Any = None,
) -> None:
    """Weights of a linear model, or each layer's sparsity, along the strengths.

    Args:
        path: Where to write, without suffix.
        strengths: Ascending.
        paths: `{name: [value or None, …]}`, one value a strength.
        label: What the values are.
        chosen: The chosen `selection.Row`, or `None`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = new_figure()
    for name, values in paths.items():
        heights = np.array([np.nan if value is None else value for value in values])
        axes.plot(strengths, heights, ".-", label=name if len(paths) <= NAMED_PATHS else None)
    axes.set_xscale("log")
    axes.set_xlabel("l1_strength λ")
    axes.set_ylabel(label)
    if chosen is not None:
        axes.axvline(chosen.l1_strength, color=ORANGE, linestyle="--", label="chosen")
    figure.legend(fontsize="small", loc="outside right upper")
    axes.grid(alpha=0.3)
    save(figure, path)
