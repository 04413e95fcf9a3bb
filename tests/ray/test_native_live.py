"""A node whose native module is missing or unusable: patches are refused, and Ray runs as it came.

Every cluster runs a copy of the installed Mantaray, first on PYTHONPATH, in which the module is damaged.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.damaged_native import DAMAGES, copy_mantaray, damage, native_file
from tests.support.rays import RayEnv, short_directory

# What a normal run does. It tries the other kinds without Ray, in tests/unit/overlay.
_USUAL = ("zeroed_in_the_middle",)

SPILL = '''
"""A driver that makes its node spill and restore; prints whether all was intact, and what lies in the
directories that are its arguments."""

import glob, json, os, sys
import numpy, ray

ray.init(log_to_driver=False)
refs = [ray.put(numpy.full(1 << 20, i % 251, dtype=numpy.uint8)) for i in range(150)]
intact = all((ray.get(ref) == i % 251).all() for i, ref in enumerate(refs))


@ray.remote
def square(number):
    return number * number


squares = ray.get([square.remote(i) for i in range(4)])
paths = [path for place in sys.argv[1:] for path in glob.glob(place + "/ray_spilled_objects*/*")]
files = [os.path.basename(path) for path in paths]
print(json.dumps({"intact": intact, "squares": squares, "files": files}))
'''

LOCAL = '''
"""A program that starts a cluster of its own; prints whether it works."""

import json, sys
import numpy, ray

ray.init(address="local", num_cpus=1, object_store_memory=80_000_000, include_dashboard=False,
         _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1] + "/ray")
refs = [ray.put(numpy.full(1 << 20, i % 251, dtype=numpy.uint8)) for i in range(150)]
print(json.dumps(all((ray.get(ref) == i % 251).all() for i, ref in enumerate(refs))))
ray.shutdown()
'''


def kinds() -> list[Any]:
    """Return every kind of damage; most of them are slow tests."""
    marks = {kind: () if kind in _USUAL else pytest.mark.slow for kind in DAMAGES}
    return [pytest.param(kind, marks=mark) for kind, mark in marks.items()]


def copy_into(ray_env: RayEnv, root: Path) -> tuple[Path, dict[str, str]]:
    """Copy the environment's Mantaray; return the copy and the variables that make processes use it."""
    (installed,) = ray_env.root.glob("lib/python3*/site-packages/mantaray")
    copy = copy_mantaray(installed, root / "copy")
    reports = str(root / "reports")
    return copy, {"PYTHONPATH": str(copy.parent), "MANTARAY_REPORT_DIR": reports}


def spill_reports(root: Path) -> list[dict[str, Any]]:
    """Return what each process reported of the spill patch, with its command line."""
    reports = [json.loads(path.read_text()) for path in (root / "reports").glob("*.json")]
    return [{"argv": " ".join(r["argv"]), **r["patches"]["spill"]} for r in reports]


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_node_runs_as_it_came(ray_env: RayEnv, kind: str) -> None:
    with short_directory() as root:
        copy, variables = copy_into(ray_env, root)
        words = damage(copy, kind)
        with Cluster(ray_env, variables=variables) as cluster:
            told = cluster.run_program(SPILL)
            said = [line for line in cluster.logs().splitlines() if "mantaray: spill " in line]
            reports = spill_reports(root)
    assert told == {"intact": True, "squares": [0, 1, 4, 9], "files": []}
    (line,) = said
    assert line.startswith("mantaray: spill is not attached: ")
    assert words in line
    assert line.endswith("Ray runs as it came (see `mantaray doctor`)")
    for part in ("/ray start", "--worker-type=SPILL_WORKER", "default_worker.py"):
        found = [report for report in reports if part in report["argv"]]
        assert found, f"no process with {part}"
        assert all(report["state"] == "refused" for report in found), found
        assert all(words in report["why"] for report in found), found


@pytest.mark.slow
def test_driver_that_starts_its_own_cluster_runs_as_it_came(ray_env: RayEnv) -> None:
    with short_directory() as root:
        copy, variables = copy_into(ray_env, root)
        words = damage(copy, "another_libc")
        done = ray_env.run(LOCAL, [root], variables)
    assert done.told is True
    (line,) = [line for line in done.stderr.splitlines() if "mantaray: spill " in line]
    assert words in line


@pytest.mark.slow
def test_module_damaged_while_the_node_runs_leaves_rays_own_storage(ray_env: RayEnv) -> None:
    """The node has prepared its IO workers for Mantaray's storage, with several directories."""
    with short_directory() as root:
        copy, variables = copy_into(ray_env, root)
        directories = [root / "one", root / "two"]
        with Cluster(ray_env, variables=variables, spill_directories=directories) as cluster:
            words = damage(copy, "zeroed_in_the_middle")
            told = cluster.run_program(SPILL, directories)
            reports = spill_reports(root)
    assert told["intact"]
    assert told["files"]
    assert all(re.fullmatch(r"[0-9a-f]{32}-multi-\d+", name) for name in told["files"]), told
    workers = [r for r in reports if "_WORKER" in r["argv"] and "--worker-type" in r["argv"]]
    assert workers
    for report in workers:
        assert report["state"] == "refused", report
        assert words in report["why"]


@pytest.mark.slow
def test_doctor_refuses_the_patch_and_names_the_cause(ray_env: RayEnv) -> None:
    with short_directory() as root:
        copy, variables = copy_into(ray_env, root)
        assert native_file(copy).exists()
        words = damage(copy, "another_libc")
        program = """
import json, subprocess, sys
done = subprocess.run([sys.prefix + "/bin/mantaray", "doctor", "--json"], capture_output=True, text=True)
print(json.dumps([done.returncode, json.loads(done.stdout)["patches"]]))
"""
        status, patches = ray_env.run_program(program, env=variables)
    states = {patch["name"]: patch for patch in patches}
    assert status == 1
    assert states["spill"]["state"] == "refused"
    assert words in states["spill"]["why"]
    # These need the module, refcount on affected releases only.
    needing = ("spill", "direct", "refcount", "nesting")
    others = {name: patch["state"] for name, patch in states.items() if name not in needing}
    assert set(others.values()) <= {"active", "native"}
