"""The wheels under test, and roots of other systems to run them in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dist.systems import Root


@pytest.fixture(scope="session")
def dist() -> Path:
    """The directory that `make dist` filled."""
    named = os.environ.get("MANTARAY_TEST_DIST")
    if not named or not list(Path(named).glob("ray_mantaray-*.whl")):
        pytest.skip("there are no wheels; `make dist` makes them and `make test-dist` tests them")
    return Path(named)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """Return a function that makes a root directory with the Python of a suite of Debian."""
    from tools.distribution import debian

    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    if not debian.available():
        pytest.skip("this machine has no apt to get another system with")
    made: dict[tuple[str, str], Path] = {}
    base = tmp_path_factory.mktemp("roots")

    def make(suite: str, architecture: str) -> Path:
        key = (suite, architecture)
        if key not in made:
            path = base / "-".join(key)
            try:
                debian.Suite(suite, architecture, base).unpack(["python3"], path, True)
            except (debian.DebianError, subprocess.TimeoutExpired) as error:
                pytest.skip(f"Debian {suite} for {architecture} cannot be had: {error}")
            (path / "tmp").mkdir(exist_ok=True)
            made[key] = path
        return made[key]

    yield make
    for path in made.values():
        shutil.rmtree(path)
