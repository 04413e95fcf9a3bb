"""A scale down: how many withdrawals a GCS is asked for at the same time, and whether all arrive.

The GCS is a pretended one that takes its time. Arguments: how many nodes leave at once. Prints the most
withdrawals that were under way together, how many nodes were withdrawn, and with which tokens.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from sync_client import METHOD, PATIENCE_S, SyncClient, bytes_field

from mantaray.syncer import Relay

TOKEN = (("authorization", "Bearer one"),)
lock = threading.Lock()
under_way = most = 0
withdrawn: dict[str, str] = {}


class Gcs(grpc.GenericRpcHandler):
    """Takes every stream, and needs 20 ms for one that withdraws a node."""

    def service(self, details: Any) -> Any:
        return (
            grpc.stream_stream_rpc_method_handler(self.sync) if details.method == METHOD else None
        )

    def sync(self, _: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        global under_way, most
        told = dict(context.invocation_metadata())
        withdraws = "mantaray-withdraw" in told
        if withdraws:
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.02)
            with lock:
                under_way -= 1
                withdrawn[told["node_id"]] = told["authorization"]
        # The relay ends a withdrawal when this arrives.
        context.send_initial_metadata((("node_id", "7" * 56),))
        yield bytes_field(1, b"\x08\x01\x22\x1c" + bytes(28))
        while context.is_active():
            time.sleep(0.01)


def main() -> None:
    """Let nodes come and go."""
    count = int(sys.argv[1])
    server = grpc.server(futures.ThreadPoolExecutor(64))
    server.add_generic_rpc_handlers((Gcs(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    options = ["--grace-ms=200"]
    with Relay(f"127.0.0.1:{port}", "127.0.0.1:0", options=options) as relay:
        nodes = [SyncClient(f"127.0.0.1:{relay.port}", True, metadata=TOKEN) for _ in range(count)]
        deadline = time.monotonic() + PATIENCE_S
        while len(relay.status().downstream) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        for node in nodes:
            node.close()
        left = {node.node_id.hex() for node in nodes}
        # The relay lets the GCS say for ten seconds that a node lives elsewhere.
        while not left <= set(withdrawn) and time.monotonic() < deadline:
            time.sleep(0.05)
        seen = {
            "most": most,
            "withdrawn": len(left & set(withdrawn)),
            "tokens": sorted(set(withdrawn.values())),
        }
    server.stop(None)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
