"""What a report says of a run: its data, settings, versions and selected features."""

import pathlib
import platform
from importlib import metadata
from typing import Any

import keras

from cnn_l1.data.splits import Description, Split
from cnn_l1.graph import features
from cnn_l1.models.setup import Setup
from cnn_l1.runs import report
from cnn_l1.sparsity.counting import ModelCount
from cnn_l1.train.stages import History, Run


def begin_report(this: Run, counts: ModelCount, history: History) -> dict[str, Any]:
    """What a report says of a network that is trained, and of nothing else yet."""
    config = this.config
    return {
        "name": config.name,
        "seed": config.seed,
        "error": None,
        "expected_result": config.expected_result,
        "data": describe_data(this.setup, None),
        "method": config.training.method,
        "l1_strength": config.penalty.l1_strength,
        "target": None if config.target is None else config.target.model_dump(mode="json"),
        "l1_strength_found": _strength_found(history) if config.target is not None else None,
        "counts": report.counts_as_dict(counts),
        "shrunk_counts": None,
        "features": None,
        "removed_channels": {},
        "constant_output": None,
        "validation": {},
        "files": {},
        "refused": {},
        "encoded": {},
        "micro": {},
        "not_measured": {},
        "seconds": None,
        "versions": versions(),
        "latency": f"CPU time of one input, one thread, files in turn, {platform.machine()}",
    }


def _strength_found(history: History) -> float | None:
    """The strength that a target was met with: the last one under the penalty."""
    strengths = [row["l1_strength"] for row in history if row.get("l1_strength")]
    return strengths[-1] if strengths else None


def describe_data(setup: Setup, measured: Split | None) -> dict[str, Any]:
    """What a report says of its data."""
    dataset, about = setup.dataset, setup.dataset.about
    return {
        "name": setup.config.data.name,
        "source": about.source,
        "task": setup.task.kind,
        "targets": about.kind,
        "outputs": list(about.outputs),
        "input_shape": list(about.input_shape),
        "class_names": None if about.class_names is None else list(about.class_names),
        "train_examples": dataset.train.size,
        "validation_examples": dataset.validation.size,
        "measured_split": setup.config.measure.split,
        "measured_examples": None if measured is None else measured.size,
    }


def versions() -> dict[str, str]:
    """The versions that a figure depends on."""
    names = "tensorflow", "keras", "ai-edge-litert", "numpy"
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def select_features(
    sparse: keras.Model, about: Description, folder: pathlib.Path
) -> dict[str, Any] | None:
    """Which inputs are still read, as a table, a picture and a line; `None` if all are."""
    found = features.read_features(sparse)
    if found is None:
        return None
    # Only here: Matplotlib takes half a second to import, and most runs draw nothing.
    from cnn_l1.runs import pictures

    names = found.names(about.feature_names)
    features.write_features(folder / "features.csv", found, about.feature_names)
    pictures.draw_features(folder / "features", found, about.feature_names)
    chosen = [name for name, taken in zip(names, found.selected, strict=True) if taken]
    listed = " ".join(chosen[:40]) + (" …" if len(chosen) > 40 else "")
    print(f"{len(chosen)} of {len(names)} features have a weight left: {listed}")
    summary = {"features": len(names), "selected": chosen}
    if about.true_coefficients is not None:
        summary["support"] = support = features.support_recovery(found, about.true_coefficients)
        print(
            f"Of {support['true']} features that truly count, {support['found']} are found, "
            f"and {support['false']} others"
        )
    return summary
