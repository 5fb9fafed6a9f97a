"""docs/architecture.md lists each module of the package once, with what it says of itself."""

import ast
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_module_is_listed_with_its_first_line():
    listed = dict(re.findall(r"^\| `([\w/]+)\.py` \| (.+) \|$", PAGE, re.MULTILINE))
    package = ROOT / "cnn_l1"
    expected = {}
    for path in package.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        name = path.relative_to(package).with_suffix("").as_posix()
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        expected[name] = text.split("\n")[0].rstrip(".")
    assert listed == expected


def test_every_package_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"]) - {"cnn_l1.configs", "cnn_l1.examples"}
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "cnn_l1").rglob("__init__.py")
    }
    assert listed == found
