"""A head that is gone for good: nodes behind a relay end as nodes without one do, and when they do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import Cluster, Node
from tests.support.rays import RayEnv
from tests.support.relays import RelayProcess, add_nodes, wait_until

# A cluster of its own; what the relay itself does is in test_relay_parts_live.py.
pytestmark = pytest.mark.slow

# Ray waits 60 s for a GCS if it is told nothing else.
RAY_WAITS_S = 10
# What a relay may add to that.
ADDED_S = 10.0


def raylet(cluster: Cluster, node: Node) -> psutil.Process:
    """Return a node's raylet."""
    mark = f"--node_ip_address={node.address}"
    return next(p for p in cluster.processes("raylet") if mark in p.cmdline())


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_relay_does_not_hide_that_the_head_is_gone_for_good(
    ray_env: RayEnv, tmp_path: Path
) -> None:
    wait = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(RAY_WAITS_S)}
    with Cluster(ray_env, num_cpus=1, variables=wait) as cluster:
        direct = cluster.add_node()
        with RelayProcess(ray_env, cluster.address, tmp_path) as relay:
            behind = add_nodes(cluster, relay, ["behind"])["behind"]
            raylets = {"direct": raylet(cluster, direct), "behind": raylet(cluster, behind)}
            ended_s: dict[str, float] = {}
            for pid in (*cluster.pids("gcs"), raylet(cluster, cluster.nodes[0]).pid):
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()

            def look() -> bool:
                for name, process in raylets.items():
                    if name not in ended_s and is_gone(process):
                        ended_s[name] = time.monotonic() - killed
                return len(ended_s) == len(raylets)

            assert wait_until(look), (ended_s, relay.log.read_text(), cluster.logs())
            assert ended_s["behind"] < ended_s["direct"] + ADDED_S, ended_s
            assert ended_s["behind"] >= RAY_WAITS_S, ended_s
            # The relay itself stays, says why, and is ready when a head is.
            assert relay.answer("/healthz") == 200
            assert relay.answer("/readyz") == 503
            assert relay.metric("mantaray_relay_listening") == 0
            assert relay.told("upstream is gone: closing the listener and every connection") == 1
            print(f"ended after, in s: {ended_s}")
