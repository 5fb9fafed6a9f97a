"""What a sweep runs: its checks and its chains of jobs. Nothing here imports TensorFlow."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

from cnn_l1.config.formats import chosen
from cnn_l1.config.loading import Config, ConfigError, with_settings
from cnn_l1.config.packages import check_packages
from cnn_l1.sweep.engines import Job
from cnn_l1.sweep.strengths import spaced, with_strength
from cnn_l1.train.dense_baseline import dense_baseline

FILES = ("model_int8.tflite", "model_float32.tflite", "model.keras")
DENSE = "dense"


def check(config: Config, address: str | None = None) -> None:
    """Raise `ConfigError` where the settings of a sweep do not go together."""
    settings = config.sweep
    if config.penalty.name == "none":
        raise ConfigError("penalty.name: expected a penalty to sweep. Received: 'none'")
    if config.target is not None:
        raise ConfigError(
            "target: expected nothing, for a sweep moves the strength itself. Received: "
            f"{config.target}"
        )
    if address is not None and settings.engine != "ray":
        raise ConfigError(
            f"--address: expected sweep.engine ray. Received: sweep.engine {settings.engine}"
        )
    if not config.penalty.l1_strength and _is_found_by_trying(config):
        raise ConfigError(
            "penalty.l1_strength: expected more than 0, from where the largest strength is "
            "looked for. Received: 0. Or set sweep.max_strength."
        )
    plan_chains(config, settings.strengths or (settings.max_strength or 1.0,))
    written = {"model.keras", *_tflite_files(config)}
    if settings.file is not None and settings.file not in written:
        raise ConfigError(
            f"sweep.file: expected a file that export.formats writes ({', '.join(sorted(written))})"
            f". Received: {settings.file!r}"
        )
    check_packages(config)
    budget = settings.budget
    micro = counted_file(config).endswith(".tflite")
    if budget is not None and not micro and (budget.max_latency_ms or budget.max_ram_bytes):
        raise ConfigError(
            "sweep.budget: expected a TFLite file in sweep.file, whose latency and RAM can be "
            f"measured. Received: {counted_file(config)!r}"
        )
    if settings.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "sweep.engine: expected Ray to be installed for 'ray' (pip install "
            "'cnn_l1[ray]'). Received: no such package"
        )


def describe_runs(config: Config) -> str:
    """One line on how many runs a sweep has, and at which strengths."""
    settings = config.sweep
    largest = settings.max_strength or 1.0
    strengths = settings.strengths or spaced(largest, settings.min_ratio, settings.points)
    count = sum(map(len, plan_chains(config, strengths)))
    shown = ", ".join(f"{strength:.3g}" for strength in sorted(strengths))
    if settings.strengths is None and settings.max_strength is None:
        shown = f"{shown} of the largest, which is found first"
    return f"{count} runs, at strengths {shown}"


def plan_chains(config: Config, strengths: Sequence[float]) -> list[list[Job]]:
    """Chains of `Job`s: one job each, or one chain for each fold and seed along the path."""
    settings = config.sweep
    base = base_of(config)
    seeds = settings.seeds if settings.seeds is not None else (config.seed,)
    folds = range(settings.folds) if settings.folds else (None,)
    chains = []
    for seed in seeds:
        for fold in folds:
            repeat: dict = {"seed": seed}
            if fold is not None:
                repeat["data.fold"] = [fold, settings.folds]
            here = with_settings(base, repeat)
            jobs = []
            for number, strength in enumerate(strengths):
                point = with_strength(here, strength)
                name = job_name(number, fold, seed)
                jobs.append(Job(name, named(point, name), strength))
            if settings.path == "independent":
                chains += [[job] for job in jobs]
            else:
                ordered = jobs if settings.path == "dense_to_sparse" else jobs[::-1]
                warm = [dataclasses.replace(job, warm=True) for job in ordered[1:]]
                chains.append([ordered[0], *warm])
            if needs_dense(config):
                name = job_name(DENSE, fold, seed)
                chains.append([Job(name, named(dense_baseline(here), name))])
    return chains


def job_name(number: int | str, fold: int | None, seed: int) -> str:
    """The folder of a point's run."""
    point = number if number == DENSE else f"point_{number:03d}"
    return point + ("" if fold is None else f"_fold_{fold}") + f"_seed_{seed}"


def named(config: Config, name: str) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    data["name"] = name
    return data


def base_of(config: Config) -> Config:
    """What all points of a sweep have in common."""
    budget = config.sweep.budget
    settings: dict = {
        "baseline": False,
        "measure.split": "validation",
        "measure.ram": config.measure.ram or bool(budget is not None and budget.max_ram_bytes),
        "sweep": {},
    }
    return with_settings(config, settings)


def needs_dense(config: Config) -> bool:
    """Whether the dense baseline is trained as well."""
    return config.baseline or config.sweep.rule == "max_drop"


def counted_file(config: Config) -> str:
    """The exported file by which a sweep chooses."""
    if config.sweep.file is not None:
        return config.sweep.file
    written = _tflite_files(config)
    return next((file for file in FILES if file in written), "model.keras")


def _tflite_files(config: Config) -> list[str]:
    """The files of a config's formats that LiteRT runs."""
    return [one.file_name for one in chosen(config.export.formats) if "litert" in one.runtimes]


def is_in_closed_form(config: Config) -> bool:
    """Whether the largest strength is computed, not looked for."""
    # Under a concave shape, weights that are large resist strengths that keep zeros at 0.
    is_convex = config.penalty.name in ("l1", "l1l2") and config.penalty.shape == "l1"
    return config.model.name == "linear" and is_convex


def _is_found_by_trying(config: Config) -> bool:
    settings = config.sweep
    given = settings.strengths is not None or settings.max_strength is not None
    return not given and not is_in_closed_form(config)
