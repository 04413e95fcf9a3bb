"""A relay that refuses calls for longer than Ray waits for a GCS: no node ends, and no work is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import http2
from tests.support.cluster import Cluster
from tests.support.rays import RayEnv
from tests.support.relays import RelayProcess, add_nodes, wait_until

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("programs") / "relay_work.py"
# Ray waits 60 s for a GCS if it is told nothing else.
RAY_WAITS_S = 5
REFUSES_S = 4 * RAY_WAITS_S
# Too small for the crowd, and large enough for Ray's own calls.
LIMITS = {"calls": "--max-calls=600", "memory": "--max-memory-bytes=64000000"}
CROWD = 4_000


def long_poll(service: str, number: int) -> bytes:
    """Return a call that waits at the GCS, as every process of Ray has one."""
    subscriber = b"crowd" + number.to_bytes(23, "big")
    method = f"/ray.rpc.{service}/GcsSubscriberPoll"
    return http2.request(2 * number + 1, method, b"\x0a\x1c" + subscriber)


class Crowd:
    """Fills a relay with calls that wait, until it is told to go.

    Args:
        port: of the relay, on 127.0.0.1.
        ray: the release of the GCS.
    """

    def __init__(self, port: int, ray: str) -> None:
        control_plane = "ControlPlanePubSubGcsService"
        self._service = control_plane if ray == "2.60.0" else "InternalPubSubGcsService"
        self._clients = http2.Clients(port)
        self._client = self._clients.connect()
        self._goes = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def ended(self) -> int:
        """Return how many of its calls have ended: so many were refused."""
        return len(self._client.ended)

    def go(self) -> None:
        """End all calls."""
        self._goes.set()
        self._thread.join()

    def _run(self) -> None:
        for number in range(CROWD):
            self._client.send(long_poll(self._service, number))
        self._clients.run(self._goes.is_set, 600.0)
        self._client.close(reset=True)
        self._clients.close()


@pytest.mark.parametrize("limit", LIMITS)
def test_a_relay_that_refuses_calls_ends_no_node_and_loses_no_work(
    limit: str, ray_env: RayEnv, tmp_path: Path
) -> None:
    wait = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(RAY_WAITS_S)}
    refused = f'mantaray_relay_refused_total{{limit="{limit}"}}'
    with (
        Cluster(ray_env, num_cpus=1, variables=wait) as cluster,
        RelayProcess(ray_env, cluster.address, tmp_path, [LIMITS[limit]]) as relay,
    ):
        add_nodes(cluster, relay, ["n0"])
        before = cluster.run_program(PROGRAM, ["2", "start"])
        raylets, taken = cluster.pids("raylet"), relay.told("stream taken")
        crowd = Crowd(relay.port, ray_env.version)
        try:
            assert wait_until(lambda: relay.metric(refused) > 0), relay.describe()
            began = time.monotonic()
            after: list[dict[str, Any]] = []
            work = threading.Thread(
                target=lambda: after.append(cluster.run_program(PROGRAM, ["2", "check"]))
            )
            work.start()
            # Calls of Ray are refused, too, and for much longer than Ray waits for a GCS.
            assert wait_until(lambda: relay.metric(refused) > crowd.ended()), relay.describe()
            assert wait_until(lambda: time.monotonic() - began > REFUSES_S)
            print(f"{limit}: {relay.metric(refused) - crowd.ended():.0f} calls of Ray were refused")
            assert cluster.pids("raylet") == raylets
            assert relay.answer("/healthz") == 200
        finally:
            crowd.go()
        work.join()
        assert after, cluster.logs()
        assert after[0]["nodes"] == after[0]["ran_on"] == 2
        # Every actor is the one from before.
        for old, new in zip(before["kept"], after[0]["kept"], strict=True):
            assert new[: len(old)] == old
        assert cluster.pids("raylet") == raylets
        # The sync streams did not suffer either.
        assert relay.told("stream taken") == taken
