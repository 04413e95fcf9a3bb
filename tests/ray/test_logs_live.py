"""Job logs that are hard to read or very long, in live clusters of both Rays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.job_logs import run_job, servers
from tests.support.rays import RayEnv

PROGRAMS = Path(__file__).with_name("programs")
LARGE_BYTES = 100_000_000


def whole_logs(cluster: Cluster, parts: str, size_bytes: int = LARGE_BYTES) -> Any:
    """Run the program about whole logs; return what it has seen."""
    job, log = run_job(cluster)
    pids = {name: process.pid for name, process in servers(cluster).items()}
    texts = [json.dumps(pids), str(size_bytes), parts]
    arguments = [cluster.dashboard_url, job, str(log), *texts]
    seen = cluster.run_program(PROGRAMS / "logs_whole.py", arguments, timeout_s=800)
    print(seen)
    return seen


@pytest.fixture(scope="module")
def cluster(ray_env: RayEnv) -> Iterator[Cluster]:
    """One cluster for all tests of this file with one Ray."""
    with Cluster(ray_env, num_cpus=1, dashboard=True) as started:
        yield started


@pytest.fixture(scope="module")
def ours(cluster: Cluster) -> Any:
    """What requests for whole logs have shown; at their end the cluster has lost its agent."""
    return whole_logs(cluster, "answers,bounds,lost")


def followed(cluster: Cluster, parts: str, short_jobs: int = 0) -> Any:
    """Run the program that follows logs; return what it has seen."""
    run_job(cluster)
    (logs,) = cluster.root.glob("t/session_2*/logs")
    arguments = [cluster.dashboard_url, str(logs), parts, str(short_jobs)]
    seen = cluster.run_program(PROGRAMS / "logs_following.py", arguments, timeout_s=800)
    print(seen)
    return seen


@pytest.mark.slow
def test_followed_log_loses_no_line_when_it_is_renamed_and_shows_lines_of_any_width(
    cluster: Cluster,
) -> None:
    """Stock Ray ends the WebSocket at the wide line with code 1009, and shows nothing."""
    seen = followed(cluster, "renamed,wide,short", short_jobs=5)
    assert seen["renamed"] == [f"line {number}" for number in range(60)]
    assert seen["wide"] == {"x": 6_000, "end": "50000 of 50000", "bars": 50_000}
    assert seen["short"] == 5


@pytest.mark.slow
def test_last_line_of_100_short_jobs_is_shown_though_it_has_no_end(cluster: Cluster) -> None:
    assert followed(cluster, "short", short_jobs=100)["short"] == 100


def test_message_of_a_job_that_printed_2_gb_in_one_line_arrives(cluster: Cluster) -> None:
    run_job(cluster)
    raylet = str(cluster.pids("raylet")[0])
    arguments = [cluster.dashboard_url, raylet, str(cluster.root), "2000"]
    seen = cluster.run_program(PROGRAMS / "logs_jobs.py", arguments)
    print(seen)
    jobs = seen["jobs"]
    for job in jobs.values():
        assert "FAILED" in job["status"]
        # Stock Ray takes minutes, or all of the memory. Any job takes a while on a slow machine.
        assert job["after_s"] < 20 + jobs["silent"]["after_s"]
    assert seen["memory_mb"] < 500
    assert 20_000 <= jobs["endless"]["chars"] < 20_500
    assert jobs["endless"]["end"] == "x" * 59 + "y"
    assert jobs["bars"]["end"].endswith("start\n19999 of 20000")
    assert jobs["bars"]["chars"] < 500
    # A line or two of Ray's own.
    assert jobs["silent"]["end"].endswith("\n")
    assert jobs["silent"]["chars"] < 1000


def test_whole_logs_are_answered_as_they_are(ours: Any) -> None:
    assert ours["job's own"].endswith('hello\\n"}')
    assert ours["large"] == ours["expected"]
    assert ours["empty"][0] == ours["line ends"][0] == ours["controls"][0] == 200
    assert ours["no text"][0] == ours["cut off"][0] == 500
    assert "position 500000: invalid start byte" in ours["no text"][2]
    assert ours["client"]
    assert ours["command"]


def test_whole_log_is_never_held_in_memory(ours: Any) -> None:
    assert ours["growing"]
    # Stock Ray holds it several times over.
    assert max(*ours["fast_mb"].values(), *ours["slow_mb"].values()) < 60
    assert ours["closed behind a client that left"]
    assert ours["at once"] == [ours["expected"][2:]] * 3
    assert ours["cut short"] in ("IncompleteRead", "ConnectionError")


def test_whole_logs_are_answered_as_by_stock_ray(ray_env: RayEnv, ours: Any) -> None:
    variables = {"MANTARAY_PATCHES": "-joblogs"}
    with Cluster(ray_env, num_cpus=1, dashboard=True, variables=variables) as cluster:
        stock = whole_logs(cluster, "answers,lost")
    # What a job of another cluster printed, and what stock Ray makes of an agent that dies meanwhile.
    for each in stock.keys() - {"job's own", "cut short"}:
        assert ours[each] == stock[each], each


@pytest.mark.slow
def test_whole_log_of_5_gb(ray_env: RayEnv) -> None:
    with Cluster(ray_env, num_cpus=1, dashboard=True) as cluster:
        seen = whole_logs(cluster, "huge", 5_000_000_000)
    assert seen["large"] == seen["expected"]
    assert max(seen["fast_mb"].values()) < 60
