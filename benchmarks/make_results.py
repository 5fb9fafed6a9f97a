"""Write docs/results.md, and its pictures, from the results that runs left.

    python -m benchmarks.make_results

Reads benchmarks/published.yaml and benchmarks/results/*.json; trains nothing.
"""

import json
import pathlib
import statistics

import yaml

from benchmarks.campaign import METHOD, RESULTS
from cnn_l1 import pictures

PUBLISHED = pathlib.Path("benchmarks/published.yaml")
PAGE = pathlib.Path("docs/results.md")
PICTURES = pathlib.Path("docs/pictures")
METHODS = {
    METHOD: "cnn_l1",
    "tfmot": "tensorflow-model-optimization",
    "keras_l1": "Keras' L1 and one threshold",
}
COLOURS = {METHOD: pictures.BLUE, "tfmot": pictures.ORANGE, "keras_l1": pictures.GREY}
# The figure of a result that each aim bounds, and whether it may be no more or no less.
AIMS = {
    "most_error": (lambda r: 1 - r["file"]["accuracy"], 1),
    "least_accuracy": (lambda r: r["file"]["accuracy"], -1),
    "most_left": (lambda r: r["nonzero_parameters"] / r["parameters"], 1),
    "most_parameters": (lambda r: r["nonzero_parameters"], 1),
    "most_macs": (lambda r: r["file"]["macs"], 1),
    "most_bytes": (lambda r: r["file"]["bytes"], 1),
}
HEAD = """# Results

Made by `python -m benchmarks.make_results` from the files that runs left in
[benchmarks/results](../benchmarks/results), one a run; `python -m benchmarks.campaign` and
`python -m benchmarks.peers.run` make what is missing. Every figure is of an exported file in
LiteRT, on the whole official test split. Strengths, schedules and epochs were chosen on
validation data. *Left* counts all kernel and bias values that are not zero. Spread is the
standard deviation over seeds; of one seed there is none.
"""


def main():
    results = read_results()
    PAGE.write_text(page(results), encoding="utf-8")
    for task, methods in compared(results).items():
        draw(task, methods, results)
    print(f"Wrote {PAGE} from {sum(map(len, results.values()))} results")


def page(results):
    """The page's text, from `read_results()`."""
    return "\n".join([HEAD, *literature(results), *peers(results)]).rstrip() + "\n"


