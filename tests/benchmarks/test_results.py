"""The page of results, from the results that are stored."""

import copy
import json

import pytest

from benchmarks import campaign, make_results


def result(seed, **changes):
    made = {
        "task": "lenet_300_100_mnist",
        "method": "cnn_l1",
        "point": "least_weights",
        "seed": seed,
        "command": f"python -m cnn_l1.train --set seed={seed}",
        "file": {"accuracy": 0.983, "bytes": 1000, "deflated_bytes": 500, "macs": 10},
        "nonzero_parameters": 3000,
        "parameters": 300_000,
        "seconds": 120.0,
    }
    made = copy.deepcopy(made)
    made["file"]["accuracy"] = changes.pop("accuracy", 0.983)
    return made | changes


def row_of(page, title):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_page_is_that_of_the_stored_results():
    expected = make_results.page(make_results.read_results())
    assert make_results.PAGE.read_text(encoding="utf-8") == expected, (
        "docs/results.md is not that of benchmarks/results. Write it again: "
        "python -m benchmarks.make_results"
    )


@pytest.mark.parametrize(
    ("accuracies", "left", "met"),
    [((0.982, 0.984), 3000, "yes"), ((0.981, 0.9828), 3000, "**no**"), ((0.983,), 4600, "**no**")],
)
def test_mean_spread_and_whether_an_aim_is_met(accuracies, left, met):
    key = ("lenet_300_100_mnist", "cnn_l1", "least_weights")
    some = [
        result(seed, accuracy=accuracy, nonzero_parameters=left)
        for seed, accuracy in enumerate(accuracies)
    ]
    page = make_results.page({key: some})
    _, _, aim, ours, seeds, verdict = row_of(page, "LeNet-300-100, MNIST")
    assert aim == "error ≤ 1.8%, left ≤ 1.5%"
    error = 100 * (1 - sum(accuracies) / len(accuracies))
    assert ours.startswith(f"{error:.2f}")
    assert f"{100 * left / 300_000:.2f}" in ours
    assert ("±" in ours) == (len(accuracies) > 1)
    assert seeds == ", ".join(map(str, range(len(accuracies))))
    assert verdict == met
    assert "seed=SEED" in page


def test_other_tools_at_a_rows_length_stand_below_it():
    ours = [result(0)]
    command = "python -m benchmarks.peers.run --points least_weights --seeds 0"
    theirs = [result(0, accuracy=0.97, command=command, settings={"epochs": 80})]
    keys = [("lenet_300_100_mnist", name, "least_weights") for name in ("cnn_l1", "tfmot")]
    page = make_results.page(dict(zip(keys, (ours, theirs), strict=True)))
    figures = "as many epochs, 80, and steered to as many weights: 3.00% error; 1.00% left (seed 0)"
    assert f"tensorflow-model-optimization in {figures}." in page
    assert "    python -m benchmarks.peers.run --points least_weights --seeds SEED" in page


def test_what_was_not_run_says_so():
    assert row_of(make_results.page({}), "LeNet-5, MNIST")[3] == "not run yet"


def test_methods_stand_side_by_side_at_equal_sparsity():
    results = {
        ("a", method, point): [result(0, accuracy=accuracy)]
        for method, point, accuracy in (
            ("tfmot", "sparsity_0.98", 0.97), ("cnn_l1", "sparsity_0.98", 0.98),
            ("tfmot", "sparsity_0.9", 0.985),
        )
    }  # fmt: skip
    page = make_results.page(results)
    assert row_of(page, "90.0%") == ["90.0%", "", "98.50%; 1 kB, deflated 0.5 kB"]
    assert row_of(page, "98.0%")[1].startswith("98.00%")
    assert row_of(page, "98.0%")[2].startswith("97.00%")


def test_methods_stand_side_by_side_at_equal_multiply_adds(tmp_path, monkeypatch):
    results = {
        ("a", method, point): [result(0, accuracy=accuracy)]
        for method, point, accuracy in (
            ("torch_pruning", "macs_150000", 0.97), ("cnn_l1", "macs_150000", 0.98),
            ("torch_pruning", "macs_75000", 0.96), ("tfmot", "sparsity_0.9", 0.985),
        )
    }  # fmt: skip
    page = make_results.page(results)
    titles = [line for line in page.splitlines() if line.startswith("| multiply-adds at most")]
    assert titles == ["| multiply-adds at most | cnn_l1 | Torch-Pruning |"]
    assert row_of(page, "150,000")[1].startswith("98.00%")
    assert row_of(page, "75,000")[1:] == ["", "96.00%; 1 kB, deflated 0.5 kB"]
    assert page.index("| 150,000") < page.index("| 75,000")
    monkeypatch.setattr(make_results, "PICTURES", tmp_path)
    for task, kind, methods in make_results.compared(results):
        make_results.draw(task, kind, methods, results)
    names = {path.name for path in tmp_path.glob("*.svg")}
    assert names == {"results_a_sparsity.svg", "results_a_macs.svg"}


def test_accuracy_along_the_strength():
    results = {
        ("a", "cnn_l1", f"strength_{strength}"): [
            result(seed, accuracy=accuracy + seed / 100, validation_accuracy=0.9) for seed in (0, 1)
        ]
        for strength, accuracy in (("1e-4", 0.95), ("0", 0.94))
    }
    page = make_results.page(results)
    assert row_of(page, "0.0001") == [
        "0.0001", "95.50 ± 0.71%", "90.00 ± 0.00%", "1.00 ± 0.00%", "0, 1",
    ]  # fmt: skip
    assert page.index("| 0 | 94.50") < page.index("| 0.0001 |")


def test_a_run_that_is_there_is_not_made_again(tmp_path, monkeypatch, capsys):
    run = {"task": "a", "config": "configs/a.yaml", "file": "model_float32.tflite", "seeds": [0, 1]}
    runs = [run | {"point": point, "set": [f"target.{point}=1"]} for point in ("macs", "sparsity")]
    (tmp_path / "runs.yaml").write_text(json.dumps(runs), encoding="utf-8")  # JSON is YAML
    monkeypatch.setattr(campaign, "RUNS", tmp_path / "runs.yaml")
    monkeypatch.setattr(campaign, "RESULTS", tmp_path)
    made = []
    monkeypatch.setattr(campaign, "run", lambda entry, seed, path: made.append((path.name, seed)))
    for point in ("macs", "sparsity"):
        (tmp_path / campaign.result_name("a", "cnn_l1", point, 0)).write_text("{}")
    monkeypatch.setattr("sys.argv", ["campaign", "--seeds", "0"])
    assert campaign.main() == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.argv", ["campaign", "--task", "a", "--point", "sparsity"])
    campaign.main()
    assert made == [("a__cnn_l1__sparsity__seed1.json", 1)]
    command = "python -m cnn_l1.train --config configs/a.yaml --set target.sparsity=1 --set seed=1"
    assert command in capsys.readouterr().out
