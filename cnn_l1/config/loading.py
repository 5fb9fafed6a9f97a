"""From a YAML file to settings, or to one error. Nothing here imports TensorFlow.

`load(path, overrides)` reads a YAML file and returns a frozen `Config`, or
raises one `ConfigError` that names the file, the dotted key, what was expected
and what came.
"""

import copy
import difflib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

import pydantic
import yaml

from cnn_l1.config.own_code import make_importable
from cnn_l1.config.section import Section
from cnn_l1.config.settings import Config
from cnn_l1.errors import CnnL1Error


class ConfigError(CnnL1Error, ValueError):
    """A config file, key, value or flag that cannot be used."""

    exit_code = 2


class _Loader(yaml.SafeLoader):
    """SafeLoader in which `1e-3` is a number and a key given twice an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _construct_mapping(loader: Any, node: Any, deep: bool = False) -> dict[str, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"expected text as a key, found {key!r}", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"found the key {key!r} twice", key_node.start_mark
            )
        seen.add(key)
    return {
        loader.construct_object(k, deep=True): loader.construct_object(v, deep=True)
        for k, v in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def load(path: str | os.PathLike, overrides: Iterable[str] = ()) -> Config:
    """Read a config file and apply `key=value` overrides.

    Args:
        path: A YAML file, or the name of a config that the package ships, such as
            `"digits"`. A file of that name comes first.
        overrides: Texts such as `"optimizer.learning_rate=3e-4"`, in order.

    Returns:
        A validated, frozen `Config`.

    Raises:
        ConfigError: Naming the file, the dotted key, what was expected and what
            was received.
    """
    data, _, source = read(path, overrides)
    return validate(data, source)


def read(
    path: str | os.PathLike, overrides: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Read a config file as plain data, with overrides applied and nothing validated.

    Args:
        path: As `load` takes it.
        overrides: As `load` takes them.

    Returns:
        `(data, named, source)`: the settings as a mapping, those that the overrides name
        alone, and the file for messages.

    Raises:
        ConfigError: If the file, or an override, cannot be read.
    """
    path = _shipped(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a readable YAML file. Received: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8. Received: other bytes") from None
    data = _parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected a mapping of settings. Received: {_kind(data)} ({_short(data)})"
        )
    _make_absolute(data, path.parent.resolve())
    named: dict[str, Any] = {}
    for override in overrides:
        _apply_override(data, override)
        _apply_override(named, override)
    if any(changes_the_result(override.partition("=")[0].strip()) for override in overrides):
        # What the file says of its own settings is not said of others.
        data["expected_result"] = named.get("expected_result", "")
    _make_absolute(data, pathlib.Path.cwd())  # what overrides name
    if _names_code(data):
        data.setdefault("modules_dir", str(path.parent.resolve()))
    return data, named, str(path)


# Settings that are paths, by section.
PATHS = (("data", "path"), ("model", "path"), ("model", "weights"))


def _make_absolute(data: dict[str, Any], folder: pathlib.Path) -> None:
    """Make paths absolute: those of a file are relative to its folder."""
    for section, setting in PATHS:
        value = data.get(section)
        if setting == "weights" and isinstance(value, dict) and value.get(setting) == "imagenet":
            continue  # weights of Keras, no file
        if isinstance(value, dict) and isinstance(value.get(setting), str) and value[setting]:
            value[setting] = str(folder / pathlib.Path(value[setting]).expanduser())
    modules = data.get("modules_dir")
    if isinstance(modules, str) and modules:
        data["modules_dir"] = str((folder / pathlib.Path(modules).expanduser()).resolve())


def _names_code(data: dict[str, Any]) -> bool:
    sections = [data.get(name) for name in ("data", "model")]
    return any(isinstance(s, dict) and (s.get("function") or s.get("modules")) for s in sections)


# Beside the package in a checkout; inside it where a wheel was installed.
SHIPPED = (
    pathlib.Path(__file__).parents[1] / "configs",
    pathlib.Path(__file__).parents[2] / "configs",
)


def _shipped(path: str | os.PathLike) -> pathlib.Path:
    """The path of a shipped config that is called by its name alone; else the path itself."""
    path = pathlib.Path(path)
    if path.suffix or len(path.parts) != 1 or path.exists():
        return path
    found = [folder / f"{path}.yaml" for folder in SHIPPED]
    found = [one for one in found if one.is_file()]
    if found:
        return found[0]
    names = sorted({one.stem for folder in SHIPPED for one in folder.glob("*.yaml")})
    close = difflib.get_close_matches(str(path), names, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"--config: expected a YAML file, or one of {', '.join(names)}. "
        f"Received: {path}, which is neither.{hint}"
    )


