"""An upstream that goes for good, and comes back after all: what a client of the relay sees.

Arguments: none. Prints what the relay did to its listener, its connections and its health meanwhile.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from sync_client import PATIENCE_S

from mantaray.syncer import Relay

TIMEOUT_MS = 1_000


class Echo(grpc.GenericRpcHandler):
    """Answers with the request."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


def upstream(port: int = 0) -> tuple[grpc.Server, int]:
    """Start a server on a port; return both."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait until it holds; return whether it did."""
    deadline = time.monotonic() + PATIENCE_S
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def main() -> None:
    """Take the upstream away and bring it back."""
    server, port = upstream()
    options = [f"--upstream-timeout-ms={TIMEOUT_MS}"]
    with Relay(f"127.0.0.1:{port}", "127.0.0.1:0", options=options) as relay:
        relay_port, relay_id = relay.port, relay.status().relay_id

        def answer(path: str) -> int:
            try:
                with urllib.request.urlopen(f"http://{relay.admin}{path}", timeout=60) as response:
                    return int(response.status)
            except urllib.error.HTTPError as error:
                return error.code

        def refuses() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", relay_port)) != 0

        channel = grpc.insecure_channel(f"127.0.0.1:{relay_port}")
        echo = channel.unary_unary("/any.Service/Echo")
        seen: dict[str, Any] = {"before": echo(b"x", timeout=PATIENCE_S) == b"x"}
        broken = threading.Event()

        def note(state: grpc.ChannelConnectivity) -> None:
            if state is not grpc.ChannelConnectivity.READY:
                broken.set()

        channel.subscribe(note, try_to_connect=True)
        broken.clear()
        gone = time.monotonic()
        server.stop(None).wait()
        seen["listener_closed"] = eventually(refuses)
        seen["not_at_once"] = time.monotonic() - gone >= TIMEOUT_MS / 2e3
        seen["connection_closed"] = broken.wait(PATIENCE_S)
        seen["listening"] = "mantaray_relay_listening 0" in relay.metrics().splitlines()
        seen["answers"] = [answer(path) for path in ("/healthz", "/readyz", "/status")]
        server, _ = upstream(port)
        seen["after"] = echo(b"y", timeout=PATIENCE_S, wait_for_ready=True) == b"y"
        seen["ready"] = eventually(lambda: answer("/readyz") == 200)
        seen["another"] = relay.status().relay_id != relay_id
        given_up = "mantaray_relay_upstream_given_up_total 1"
        seen["given_up"] = given_up in relay.metrics().splitlines()
        channel.close()
    server.stop(None)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
