"""Relays between four raylets and the GCS, on both Rays: one level of them, then two, and what dies.

One cluster serves all tests of a Ray, in the order in which they stand here. It begins with a relay
that stands between its four raylets and the GCS. Later that relay is killed and comes back below the
head's own relay (MANTARAY_RELAY_PORT), which makes two levels; then relays, the GCS and a raylet die.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.cluster import Cluster, Node
from tests.support.rays import RayEnv, short_directory
from tests.support.relays import (
    RelayAdmin,
    RelayProcess,
    Wire,
    add_nodes,
    dialect_of,
    gcs_store,
    has_embedded_store,
    heads_relay,
    restart_gcs,
    wait_until,
)

PROGRAMS = Path(__file__).with_name("programs")
# So that a test need not wait for long.
WINDOW_MS = 25
OPTIONS = ("--grace-ms=3000", f"--window-ms={WINDOW_MS}", "--upstream-timeout-ms=600000")
NODES = ("n0", "n1", "n2", "n3")
# The best of a few rounds shows what the relays themselves take: the window, and slack for Ray, which
# reports every 100 ms. Single rounds may meet a machine with much else to do.
BEST_WITHIN_MS = WINDOW_MS + 500
SEEN_WITHIN_MS = 10_000


@dataclass
class Tree:
    """A head with a relay of its own, and four nodes behind another one.

    Attributes:
        cluster: the head and its nodes.
        wire: the way from the nodes' relay to the GCS, as long as there is one level.
        lower: the relay that the nodes know.
        head: the head's own relay, which hangs above `lower` once there are two levels.
        head_address: of that relay, HOST:PORT.
        nodes: by name.
    """

    cluster: Cluster
    wire: Wire
    lower: RelayProcess
    head: RelayAdmin
    head_address: str
    nodes: dict[str, Node]
    _first: dict[str, Any] | None = None

    def raylet(self, name: str) -> psutil.Process:
        """Return a node's raylet."""
        mark = f"--node_ip_address={self.nodes[name].address}"
        return next(p for p in self.cluster.processes("raylet") if mark in p.cmdline())

    def work(self, mode: str, whole: bool = False) -> dict[str, Any]:
        """Run ordinary work; see programs/relay_work.py. `whole`: Serve, jobs and status, too."""
        arguments = [str(len(NODES) + 1), mode, *([self.cluster.dashboard_url] * whole)]
        told: dict[str, Any] = self.cluster.run_program(PROGRAMS / "relay_work.py", arguments)
        return told

    def first(self) -> dict[str, Any]:
        """Return what the first work said; do it now if it was not done."""
        if self._first is None:
            self._first = self.work("start", whole=True)
        return self._first

    def check_nothing_is_lost(self, whole: bool = False) -> dict[str, Any]:
        """Work, and see that all nodes take part and that every actor is the one from before."""
        before = self.first()
        after = self.work("check", whole)
        assert after["nodes"] == after["ran_on"] == len(NODES) + 1
        for old, new in zip(before["kept"], after["kept"], strict=True):
            assert new[: len(old)] == old
        return after

    def two_levels(self) -> None:
        """Put the head's relay between the nodes' relay and the GCS, if it is not there yet."""
        if self.lower.upstream == self.head_address:
            return
        self.first()
        self.lower.kill()
        # The nodes have to live without it for a while.
        time.sleep(3)
        self.lower.upstream = self.head_address
        self.lower.start()
        assert wait_until(lambda: self.lower.carried() == self.head.carried() == len(NODES)), (
            f"{self.lower.status()}\n{self.head.status()}"
        )

    def heads_relays(self) -> list[psutil.Process]:
        """Return the processes of the head's relay: one."""
        return [p for p in self.cluster.processes() if Path(p.name()).name == "mantaray-relay"]

    def heads_log(self) -> str:
        """Return what the head's relay said."""
        session = self.cluster.root / "t/session_latest/logs"
        return (session / "mantaray-relay.log").read_text()


@pytest.fixture(scope="module")
def tree(ray_env: RayEnv) -> Iterator[Tree]:
    """The cluster of this file."""
    relay, admin, through = heads_relay()
    own = {
        **relay,
        # Here an outage is bridged; test_relay_fence_live.py is about those that are not.
        "MANTARAY_RELAY_UPSTREAM_TIMEOUT_MS": "600000",
    }
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(short_directory())
        store = stack.enter_context(gcs_store(root, embedded=has_embedded_store(ray_env.version)))
        cluster = Cluster(ray_env, num_cpus=1, dashboard=True, variables=own | store)
        stack.enter_context(cluster)
        wire = Wire(cluster.address)
        lower = stack.enter_context(RelayProcess(ray_env, wire.address, root, OPTIONS))
        nodes = add_nodes(cluster, lower, NODES)
        yield Tree(cluster, wire, lower, admin, through, nodes)


