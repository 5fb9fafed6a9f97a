"""Write docs/results.md, and its pictures, from the results that runs left.

    python -m benchmarks.make_results

Reads benchmarks/published.yaml and benchmarks/results/*.json; trains nothing.
"""

import json
import pathlib
import statistics

import yaml

from benchmarks.campaign import METHOD, RESULTS
from cnn_l1.runs import pictures

PUBLISHED = pathlib.Path("benchmarks/published.yaml")
PAGE = pathlib.Path("docs/results.md")
PICTURES = pathlib.Path("docs/pictures")
METHODS = {
    METHOD: "cnn_l1",
    "tfmot": "tensorflow-model-optimization",
    "pquant": "PQuant",
    "torch_pruning": "Torch-Pruning",
    "keras_l1": "Keras' L1 and one threshold",
}
COLOURS = {METHOD: pictures.BLUE, "keras_l1": pictures.GREY, "pquant": "#1b9e77"}  # else orange
# Points that set what is left: how they begin, what a table's column is called, and its unit.
KINDS = {
    "sparsity": ("zeros in kernels", lambda size: f"{size:.1%}"),
    "macs": ("multiply-adds at most", lambda size: f"{size:,.0f}"),
}
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
`benchmarks/results`, one a run; `python -m benchmarks.campaign` and
`python -m benchmarks.peers.run` make what is missing. Every figure is of an exported file in
LiteRT, on the whole official test split. Strengths, schedules and epochs were chosen on
validation data. *Left* counts all kernel and bias values that are not zero. Spread is the
standard deviation over seeds; of one seed there is none.
"""


def main():
    results = read_results()
    PAGE.write_text(page(results), encoding="utf-8")
    for task, kind, methods in compared(results):
        draw(task, kind, methods, results)
    print(f"Wrote {PAGE} from {sum(map(len, results.values()))} results")


def page(results):
    """The page's text, from `read_results()`."""
    lines = [HEAD, *literature(results), *peers(results), *gains(results)]
    return "\n".join(lines).rstrip() + "\n"


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
            *at_length(row, results),
        ]
    return [*lines, "", "An aim is met by the mean over the seeds.", "", *notes]


def at_length(row, results):
    """What other tools have at a row of the table: as many epochs, and as many weights left."""
    lines = []
    for method in METHODS:
        some = results.get((row["task"], method, row["point"]), [])
        if not some or method == METHOD:
            continue
        figures = "; ".join(shown_figure(name, some) for name in row["aim"])
        seeds = ", ".join(str(result["seed"]) for result in some)
        some_command = some[0]["command"].replace(f"--seeds {some[0]['seed']}", "--seeds SEED")
        lines += [
            f"{METHODS[method]} in as many epochs, {some[0]['settings']['epochs']}, and steered to "
            f"as many weights: {figures} (seed {seeds}).",
            "",
            f"    {some_command}",
            "",
        ]
    return lines


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
    """Tables of accuracy at equal sparsity, and at equal multiply-adds."""
    lines = []
    for task, kind, methods in compared(results):
        column, shown = KINDS[kind]
        lines += [
            f"## {task}: other tools at the same {'sparsity' if kind == 'sparsity' else 'cost'}",
            "",
            "Float32 files; the same network, data, batch size and 16 epochs for all: see",
            "`benchmarks/peers`. One seed unless it says more.",
            "",
            f"| {column} | " + " | ".join(METHODS[m] for m in methods) + " |",
            "|---|" + "---|" * len(methods),
        ]
        for point in points_of(task, kind, results):
            cells = [cell(results.get((task, method, point), [])) for method in methods]
            lines.append(f"| {shown(size_of(point))} | " + " | ".join(cells) + " |")
        lines += ["", f"![accuracy against what is left](pictures/results_{task}_{kind}.svg)", ""]
        lines += overheads(task, methods, results)
        lines += commands(task, methods)
    return lines


def compared(results):
    """`(task, kind, methods)` of the tasks that have results at given sizes."""
    found = []
    for task in sorted({task for task, _, _ in results}):
        for kind in KINDS:
            there = {m for t, m, p in results if t == task and p.startswith(f"{kind}_")}
            if there:
                found.append((task, kind, [method for method in METHODS if method in there]))
    return found


