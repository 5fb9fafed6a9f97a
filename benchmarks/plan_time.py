"""How long planning and applying take, as networks get deeper.

    python benchmarks/plan_time.py

Inverted-residual networks of 8 to 64 blocks, half of their channels zeroed, and
MobileNetV2. Seconds a layer should stay about the same.
"""

import sys
import time

from cnn_l1.process.silence import import_tensorflow

import_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402
from shrink_latency import zero_channels  # noqa: E402

from cnn_l1.shrink import removal  # noqa: E402


def inverted_residuals(blocks):
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(24, 3, strides=2, padding="same")(images)
    for _ in range(blocks):
        y = x
        for layer in (layers.Conv2D(96, 1), layers.DepthwiseConv2D(3, padding="same")):
            y = layers.ReLU(6.0)(layers.BatchNormalization()(layer(y)))
        y = layers.BatchNormalization()(layers.Conv2D(24, 1)(y))
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(10)(x), name=f"{blocks} blocks")


def mobilenet_v2():
    return keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)


def main():
    keras.utils.set_random_seed(0)
    print(f"{'network':24}{'layers':>8}{'plan s':>9}{'apply s':>9}{'ms a layer':>12}")
    makers = [lambda n=n: inverted_residuals(n) for n in (8, 16, 32, 64)]
    for make in (makers[0], *makers, mobilenet_v2):
        model = make()
        zero_channels(model, 0.5, np.random.default_rng(0))
        start = time.perf_counter()
        plan = removal.plan_shrink(model)
        planned = time.perf_counter()
        removal.apply_shrink(model, plan)
        done = time.perf_counter()
        count = len(model.layers)
        print(
            f"{model.name:24}{count:8}{planned - start:9.2f}{done - planned:9.2f}"
            f"{(done - start) / count * 1e3:12.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
