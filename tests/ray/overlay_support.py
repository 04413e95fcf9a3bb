"""What the live tests of the overlay share: the environments with Ray, and running a program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Another place for the environments can be named, to try a test with Rays that lie elsewhere.
VENVS = Path(os.environ.get("MANTARAY_TEST_VENVS", REPOSITORY / ".venvs"))
VERSIONS = ("2.48.0", "2.60.0")
PROGRAM_TIMEOUT_S = 180
RAY_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def ray_python(version: str) -> Path:
    """Return the interpreter of the environment with this Ray and Mantaray."""
    python = VENVS / f"ray-{version}" / "bin" / "python"
    if not python.exists():
        pytest.fail(f"there is no environment with Ray {version}; `make test` makes it")
    return python


@contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory with a path short enough for Ray's sockets; remove it in the end."""
    path = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for a program: what is set for Ray and Mantaray comes from here."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MANTARAY_", "_MANTARAY_", "RAY_", "PYTHON"))
    }
    return kept | RAY_ENVIRONMENT | extra


def run_program(
    python: Path, program: Path, *arguments: str, **extra: str
) -> tuple[Any, subprocess.CompletedProcess[str]]:
    """Run a program that must succeed; return the JSON of its last line and all it wrote.

    A program that starts a cluster ends it itself; Ray's processes go with the driver.
    """
    process = subprocess.Popen(
        [str(python), str(program), *arguments],
        env=environment(**extra),
        cwd=program.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=PROGRAM_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        pytest.fail(f"{program.name} did not end within {PROGRAM_TIMEOUT_S} s\n{stdout}\n{stderr}")
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    assert done.returncode == 0, f"{program.name} failed\n{stdout}\n{stderr}"
    return json.loads(stdout.splitlines()[-1]), done
