"""What a run came to, in a few lines: zeros, score, the file to use, and what to do next."""

import pathlib
from typing import Any

# The runtimes of a phone, a single-board computer and a microcontroller all read these.
SUFFIX = ".tflite"
# Folders of what a run is compared with: a trained baseline, or the given model.
BASELINES = ("dense/", "given/")


def conclusion(report: dict[str, Any], folder: str | pathlib.Path) -> list[str]:
    """Lines that say a run's result first.

    The file to use is the smallest TFLite file of the sparse network: by its bytes, never by a
    score, for scores are of the test split. The score is that file's; beside it stands the dense
    baseline's in the same format.

    Args:
        report: A run's `report.json`.
        folder: The run's folder, as the lines shall name it.

    Returns:
        Texts without line breaks; two or more.
    """
    counts = report["counts"]
    lines = [f"{counts['sparsity']:.1%} of the kernel weights are zero."]
    files = report["files"]
    name = file_to_use(files)
    if name is None:
        return [*lines, f"Next  cnn-l1 verify {folder}"]
    kind = "given" if any(one.startswith("given/") for one in files) else "dense"
    dense = files.get(f"{kind}/{pathlib.PurePosixPath(name).name}")
    beside = "the given model" if kind == "given" else "without the penalty"
    lines[0] += f" {_score(files[name], dense, beside)}"
    compared = f" ({kind} {dense['bytes']:,})" if dense else ""
    path = pathlib.Path(folder, name)
    lines.append(f"Use   {path}   {files[name]['bytes']:,} bytes{compared}")
    lines += [f"Not   {one}: {reason}" for one, reason in report["refused"].items()]
    lines.append(f"Next  cnn-l1 benchmark {path}   or   cnn-l1 verify {folder}")
    return lines


def file_to_use(files: dict[str, dict[str, Any]]) -> str | None:
    """The name of the smallest TFLite file that is not the dense baseline's; `None`: no such."""
    mine = {
        name: figures["bytes"]
        for name, figures in files.items()
        if name.endswith(SUFFIX) and not name.startswith(BASELINES)
    }
    return min(mine, key=mine.__getitem__) if mine else None


def _score(file: dict[str, Any], dense: dict[str, Any] | None, beside: str) -> str:
    if file.get("outputs"):
        each = [_score(one, None, beside).rstrip(".") for one in file["outputs"]]
        names = [one["name"] for one in file["outputs"]]
        return "; ".join(f"{n}: {t}" for n, t in zip(names, each, strict=True)) + "."
    found = (file.get("metrics") or {}).get("auc")
    if file["accuracy"] is None and found is not None:
        # An error over normal examples and anomalies together says nothing.
        text = f"Anomalies are told from normal examples with an AUC of {found:.4f}"
        return f"{text}." if dense is None else f"{text}; {beside} {dense['metrics']['auc']:.4f}."
    if file["accuracy"] is None:
        text = f"Mean squared error {file['mean_squared_error']:.5g}"
        if dense is None:
            return f"{text}."
        return f"{text}; {beside} {dense['mean_squared_error']:.5g}."
    text = f"Accuracy {file['accuracy']:.1%}"
    if dense is None:
        return f"{text}."
    points = 100 * (file["accuracy"] - dense["accuracy"])
    return f"{text}; {beside} {dense['accuracy']:.1%} ({points:+.1f} points)."