def points_of(task, kind, results):
    """The points of a kind that a task has results at, from the one that leaves most."""
    found = {p for t, _, p in results if t == task and p.startswith(f"{kind}_")}
    return sorted(found, key=size_of, reverse=kind == "macs")


def size_of(point):
    return float(point.split("_", 1)[1])


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
    return f"{text}; {size / 1000:,.0f} kB, deflated {deflated_bytes(results[0]) / 1000:,.1f} kB"


def gains(results):
    """Tables of accuracy along the strength, of networks that have more weights than data asks."""
    lines = []
    for task in sorted({task for task, _, point in results if point.startswith("strength_")}):
        lines += [
            f"## {task}: what a penalty does for accuracy",
            "",
            "| strength | test accuracy | validation accuracy | parameters left | seeds |",
            "|---|---|---|---|---|",
        ]
        found = {p: some for (t, _, p), some in results.items() if t == task}
        for point in sorted(found, key=size_of):
            some = found[point]
            cells = [
                f"{size_of(point):g}",
                percent([r["file"]["accuracy"] for r in some]),
                percent([r["validation_accuracy"] for r in some]),
                percent([r["nonzero_parameters"] / r["parameters"] for r in some]),
                ", ".join(str(r["seed"]) for r in some),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *commands(task, [METHOD])]
    return lines


def percent(fractions):
    """Mean and spread in percent."""
    text = f"{100 * statistics.mean(fractions):.2f}"
    if len(fractions) > 1:
        text += f" ± {100 * statistics.stdev(fractions):.2f}"
    return text + "%"


def overheads(task, methods, results):
    """What a training step under pruning takes, against one without, where it was timed."""
    lines = []
    for method in methods:
        ratios = []
        for (a_task, a_method, _), some in results.items():
            for result in some if (a_task, a_method) == (task, method) else ():
                stages = result.get("seconds_per_step_by_stage", {})
                if "dense" in stages:
                    ratios.append(stages["pruning"]["cpu"] / stages["dense"]["cpu"])
        if ratios:
            ratio = statistics.median(ratios)
            lines += [f"A training step under {METHODS[method]}: {ratio:.2f} × one without it.", ""]
    return lines


def commands(task, methods):
    """What makes the runs of a table that are not there."""
    lines = []
    for method in methods:
        program = f"python -m benchmarks.peers.run --peer {method} --task {task}"
        if method == METHOD:
            program = f"python -m benchmarks.campaign --task {task}"
        lines.append(f"    {program}")
    return [*lines, ""]


# What a picture sets accuracy against: title, label and figure of a result.
AXES = (
    ("weights", "parameters left, %", lambda r: 100 * r["nonzero_parameters"] / r["parameters"]),
    ("bytes", "float32 file, kB deflated", lambda r: deflated_bytes(r) / 1000),
    ("multiply-adds", "multiply-adds of the file, thousand", lambda r: r["file"]["macs"] / 1000),
)


def deflated_bytes(result):
    """Without names of tensors, which our own files have not."""
    file = result["file"]
    return file.get("stripped_deflated_bytes", file["deflated_bytes"])


def draw(task, kind, methods, results):
    """Accuracy against what is left of weights, bytes and multiply-adds."""
    figure, panels = pictures.new_figure(4.6, 4.0, columns=len(AXES))
    for axes, (title, label, figure_of) in zip(panels, AXES, strict=True):
        for method in methods:
            points = [p for p in points_of(task, kind, results) if (task, method, p) in results]
            there = [results[task, method, point] for point in points]
            found = [[100 * r["file"]["accuracy"] for r in some] for some in there]
            axes.errorbar(
                [statistics.mean(map(figure_of, some)) for some in there],
                [statistics.mean(values) for values in found],
                yerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for v in found],
                marker="o", capsize=3, label=METHODS[method],
                color=COLOURS.get(method, pictures.ORANGE),
            )  # fmt: skip
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel(label)
        axes.set_title(f"{task}: {title}")
    panels[0].set_ylabel("accuracy on the test split, %")
    panels[0].legend()
    pictures.save(figure, PICTURES / f"results_{task}_{kind}")
    (PICTURES / f"results_{task}_{kind}.png").unlink()  # pages show the SVG


if __name__ == "__main__":
    main()
