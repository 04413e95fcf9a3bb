"""Clusters in the middle of a roll-out: one node has Mantaray, the other has a Ray without it.

The stock node runs in an environment into which Mantaray cannot be imported. Drivers of both
environments do the work. docs/mixed-clusters.md says what is expected, and follows for operators.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import planted
from tests.support.cluster import Cluster
from tests.support.profiled import Answer, Worker, get, start_workers
from tests.support.rays import RayEnv, find_ray, find_stock_ray, short_directory
from tests.support.relays import RelayAdmin, RelayProcess, heads_relay, wait_until
from tests.support.smoke_nodes import GRACE_PERIOD, environment_of, leave_old_log, raylet_of

PROGRAMS = Path(__file__).with_name("programs")
STORE_BYTES = 80_000_000
# Triggers come as fast as the programs ask for them.
SYSTEM_CONFIG = {"local_gc_min_interval_s": 0, "global_gc_min_interval_s": 0}
# One cluster does all of the work; see the smoke.
pytestmark = pytest.mark.timeout(3_600)
# The age lets a patched head start its helper for old logs; nothing gets that old.
VARIABLES = {"RAY_DASHBOARD_ENABLE_PROFILING": "1", "MANTARAY_LOG_RETENTION_AGE_S": "86400"}
ARRANGEMENTS = [
    pytest.param((version, patched), id=f"ray-{version}-patched-{patched}", marks=pytest.mark.slow)
    for version in ("2.48.0", "2.60.0")
    for patched in ("head", "worker")
]


@dataclass(frozen=True)
class Mixed:
    """A cluster of two nodes, and what has happened in it.

    Attributes:
        patched: which node has Mantaray, "head" or "worker".
        carried: how many nodes stream through the relay.
        drivers: what programs/mixed.py saw, with a patched driver and with a stock one.
        jobs: what programs/mixed_jobs.py saw, by node.
        tracebacks: of a worker on each node, by its address: what came, and the worker.
        grace_periods: Ray's `oom_grace_period_s` in the raylet of each node; None where it is unset.
        kept_old_log: whether a log past the limit was still there at the end. The nodes share a directory.
        took: the processes that took modules from the directory in which the nodes were started.
    """

    patched: str
    carried: int
    drivers: dict[str, Any]
    jobs: dict[str, Any]
    tracebacks: dict[str, tuple[Answer, Worker]]
    grace_periods: dict[str, str | None]
    kept_old_log: bool
    took: list[str]


@contextlib.contextmanager
def mixed_cluster(
    ours: RayEnv, stock: RayEnv, patched: str
) -> Iterator[tuple[Cluster, RelayAdmin]]:
    """Start a head and, behind a relay, a worker node; one of them has Mantaray."""
    # Only a patched head starts a relay of its own.
    relay, admin, through = heads_relay()
    head, worker = (ours, stock) if patched == "head" else (stock, ours)
    with contextlib.ExitStack() as stack:
        cluster = Cluster(
            head,
            dashboard=True,
            store_bytes=STORE_BYTES,
            system_config=SYSTEM_CONFIG,
            variables=VARIABLES | relay,
        )
        planted.plant(cluster.root)
        stack.enter_context(cluster)
        if patched == "worker":
            root = stack.enter_context(short_directory())
            process = stack.enter_context(RelayProcess(ours, cluster.address, root))
            admin, through = process, process.address
        cluster.add_node(env=worker, through=through)
        yield cluster, admin


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def mixed(request: pytest.FixtureRequest) -> Mixed:
    """What one cluster has shown, for all tests of an arrangement."""
    version, patched = request.param
    ours, stock = find_ray(version), find_stock_ray(version)
    with mixed_cluster(ours, stock, patched) as (cluster, admin):
        old_log = leave_old_log(cluster)
        wait_until(lambda: admin.carried() == 1)
        address = {"RAY_ADDRESS": cluster.address}
        drivers = {
            name: env.run_program(PROGRAMS / "mixed.py", [cluster.spill_directories[0]], address)
            for name, env in (("patched", ours), ("stock", stock))
        }
        addresses = dict(zip(("head", "worker"), (n.address for n in cluster.nodes), strict=True))
        jobs = cluster.run_program(
            PROGRAMS / "mixed_jobs.py", [cluster.dashboard_url, *addresses.values()]
        )
        workers = start_workers(cluster, "first", "second")
        tracebacks = {}
        for (name, ip), worker in zip(addresses.items(), workers, strict=True):
            url = f"{cluster.dashboard_url}/worker/traceback?pid={worker.pid}&ip={ip}"
            tracebacks[name] = (get(url), worker)
        # Shows that the trap works.
        command = [str(ours.python), "-m", "mantaray.spill.clean_main"]
        subprocess.run(command, cwd=cluster.root, env=ours.environment(), check=True)
        return Mixed(
            patched,
            admin.carried(),
            drivers,
            {name: jobs[ip] for name, ip in addresses.items()},
            tracebacks,
            {
                name: environment_of(raylet_of(cluster, number)).get(GRACE_PERIOD)
                for number, name in enumerate(addresses)
            },
            old_log.exists(),
            planted.takers(cluster.root),
        )


def test_one_node_has_mantaray_and_the_other_has_not(mixed: Mixed) -> None:
    for name, seen in mixed.drivers.items():
        assert seen["driver"] == (name == "patched")
        assert seen["ours"] == {node: node == mixed.patched for node in ("head", "worker")}


def test_each_node_reads_what_the_other_spilled(mixed: Mixed) -> None:
    for seen in mixed.drivers.values():
        for node in ("head", "worker"):
            assert seen[node]["spill"]["spilled_bytes"] > 0
            assert seen[node]["spill"]["intact"], (node, seen)


def test_disk_of_the_patched_node_follows_live_bytes_beside_a_stock_node(mixed: Mixed) -> None:
    for seen in mixed.drivers.values():
        assert seen[mixed.patched]["spill"]["bounded"], seen
        assert seen[mixed.patched]["spill"]["emptied"], seen


def test_triggers_release_garbage_on_both_nodes(mixed: Mixed) -> None:
    for seen in mixed.drivers.values():
        assert seen["head"]["collected"] and seen["worker"]["collected"]


def test_finalizer_waits_for_a_borrower_on_a_stock_node(mixed: Mixed) -> None:
    for seen in mixed.drivers.values():
        assert seen[mixed.patched]["finalized"] == [False, 1]
    for node in ("head", "worker"):
        assert mixed.drivers["patched"][node]["finalized_in_driver"] == [False, 1]


def test_jobs_of_both_nodes_show_their_message_and_whole_log(mixed: Mixed) -> None:
    for node, job in mixed.jobs.items():
        assert "FAILED" in job["status"], (node, job)
        assert job["end"] == "x" * 19 + "y", (node, job)
        assert job["whole"], (node, job)
    assert mixed.jobs["head"]["ran_on"] != mixed.jobs["worker"]["ran_on"]


def test_profiling_link_by_address_reaches_workers_of_both_nodes(mixed: Mixed) -> None:
    for answer, worker in mixed.tracebacks.values():
        assert answer.status == 200, answer.text
        assert worker.frame in answer.text


def test_only_the_raylet_of_the_patched_node_gets_values_for_its_spilling_knobs(
    mixed: Mixed,
) -> None:
    assert {name for name, value in mixed.grace_periods.items() if value} == {mixed.patched}


def test_old_logs_go_while_one_node_removes_them(mixed: Mixed) -> None:
    assert not mixed.kept_old_log


def test_node_joins_through_a_relay(mixed: Mixed) -> None:
    assert mixed.carried == 1


def test_no_helper_takes_modules_from_where_the_node_was_started(mixed: Mixed) -> None:
    """The head's helpers look for left-over spill files, keep the relay running, and remove old logs."""
    ours = [command for command in mixed.took if " mantaray." in command]
    assert ours, "the trap works"
    assert all(" -m mantaray.spill.clean_main" in command for command in ours), ours
