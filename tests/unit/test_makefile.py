"""What the Makefile's commands run, seen with stand-ins for the programs that they run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.rays import REPOSITORY

# What `make demo` runs, what reads figures and measures nothing, and a part of another one.
NOT_IN_BENCH = {"spill_demo", "sync_plan", "sync_figures", "results", "sync_groups_register"}
PROGRAMS = {
    path.stem
    for path in (REPOSITORY / "benchmarks").glob("*.py")
    if "\ndef main()" in path.read_text() and not path.stem.endswith("_workload")
}


def stand_in(tree: Path, name: str, commands: str) -> None:
    """Put a shell script where the Makefile expects a program."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)


def test_one_missed_target_keeps_no_other_benchmark_from_running(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    stand_in(tmp_path, "tools/setup", "exit 0")
    for python in (".venv/bin/python", ".venvs/ray-2.60.0/bin/python"):
        stand_in(tmp_path, python, 'echo "$1" >> ran; [ "$1" != benchmarks/overlay_startup.py ]')
    stand_in(tmp_path, "bazel", 'echo "$2" >> ran')
    done = subprocess.run(
        ["make", "bench", "BAZEL=./bazel"], cwd=tmp_path, capture_output=True, text=True
    )
    ran = (tmp_path / "ran").read_text().split()
    programs = [Path(each).stem for each in ran if each.startswith("benchmarks/")]
    assert sorted(programs) == sorted(PROGRAMS - NOT_IN_BENCH)
    assert "//src/mantaray/refcount:reference_counter_bench" in ran
    # The one that missed is named, and the whole is no success.
    assert done.returncode != 0
    assert "bench-overlay_startup" in done.stderr


def test_clean_leaves_nothing_of_the_example_behind(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    built = ("build", "dist", "python/mantaray.egg-info", ".pytest_cache", ".mypy_cache")
    example = (".pytest_cache", ".hypothesis", "knowledge_service.egg-info")
    for name in (*built, *(f"examples/knowledge/{each}" for each in example), ".venvs/knowledge"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
    empty = {"python", "examples", "examples/knowledge"}
    kept = empty | {"Makefile", ".venvs", ".venvs/knowledge"}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == kept
