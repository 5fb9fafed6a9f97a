"""A finished run's files, measured on another split."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import keras

from cnn_l1.config import loading as configs
from cnn_l1.measure import on_micro
from cnn_l1.models.setup import configured
from cnn_l1.process import tables
from cnn_l1.runs import exported_files, manifest, report
from cnn_l1.runs.folders import run_folder
from cnn_l1.train.summary import describe_data


def measure_again(source: pathlib.Path, output: pathlib.Path, split: str) -> dict[str, Any]:
    """Copy a finished run and measure its files on another split.

    Args:
        source: Folder of the run.
        output: Where to copy it; must not be there.
        split: `"test"` or `"validation"`.

    Returns:
        The report of the copy, as written to its `report.json`.
    """

    summary = json.loads((source / "report.json").read_text(encoding="utf-8"))
    config = configs.load(source / "config.yaml")
    measuring = config.measure.model_copy(update={"split": split})
    config = config.model_copy(update={"measure": measuring})
    setup = configured(config)
    task, examples = setup.task, setup.examples()
    failed: dict[str, str] = {}
    with run_folder(output) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        paths = {name: folder / name for name in summary["files"]}
        networks = {
            name.removesuffix("model.keras"): keras.models.load_model(path)
            for name, path in paths.items()
            if path.suffix == ".keras"
        }
        measured = exported_files.measure_files(paths, examples, networks, task, measuring, failed)
        tables.print_files(measured, split=split)
        paths |= {name: folder / name for name in summary["encoded"]}
        micro_facts = exported_files.measure_on_micro(paths, examples, task, measuring, failed)
        on_micro.print_micro(micro_facts, paths)
        summary["data"] = describe_data(setup, examples)
        summary["files"] = {n: dataclasses.asdict(figures) for n, figures in measured.items()}
        summary["micro"] = {n: dataclasses.asdict(facts) for n, facts in micro_facts.items()}
        summary["not_measured"] = failed
        report.write_json(folder / "report.json", summary)
        (folder / "config.yaml").write_text(configs.dump(config), encoding="utf-8")
        manifest.write_manifest(folder)
    return summary
