"""Job logs that are hard to read or very long, in live clusters of both Rays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.job_logs import run_job, servers
from tests.support.rays import RayEnv, short_directory

PROGRAMS = Path(__file__).with_name("programs")


def test_message_of_a_job_that_printed_2_gb_in_one_line_arrives(ray_env: RayEnv) -> None:
    with short_directory() as root:
        seen = ray_env.run_program(PROGRAMS / "logs_jobs.py", [root, "2000"])
    print(seen)
    for job in seen.values():
        assert "FAILED" in job["status"]
        # Stock Ray takes minutes, or all of the memory.
        assert job["after_s"] < 20
        assert job["memory_mb"] < 500
    assert 20_000 <= seen["endless"]["chars"] < 20_500
    assert seen["endless"]["end"] == "x" * 59 + "y"
    assert seen["bars"]["end"].endswith("start\n19999 of 20000")
    assert seen["bars"]["chars"] < 500
    # A line or two of Ray's own.
    assert seen["silent"]["end"].endswith("\n")
    assert seen["silent"]["chars"] < 1000


def whole_logs(ray_env: RayEnv, part: str, size_bytes: int, **variables: str) -> Any:
    """Run the program about whole logs; return what it has seen."""
    with Cluster(ray_env, num_cpus=1, dashboard=True, variables=variables) as cluster:
        job, log = run_job(cluster)
        pids = {name: process.pid for name, process in servers(cluster).items()}
        texts = [json.dumps(pids), str(size_bytes), part]
        arguments = [cluster.dashboard_url, job, str(log), *texts]
        seen = cluster.run_program(PROGRAMS / "logs_whole.py", arguments, timeout_s=800)
    print(seen)
    return seen


def test_whole_logs_are_answered_as_by_stock_ray(ray_env: RayEnv) -> None:
    ours = whole_logs(ray_env, "answers", 100_000_000)
    stock = whole_logs(ray_env, "answers", 100_000_000, MANTARAY_PATCHES="-joblogs")
    for seen in (ours, stock):
        assert seen.pop("job's own").endswith('hello\\n"}')
        assert seen["large"] == seen["expected"]
    assert ours == stock
    assert ours["no text"][0] == ours["cut off"][0] == 500
    assert "position 500000: invalid start byte" in ours["no text"][2]


def test_whole_log_is_never_held_in_memory(ray_env: RayEnv) -> None:
    seen = whole_logs(ray_env, "bounds", 150_000_000)
    assert seen["growing"]
    assert seen["large"] == seen["expected"]
    # Stock Ray holds it several times over.
    assert max(*seen["fast_mb"].values(), *seen["slow_mb"].values()) < 60
    assert seen["closed behind a client that left"]
    assert seen["at once"] == [seen["expected"][2:]] * 3
    assert seen["cut short"] in ("IncompleteRead", "ConnectionError")


@pytest.mark.slow
def test_whole_log_of_5_gb(ray_env: RayEnv) -> None:
    seen = whole_logs(ray_env, "huge", 5_000_000_000)
    assert seen["large"] == seen["expected"]
    assert max(seen["fast_mb"].values()) < 60
