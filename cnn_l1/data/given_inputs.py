"""Inputs as given, to images, features or series as splits hold them."""

import numpy as np

from cnn_l1.data.origin import Origin

# What is expected of the axes, by `series`.
SHAPES = {
    True: "series (examples, steps, channels) or (examples, steps)",
    False: "images (examples, rows, columns, channels) or (examples, rows, columns), or features "
    "(examples, features)",
    None: "images (examples, rows, columns, channels), series (examples, steps, channels) or "
    "features (examples, features)",
}


def with_axes(shape: tuple[int, ...], series: bool | None) -> tuple[int, ...] | None:
    """The shape of one input with the axis that is missing; `None` for a shape of no kind.

    Args:
        shape: Of one input as given.
        series: Whether inputs are series. If `None`, three axes are a series and images have
            their channel axis.
    """
    if series:
        return {1: (*shape, 1), 2: shape}.get(len(shape))
    if series is None:
        return shape if len(shape) in (1, 2, 3) else None
    return {1: shape, 2: (*shape, 1), 3: shape}.get(len(shape))


def type_of(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    """uint8 images stay; everything else becomes float32."""
    return "uint8" if len(shape) == 3 and dtype == np.uint8 else "float32"


def prepared(
    block: np.ndarray, series: bool | None, split: str, origin: Origin, start: int = 0
) -> np.ndarray:
    """A block of inputs, its axes and type as splits hold them.

    Args:
        block: First axis the examples.
        series: As `with_axes` takes it.
        split: Of which the block is.
        origin: How errors call the data.
        start: Number of the block's first example.

    Raises:
        ConfigError: If the inputs are no numbers, not finite, or of a shape of no kind.
    """
    name = origin.inputs(split)
    block = np.asarray(block)
    if block.dtype.kind not in "biuf":
        kind = "text" if block.dtype.kind in "US" else str(block.dtype)
        raise origin.error(f"numbers in {name}", kind)
    shape = with_axes(block.shape[1:], series) if block.ndim else None
    if shape is None or 0 in shape:
        raise origin.error(f"{SHAPES[series]} in {name}", f"the shape {block.shape}")
    if series is None and len(shape) == 2 and block.dtype == np.uint8:
        raise origin.error(
            f"images with an axis for channels (x[..., None]), or series of floats, in {name}",
            f"uint8 of shape {block.shape}",
        )
    kind = type_of(block.dtype, shape)
    with np.errstate(over="ignore"):  # told below, by where it is
        block = block.astype(kind, copy=False).reshape(len(block), *shape)
    if kind == "float32" and not np.isfinite(block).all():
        where = np.argwhere(~np.isfinite(block))[0]
        value = block[tuple(where)]
        where[0] += start
        raise origin.error(f"finite numbers in {name}", f"{value} at {where.tolist()}")
    return block
