"""Run a config with several seeds and print mean and spread.

    python benchmarks/seeds.py --config configs/digits.yaml --seeds 0 1 2

Each run goes to its own folder, saved_models/<name>_seed<k>; a run that is there
already is read, not run again, so a campaign goes on where it stopped.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import yaml


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--output", default="saved_models")
    flags = parser.parse_args()
    name = yaml.safe_load(pathlib.Path(flags.config).read_text(encoding="utf-8"))["name"]
    reports = []
    for seed in flags.seeds:
        folder = pathlib.Path(flags.output) / f"{name}_seed{seed}"
        if not (folder / "report.json").is_file():
            command = [sys.executable, "-m", "cnn_l1.train", "--config", flags.config]
            for override in [*flags.overrides, f"seed={seed}"]:
                command += ["--set", override]
            done = subprocess.run([*command, "--output", str(folder)], check=False)
            if done.returncode:
                return done.returncode
        reports.append(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    print(f"\n{name}, seeds {', '.join(map(str, flags.seeds))}: mean ± standard deviation")
    kernels = [1 - report["counts"]["sparsity"] for report in reports]
    parameters = [r["counts"]["nonzero_parameters"] / r["counts"]["parameters"] for r in reports]
    print(f"  kernel weights left       {spread(kernels)}")
    print(f"  all parameters left       {spread(parameters)}")
    for network in reports[0]["validation"]:
        figures = [score(report["validation"][network]) for report in reports]
        print(f"  validation, {network:13} {spread(figures)}")
    common = [n for n in reports[0]["files"] if all(n in r["files"] for r in reports)]
    for file in common:
        figures = [report["files"][file] for report in reports]
        accuracy = spread([score(figure) for figure in figures])
        size = statistics.mean(figure["bytes"] for figure in figures)
        deflated = statistics.mean(figure["deflated_bytes"] for figure in figures)
        macs = statistics.mean(figure["macs"] for figure in figures)
        print(
            f"  {file:25} {accuracy}   {size:,.0f} bytes, {deflated:,.0f} deflated, "
            f"{macs:,.0f} multiply-adds"
        )
    print(f"  seconds a run             {[round(report['seconds']) for report in reports]}")
    return 0


def score(figures):
    """Accuracy, or mean squared error of values."""
    accuracy = figures.get("accuracy")
    return figures["mean_squared_error"] if accuracy is None else accuracy


def spread(values):
    """Mean ± standard deviation; fractions as percentages."""
    style = ".2%" if max(values) <= 1 else ".5g"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    each = ", ".join(format(value, style) for value in values)
    return f"{statistics.mean(values):{style}} ± {deviation:{style}}  ({each})"


if __name__ == "__main__":
    sys.exit(main())
