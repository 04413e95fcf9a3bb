"""A real Ray that is not what the spill patch was written for: refused, said once, Ray runs on.

The altered Ray is a copy (of hard links) of the installed package, first on PYTHONPATH, in which
one file is another.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import RayEnv, short_directory

PROGRAM = '''
"""Runs a task and spills; prints what Ray did."""

import json, sys
import numpy, ray

ray.init(address="local", num_cpus=2, object_store_memory=80_000_000, include_dashboard=False,
         _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1] + "/ray")


@ray.remote
def square(number):
    return number * number


squares = ray.get([square.remote(number) for number in range(4)])
refs = [ray.put(numpy.full(1 << 20, i % 251, dtype=numpy.uint8)) for i in range(150)]
intact = all((ray.get(ref) == i % 251).all() for i, ref in enumerate(refs))

from pathlib import Path
session = Path(sys.argv[1], "ray", "session_latest").resolve()
spilled = [str(p) for p in session.glob("ray_spilled_objects*/*") if p.is_file()]
ray.shutdown()
said = [line for log in (session / "logs").rglob("*") if log.is_file()
        for line in log.read_text(errors="replace").splitlines() if line.startswith("mantaray:")]
print(json.dumps({"ray": ray.__file__, "squares": squares, "intact": intact,
                  "spilled": len(spilled), "said_in_logs": said}))
'''


@dataclass(frozen=True)
class Run:
    """What became of a program that ran on an altered Ray."""

    copy: Path
    told: dict[str, Any]
    stderr: str
    reports: list[dict[str, Any]]


def link_or_copy(source: str, target: str) -> None:
    """Link a file, or copy it where the target is on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def alter(path: Path, function: str) -> None:
    """Give a function of a module one more statement; the file is made anew, links stay whole."""
    source = path.read_text()
    (node,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    last = node.body[-1]
    lines = source.splitlines(keepends=True)
    lines.insert(last.lineno - 1, " " * last.col_offset + "altered_by_a_test = True\n")
    path.unlink()
    path.write_text("".join(lines))


@pytest.fixture(scope="module")
def run(ray_env: RayEnv) -> Iterator[Run]:
    """A cluster of an altered Ray that has worked and spilled, and has ended."""
    (installed,) = ray_env.root.glob("lib/python3*/site-packages/ray")
    with short_directory() as directory:
        copy = directory / "altered" / "ray"
        shutil.copytree(installed, copy, copy_function=link_or_copy, symlinks=True)
        alter(copy / "_private" / "external_storage.py", "setup_external_storage")
        reports = directory / "reports"
        done = ray_env.run(
            PROGRAM,
            [directory],
            {"PYTHONPATH": str(copy.parent), "MANTARAY_REPORT_DIR": str(reports)},
        )
        written = [json.loads(path.read_text()) for path in reports.glob("*.json")]
        yield Run(copy, done.told, done.stderr, written)


def test_the_altered_ray_ran_tasks_and_spilled_as_it_came(run: Run) -> None:
    assert Path(run.told["ray"]).parent == run.copy
    assert run.told["squares"] == [0, 1, 4, 9]
    assert run.told["intact"]
    assert run.told["spilled"] > 0


def test_the_patch_was_refused_in_every_process(run: Run) -> None:
    refused = []
    for report in run.reports:
        spill = report["patches"]["spill"]
        # A process that never imports the altered module, or ended before, goes on waiting for it.
        assert spill["state"] in ("refused", "armed"), report
        if spill["state"] == "refused":
            assert "external_storage:setup_external_storage is not what" in spill["why"]
            refused.append(" ".join(report["argv"]))
    for part in ("program.py", "default_worker.py", "--worker-type=SPILL_WORKER"):
        assert any(part in command for command in refused), f"{part} not among {refused}"


def test_one_line_says_so_for_the_whole_cluster(run: Run) -> None:
    said = [line for line in run.stderr.splitlines() if "mantaray:" in line]
    assert len(said) == 1, run.stderr
    assert said[0].startswith("mantaray: spill is not attached: ray._private.external_storage:")
    assert said[0].endswith("Ray runs as it came (see `mantaray doctor`)")
    assert run.told["said_in_logs"] == []
