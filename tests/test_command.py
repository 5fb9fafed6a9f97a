"""The command `cnn-l1`, and configs that are called by name."""

import pathlib
import subprocess
import sys

import pytest

from cnn_l1 import __main__ as command
from cnn_l1.config import loading as configs

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def test_every_command_has_a_module_with_a_main():
    for name in command.COMMANDS:
        assert callable(command.main_of(name))


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text and does in text for name, does in command.COMMANDS.items())


@pytest.mark.parametrize("given", [[], ["trian"]])
def test_no_such_command_ends_with_2(given, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(given)
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_flags_behind_a_command_are_its_own(capsys):
    assert command.main(["train", "--config", "no_such", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: --config: expected a YAML file, or one of anomaly, cnn, digits, "
    )
    assert command.main(["train", "--config", "digitz"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean 'digits'?\n")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_is_found_by_its_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.load(path.stem) == configs.load(path)


def test_a_file_comes_before_a_shipped_config_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("name: mine\nmodel: {name: lenet5}\n", encoding="utf-8")
    assert configs.load("digits").name == "mine"


def test_a_command_as_a_module_starts_without_tensorflow():
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import sys\nfrom cnn_l1 import __main__ as command\n"
            "print(command.main(['verify', 'no_such_run']))\n"
            "print([m for m in ('tensorflow', 'keras') if m in sys.modules])",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["2", "[]"]


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_imports_no_tensorflow(name):
    code = (
        "import sys\nfrom cnn_l1 import __main__ as command\n"
        f"try:\n    command.main([{name!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('tensorflow', 'keras', 'ai_edge_litert') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
