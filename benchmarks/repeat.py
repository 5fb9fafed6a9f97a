"""Run configs twice, each in a fresh process, and compare what came out.

    python benchmarks/repeat.py configs/*.yaml [--set training.epochs=2]

Equal means: the exported TFLite files have the same bytes, weights and all, every figure of
`report.json` that is no time is the same (but for the packed size of .keras files and
SavedModels), and so is every epoch of `history.csv`, at each point of a sweep as well. A line a
config; the exit code is 1 if one differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import yaml

TIMES = ("seconds", "latency_median_ms", "latency_p90_ms")
# A .keras file holds its hour, and a SavedModel is some bytes larger or smaller each time.
SIZES = {
    ".keras": ("deflated_bytes", "xz_bytes"),
    "saved_model": ("bytes", "deflated_bytes", "xz_bytes"),
}
MOST_LINES = 8  # of differences: a sweep has hundreds of files


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=pathlib.Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    flags = parser.parse_args()
    differ = 0
    for config in flags.configs:
        with tempfile.TemporaryDirectory() as folder:
            runs = [pathlib.Path(folder) / name for name in ("first", "second")]
            for output in runs:
                run(config, flags.overrides, output)
            found = differences(*runs)
        differ += bool(found)
        more = [f"and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else []
        lines = found[:MOST_LINES] + more
        print(f"{config}: {'; '.join(lines) if lines else 'equal'}", flush=True)
    return 1 if differ else 0


def run(config, overrides, output):
    """Run a config; its printing is kept for a failure."""
    module = "sweep" if "sweep" in yaml.safe_load(config.read_text(encoding="utf-8")) else "train"
    command = [sys.executable, "-m", f"cnn_l1.{module}", "--config", str(config)]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise SystemExit(done.returncode)


def differences(first, second):
    """What is not the same in two runs' folders: a list of lines."""
    found = []
    names = {
        path.relative_to(folder)
        for folder in (first, second)
        for pattern in ("**/*.tflite", "**/history.csv")
        for path in folder.glob(pattern)
    }
    for name in sorted(names):
        pair = [folder / name for folder in (first, second)]
        if not all(path.is_file() for path in pair):
            found.append(f"{name} is in one run alone")
        elif pair[0].read_bytes() != pair[1].read_bytes():
            found.append(f"{name} differs")
    reports = sorted({path.relative_to(first) for path in first.rglob("report.json")})
    for name in reports:
        pair = [
            without_times(json.loads((folder / name).read_text(encoding="utf-8")))
            for folder in (first, second)
        ]
        for key in sorted({*pair[0], *pair[1]}):
            if pair[0].get(key) != pair[1].get(key):
                found.append(f"{name}: {key} differs")
    return found


def without_times(value, name=""):
    """A report's value without what a clock has measured, or left."""
    if not isinstance(value, dict):
        return value
    left_out = set(TIMES).union(*(sizes for end, sizes in SIZES.items() if name.endswith(end)))
    return {key: without_times(part, key) for key, part in value.items() if key not in left_out}


if __name__ == "__main__":
    sys.exit(main())
