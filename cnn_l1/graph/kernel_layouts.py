"""How TFLite stores a kernel: from Keras' array to the arrays that may stand in a file."""

import numpy as np


def dense_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    # A dense layer after a global pool may come out as a 1x1 convolution.
    return [kernel.T, kernel.T[:, None, None, :], kernel]


def conv_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    turned = np.moveaxis(kernel, -1, 0)
    if kernel.ndim == 3:  # (steps, in, out)
        return [turned[:, None], turned[:, :, None], turned]
    if kernel.ndim == 4:
        one = [kernel[0, 0].T] if kernel.shape[:2] == (1, 1) else []
        return [turned, *one]
    return [kernel]  # CONV_3D keeps Keras' order


def depthwise_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    *sizes, channels, multiplier = kernel.shape
    flat = kernel.reshape(1, *sizes, channels * multiplier)
    return [flat] if len(sizes) == 2 else [flat[:, None], flat[:, :, None], flat]


def transposed_layouts(kernel: np.ndarray) -> list[np.ndarray]:
    turned = np.moveaxis(kernel, -2, 0)
    return [turned[:, None], turned[:, :, None], turned] if kernel.ndim == 3 else [turned]
