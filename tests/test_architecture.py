"""docs/architecture.md lists each module of the package once, with what it says of itself."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_module_is_listed_with_its_first_line():
    listed = dict(re.findall(r"^\| `(\w+)\.py` \| (.+) \|$", PAGE, re.MULTILINE))
    modules = {path.stem: path for path in (ROOT / "cnn_l1").glob("*.py")}
    del modules["__init__"]
    expected = {}
    for name, path in modules.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        expected[name] = text.split("\n")[0].rstrip(".")
    assert listed == expected