def validate(data: Any, source: str = "config") -> Config:
    """Turn plain data into a `Config`, or raise `ConfigError`."""
    try:
        # Through JSON, strictly: lists become tuples, but "3" no number, true no 1.
        config = Config.model_validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        lines = [_explain(source, detail) for detail in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: expected plain YAML values. Received: {error}") from None
    # Here, so that every process that reads the config finds the code that it names.
    make_importable(config.modules_dir)
    return config


# Settings that leave the trained network, and what its files compute, as they are.
NO_MATTER = (
    "name", "expected_result", "seed", "baseline", "tensorboard", "measure", "export", "sweep",
    "data.data_dir", "data.download", "data.in_memory", "modules_dir",
)  # fmt: skip


def changes_the_result(key: str) -> bool:
    """Whether a changed setting, by its dotted key, leaves `expected_result` untrue."""
    return not any(key == one or key.startswith(f"{one}.") for one in NO_MATTER)


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """A config with some settings changed, checked as a file's are.

    Args:
        config: A `Config`.
        settings: `{"penalty.l1_strength": 1e-3}` and so on, by dotted key. The copy has no
            `expected_result` where they change what a run gives.
    """
    data = config.model_dump(mode="json")
    if any(map(changes_the_result, settings)):
        data["expected_result"] = ""
    for key, value in settings.items():
        *sections, last = key.split(".")
        node = data
        for section in sections:
            node = node[section]
        node[last] = value
    return validate(data, config.name)


def dump(config: Config, folders: bool = True) -> str:
    """The resolved config as YAML, every setting written out.

    Args:
        config: A `Config`.
        folders: Whether with this machine's folders; see `without_folders`.
    """
    data = config.model_dump(mode="json")
    data = data if folders else without_folders(data)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def without_folders(data: dict[str, Any]) -> dict[str, Any]:
    """A config's plain mapping without what is true of one machine alone.

    For files that go elsewhere: the folder of the data is left to the machine, and of other
    files only the name and the folder right above stay.

    Args:
        data: A whole config as a mapping, which stays as it is.
    """
    data = copy.deepcopy(data)
    data["data"]["data_dir"] = data["modules_dir"] = None
    for section, setting in PATHS:
        path = data[section][setting]
        data[section][setting] = path and pathlib.PurePath(path).name
    start = data["model"]["initial_weights"]
    if start is not None:
        data["model"]["initial_weights"] = "/".join(pathlib.Path(start).parts[-2:])
    return data


def json_schema() -> str:
    """The config's JSON Schema, as text, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source}{where}: expected YAML. Received: {problem}") from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set: expected key=value. Received: {override!r}")
    value = _parse_yaml(text, f"--set {key}")
    node: Any = data
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise ConfigError(
                    f"--set {key}: expected an index below {len(node)}. Received: {part!r}"
                )
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
        else:
            raise ConfigError(
                f"--set {key}: expected a section at {'.'.join(parts[:position])!r}. "
                f"Received: the value {_short(node)}"
            )
        if last:
            node[index] = value
        else:
            # A section that the file leaves out, or leaves empty, starts here.
            if isinstance(node, dict) and node.get(index) is None:
                node[index] = {}
            node = node[index]


# What to do about a value that is missing, or a section that is set to nothing.
HINTS = {"target.by_epochs": " Also set it, e.g. to three quarters of training.epochs."}
SWITCHED_OFF = {
    "fine_tuning": "fine_tuning.epochs to 0",
    "shrink": "shrink.enabled to false",
    "penalty": "penalty.name to none",
}


def _explain(source: str, detail: Any) -> str:
    # Tags of discriminated unions stand in `loc` without being keys.
    full = detail["loc"]
    location = [part for position, part in enumerate(full) if not _is_tag(full, position)]
    key = ".".join(str(part) for part in location) or "(top level)"
    received = _short(detail["input"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1], full[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return (
            f"{source}: {key}: unknown key. Expected one of: {', '.join(known)}. "
            f"Received: {location[-1]}={received}.{hint}"
        )
    if kind == "missing":
        hint = HINTS.get(key, "")
        return f"{source}: {key}: expected a value. Received: nothing.{hint}".rstrip(".")
    if kind == "value_error":
        return f"{source}: {key}: {context['error']}. Received: {received}"
    if kind == "union_tag_not_found":
        return f"{source}: {key}: expected a mapping with a type. Received: {received}"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"{source}: {key}: expected text that matches {pattern}. Received: {received}"
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        choices = re.findall(r"'([^']*)'", expected)
        given = context.get("tag", detail["input"])
        close = difflib.get_close_matches(str(given), choices, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{source}: {key}: expected {expected}. Received: {_short(given)}.{hint}"
    if kind in ("list_type", "tuple_type"):
        return (
            f"{source}: {key}: expected a list, e.g. [{received}]. "
            f"Received: {received} ({_kind(detail['input'])})"
        )
    if detail["input"] is None and key in SWITCHED_OFF:
        return f"{source}: {key}: to switch it off, set {SWITCHED_OFF[key]}. Received: nothing"
    message = detail["msg"].removeprefix("Input should be ")
    return f"{source}: {key}: expected {message}. Received: {received} ({_kind(detail['input'])})"


def _is_tag(location: Sequence[Any], position: int) -> bool:
    # By position alone: a block's key or a layer may be called `conv` or `int` too.
    in_blocks = tuple(location[:2]) == ("model", "blocks")
    return in_blocks and (position == 3 or (position == 5 and location[4] == "units"))


def _known_keys(location: Sequence[Any], raw_location: Sequence[Any]) -> list[str]:
    """The keys that the section at `location` takes."""
    model: Any = Config
    for part in location:
        if isinstance(part, int):
            continue
        model = _section_of(model.model_fields[part].annotation, raw_location)
    return sorted(model.model_fields)


def _section_of(annotation: Any, raw_location: Sequence[Any]) -> Any:
    """The `Section` class inside an annotation such as `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = [_section_of(a, raw_location) for a in get_args(annotation) if a is not Ellipsis]
    sections = [section for section in found if section is not None]
    if get_origin(annotation) is not None and len(sections) > 1:
        for section in sections:
            if "type" in section.model_fields:
                tag = get_args(section.model_fields["type"].annotation)[0]
                if tag in raw_location:
                    return section
    return sections[0] if sections else None


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true/false", int: "a whole number", float: "a number"}
    names |= {dict: "a mapping", list: "a list", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
