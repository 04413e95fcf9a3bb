"""Which wheels tools/setup installs: the published ones of these very sources, else newly built ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rays import REPOSITORY

SOURCES = "setup.py pyproject.toml MANIFEST.in README.md LICENSE WORKSPACE BUILD.bazel .bazelrc"
# Does what .venv's Python is asked for here, and notes it.
PYTHON = """#!/bin/sh
echo "$*" >>calls
case "$*" in
  "-c "*) echo cp311 ;;
  *" download "*) cp dist/*.whl build/wheel/ ;;
  *" wheel "*) touch build/wheel/ray_mantaray-1-cp311-cp311-linux.whl ;;
  *tools.distribution*) touch build/wheel/ray_mantaray_relay-1-py3-none-linux.whl ;;
esac
"""


class Tree:
    """A source tree of empty files, with wheels in `dist`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("python/mantaray", "src", "bazel", "tools/distribution", "dist", ".venv/bin"):
            (root / name).mkdir(parents=True)
        for name in (*SOURCES.split(), "python/mantaray/spill.py"):
            (root / name).touch()
        for name in ("setup", "requirements-dev.txt"):
            shutil.copy(REPOSITORY / "tools" / name, root / "tools")
        python = root / ".venv/bin/python"
        python.write_text(PYTHON)
        python.chmod(0o755)
        ask = "import sys; print(sys.executable, sys.version)"
        made_with = subprocess.check_output([sys.executable, "-c", ask], text=True)
        (root / ".venv/.made-with").write_text(made_with.rstrip("\n"))
        for name in (f"-1-cp311-cp311-any_{os.uname().machine}", "_relay-1-py3-none-any"):
            (root / f"dist/ray_mantaray{name}.whl").touch()
        (root / "dist/.sources").write_text(self.setup("sources"))

    def setup(self, step: str, **variables: str) -> str:
        """Run a step of tools/setup; return what it prints."""
        environment = {k: v for k, v in os.environ.items() if k != "MANTARAY_WHEELS"}
        return subprocess.run(
            ["tools/setup", step],
            cwd=self.root,
            env={**environment, "MANTARAY_PYTHON": sys.executable, **variables},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def wheels_came_by(self, **variables: str) -> str:
        """Set the wheels up; return which command of pip they came by."""
        self.setup("wheel", **variables)
        calls = (self.root / "calls").read_text()
        (self.root / "calls").unlink()
        (word,) = [word for word in ("download", "wheel") if f" {word} " in calls]
        return word


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_published_wheels_of_these_sources_are_taken(tree: Tree) -> None:
    assert tree.wheels_came_by() == "download"
    assert tree.wheels_came_by(MANTARAY_WHEELS="") == "wheel"


def test_published_wheels_of_other_sources_are_never_taken_for_these(tree: Tree) -> None:
    (tree.root / "python/mantaray/spill.py").write_text("changed = True\n")
    assert tree.wheels_came_by() == "wheel"
    assert tree.wheels_came_by(MANTARAY_WHEELS="dist") == "download"


def test_published_wheels_for_other_pythons_are_not_taken(tree: Tree) -> None:
    for wheel in tree.root.glob("dist/*cp311*"):
        wheel.rename(str(wheel).replace("cp311", "cp312"))
    assert tree.wheels_came_by() == "wheel"


def test_wheels_of_an_unfinished_make_dist_are_not_taken(tree: Tree) -> None:
    (tree.root / "dist/.sources").unlink()
    assert tree.wheels_came_by() == "wheel"
