"""Two active relays behind one address, on both Rays: one dies every 20 s, and nothing is lost.

Kubernetes would do the same: a Service sends each connection to one of two pods, a pod dies with its
host, and its connections go to the other one.
"""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.rays import RayEnv, short_directory
from tests.support.relays import RelayPair, add_nodes, dialect_of

PROGRAM = Path(__file__).with_name("programs") / "relay_pair.py"
NODES = ("n0", "n1", "n2", "n3")
WORK_S = 120
KILL_EVERY_S = 20
# How long the place of a killed relay stays empty.
GONE_S = 5
# A raylet whose stream broke connects again after two seconds (Ray's own constant), and the machine of
# a test may be busy. From then on the view has to follow.
RECONNECT_S = 6.0


def kill_in_turn(pair: RelayPair, kills: list[float], stop: threading.Event) -> None:
    """Kill one of the relays every 20 s, and start it again; note when, of the monotonic clock."""
    for relay in itertools.cycle(pair.relays):
        if stop.wait(KILL_EVERY_S - GONE_S):
            return
        kills.append(time.monotonic())
        relay.kill()
        stopped = stop.wait(GONE_S)
        relay.start()
        if stopped:
            return


def work_while_relays_die(env: RayEnv, work_s: int) -> tuple[dict[str, Any], list[float]]:
    """Return what the work says, and when relays were killed, in seconds since the work began."""
    kills: list[float] = []
    stop = threading.Event()
    with (
        short_directory() as root,
        Cluster(env, num_cpus=1) as cluster,
        RelayPair(env, cluster.address, root) as pair,
    ):
        add_nodes(cluster, pair, NODES, amount=100)
        # Both have nodes, or the test would show less than it says.
        killer = threading.Thread(target=kill_in_turn, args=(pair, kills, stop))
        killer.start()
        try:
            arguments = [dialect_of(env), str(work_s), *NODES]
            seen = cluster.run_program(PROGRAM, arguments, timeout_s=work_s + 400)
        finally:
            stop.set()
            killer.join()
    return seen, [at - seen["start"] for at in kills]


def lags_apart_from_reconnects(seen: dict[str, Any], kills: list[float]) -> list[float]:
    """Return how late the views were, in seconds, of all that began when all nodes were connected."""
    return [
        lag
        for steps in seen["lags"].values()
        for began, lag in steps
        if not any(-1 < began - at < RECONNECT_S for at in kills)
    ]


@pytest.mark.slow
def test_the_death_of_one_of_two_relays_loses_no_node_and_no_task(ray_env: RayEnv) -> None:
    seen, kills = work_while_relays_die(ray_env, WORK_S)
    during = [at for at in kills if 0 < at < WORK_S]
    assert len(during) >= WORK_S // KILL_EVERY_S - 2
    assert seen["rounds"] > WORK_S / 20
    assert (seen["lost"], seen["failed_steps"], seen["nodes_lost"]) == (0, 0, 0)
    lags = sorted(lags_apart_from_reconnects(seen, kills))
    assert len(lags) > WORK_S / 2
    # The median tells of the relays, the last percent of a machine with much else to do.
    assert lags[len(lags) // 2] < 2.0, lags
