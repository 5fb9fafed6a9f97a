"""The folder of a sweep: begun, gone on with, replaced, read. No TensorFlow here."""

import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import Config, ConfigError
from cnn_l1.config.sweep_settings import SweepConfig
from cnn_l1.runs.folders import is_finished
from cnn_l1.sweep.engines import Job
from cnn_l1.sweep.plan import base_of


def check_folder(
    output: pathlib.Path, config: Config, overwrite: bool = False, resume: bool = False
) -> None:
    """Raise `ConfigError` where something is in the way, or is another sweep."""
    mark = output / "config.yaml"
    there = _is_there(output)
    if there and not output.is_dir():
        raise ConfigError(f"--output: expected a folder. Received: the file {output}")
    if there and (resume or overwrite) and not (mark.is_file() and (output / "points").is_dir()):
        flag = "--resume" if resume else "--overwrite"
        raise ConfigError(
            f"{flag}: expected the folder of a sweep. Received: {output}, which holds something "
            "else and is left alone."
        )
    if there and resume:
        if same_results(configs.load(mark), config):
            return
        raise ConfigError(
            f"--resume: expected the config that the sweep in {output} began with. Received: "
            f"another one; see {mark}"
        )
    if there and not overwrite:
        raise ConfigError(
            f"--output: expected a folder that does not exist yet. Received: {output}, which "
            "does. Give --resume to go on, --overwrite to replace it, or another --output."
        )


def _is_there(output: pathlib.Path) -> bool:
    return os.path.lexists(output) and (not output.is_dir() or any(output.iterdir()))


def open_folder(
    output: pathlib.Path, config: Config, overwrite: bool = False, resume: bool = False
) -> None:
    """Make the folder of a sweep, or find the one to go on with.

    Raises:
        ConfigError: If something is in the way, or what is there is another sweep.
    """
    check_folder(output, config, overwrite, resume)
    if _is_there(output):
        if resume:
            return
        shutil.rmtree(output)
    (output / "points").mkdir(parents=True)
    (output / "config.yaml").write_text(configs.dump(config), encoding="utf-8")


# What may differ between the beginning of a sweep and its end: no point depends on it.
FREE = ("workers", "engine", "early_stopping", "rule", "max_drop", "budget", "file")


def same_results(one: Config, other: Config) -> bool:
    """Whether the points of two sweeps are the same, so that one can go on with another's."""
    return _what_counts(one) == _what_counts(other)


def _what_counts(config: Config) -> Config:
    free = {name: SweepConfig.model_fields[name].default for name in FREE}
    update = {
        "expected_result": "",
        "measure": base_of(config).measure,
        "sweep": config.sweep.model_copy(update=free),
    }
    return config.model_copy(update=update)


def read_results(output: pathlib.Path, chains: Iterable[Sequence[Job]]) -> dict[str, Any]:
    """`{job: its report}` of the runs that are done, in the order of the names."""
    results = {}
    for job in sorted((job for chain in chains for job in chain), key=lambda job: job.name):
        path = output / "points" / job.name / "report.json"
        if is_finished(path.parent):
            report = json.loads(path.read_text(encoding="utf-8"))
            node = output / "nodes" / f"{job.name}.txt"
            report["node"] = node.read_text(encoding="utf-8").strip() if node.is_file() else None
            results[job.name] = report
    return results
