"""The parts of the sync benchmarks that tests use, too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.processes import TAG_VARIABLE
from tests.support.rays import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_arms


def test_server_that_a_build_leaves_is_not_taken_for_a_process_of_the_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bazel"
    fake.write_text("#!/bin/sh\nenv\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv(TAG_VARIABLE, "run-1")
    variables = sync_arms.bazel("build").splitlines()
    assert f"{TAG_VARIABLE}=run-1" not in variables
    assert any(each.startswith("PYTHON_BIN_PATH=") for each in variables)
