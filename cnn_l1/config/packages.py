"""Whether the optional packages that a config asks for are installed. Imports none of them."""

import importlib.util

from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.formats import chosen
from cnn_l1.config.loading import Config, ConfigError


def check_packages(config: Config) -> None:
    """Raise `ConfigError` where a package is missing that the config asks for.

    Imports none of them, and no TensorFlow.
    """
    if config.data.is_own:  # sets of a hub may be prepared already, and need none then
        check_data_packages(config.data)
    for one in chosen(config.export.formats):
        missing = [name for name in one.packages if not _is_installed(name)]
        if missing:
            raise ConfigError(
                f"export.formats: expected the packages of format {one.name} to be installed "
                f"(pip install 'cnn_l1[{one.name}]'). Received: no {', no '.join(missing)}"
            )
    if (config.measure.ram or config.measure.micro_examples) and not _is_installed("tflite_micro"):
        setting = "ram" if config.measure.ram else "micro_examples"
        raise ConfigError(
            f"measure.{setting}: expected tflite-micro to be installed, of which there are "
            "packages for Linux on x86-64. Received: no such package"
        )


def check_data_packages(data: DataConfig) -> None:
    """Raise `ConfigError` where a package is missing that the data need."""
    if data.name == "table":
        parquet = (data.path or "").lower().endswith((".parquet", ".pq"))
        extra, needed = "table", ["pandas", "pyarrow"] if parquet else ["pandas"]
    elif data.name.startswith("huggingface:"):
        extra, needed = "huggingface", ["datasets"]
    else:
        return
    missing = [name for name in needed if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"data.name: expected the packages of {data.name!r} to be installed "
            f"(pip install 'cnn_l1[{extra}]'). Received: no {', no '.join(missing)}"
        )


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