def read_results():
    """`{(task, method, point): [result of a seed, …]}`, seeds in order."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault((result["task"], result["method"], result["point"]), []).append(result)
    return {key: sorted(some, key=lambda r: r["seed"]) for key, some in found.items()}


def literature(results):
    """The table of what is published, our aim, and our figure."""
    lines = [
        "## Against what is published",
        "",
        "| task | published | aim | ours | seeds | aim met |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for row in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")):
        ours = results.get((row["task"], METHOD, row["point"]), [])
        aims = ", ".join(shown_aim(name, most) for name, most in row["aim"].items())
        cells = [row["title"], row["published"], aims]
        if not ours:
            lines.append("| " + " | ".join([*cells, "not run yet", "", ""]) + " |")
            continue
        figures = "; ".join(shown_figure(name, ours) for name in row["aim"])
        met = all(is_met(name, most, ours) for name, most in row["aim"].items())
        seeds = ", ".join(str(result["seed"]) for result in ours)
        lines.append("| " + " | ".join([*cells, figures, seeds, "yes" if met else "**no**"]) + " |")
        seconds = statistics.mean(result["seconds"] for result in ours)
        command = ours[0]["command"].replace(f"seed={ours[0]['seed']}", "seed=SEED")
        notes += [
            f"**{row['title']}**, {seconds / 60:.0f} minutes a run:",
            "",
            f"    {command}",
            "",
        ]
    return [*lines, "", "An aim is met by the mean over the seeds.", "", *notes]


def mean(name, results):
    figure, _ = AIMS[name]
    return statistics.mean(figure(result) for result in results)


def is_met(name, bound, results):
    _, sign = AIMS[name]
    return sign * mean(name, results) <= sign * bound


def shown_aim(name, bound):
    """An aim in words."""
    most, unit = name.split("_", 1)
    sign = "≤" if most == "most" else "≥"
    texts = {"error": "error", "accuracy": "accuracy", "left": "left", "parameters": "weights left"}
    texts |= {"macs": "multiply-adds", "bytes": "bytes"}
    return f"{texts[unit]} {sign} {number(name, bound)}"


def number(name, value):
    fraction = name.split("_", 1)[1] in ("error", "accuracy", "left")
    return f"{100 * value:.4g}%" if fraction else f"{value:,.0f}"


def shown_figure(name, results):
    """Mean and spread of the figure that an aim bounds."""
    values = [AIMS[name][0](result) for result in results]
    fraction = name.split("_", 1)[1] in ("error", "accuracy", "left")
    style = (lambda v: f"{100 * v:.2f}") if fraction else (lambda v: f"{v:,.0f}")
    text = style(statistics.mean(values))
    if len(values) > 1:
        text += f" ± {style(statistics.stdev(values))}"
    units = {"error": "% error", "accuracy": "%", "left": "% left", "parameters": " weights left"}
    units |= {"macs": " multiply-adds", "bytes": " bytes"}
    return text + units[name.split("_", 1)[1]]


def peers(results):
    """Tables of accuracy at equal sparsity."""
    lines = []
    for task, methods in compared(results).items():
        lines += [
            f"## {task}: other tools at the same sparsity",
            "",
            "| zeros in kernels | " + " | ".join(METHODS[m] for m in methods) + " |",
            "|---|" + "---|" * len(methods),
        ]
        for point in points_of(task, results):
            cells = [cell(results.get((task, method, point), [])) for method in methods]
            lines.append(f"| {sparsity_of(point):.1%} | " + " | ".join(cells) + " |")
        lines += ["", f"![accuracy against sparsity](pictures/results_{task}.svg)", ""]
        lines += overheads(task, methods, results)
    return lines


def compared(results):
    """`{task: methods}` of the tasks that have results at given sparsities."""
    keys = {key for key in results if key[2].startswith("sparsity_")}
    tasks = sorted({task for task, _, _ in keys})
    return {t: [m for m in METHODS if (t, m) in {key[:2] for key in keys}] for t in tasks}


def points_of(task, results):
    """The sparsities that a task has results at, from the least."""
    found = {key[2] for key in results if key[0] == task and key[2].startswith("sparsity_")}
    return sorted(found, key=sparsity_of)


def sparsity_of(point):
    return float(point.removeprefix("sparsity_"))


def cell(results):
    """Accuracy with its spread and seeds, and bytes raw and deflated."""
    if not results:
        return ""
    accuracies = [100 * result["file"]["accuracy"] for result in results]
    text = f"{statistics.mean(accuracies):.2f}%"
    if len(accuracies) > 1:
        text += f" ± {statistics.stdev(accuracies):.2f} ({len(accuracies)} seeds)"
    file = results[0]["file"]
    size = file.get("stripped_bytes", file["bytes"])
    deflated = file.get("stripped_deflated_bytes", file["deflated_bytes"])
    return f"{text}; {size / 1000:,.0f} kB, deflated {deflated / 1000:,.1f} kB"


def overheads(task, methods, results):
    """What a training step under pruning takes, against one without, where it was timed."""
    lines = []
    for method in methods:
        for (a_task, a_method, _), some in results.items():
            stages = some[0].get("seconds_per_step_by_stage")
            if (a_task, a_method) == (task, method) and stages and "dense" in stages:
                ratio = stages["pruning"]["cpu"] / stages["dense"]["cpu"]
                lines = [
                    f"A training step under {METHODS[method]}: {ratio:.2f} × one without it.",
                    "",
                ]
    return lines


def draw(task, methods, results):
    """Accuracy against the fraction of kernel weights that is left."""
    figure, axes = pictures.new_figure()
    for method in methods:
        there = [p for p in points_of(task, results) if (task, method, p) in results]
        left = [100 * (1 - sparsity_of(p)) for p in there]
        found = [[100 * r["file"]["accuracy"] for r in results[task, method, p]] for p in there]
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in found]
        means = [statistics.mean(values) for values in found]
        axes.errorbar(
            left, means, yerr=spread, marker="o", capsize=3, label=METHODS[method],
            color=COLOURS[method],
        )  # fmt: skip
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("kernel weights left, %")
    axes.set_ylabel("accuracy on the test split, %")
    axes.set_title(task)
    axes.legend()
    pictures.save(figure, PICTURES / f"results_{task}")


if __name__ == "__main__":
    main()
