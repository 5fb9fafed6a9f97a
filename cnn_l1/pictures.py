"""Pictures, each as SVG and as PNG."""

import numpy as np

BLUE, ORANGE, GREY = "#2c6fbb", "#d95f02", "#8a8a8a"
BARS = 60  # a bar chart of more features cannot be read; points are drawn instead


def new_figure(width=6.4, height=4.0, columns=1, rows=1):
    """A matplotlib figure that needs no screen, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns)


def save(figure, path):
    """Write `path.svg` and `path.png`.

    The SVG holds no date and fixed names, so that equal data give equal bytes.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "cnn_l1"}):
        figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None})
    figure.savefig(path.with_name(path.name + ".png"), dpi=120)


def draw_features(path, features, names=None):
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
