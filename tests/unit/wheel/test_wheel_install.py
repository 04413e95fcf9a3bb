"""pip installs a custom wheel over nothing and over the official Ray, and removes all of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_ray import RayWheel

import mantaray

Build = Callable[[RayWheel], Path]


class Environment:
    """A virtual environment, installed into by the pip of the one that runs the tests."""

    def __init__(self, path: Path) -> None:
        """Make it."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
        self.path = path
        self.python = path / "bin" / "python"

    def pip(self, *arguments: str) -> str:
        """Run pip on this environment and return what it printed."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, wheel: Path) -> None:
        """Install a wheel alone."""
        self.pip("install", "--no-deps", "--no-index", str(wheel))

    def run(self, code: str) -> str:
        """Run Python code in it and return what it printed."""
        done = subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.strip()

    def files(self) -> set[str]:
        """Return every file below it, and every directory inside site-packages.

        Not site-packages itself: pip removes it when nothing is left in it.
        """
        paths = (str(path.relative_to(self.path)) for path in self.path.rglob("*"))
        return {path for path in paths if not path.endswith("site-packages")}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An empty environment."""
    return Environment(tmp_path / "venv")


def test_into_a_target_directory(build: Build, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(build(RayWheel()))], check=True)
    ray = RayWheel()
    for name in ("ray/__init__.py", "ray/core/raylet", "ray/core/data.bin"):
        assert (target / name).read_bytes() == ray.files[name]
    assert (target / "ray/core/raylet").stat().st_mode & 0o111
    assert (target / "mantaray.pth").is_file()


def test_over_nothing(build: Build, environment: Environment) -> None:
    environment.install(build(RayWheel()))
    assert environment.run("import ray; print(ray.__version__)") == "2.60.0"
    assert environment.run("import mantaray; print(mantaray.__version__)") == mantaray.__version__
    assert environment.run("import sys; print(sys.mantaray_pth_ran)") == "True"
    assert (environment.path / "bin" / "mantaray").is_file()
    command = subprocess.run(
        [environment.path / "bin" / "ray"], capture_output=True, text=True, check=True
    )
    assert command.stdout == "ray, version 2.60.0\n"
    shown = environment.pip("show", "ray").splitlines()
    assert f"Version: 2.60.0+mantaray.{mantaray.__version__}" in shown


def test_over_the_official_ray(build: Build, environment: Environment, tmp_path: Path) -> None:
    environment.install(RayWheel().write(tmp_path / "official"))
    environment.install(build(RayWheel()))
    listed = [line.split() for line in environment.pip("list").splitlines()]
    versions = [words[1] for words in listed if words and words[0] == "ray"]
    assert versions == [f"2.60.0+mantaray.{mantaray.__version__}"]
    assert environment.run("import sys; print(sys.mantaray_pth_ran)") == "True"


def test_back_to_the_official_ray(build: Build, environment: Environment, tmp_path: Path) -> None:
    official = RayWheel().write(tmp_path / "official")
    environment.install(official)
    before = environment.files()
    environment.install(build(RayWheel()))
    environment.pip("install", "--no-deps", "--no-index", "--force-reinstall", str(official))
    assert environment.files() == before


def test_uninstall_leaves_nothing(build: Build, environment: Environment) -> None:
    before = environment.files()
    environment.install(build(RayWheel()))
    assert environment.run("import ray, mantaray.part; print(1)") == "1"
    assert environment.files() > before
    environment.pip("uninstall", "-y", "ray")
    assert environment.files() == before
