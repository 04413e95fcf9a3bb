"""The harness itself, on both Rays: clusters start, spill as stock does, and leave nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support import disks, processes
from tests.support.cluster import STORE_BYTES, Cluster
from tests.support.rays import RayEnv, new_tag

STOCK = {"MANTARAY_DISABLE": "1"}
OBJECT_BYTES = 10_000_000
OBJECTS = 30

SPILL_PROGRAM = f"""
import json, os, sys
import numpy as np
import ray

ray.init(log_to_driver=False)

@ray.remote
def double(number):
    return 2 * number

refs = [ray.put(np.full({OBJECT_BYTES}, number, dtype=np.uint8)) for number in range({OBJECTS})]
spilled = [os.path.join(place, name) for place, _, names in os.walk(sys.argv[1]) for name in names]
print(json.dumps({{
    "doubled": ray.get(double.remote(21)),
    "spilled_bytes": sum(os.path.getsize(path) for path in spilled),
    "fused": all("-multi-" in path for path in spilled),
    "intact": all(bool((ray.get(ref) == number).all()) for number, ref in enumerate(refs)),
    "ray": ray.__version__,
}}))
"""


def test_a_cluster_spills_past_its_store_and_leaves_nothing(ray_env: RayEnv) -> None:
    with Cluster(ray_env, variables=STOCK) as cluster:
        root = cluster.root
        said = cluster.run_program(SPILL_PROGRAM, cluster.spill_directories)
        # At most the store itself is not on disk. "-multi-" is in the name of stock's fused files.
        assert said.pop("spilled_bytes") >= OBJECTS * OBJECT_BYTES - STORE_BYTES
        assert said == {"doubled": 42, "fused": True, "intact": True, "ray": ray_env.version}
        roles = {processes.role_of(process) for process in cluster.processes()}
        assert {"gcs", "raylet", "spill_worker", "restore_worker", "log_monitor"} <= roles
        assert len(cluster.pids("raylet")) == 1
        everything = cluster.processes()
    assert not root.exists()
    assert not [p for p in everything if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_two_raylets_have_addresses_of_their_own(ray_env: RayEnv) -> None:
    program = """
import json, ray
ray.init(log_to_driver=False)

@ray.remote(resources={"second": 1})
def where():
    return ray.util.get_node_ip_address()

print(json.dumps(ray.get(where.remote())))
"""
    with Cluster(ray_env, num_cpus=1, variables=STOCK) as cluster:
        second = cluster.add_node(resources={"second": 1})
        assert cluster.run_program(program) == second.address == "127.0.0.3"
        assert len(cluster.pids("raylet")) == 2


def test_a_program_that_fails_shows_what_it_said(ray_env: RayEnv) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)status 3.*spoken.*complained"):
        ray_env.run_program(
            "import sys; print('spoken'); print('complained', file=sys.stderr); sys.exit(3)"
        )


def test_a_program_that_hangs_is_killed_with_its_children(ray_env: RayEnv, tmp_path: Path) -> None:
    program = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    note = tmp_path / "pid"
    # One that had not begun yet when it was killed shows nothing.
    for timeout_s in (2, 20, 200):
        with pytest.raises(pytest.fail.Exception, match=f"did not end within {timeout_s} s"):
            ray_env.run_program(program, timeout_s=timeout_s)
        if note.exists() and note.read_text():
            break
    assert not psutil.pid_exists(int(note.read_text()))


def test_a_program_that_leaves_a_process_fails(ray_env: RayEnv) -> None:
    program = """
import subprocess
subprocess.Popen(["sleep", "600"], start_new_session=True)
print("{}")
"""
    with pytest.raises(pytest.fail.Exception, match=r"(?s)left processes.*sleep 600"):
        ray_env.run(program, left_timeout_s=2)


def test_only_processes_with_the_tag_are_found() -> None:
    tag, other = new_tag(), new_tag()
    started = [
        subprocess.Popen(["sleep", "600"], env=os.environ | {processes.TAG_VARIABLE: value})
        for value in (tag, f"{tag}.1", f"{tag}1", other)
    ]
    try:
        assert {p.pid for p in processes.find(tag)} == {started[0].pid, started[1].pid}
        assert processes.stop_all(tag) == []
        assert [child.poll() for child in started[2:]] == [None, None]
    finally:
        for child in started:
            child.kill()
            child.wait()


@pytest.mark.needs_root
@pytest.mark.parametrize("make_disk", [disks.small_tmpfs, disks.small_ext4])
def test_a_small_disk_is_full_when_it_is_full(make_disk) -> None:
    with make_disk(16 << 20) as directory:
        assert disks.free_bytes(directory) <= 16 << 20
        with pytest.raises(OSError, match="No space left"):
            (directory / "large").write_bytes(bytes(20_000_000))
        assert disks.free_bytes(directory) < 64 << 10
        mounted = directory
    assert not mounted.exists()
