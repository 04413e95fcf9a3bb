"""A head, a relay or a network that is gone for good: nodes behind a relay end as nodes without one do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import Cluster, Node
from tests.support.rays import RayEnv, short_directory
from tests.support.relays import RelayProcess, add_nodes, wait_until

# Clusters of their own; what the relay itself does is in test_relay_parts_live.py.
pytestmark = pytest.mark.slow

CUT = Path(__file__).with_name("programs") / "relay_cut_rack.py"
# Ray waits 60 s for a GCS if it is told nothing else.
RAY_WAITS_S = 10
WAIT = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(RAY_WAITS_S)}
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
    with Cluster(ray_env, num_cpus=1, variables=WAIT) as cluster:
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


def test_a_relay_that_is_gone_for_good_ends_its_nodes_as_a_dead_head_does(
    ray_env: RayEnv, tmp_path: Path
) -> None:
    with (
        Cluster(ray_env, num_cpus=1, variables=WAIT) as cluster,
        RelayProcess(ray_env, cluster.address, tmp_path) as relay,
    ):
        process = raylet(cluster, add_nodes(cluster, relay, ["behind"])["behind"])
        relay.kill()
        killed = time.monotonic()
        assert wait_until(lambda: is_gone(process)), cluster.logs()
        ended_s = time.monotonic() - killed
        print(f"ended after {ended_s:.1f} s")
        assert RAY_WAITS_S <= ended_s < RAY_WAITS_S + 2 * ADDED_S
        # The rest of the cluster goes on.
        cluster.wait_for_nodes(1)


def test_a_cut_rack_ends_no_later_with_a_relay_than_without(
    ray_env: RayEnv, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "--net", "true"]).returncode != 0:
        pytest.skip("needs root for networks of its own")
    # So that the GCS gives the cut nodes up before their raylets do.
    variables = WAIT | {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000"}
    with short_directory() as root:
        commands = [str(ray_env.bin("ray")), str(ray_env.bin("mantaray"))]
        seen = ray_env.run_program(CUT, [*commands, root], variables, timeout_s=900)
    print(f"ended during the cut after, in s: {seen['ended_s']}")
    behind_s, direct_s = seen["ended_s"]["behind"], seen["ended_s"]["direct"]
    assert behind_s is not None, seen
    assert behind_s >= RAY_WAITS_S, seen
    assert direct_s is None or behind_s < direct_s + ADDED_S, seen
    # The outcome is the same: the GCS has given both up, and neither lives on when the network is back.
    assert seen["ended"] == {"direct": True, "behind": True}, seen
    assert seen["alive"] == ["10.56.0.1"], seen
