"""A GCS that takes a token back: who behind a relay is sent away, and who stays.

The GCS is a pretended one, for a real one never changes its mind. Arguments: none. Prints how the
streams of two nodes with a token each ended, what the GCS was shown, and whether the other one is heard.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from sync_client import METHOD, SyncClient, bytes_field, fields

from mantaray.syncer import Relay

TAKEN_BACK, GOOD = (("authorization", "Bearer one"),), (("authorization", "Bearer other"),)
refused: set[str] = set()
# What the GCS was told, with which token; and with which tokens relays came that went on to talk.
told: list[tuple[str, bytes]] = []
took_back = threading.Event()


class Gcs(grpc.GenericRpcHandler):
    """Takes whoever has a token that was not taken back."""

    def service(self, details: Any) -> Any:
        return (
            grpc.stream_stream_rpc_method_handler(self.sync) if details.method == METHOD else None
        )

    def sync(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        token = dict(context.invocation_metadata())["authorization"]
        if token in refused:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this token was taken back")
        context.send_initial_metadata((("node_id", "7" * 56),))

        def listen() -> None:
            try:
                for frame in frames:
                    told.extend((token, dict(fields(part))[4]) for _, part in fields(frame))
            except grpc.RpcError:
                return

        threading.Thread(target=listen, daemon=True).start()
        # Tells a node of its own, so that the relay knows what is spoken here.
        yield bytes_field(1, b"\x08\x01\x22\x1c" + bytes(28))
        while context.is_active() and token not in refused:
            took_back.wait(0.05)
        if context.is_active():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this token was taken back")


def main() -> None:
    """Let two nodes in, take the token of one back, and look."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((Gcs(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Relay(upstream=f"127.0.0.1:{port}", listen="127.0.0.1:0") as relay:
        address = f"127.0.0.1:{relay.port}"

        def heard(client: SyncClient, token: str) -> bool:
            return client.wait(lambda c: (token, c.node_id) in told)

        first = SyncClient(address, True, metadata=TAKEN_BACK)
        one, other = TAKEN_BACK[0][1], GOOD[0][1]
        by_first = heard(first, one)
        second = SyncClient(address, True, metadata=GOOD)
        before = heard(second, one)
        refused.add(one)
        took_back.set()
        sent_away = first.refusal()
        after = heard(second, other)
        again = SyncClient(address, True, metadata=TAKEN_BACK).refusal()
        time.sleep(0.2)
        stays = not second.ended.is_set()
        second.close()
    server.stop(None)
    seen = {"before": by_first and before, "sent_away": sent_away, "again": again}
    print(json.dumps(seen | {"other_heard": after, "other_stays": stays}))


if __name__ == "__main__":
    main()
