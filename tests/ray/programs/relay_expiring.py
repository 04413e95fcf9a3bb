"""Tokens that expire: a node has its own, and long after it joined that one is worth nothing any more.

The GCS is a pretended one that looks at a token when a stream begins, as the real one does, and that is
restarted when all tokens but the last node's have expired. Arguments: none. Prints with which tokens the
relay came back, how many nodes were sent away, and whether a node is heard afterwards.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from sync_client import METHOD, SyncClient, bytes_field, fields

from mantaray.syncer import Relay

NODES = 40
expired: set[str] = set()
# With which tokens streams came since the restart, and what the GCS was told since.
shown: list[str] = []
told: list[bytes] = []
restarted = threading.Event()


class Gcs(grpc.GenericRpcHandler):
    """Takes whoever has a token that has not expired, and keeps a stream until it is restarted."""

    def service(self, details: Any) -> Any:
        return (
            grpc.stream_stream_rpc_method_handler(self.sync) if details.method == METHOD else None
        )

    def sync(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        token = dict(context.invocation_metadata())["authorization"]
        before = not restarted.is_set()
        if not before:
            shown.append(token)
        if token in expired:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this token has expired")
        context.send_initial_metadata((("node_id", "7" * 56),))

        def listen() -> None:
            try:
                for frame in frames:
                    if not before:
                        told.extend(dict(fields(part))[4] for _, part in fields(frame))
            except grpc.RpcError:
                return

        threading.Thread(target=listen, daemon=True).start()
        yield bytes_field(1, b"\x08\x01\x22\x1c" + bytes(28))
        over = threading.Event()
        context.add_callback(over.set)
        while not over.wait(0.05):
            if before and restarted.is_set():
                context.abort(grpc.StatusCode.UNAVAILABLE, "this GCS is restarted")


def main() -> None:
    """Let the nodes in one after the other, let all tokens but one expire, and restart the GCS."""
    server = grpc.server(futures.ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers((Gcs(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Relay(upstream=f"127.0.0.1:{port}", listen="127.0.0.1:0") as relay:
        tokens = [f"Bearer {number:03}" for number in range(NODES)]
        nodes = []
        for number, token in enumerate(tokens):
            nodes.append(
                SyncClient(f"127.0.0.1:{relay.port}", True, metadata=(("authorization", token),))
            )
            nodes[-1].wait(lambda _, n=number: len(relay.status().downstream) > n)
        expired.update(tokens[:-1])
        restarted.set()
        last = nodes[-1]
        heard = last.wait(lambda node: all(one.node_id in told for one in nodes))
        sent_away = sum(node.ended.is_set() for node in nodes)
        for node in nodes:
            node.close()
    server.stop(None)
    print(json.dumps({"shown": sorted(set(shown)), "sent_away": sent_away, "heard": heard}))


if __name__ == "__main__":
    main()
