"""The stage after training: the network without its empty channels, and its fine-tuning."""

import keras

from cnn_l1.data.augmentation import with_augmentation
from cnn_l1.export import tflite
from cnn_l1.process.failures import during
from cnn_l1.shrink import removal
from cnn_l1.train.stages import History, Run, tune

NAMED_CHANNELS = 32  # dead ones are named on the console up to here; report.json has all


def shrink_network(
    network: keras.Model, sparse: keras.Model, this: Run, history: History
) -> tuple[keras.Model | None, dict[str, list[int]]]:
    """The network without its empty channels, and which channels those are.

    Where `shrink.fine_tuning_epochs` asks for fine-tuning and no channel can go, the network
    as it is is fine-tuned.

    Args:
        network: The trained network.
        sparse: Its plain copy, which the smaller one must equal.
        this: The `Run`.
        history: Rows of its fine-tuning are added here.

    Returns:
        The network, or `None` where nothing can go and nothing is fine-tuned, and
        `{layer: channel numbers}`.
    """
    config = this.config
    epochs = config.shrink.fine_tuning_epochs
    if not config.shrink.enabled:
        return None, {}
    plan = removal.plan_shrink(network, config.shrink.round_to, config.shrink.allow_empty)
    print(plan)
    removed = {p.name: list(p.removed_channels) for p in plan.layers if p.removed_channels}
    if sum(map(len, removed.values())) <= NAMED_CHANNELS:
        for name, channels in removed.items():
            print(f"Dead in {name}: {', '.join(map(str, channels))}")
    if plan.removes_anything:
        small = removal.apply_shrink(network, plan)
        shrunk = tflite.plain_copy(small)
        removal.check_same_output(sparse, shrunk, this.dataset.validation.sample(256))
    elif epochs:
        print("No channel can go: shrunk/ is the network as it is, fine-tuned")
        small = network
    else:
        return None, {}
    if epochs:
        first = config.training.epochs + config.fine_tuning.epochs
        with during("fine-tuning of the shrunk network"):
            trained = with_augmentation(small, config.data.augmentation, config.seed)
            history += tune(trained, this, epochs, first)
        shrunk = tflite.plain_copy(small)
    return shrunk, removed
