"""Does a network without its empty channels run faster? On LiteRT, one thread.

    python benchmarks/shrink_latency.py

Random weights with a part of all channels zeroed. For each network, float32 and int8:
the dense file, the zeroed one (same shapes) and the shrunk one, timed in turn in one
run. A shrunk network that is compute-bound should be as much faster as it has fewer
multiply-adds: the last column is the latency ratio over the MAC ratio. Above 1.25
the layers that hold it back follow, each timed alone.
"""

import argparse
import pathlib
import sys
import tempfile

from cnn_l1.process.silence import import_tensorflow

import_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

from cnn_l1.config.loading import validate  # noqa: E402
from cnn_l1.export import tflite  # noqa: E402
from cnn_l1.graph import coupling, macs  # noqa: E402
from cnn_l1.measure import measurement  # noqa: E402
from cnn_l1.models import builders  # noqa: E402
from cnn_l1.shrink import removal  # noqa: E402

HELD_BACK = 1.25
COMPUTE_BOUND_MACS = 10_000_000


def built(name, shape):
    config = validate({"name": "latency", "model": {"name": name}, "penalty": {"name": "none"}})
    return builders.build(config, shape, 10)


def vgg(shape=(32, 32, 3)):
    """Six 3×3 convolutions, 64 to 256 filters: 154 million multiply-adds."""
    images = keras.Input(shape)
    x = layers.Rescaling(1 / 255)(images)
    for filters in (64, 128, 256):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(256, activation="relu")(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(10)(x), name="vgg")


def mobilenet(shape=(96, 96, 3)):
    """MobileNetV1 at half width, as on small devices: 27 million multiply-adds."""
    return keras.applications.MobileNet(
        shape, alpha=0.5, weights=None, classes=10, classifier_activation=None
    )


NETWORKS = {
    "lenet5": lambda: built("lenet5", (28, 28, 1)),
    "resnet8": lambda: built("resnet8", (32, 32, 3)),
    "mobilenet": mobilenet,
    "vgg": vgg,
}


def zero_channels(model, fraction, random):
    """Zero a part of every group of channels, all weights that go with them."""
    for space in coupling.channel_spaces(model):
        gone = np.zeros(space.size + 1, bool)  # one more, for index -1
        count = min(round(fraction * space.size), space.size - 1)
        gone[random.choice(space.size, count, replace=False)] = True
        for member in space.members:
            value = np.moveaxis(keras.ops.convert_to_numpy(member.variable).copy(), member.axis, 0)
            value[gone[member.index]] = 0
            member.variable.assign(np.moveaxis(value, 0, member.axis))


def time_networks(networks, folder, kind, runs):
    """`{name: median ms}` of exported files, timed in turn."""
    random, paths, images = np.random.default_rng(1), [], []
    for name, network in networks.items():
        samples = random.uniform(0, 255, (20, *network.inputs[0].shape[1:])).astype("float32")
        paths.append(pathlib.Path(folder) / f"{name}_{kind}.tflite")
        tflite.export_tflite(network, paths[-1], samples if kind == "int8" else None)
        images.append(samples[0])
    medians = [median for median, _ in measurement.time_files(paths, images, runs)]
    return dict(zip(networks, medians, strict=True))


def single_layers(model):
    """`{layer name: a model of that layer alone}` for layers with multiply-adds."""
    alone = {}
    for name in macs.count_macs(model):
        layer = model.get_layer(name)
        inputs = keras.Input(layer.input.shape[1:])
        copy = type(layer).from_config(layer.get_config())
        alone[name] = keras.Model(inputs, copy(inputs), name=name)
        copy.set_weights(layer.get_weights())
    return alone


def report_layers(dense, shrunk, folder, kind, runs):
    """Print the layers that fell less in time than in multiply-adds."""
    before, after = single_layers(dense), single_layers(shrunk)
    costs, fewer = macs.count_macs(dense), macs.count_macs(shrunk)
    rows = []
    for name in after:
        pair = {"before": before[name], "after": after[name]}
        times = time_networks(pair, folder, kind, runs)
        ratio, expected = times["after"] / times["before"], fewer[name] / costs[name]
        excess_ms = times["after"] - expected * times["before"]
        rows.append((excess_ms, name, ratio, expected, times["after"]))
    for excess_ms, name, ratio, expected, after_ms in sorted(rows, reverse=True)[:4]:
        print(
            f"    held back by {name}: {after_ms:.3f} ms alone, latency ratio {ratio:.2f} "
            f"at MAC ratio {expected:.2f}, {excess_ms:+.3f} ms more than that"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--fraction", type=float, default=0.5, help="of channels zeroed")
    parser.add_argument("--runs", type=int, default=300)
    flags = parser.parse_args()
    print(f"{flags.fraction:.0%} of channels zeroed; CPU ms of one image, median of {flags.runs}")
    heading = f"{'dense':>9}{'zeroed':>9}{'shrunk':>9}{'latency':>9}{'MACs':>7}{'excess':>8}"
    print(f"{'network':12}{'million MACs':>14} {'file':8}{heading}")
    for name in flags.networks:
        keras.utils.set_random_seed(0)
        dense = NETWORKS[name]()
        zeroed = keras.models.clone_model(dense)
        zeroed.set_weights(dense.get_weights())
        zero_channels(zeroed, flags.fraction, np.random.default_rng(0))
        shrunk = removal.apply_shrink(zeroed, removal.plan_shrink(zeroed))
        before, after = (sum(macs.count_macs(m).values()) for m in (dense, shrunk))
        networks = {"dense": dense, "zeroed": zeroed, "shrunk": shrunk}
        for kind in ("float32", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                times = time_networks(networks, folder, kind, flags.runs)
                ratio, expected = times["shrunk"] / times["dense"], after / before
                print(
                    f"{name:12}{before / 1e6:14.1f} {kind:8}"
                    + "".join(f"{times[n]:9.3f}" for n in networks)
                    + f"{ratio:9.3f}{expected:7.3f}{ratio / expected:8.2f}"
                )
                if ratio / expected > HELD_BACK and before >= COMPUTE_BOUND_MACS:
                    report_layers(dense, shrunk, folder, kind, flags.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
