"""What the comparison with other tools shares: allocations of sparsity, networks made again."""

import types

import numpy as np
import pytest

from benchmarks import campaign
from benchmarks.peers import common, measuring, run
from cnn_l1.config import loading as configs
from cnn_l1.models import builders
from cnn_l1.sparsity import counting as sparsity

KERNELS = {
    "wide": np.linspace(-3.0, 3.0, 60).reshape(10, 6),
    "narrow": np.linspace(0.1, 1.0, 40).reshape(8, 5),
}


@pytest.mark.parametrize("allocation", sorted(common.ALLOCATIONS))
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_allocations_leave_the_part_asked_for(allocation, sparsity):
    found = common.ALLOCATIONS[allocation](KERNELS, sparsity)
    zeros = sum(found[name] * kernel.size for name, kernel in KERNELS.items())
    # Ties (±w in `wide`) fall on one side of a threshold together: at most one pair.
    assert zeros == pytest.approx(100 * sparsity, abs=2)


def test_one_threshold_takes_the_smallest_of_all():
    kernels = {"small": np.arange(1.0, 11.0), "large": np.arange(101.0, 111.0)}
    assert common.one_threshold(kernels, 0.5) == {"small": 1.0, "large": 0.0}


def test_lamp_is_its_definition():
    # Lee et al., Layer-adaptive sparsity for magnitude-based pruning, 2021, eq. 2: a weight's
    # square by the sum of the squares that are not smaller, in its own layer.
    kernels = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([10.0, 10.1])}
    scores = {"a": [1 / 14, 4 / 13, 1.0], "b": [100 / 202.01, 1.0]}
    every = sorted(score for some in scores.values() for score in some)
    for gone in (1, 2, 3):
        found = common.lamp(kernels, gone / 5)
        for name, some in scores.items():
            assert found[name] == np.mean(np.array(some) < every[gone])
    # The largest weight of a layer scores 1: no layer is emptied, however small it is.
    assert common.lamp(kernels, 3 / 5) == {"a": 2 / 3, "b": 1 / 2}


def test_at_length_a_tool_has_our_epochs_and_as_many_weights_as_we_have_left(tmp_path):
    for seed, left in enumerate((3900, 4000, 4010)):
        name = campaign.result_name("lenet5_fashion_mnist", "cnn_l1", run.AT_LENGTH, seed)
        campaign.write_json(tmp_path / name, {"nonzero_parameters": left})
    peer = run.PEERS["tfmot"]
    this = run.Campaign(peer, "lenet5_fashion_mnist", tmp_path, tmp_path, tmp_path)
    choice = {"interval": {"begin_fraction": 0.2, "end_fraction": 0.6}, "restart": "end"}
    settings = this.settings(run.AT_LENGTH, 1, choice)
    ours = configs.load(run.ROOT / "configs" / "lenet5_fashion_mnist.yaml", [])
    epochs = ours.training.epochs + ours.shrink.fine_tuning_epochs
    assert settings["epochs"] == epochs == 75
    assert (settings["begin_epochs"], settings["restart_epochs"]) == (15, [45])
    network = builders.build(ours, (28, 28, 1), 10)
    kernels = sparsity.count(network).weights
    biases = network.count_params() - kernels
    # 3,970 on average; to a fraction of five digits.
    assert (1 - settings["sparsity"]) * kernels + biases == pytest.approx(3970, abs=3)
    assert this.settings("sparsity_0.98", 1, choice)["epochs"] == 16


@pytest.mark.parametrize("name", ["lenet5", "resnet8"])
def test_a_narrower_network_is_built_from_its_weights(name, tmp_path):
    shape = (28, 28, 1) if name == "lenet5" else (32, 32, 3)
    about = types.SimpleNamespace(input_shape=shape, class_names=tuple("0123456789"))
    made = configs.Config.model_validate({"name": "made", "model": {"name": name}})
    whole = measuring.whole_network(measuring.Examples(made, types.SimpleNamespace(about=about)))
    assert (
        measuring.counting.count(whole).parameters == {"lenet5": 431_080, "resnet8": 78_186}[name]
    )
    narrowed = {"lenet5": ("conv_1", "conv_2"), "resnet8": ("stack_3_conv_1", "stack_3_conv_2")}
    first, second = narrowed[name]
    weights = {
        f"{layer.name}/{v.name}": np.array(v) for layer in whole.layers for v in layer.weights
    }
    # Every second channel of one layer goes, with its rows in the next.
    for variable in list(weights):
        if variable.startswith((f"{first}/", f"{first}_norm/")):
            weights[variable] = weights[variable][..., ::2]
    weights[f"{second}/kernel"] = weights[f"{second}/kernel"][:, :, ::2]
    np.savez(tmp_path / "weights.npz", **weights)
    model = measuring.rebuild(whole, tmp_path)
    assert model.get_layer(first).filters == whole.get_layer(first).filters // 2
    # The same as zeros there, up to the order of sums.
    for variable in whole.get_layer(second).weights[:1]:
        kernel = np.array(variable)
        kernel[:, :, 1::2] = 0
        variable.assign(kernel)
    images = np.random.default_rng(0).uniform(0, 255, (4, *shape)).astype("float32")
    np.testing.assert_allclose(model(images), whole(images), rtol=1e-4, atol=1e-5)
