"""Each tutorial runs as written, from an empty folder: its blocks in order, as a reader would.

`python` blocks are scripts, each in a fresh interpreter, `sh` blocks go to bash with the
environment's commands first; a `yaml` block whose first line is `# name.yaml` is that file.
`text` blocks show what is printed, and are not compared: times and figures differ by machine.
"""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("tutorial_*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
KINDS = {"python", "sh", "yaml", "text", "c"}
# Pages whose data are not in the packages that are always there.
NEEDS = {"tutorial_sensors": "aeon"}


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def environment():
    """Commands of this interpreter's environment first, and this checkout's package."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def run(kind, text, folder):
    """Run a block; returns what it prints."""
    command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-euc", text]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_there_are_three_and_all_of_their_blocks_are_of_a_known_kind():
    assert [page.stem for page in PAGES] == [
        "tutorial_images", "tutorial_own_model", "tutorial_sensors",
    ]  # fmt: skip
    for page in PAGES:
        found = blocks(page)
        assert {kind for kind, _ in found} <= KINDS, page
        assert page.read_text(encoding="utf-8").count("```") == 2 * len(found)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_written(page, tmp_path):
    needed = NEEDS.get(page.stem)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs the data in {needed}: pip install --no-deps {needed}==1.6.0")
    for kind, text in blocks(page):
        if kind in ("python", "sh"):
            run(kind, text, tmp_path)
        elif kind == "yaml":
            first = re.match(r"# (\w+\.yaml)\n", text)
            assert first, f"a yaml block without its file's name:\n{text}"
            (tmp_path / first.group(1)).write_text(text, encoding="utf-8")
