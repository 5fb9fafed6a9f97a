"""Train and measure peers, what is missing alone: killed, it goes on where it was.

    python -m benchmarks.peers.run --peer tfmot --task lenet5_mnist

Settings are chosen on validation data, one after another, at the first task's first point; the
choice is kept in `benchmarks/peers/selections/`, every result in `benchmarks/results/`.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

from benchmarks.campaign import METHOD, result_name, write_json
from benchmarks.peers import environments
from cnn_l1.config import loading as configs
from cnn_l1.process.silence import import_tensorflow

ROOT = environments.ROOT
# The first is the one at which settings are chosen.
TASKS = ("lenet5_mnist", "lenet5_fashion_mnist")
# The first is the one at which settings are chosen, and which takes all seeds of a short task.
SPARSITIES = ("sparsity_0.98", "sparsity_0.95", "sparsity_0.99", "sparsity_0.995", "sparsity_0.9")
MACS = ("macs_150000", "macs_300000", "macs_75000")
RESNET8_MACS = ("macs_6000000", "macs_3000000")  # of 12.5 million
# As many epochs as our config of the published figure has, and as many weights left as we have.
AT_LENGTH = "least_weights"
SEEDS = (0, 1, 2)
LENET5_KERNELS, LENET5_BIASES = 430_500, 580


@dataclasses.dataclass(frozen=True)
class Peer:
    """A method to compare with.

    Attributes:
        name: As results name it.
        module: What trains it.
        environment: Name of its environment; `None` for our own.
        dtype_policy: Keras dtype policy; `None` for the task's own.
        fixed: Settings that stay as they are.
        choices: `{setting: values}` to choose from, in order; the first are the start.
            A value may be a dict, of several settings that go together.
        one_choice: Whether the choice at the first task's first point holds for all.
        points_at_once: Whether one training gives all points.
        points: What it is measured at, by task.
    """

    name: str
    module: str
    environment: str | None
    dtype_policy: str | None
    fixed: dict
    choices: dict
    one_choice: bool = True
    points_at_once: bool = False
    points: dict = dataclasses.field(default_factory=lambda: dict.fromkeys(TASKS, SPARSITIES))

    def python(self):
        return environments.make(self.environment) if self.environment else sys.executable


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="tfmot",
            module="benchmarks.peers.train_tfmot",
            environment="tfmot",
            # In bfloat16 it compares rounded magnitudes, and ties leave more than asked for.
            dtype_policy="float32",
            fixed={},
            choices={
                "allocation": ("lamp", "uniform"),
                "restart": ("end", "none"),
                "interval": (
                    {"begin_fraction": 0.2, "end_fraction": 0.625},
                    {"begin_fraction": 0.35, "end_fraction": 0.7},
                ),
                "frequency_steps": (100, 400),
                "learning_rate": (1e-3, 3e-3),
            },
            points=dict.fromkeys(TASKS, (*SPARSITIES, AT_LENGTH)),
        ),
        Peer(
            name="pquant",
            module="benchmarks.peers.train_pquant",
            environment="pquant",
            dtype_policy="float32",
            # As tfmot has chosen: a training takes a quarter of an hour.
            fixed={
                "restart": "end",
                "interval": {"begin_fraction": 0.2, "end_fraction": 0.625},
                "temperature": 1e-5,
                "learning_rate": 3e-3,
            },
            choices={"allocation": ("lamp",)},
        ),
        Peer(
            name="torch_pruning",
            module="benchmarks.peers.train_torch_pruning",
            environment="torch_pruning",
            dtype_policy="float32",
            fixed={},
            choices={
                "importance": ("magnitude", "taylor"),
                "restart": ("end", "none"),
                "interval": (
                    {"begin_fraction": 0.2, "end_fraction": 0.45},
                    {"begin_fraction": 0.35, "end_fraction": 0.6},
                ),
                "learning_rate": (1e-3, 3e-3),
            },
            points={"lenet5_mnist": MACS, "resnet8_cifar10": RESNET8_MACS},
        ),
        Peer(
            name="keras_l1",
            module="benchmarks.peers.train_keras_l1",
            environment=None,
            dtype_policy=None,
            fixed={"steps_per_execution": 10},
            choices={
                "l1_strength": (1e-4, 3e-5, 3e-4, 1e-3),
                "learning_rate": (1e-3, 3e-3),
            },
            one_choice=False,
            points_at_once=True,
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Campaign:
    """One peer on one task.

    Attributes:
        peer: The `Peer`.
        task: Name of a config in `tasks/`.
        results: Folder of the results.
        selections: Folder of the choices.
        work: Folder of data and training runs.
        epochs: Epochs of all stages together. Default: the config's.
    """

    peer: Peer
    task: str
    results: pathlib.Path
    selections: pathlib.Path
    work: pathlib.Path
    epochs: int | None = None

    def finish(self, point, seed):
        """Write one result, unless it is there."""
        name = result_name(self.task, self.peer.name, point, seed)
        path = self.results / name
        if path.is_file():
            return
        from benchmarks.peers import measuring
        from cnn_l1.train import summary

        print(f"{name}: on its way", flush=True)
        choice = self.choose(point)
        folder = self.trained(point, seed, choice)
        training = read_json(folder / "training.json")
        examples = self.examples(seed)
        program = f"python -m benchmarks.peers.run --peer {self.peer.name} --task {self.task}"
        versions = training.pop("versions") | {"measured_with": summary.versions()}
        settings = read_json(folder / "settings.json")
        settings["cpu_cores"] = training.pop("cpu_cores")
        result = {
            "task": self.task,
            "method": self.peer.name,
            "point": point,
            "seed": seed,
            "settings": settings,
            "command": f"{program} --points {point} --seeds {seed}",
            "validation_accuracy": self.validation_accuracy(folder, point, seed),
            **measuring.figures(examples, folder / point),
            **training,
            "versions": versions,
        }
        write_json(path, result)
        print(f"{name}: {result['file']['accuracy']:.2%}", flush=True)

    def choose(self, point):
        """The settings that validation accuracy favours, one setting after another."""
        if self.peer.one_choice and self.task != TASKS[0]:
            # As our own recipe, which was found on the first task and serves the others.
            return dataclasses.replace(self, task=TASKS[0]).choose(point)
        at = self.peer.points[self.task][0] if self.peer.one_choice else point
        path = self.selections / f"{self.task}__{self.peer.name}__{at}.json"
        if path.is_file():
            return read_json(path)["chosen"]
        chosen = {setting: values[0] for setting, values in self.peer.choices.items()}
        tried = []

        def score(choice):
            accuracy = self.validation_accuracy(self.trained(at, 0, choice), at, 0)
            tried.append({"settings": choice, "validation_accuracy": accuracy})
            print(f"{self.task} {self.peer.name} {at}: {accuracy:.4%} {choice}", flush=True)
            return accuracy

        best = score(chosen)
        for setting, values in self.peer.choices.items():
            for value in values[1:]:
                candidate = chosen | {setting: value}
                accuracy = score(candidate)
                if accuracy > best:
                    best, chosen = accuracy, candidate
        write_json(path, {"chosen": chosen, "validation_accuracy": best, "tried": tried})
        return chosen

    def trained(self, point, seed, choice):
        """The folder of a training run; trains unless it is there."""
        settings = self.settings(point, seed, choice)
        text = json.dumps(settings, indent=2, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        label = "all" if self.peer.points_at_once else point
        folder = self.work / "runs" / f"{self.task}__{self.peer.name}__{label}__seed{seed}__{key}"
        if folder.is_dir():
            return folder
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "settings.json").write_text(text + "\n", encoding="utf-8")
        arrays = self.work / "data" / f"{self.task}_seed{seed}.npz"
        if not arrays.is_file():
            self.examples(seed).write_arrays(arrays)
        command = [self.peer.python(), "-m", self.peer.module, "--data", arrays]
        command += ["--settings", partial / "settings.json", "--output", partial]
        print(f"Training {folder.name}", flush=True)
        subprocess.run(command, cwd=ROOT, check=True)
        partial.rename(folder)
        return folder

    def settings(self, point, seed, choice):
        """All settings of a training run, as its program reads them."""
        config = load_config(self.task, seed)
        epochs = self.epochs or epochs_of(config)
        settings = {
            "task": self.task,
            "method": self.peer.name,
            "points": list(self.peer.points[self.task]) if self.peer.points_at_once else [point],
            "seed": seed,
            "epochs": epochs,
            "batch_size": config.training.batch_size,
            "learning_rate": config.optimizer.learning_rate,
            "final_fraction": config.optimizer.schedule.final_fraction,
            "optimizer": config.optimizer.name,
            "schedule": config.optimizer.schedule.name,
            "augmentation": config.data.augmentation.model_dump(),
            "dtype_policy": self.peer.dtype_policy or config.model.dtype_policy,
            **self.peer.fixed,
            **choice,
        }
        if point == AT_LENGTH:
            ours = configs.load(ROOT / "configs" / f"{self.task}.yaml", [])
            settings["epochs"] = epochs = self.epochs or epochs_of(ours)
            settings["sparsity"] = self.sparsity_of_ours()
        if "interval" in settings:
            interval = settings.pop("interval")
            settings["begin_epochs"] = max(1, round(interval["begin_fraction"] * epochs))
            settings["end_epochs"] = max(2, round(interval["end_fraction"] * epochs))
            where = {"none": [], "begin": ["begin_epochs"], "end": ["end_epochs"]}
            names = where[settings.pop("restart")]
            settings["restart_epochs"] = [settings[name] for name in names]
        return settings

    def sparsity_of_ours(self):
        """The part of the kernels to zero for as many weights, with biases, as ours have left."""
        found = [
            read_json(self.results / result_name(self.task, METHOD, AT_LENGTH, seed))
            for seed in SEEDS
        ]
        left = statistics.mean(result["nonzero_parameters"] for result in found)
        return round(1 - (left - LENET5_BIASES) / LENET5_KERNELS, 5)

    def validation_accuracy(self, folder, point, seed):
        """Of the exported file; measured once."""
        path = folder / point / "validation.json"
        if not path.is_file():
            from benchmarks.peers import measuring

            measured, _ = measuring.measure_folder(
                self.examples(seed), folder / point, "validation"
            )
            write_json(path, {"accuracy": measured.accuracy})
        return read_json(path)["accuracy"]

    def examples(self, seed):
        return load_examples(self.task, seed)


@functools.lru_cache(maxsize=1)
def load_examples(task, seed):
    from benchmarks.peers import measuring

    return measuring.Examples.load(load_config(task, seed))


def load_config(task, seed):
    return configs.load(ROOT / "benchmarks" / "peers" / "tasks" / f"{task}.yaml", [f"seed={seed}"])


def epochs_of(config):
    """Epochs of all stages together."""
    return config.training.epochs + config.fine_tuning.epochs + config.shrink.fine_tuning_epochs


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def jobs(peer, task, points, seeds):
    """`(point, seed)` pairs: by default all points of one seed, and all seeds of one point."""
    every = peer.points[task]
    if points or seeds:
        return [(p, s) for s in seeds or SEEDS[:1] for p in points or every]
    more = SEEDS[1:] if task in TASKS else ()
    return [(p, SEEDS[0]) for p in every] + [(every[0], s) for s in more]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--task", nargs="+", required=True, metavar="TASK")
    parser.add_argument("--points", nargs="+", default=[], help="e.g. sparsity_0.98")
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    parser.add_argument(
        "--try-epochs", type=int, help="a short try of so many epochs; needs --try-folder"
    )
    parser.add_argument("--try-folder", type=pathlib.Path, help="where a try writes everything")
    flags = parser.parse_args()
    if (flags.try_epochs is None) != (flags.try_folder is None):
        parser.error("--try-epochs and --try-folder: expected both or none. Received: one")
    if flags.try_epochs is not None and flags.try_epochs < 3:
        parser.error(f"--try-epochs: expected 3 or more. Received: {flags.try_epochs}")
    peer = PEERS[flags.peer]
    for task in flags.task:
        if task not in peer.points:
            known = ", ".join(peer.points)
            parser.error(f"--task: expected some of {known} for {peer.name}. Received: {task}")
        unknown = sorted(set(flags.points) - set(peer.points[task]))
        if unknown:
            known = ", ".join(peer.points[task])
            parser.error(f"--points: expected some of {known}. Received: {unknown[0]}")
    environments.ignore_peers()
    import_tensorflow()
    folders = {
        "results": ROOT / "benchmarks" / "results",
        "selections": ROOT / "benchmarks" / "peers" / "selections",
        "work": environments.PEERS,
    }
    if flags.try_folder:
        base = flags.try_folder.absolute()
        folders = {name: base / name for name in folders}
    for task in flags.task:
        campaign = Campaign(peer, task, **folders, epochs=flags.try_epochs)
        for point, seed in jobs(peer, task, flags.points, flags.seeds):
            campaign.finish(point, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
