"""Structured pruning by Torch-Pruning, in its own environment.

Train densely, take out channels in steps until the multiply-adds are met, fine-tune; the best
epoch by validation accuracy behind the pruning is kept. Of `settings`:

- `begin_epochs`, `end_epochs`: between them channels go, an equal part of the surplus of
  multiply-adds at every epoch's end;
- `restart_epochs`: where the cosine of the learning rate starts anew;
- `importance`: `magnitude`, the norm of a channel's group, or `taylor`, the first-order change
  of the loss on 1,024 training images.
"""

import copy
import math
import time
from types import MappingProxyType

import numpy as np
import torch
import torch_pruning
from torch import nn

from benchmarks.peers import common

EVALUATION_BATCH = 1000
FINEST_STEPS = 400  # of the pruner: a step takes at most about 1/400 of the channels


def main():
    settings, arrays, output = common.read_arguments()
    start = time.monotonic()
    torch.manual_seed(settings["seed"])
    (point,) = settings["points"]
    data = {name: torch.from_numpy(values) for name, values in arrays.items()}
    network = NETWORKS[settings["task"].split("_")[0]]()
    steps = len(data["train_labels"]) // settings["batch_size"]
    dense = count_macs(network)
    target = int(point.removeprefix("macs_"))
    best, seconds_per_step = None, []
    optimizer = new_optimizer(network, settings)
    for epoch in range(settings["epochs"]):
        began = time.perf_counter()
        train_epoch(network, optimizer, data, settings, epoch, steps)
        seconds_per_step.append((time.perf_counter() - began) / steps)
        if settings["begin_epochs"] <= epoch + 1 <= settings["end_epochs"]:
            way = settings["end_epochs"] - settings["begin_epochs"] + 1
            done = (epoch + 2 - settings["begin_epochs"]) / way
            limit = target if done == 1 else dense - done * (dense - target)
            network = prune(network, limit, settings["importance"], data)
            optimizer = new_optimizer(network, settings)
        accuracy = validate(network, data)
        print(f"epoch {epoch + 1}: {accuracy:.4f}, {count_macs(network):,} multiply-adds")
        if epoch + 1 >= settings["end_epochs"] and (best is None or accuracy >= best[0]):
            best = accuracy, epoch + 1, copy.deepcopy(network)
    accuracy, epoch, network = best
    (output / point).mkdir(parents=True)
    np.savez(output / point / "weights.npz", **keras_weights(network))
    common.write_training(
        output,
        ("torch", "torch-pruning", "numpy"),
        seconds=time.monotonic() - start,
        seconds_per_step=sorted(seconds_per_step)[len(seconds_per_step) // 2],
        best_epoch=epoch,
        torch_validation_accuracy=accuracy,
    )


class LeNet5(nn.Module):
    """The network of the builder `lenet5`, with Keras' default initialization."""

    last = "dense_2"
    positions = MappingProxyType({"conv_1": 24 * 24, "conv_2": 8 * 8, "dense_1": 1, "dense_2": 1})
    # Behind what is flattened, channels first here and last in Keras: how many positions.
    flattened = MappingProxyType({"dense_1": 4 * 4})

    def __init__(self):
        super().__init__()
        self.conv_1, self.conv_2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.dense_1, self.dense_2 = nn.Linear(800, 500), nn.Linear(500, 10)
        for layer in (self.conv_1, self.conv_2, self.dense_1, self.dense_2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.conv_1(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv_2(x)), 2)
        return self.dense_2(torch.relu(self.dense_1(torch.flatten(x, 1))))


class ResNet8(nn.Module):
    """The network of the builder `resnet8`; batch normalization with Keras' constants."""

    last = "dense"
    positions = MappingProxyType(
        {"conv": 32 * 32, "dense": 1}
        | {f"stack_1_conv_{number}": 32 * 32 for number in (1, 2)}
        | {f"stack_2_{name}": 16 * 16 for name in ("conv_1", "conv_2", "shortcut")}
        | {f"stack_3_{name}": 8 * 8 for name in ("conv_1", "conv_2", "shortcut")}
    )
    flattened = MappingProxyType({})

    def __init__(self):
        super().__init__()
        self.add_convolution("conv", 3, 16)
        for stack, (before, channels) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            strides = 1 if stack == 1 else 2
            self.add_convolution(f"stack_{stack}_conv_1", before, channels, strides)
            self.add_convolution(f"stack_{stack}_conv_2", channels, channels)
            if strides != 1:
                name = f"stack_{stack}_shortcut"
                self.add_convolution(name, before, channels, strides, size=1, norm=False)
        self.dense = nn.Linear(64, 10)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def add_convolution(self, name, before, channels, strides=1, size=3, norm=True):
        layer = nn.Conv2d(before, channels, size, strides, padding=size // 2 if strides == 1 else 0)
        # Keras' `he_normal`: of the variance 2 / fan-in, cut at two deviations.
        deviation = math.sqrt(2 / (before * size * size)) / 0.87962566103423978
        nn.init.trunc_normal_(layer.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
        nn.init.zeros_(layer.bias)
        self.add_module(name, layer)
        if norm:
            self.add_module(f"{name}_norm", nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01))

    def block(self, name, x):
        layer = self.get_submodule(name)
        if layer.stride != (1, 1):
            x = nn.functional.pad(x, (0, 1, 0, 1))  # as Keras pads an even size
        return self.get_submodule(f"{name}_norm")(layer(x))

    def forward(self, x):
        x = torch.relu(self.block("conv", x))
        for stack in (1, 2, 3):
            y = torch.relu(self.block(f"stack_{stack}_conv_1", x))
            y = self.block(f"stack_{stack}_conv_2", y)
            if stack > 1:
                x = self.get_submodule(f"stack_{stack}_shortcut")(x)
            x = torch.relu(x + y)
        return self.dense(torch.flatten(nn.functional.avg_pool2d(x, 8), 1))


NETWORKS = {"lenet5": LeNet5, "resnet8": ResNet8}


def new_optimizer(network, settings):
    # Keras' epsilon, for the sake of equal terms.
    return torch.optim.Adam(network.parameters(), settings["learning_rate"], eps=1e-7)


def learning_rate(settings, epoch, step, steps):
    """A cosine that starts anew at `restart_epochs`."""
    starts = [0, *settings["restart_epochs"], settings["epochs"]]
    segment = sum(epoch >= start for start in starts[1:-1])
    first, last = starts[segment], starts[segment + 1]
    done = (epoch + step / steps - first) / (last - first)
    floor = settings["final_fraction"]
    return settings["learning_rate"] * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def train_epoch(network, optimizer, data, settings, epoch, steps):
    network.train()
    order = torch.randperm(len(data["train_labels"]))
    for step in range(steps):
        rows = order[step * settings["batch_size"] : (step + 1) * settings["batch_size"]]
        images = augment(pixels(data["train_images"][rows]), settings["augmentation"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, epoch, step, steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), data["train_labels"][rows]).backward()
        optimizer.step()


def pixels(images):
    """`(images, 1, rows, cols)` from 0 to 1."""
    return images.permute(0, 3, 1, 2).float() / 255.0


def augment(images, augmentation):
    """Shift and flip each image by itself; what comes in is black."""
    most = augmentation.get("shift_pixels") or 0
    if most:
        count, _, rows, cols = images.shape
        padded = nn.functional.pad(images, [most] * 4).permute(0, 2, 3, 1)
        # As Keras rounds a uniform shift: whole pixels, the outer ones half as often.
        offsets = (torch.rand(2, count, 1) * 2 * most).round().long()
        down = (offsets[0] + torch.arange(rows))[:, :, None]
        right = (offsets[1] + torch.arange(cols))[:, None, :]
        images = padded[torch.arange(count)[:, None, None], down, right].permute(0, 3, 1, 2)
    if augmentation.get("flip"):
        flipped = torch.rand(len(images), 1, 1, 1) < 0.5
        images = torch.where(flipped, images.flip(3), images)
    return images


def validate(network, data):
    network.eval()
    right = 0
    with torch.no_grad():
        for images, labels in zip(
            data["validation_images"].split(EVALUATION_BATCH),
            data["validation_labels"].split(EVALUATION_BATCH),
            strict=True,
        ):
            right += int((network(pixels(images)).argmax(1) == labels).sum())
    return right / len(data["validation_labels"])


def count_macs(network):
    """Multiply-adds by the layers' shapes."""
    return sum(
        count * network.get_submodule(name).weight.numel()
        for name, count in network.positions.items()
    )


def prune(network, limit, importance, data):
    """Take out the least important channels until at most `limit` multiply-adds are left."""
    images = pixels(data["train_images"][:1024])
    if importance == "taylor":
        measure = torch_pruning.importance.GroupTaylorImportance()
        network.zero_grad()
        loss = nn.functional.cross_entropy(network(images), data["train_labels"][:1024])
        loss.backward()
    else:
        measure = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.BasePruner(
        network,
        images[:1],
        importance=measure,
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.95,
        iterative_steps=FINEST_STEPS,
        ignored_layers=[network.get_submodule(network.last)],
    )
    for _ in range(FINEST_STEPS):
        if count_macs(network) <= limit:
            break
        pruner.step()
    network.zero_grad()
    return network


def keras_weights(network):
    """`{"<layer>/<variable>": array, …}` with Keras' names and order of axes."""
    found = {}
    for name, layer in network.named_children():
        weight = layer.weight.detach().numpy()
        bias = layer.bias.detach().numpy()
        if isinstance(layer, nn.BatchNorm2d):
            found |= {f"{name}/gamma": weight, f"{name}/beta": bias}
            found[f"{name}/moving_mean"] = layer.running_mean.numpy()
            found[f"{name}/moving_variance"] = layer.running_var.numpy()
            continue
        if weight.ndim == 4:
            weight = weight.transpose(2, 3, 1, 0)
        else:
            positions = network.flattened.get(name, 1)
            weight = weight.reshape(len(weight), -1, positions).transpose(0, 2, 1)
            weight = weight.reshape(len(weight), -1).T
        found |= {f"{name}/kernel": weight, f"{name}/bias": bias}
    return found


if __name__ == "__main__":
    main()
