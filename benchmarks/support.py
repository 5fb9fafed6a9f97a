"""Write docs/support.md: what each layer class of Keras can do here.

    python -m benchmarks.support [--only Dense,Conv2D] [--results FILE]

A small model around each class that `keras.layers` exports goes through each step, in child
processes, and what comes out is compared with Keras. `--results` keeps cells as they come, so
that a run that was ended goes on. Ends with 1 where a cell is wrong or crashed.
"""

import argparse
import json
import pathlib
import sys
import warnings

import numpy as np

from benchmarks import children

PAGE = pathlib.Path("docs/support.md")
COLUMNS = (
    "counted", "penalised", "groups", "shrunk exactly", "MACs", "float32", "float16",
    "dynamic int8", "int8", "int16x8", "ONNX", "TFLite Micro",
)  # fmt: skip
FILES = {
    "float32": "float32",
    "float16": "float16",
    "dynamic int8": "dynamic_int8",
    "int8": "int8",
    "int16x8": "int16x8",
}
QUICK = ("counted", "penalised", "groups", "shrunk exactly", "MACs", "float32")
SECONDS = 150  # of one cell
FAULTS = ("wrong", "crashed")
HEAD = """# What each layer of Keras can do here

Made by `python -m benchmarks.support`, from a small model around each class that `keras.layers`
exports: in most a layer with two channels of zeros, then the layer, then a dense layer. All
weights are random. What comes out is run and compared with Keras.

- **counted**: `count` lists the layer's kernels, those that multiply its inputs, and no more.
- **penalised**: `attach` puts a penalty on these, and on no others.
- **groups**: `attach_groups` finds the channels that go through the layer.
- **shrunk exactly**: the planted channels go, the output stays, and the model can be trained.
- **MACs**: `count_macs` gives what we work out by hand.
- **float32** to **ONNX**: the file, run by LiteRT or ONNX Runtime, gives what Keras gives.
- **TFLite Micro**: it runs the int8 file, or else the float32 one, with the same result.

*yes*: right. *stays*: the layer's channels are kept, as the note says, and the result is right.
*refused*: one error, in the note. *—*: without meaning: the layer has no kernel, or takes its
model's input, so that there are no channels before it; or there is no model of it, as the note
says.
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.support")
    parser.add_argument("--only", help="layer classes, separated by commas; the page stays")
    parser.add_argument("--columns", help="columns, separated by commas; the page stays")
    parser.add_argument("--results", help="a file to which cells are added, and read back from")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        children.serve(perform)
        return 0
    columns = flags.columns.split(",") if flags.columns else COLUMNS
    names = flags.only.split(",") if flags.only else None
    cells = measure(
        names, columns, flags.results and pathlib.Path(flags.results), flags.workers, True
    )
    if names is None and columns == COLUMNS:
        PAGE.write_text(page(cells), encoding="utf-8")
        print(f"Wrote {PAGE}")
    found = faults(cells)
    for fault in found:
        print(fault)
    print(f"{len(cells)} cells, {len(found)} faults")
    return 1 if found else 0


def sample(names):
    """The cells of a quick look: all that is no file, float32, and another file in turn."""
    others = [column for column in COLUMNS if column not in QUICK]
    pairs = [(name, (*QUICK, others[i % len(others)])) for i, name in enumerate(names)]
    return [[name, column] for name, columns in pairs for column in columns]


def measure(names=None, columns=COLUMNS, results=None, workers=1, show=False, tasks=None):
    """`{(class, column): [verdict, reason]}`, made in child processes.

    Args:
        names: Classes. Default: all.
        columns: Of `COLUMNS`. Default: all.
        results: A file of cells that are known, to which new ones are added. Default: none.
        workers: Processes at a time.
        show: Whether to print each cell.
        tasks: `[class, column]` pairs, in place of names and columns.
    """
    from benchmarks.layer_cases import CASES

    cells = {}
    if results is not None and results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            name, column, cell = json.loads(line)
            cells[name, column] = cell
    chosen = [name for name in CASES if names is None or name in names]
    wanted = tasks or [[name, column] for name in chosen for column in columns]
    missing = [task for task in wanted if tuple(task) not in cells]
    done = children.run("benchmarks.support", missing, SECONDS, workers=workers)
    for (name, column), result in done:
        cell = ["crashed", result["crashed"]] if "crashed" in result else result["cell"]
        cells[name, column] = cell
        if show:
            print(f"{name:30} {column:15} {cell[0]:8} {cell[1][:150]}", flush=True)
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, column, cell]) + "\n")
    return {tuple(task): cells[tuple(task)] for task in wanted}


def faults(cells):
    """Lines about cells that are wrong or crashed."""
    return [
        f"{name}, {column}: {verdict}: {reason}"
        for (name, column), (verdict, reason) in cells.items()
        if verdict in FAULTS
    ]


def page(cells):
    """The page's text."""
    from benchmarks.layer_cases import CASES, WITHOUT_MODEL, layer_classes

    notes: dict[str, int] = {}

    def noted(text):
        return f"[{notes.setdefault(text, len(notes) + 1)}](#notes)"

    lines = [HEAD, "| layer | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for name, others in layer_classes().items():
        title = name + (f" ({', '.join(others)})" if others else "")
        if name not in CASES:
            row = [f"— {noted(WITHOUT_MODEL[name])}"] * len(COLUMNS)
        else:
            row = []
            for column in COLUMNS:
                verdict, reason = cells.get((name, column), ["not run", ""])
                shown = "—" if verdict == "none" else verdict
                row.append(f"{shown} {noted(reason)}" if reason else shown)
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    lines += ["", "## Notes", ""]
    lines += [f"{number}. {text.replace('|', chr(92) + '|')}" for text, number in notes.items()]
    return "\n".join(lines) + "\n"


def verdicts(text):
    """`{(class, column): verdict}` of a page, notes left out."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != len(COLUMNS) + 1 or cells[0] in ("layer", "---"):
            continue
        name = cells[0].split(" (")[0]
        for column, cell in zip(COLUMNS, cells[1:], strict=True):
            found[name, column] = cell.split(" [")[0]
    return found


# --- in the child -------------------------------------------------------------------


def perform(task):
    """One cell, `[verdict, reason]`."""
    import dataclasses

    import keras

    from benchmarks import steps
    from benchmarks.layer_cases import CASES, build

    name, column = task
    keras.utils.clear_session()
    case = CASES[name]

    def step():
        model, inputs = build(case)
        if column in FILES:
            return steps.file_cell(model, inputs, FILES[column])
        if column == "ONNX":
            return steps.onnx_cell(model, inputs)
        if column == "TFLite Micro":
            return steps.micro_cell(model, inputs)
        own = {"counted": _counted, "penalised": _penalised, "groups": _groups}
        own |= {"shrunk exactly": _shrunk, "MACs": _macs}
        return own[column](case, model, inputs)

    return {"cell": list(dataclasses.astuple(steps.judged(step)))}


def _kernels(case, model):
    """The kernels of a case's model, by hand: of its layer, and of those around it."""
    found = []
    for layer in model.layers:
        if layer.name in ("before", "after"):
            found.append(layer.kernel)
        elif layer.name == "layer":
            own = [v for v in layer.weights if v.name in case.kernels]
            assert len(own) == len(case.kernels), [v.path for v in layer.weights]
            found += own
    return found


def _counted(case, model, inputs):
    import cnn_l1
    from benchmarks.steps import YES, Cell

    count = cnn_l1.count(model)
    kernels = [np.array(variable) for variable in _kernels(case, model)]
    expected = sorted(kernel.size for kernel in kernels)
    received = sorted(layer.weights for layer in count.layers)
    if getattr(count, "unknown", ()):
        return Cell("refused", f"named as unknown: {', '.join(count.unknown)}")
    if expected != received:
        return Cell("wrong", f"kernels of {received} weights instead of {expected}")
    zeros = sum(int(np.count_nonzero(kernel == 0)) for kernel in kernels)
    if count.zeros != zeros:
        return Cell("wrong", f"{count.zeros} zeros instead of {zeros}")
    return YES if case.kernels else Cell("none")


def _penalised(case, model, inputs):
    import cnn_l1
    from benchmarks.steps import YES, Cell

    cnn_l1.attach(model, cnn_l1.L1(1e-3))
    expected = sorted(v.path for v in _kernels(case, model) if v.trainable)
    received = sorted(v.path for v in model.trainable_variables if v.regularizer is not None)
    if expected != received:
        return Cell("wrong", f"a penalty on {received} instead of {expected}")
    return YES if case.kernels else Cell("none")


def _groups(case, model, inputs):
    import cnn_l1
    from benchmarks.steps import YES, Cell

    has_before = isinstance(case.feed, str)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            attached = cnn_l1.attach_groups(model, 1e-3)
        except ValueError as error:
            said = children.refusal(error)
            if said is None:
                raise
            return Cell("stays", said) if has_before else Cell("none")
    said = [" ".join(str(w.message).split()) for w in caught if "layer" in str(w.message)]
    makes = bool(case.kernels) and not has_before
    if has_before:
        kernel = model.get_layer("before").kernel.path
        if kernel in attached:
            return YES
        return Cell("stays", said[0]) if said else Cell("wrong", "channels held without a word")
    return YES if makes and attached else Cell("none")


def _shrunk(case, model, inputs):
    import cnn_l1
    from benchmarks import steps

    trained = case.dtype != "string"
    cell = steps.shrink_cell(model, inputs, train=trained)
    if cell != steps.YES or not isinstance(case.feed, str):
        return cell
    plan = cnn_l1.plan_shrink(model)
    (before,) = [layer for layer in plan.layers if layer.name == "before"]
    if before.channels_after == before.channels_before - 2:
        return steps.YES
    named = [f"not supported: {one}" for one in plan.unsupported]
    reason = before.held_back or "; ".join(named)
    return steps.Cell("stays", reason) if reason else steps.Cell("wrong", "kept without a reason")


def _macs(case, model, inputs):
    import math

    import cnn_l1
    from benchmarks.steps import YES, Cell

    counts = cnn_l1.count_macs(model)
    if case.macs < 0:  # a product that we do not count by hand: expected to be named
        return Cell("wrong", f"{counts.get('layer', 0)} for a layer that should be unknown")
    expected = case.macs
    for layer in model.layers:
        if layer.name == "after":
            expected += math.prod(layer.kernel.shape)
        elif layer.name == "before":
            expected += math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    received = sum(counts.values())
    if received != expected:
        return Cell("wrong", f"{received} instead of {expected}")
    return YES


if __name__ == "__main__":
    sys.exit(main())
