"""Our own runs for docs/results.md: each finished run leaves a JSON file and is not run again.

    python -m benchmarks.campaign [--task lenet5_mnist] [--point least_weights] [--seeds 0 1 2]

benchmarks/campaign.yaml names the runs. Each is `python -m cnn_l1.train` in a process of its
own; what its report says of the file that counts goes to benchmarks/results/, and its folder
to saved_models/campaign/. It can be stopped at any time, and goes on where it stopped.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys

import yaml

from cnn_l1.runs import report

RUNS = pathlib.Path("benchmarks/campaign.yaml")
RESULTS = pathlib.Path("benchmarks/results")
FOLDERS = pathlib.Path("saved_models/campaign")
METHOD = "cnn_l1"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign")
    parser.add_argument("--task", help="this one alone")
    parser.add_argument("--point", help="this one alone")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone")
    parser.add_argument("--list", action="store_true", help="print what is missing, and stop")
    flags = parser.parse_args()
    failed = 0
    for entry in yaml.safe_load(RUNS.read_text(encoding="utf-8")):
        if flags.task not in (None, entry["task"]) or flags.point not in (None, entry["point"]):
            continue
        for seed in flags.seeds or entry["seeds"]:
            path = RESULTS / result_name(entry["task"], METHOD, entry["point"], seed)
            if path.is_file():
                continue
            print(f"{path.name}: {shlex.join(command(entry, seed))}", flush=True)
            if not flags.list:
                failed += not run(entry, seed, path)
    return 1 if failed else 0


def result_name(task, method, point, seed):
    """The name of a result's file."""
    return f"{task}__{method}__{point}__seed{seed}.json"


def write_json(path, value):
    """Write a JSON file whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    report.write_json(partial, value)
    partial.replace(path)


def command(entry, seed):
    """The command line of a run, without its folder."""
    line = ["python", "-m", "cnn_l1.train", "--config", entry["config"]]
    for override in (*entry.get("set", ()), f"seed={seed}"):
        line += ["--set", override]
    return line


def run(entry, seed, path):
    """One run; whether it came to a result."""
    folder = FOLDERS / path.stem
    if not (folder / "report.json").is_file():
        aside = ["--set", "baseline=false", "--set", "tensorboard=false"]
        line = [sys.executable, *command(entry, seed)[1:], *aside, "--output", str(folder)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".log").open("w", encoding="utf-8") as log:
            done = subprocess.run(line, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            print(f"{path.name}: exit status {done.returncode}; see {log.name}", flush=True)
            return False
    summary = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    result = result_of(summary, entry, seed)
    write_json(path, result)
    file = result["file"]
    print(
        f"{path.name}: {file['accuracy']:.2%}, {result['nonzero_parameters']:,} parameters left, "
        f"{file['bytes']:,} bytes, {file['macs']:,} multiply-adds, {result['seconds']:.0f} s",
        flush=True,
    )
    return True


def result_of(summary, entry, seed):
    """What a result holds: the figures of one file, and where they came from."""
    name = entry["file"]
    if f"shrunk/{name}" in summary["files"]:
        name = f"shrunk/{name}"
    file = summary["files"][name]
    network = "shrunk" if name.startswith("shrunk/") else "sparse"
    counts = summary["shrunk_counts" if network == "shrunk" else "counts"]
    kept = (
        "accuracy", "accuracy_standard_error", "examples", "bytes", "deflated_bytes", "weights",
        "zeros", "macs",
    )  # fmt: skip
    return {
        "task": entry["task"],
        "method": METHOD,
        "point": entry["point"],
        "seed": seed,
        "settings": entry.get("set", []),
        "config": entry["config"],
        "command": shlex.join(command(entry, seed)),
        "validation_accuracy": summary["validation"][network]["accuracy"],
        "file": {"name": name} | {key: file[key] for key in kept},
        "micro": summary["micro"].get(name),
        "nonzero_parameters": counts["nonzero_parameters"],
        "parameters": summary["counts"]["parameters"],  # before anything was taken out
        "layers": [
            {key: layer[key] for key in ("layer", "weights", "zeros")} for layer in counts["layers"]
        ],
        "seconds": summary["seconds"],
        "cpu_cores": len(os.sched_getaffinity(0)),
        "versions": summary["versions"],
    }


if __name__ == "__main__":
    sys.exit(main())