def tree_as_told(tree: Tree, admin: str) -> str:
    """Return what `mantaray relay status` prints."""
    return subprocess.run(
        [str(tree.cluster.env.bin("mantaray")), "relay", "status", admin],
        env=tree.cluster.env.environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def assert_all_works(seen: dict[str, Any]) -> None:
    """See that tasks, actors, groups, `ray status`, Serve and a job did what they should."""
    assert seen["nodes"] == seen["ran_on"] == seen["in_status"] == len(NODES) + 1
    assert (seen["served"], seen["job"], seen["job_said"]) == (True, "SUCCEEDED", True)


def test_work_is_not_lost_behind_one_relay(tree: Tree) -> None:
    assert_all_works(tree.first())
    assert tree.lower.status()["upstream_connected"]
    assert tree.lower.metric('mantaray_relay_proxy_calls_total{code="OK"}') > 10
    assert tree.lower.answer("/healthz") == tree.lower.answer("/readyz") == 200
    assert tree_as_told(tree, tree.lower.admin).count("node ") >= len(NODES)


def test_hostile_streams_do_not_reach_the_gcs(tree: Tree) -> None:
    gcs = tree.cluster.pids("gcs")
    victim = next(s["node_id"] for s in tree.lower.streams() if not s["relay_id"])
    seen = tree.cluster.run_program(
        PROGRAMS / "relay_hostile.py", [tree.lower.address, dialect_of(tree.cluster.env), victim]
    )
    named = {"in the name of another": "PERMISSION_DENIED", "oversized": "RESOURCE_EXHAUSTED"}
    assert seen == {name: named.get(name, "INVALID_ARGUMENT") for name in seen}
    assert len(seen) == 13
    assert tree.lower.status()["refused"] >= len(seen)
    assert tree.cluster.pids("gcs") == gcs
    # Ordinary streams did not suffer.
    assert victim in {stream["node_id"] for stream in tree.lower.streams()}


def test_a_network_cut_above_the_relay_heals(tree: Tree) -> None:
    tree.first()
    connects = "mantaray_relay_sync_upstream_connects_total"
    before, taken = tree.lower.metric(connects), tree.lower.told("stream taken")
    tree.wire.cut()
    time.sleep(6)
    tree.wire.heal()
    assert wait_until(lambda: tree.lower.metric(connects) > before), tree.lower.status()
    tree.check_nothing_is_lost()
    # No raylet had to come again.
    assert tree.lower.told("stream taken") == taken


def test_a_killed_relay_kills_no_node_and_all_works_behind_two_levels(tree: Tree) -> None:
    tree.two_levels()
    assert_all_works(tree.check_nothing_is_lost(whole=True))
    # One stream carries them all.
    below = [stream["nodes"] for stream in tree.head.streams() if stream["relay_id"]]
    assert below == [len(NODES)]
    told = tree_as_told(tree, tree.head.admin)
    assert told.count("node ") >= len(NODES)
    assert told.index(f"relay {tree.head.status()['relay_id']}") < told.index(
        f"relay {tree.lower.status()['relay_id']}"
    )


def test_resources_taken_on_one_node_are_not_hidden_from_others(tree: Tree) -> None:
    tree.two_levels()
    seen = tree.cluster.run_program(
        PROGRAMS / "relay_views.py",
        [
            *(dialect_of(tree.cluster.env), "n3", str(tree.raylet("n2").pid)),
            *(tree.head_address, tree.lower.address),
        ],
    )
    assert seen["known"] == [True, True]
    # In the last round another node's raylet stood still.
    for one in seen["rounds"]:
        assert one["taken"] == one["given_back"] == [True, True]
    for what in ("taken_ms", "given_back_ms"):
        took_ms = [one[what] for one in seen["rounds"]]
        assert len(took_ms) == 5
        assert max(took_ms) < SEEN_WITHIN_MS, took_ms
        assert 0 < min(took_ms) < BEST_WITHIN_MS, took_ms
    assert seen["rising"]
    assert seen["heard"]
    assert not seen["echo"]


def test_a_killed_upper_relay_is_started_again_and_kills_no_node(tree: Tree) -> None:
    tree.two_levels()
    (relay,) = tree.heads_relays()
    relay.kill()
    assert wait_until(lambda: [p.pid for p in tree.heads_relays()] not in ([], [relay.pid]))
    assert wait_until(lambda: tree.head.carried() == len(NODES))
    tree.check_nothing_is_lost()


def test_a_restarted_gcs_gets_everything_back(tree: Tree) -> None:
    tree.two_levels()
    tree.first()
    connects = "mantaray_relay_sync_upstream_connects_total"
    before, taken = tree.head.metric(connects), tree.lower.told("stream taken")
    restart_gcs(tree.cluster)
    assert wait_until(lambda: tree.head.metric(connects) > before), tree.heads_log()
    tree.check_nothing_is_lost()
    # No raylet had to come again.
    assert tree.lower.told("stream taken") == taken


def test_a_killed_raylet_leaves_every_view(tree: Tree) -> None:
    tree.two_levels()
    ids = {stream["node_id"] for stream in tree.lower.streams()}
    tree.raylet("n3").kill()
    assert wait_until(lambda: tree.lower.carried() == len(NODES) - 1)
    (dead,) = ids - {stream["node_id"] for stream in tree.lower.streams()}
    # After the grace time both relays let go of it.
    assert wait_until(lambda: tree.head.carried() == len(NODES) - 1)
    addresses = [tree.lower.address, tree.head_address, tree.cluster.address]
    arguments = [dialect_of(tree.cluster.env), str(len(NODES)), *addresses]

    def shown() -> list[list[str]]:
        told: list[list[str]] = tree.cluster.run_program(PROGRAMS / "relay_late.py", arguments)
        return told

    for seen in shown()[:2]:
        assert len(seen) >= len(NODES)
        assert dead not in seen
    # A GCS that has just come back is given ten seconds to know better before it hears so.
    assert wait_until(lambda: dead not in shown()[2])
    tree.cluster.wait_for_nodes(len(NODES))


def test_a_relay_that_is_told_to_end_ends_in_good_order(tree: Tree) -> None:
    assert tree.lower.terminate() == 0
    assert tree.lower.told("ended") == 1


def test_the_heads_relay_does_not_outlive_it(tree: Tree) -> None:
    assert len(tree.heads_relays()) == 1
    for role in ("raylet", "gcs"):
        for pid in tree.cluster.pids(role):
            os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not tree.heads_relays())
