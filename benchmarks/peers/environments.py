"""Make a peer's own virtual environment, in `.peers/` of the project root.

python -m benchmarks.peers.environments tfmot
"""

import argparse
import os
import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).parents[2]
PEERS = ROOT / ".peers"
REQUIREMENTS = pathlib.Path(__file__).parent / "requirements"


def make(name):
    """Make an environment, or bring it to what is required; returns its Python.

    Args:
        name: Name of a file in `requirements/`, without its suffix.
    """
    required = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    folder, mark = PEERS / name, PEERS / name / "installed.txt"
    python = folder / "bin" / "python"
    if mark.is_file() and mark.read_text(encoding="utf-8") == required:
        return python
    ignore_peers()
    venv.create(folder, clear=True, symlinks=os.name != "nt", with_pip=True)
    packages = required.split()
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    mark.write_text(required, encoding="utf-8")
    return python


def ignore_peers():
    """Let git ignore `.peers/`, whatever is in it."""
    PEERS.mkdir(exist_ok=True)
    (PEERS / ".gitignore").write_text("*\n", encoding="utf-8")


def main():
    names = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="+", choices=names, metavar="PEER", help=", ".join(names))
    for name in parser.parse_args().peers:
        print(make(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
