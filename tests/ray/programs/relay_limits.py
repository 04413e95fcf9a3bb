"""What a relay holds when everybody wants something at once: a package, and to watch its health.

Arguments: none. Prints how often the upstream was asked for a package that many fetch at the same
time, who got it, the most memory that the relay ever took, and how watches of its health ended.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from sync_client import PATIENCE_S

from mantaray.syncer import Relay

FETCHERS = 30
# The relay puts it together in pieces of 4 MiB, of which the last one is small.
PACKAGE = bytes(range(256)) * (8 * 4_096) + b"end"
FETCH = "/ray.rpc.InternalKVGcsService/InternalKVGet"
REQUEST = b"\x0a\x26gcs://_ray_pkg_0123456789abcdef01.zip"
MISSING = b"\x0a\x26gcs://_ray_pkg_ffffffffffffffffff.zip"
WATCHES = 150
SIZES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
asked: list[bytes] = []
all_ask = threading.Event()


class Store(grpc.GenericRpcHandler):
    """Has one package, and answers when all ask for it."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.get) if details.method == FETCH else None

    def get(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(request)
        if request != REQUEST:
            return b"none"
        all_ask.wait(PATIENCE_S)
        context.send_initial_metadata((("first", "yes"),))
        context.set_trailing_metadata((("last", "yes"),))
        return PACKAGE


def sample(relay: Relay, name: str) -> float:
    """Return a sample of the relay's metrics."""
    lines = relay.metrics().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def fetched(relay: Relay, request: bytes, metadata: tuple[tuple[str, str], ...]) -> list[bool]:
    """Fetch over many connections at once; return what came with each: package, metadata."""

    def fetch(_: int) -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{relay.port}", options=SIZES) as channel:
            answer, call = channel.unary_unary(FETCH).with_call(
                request, metadata=metadata, timeout=PATIENCE_S
            )
            if request != REQUEST:
                return bool(answer == b"none")
            told = dict(call.initial_metadata()), dict(call.trailing_metadata())
            return answer == PACKAGE and told[0]["first"] == told[1]["last"] == "yes"

    with futures.ThreadPoolExecutor(FETCHERS) as pool:
        return list(pool.map(fetch, range(FETCHERS)))


def watches(relay: Relay) -> dict[str, int]:
    """Watch the relay's health many times; return how many are told, and how many are refused."""
    with grpc.insecure_channel(f"127.0.0.1:{relay.port}") as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        calls = [watch(b"\x0a\x08mantaray") for _ in range(WATCHES)]
        ended = {"told": 0, "RESOURCE_EXHAUSTED": 0}
        for call in calls:
            try:
                next(call)
                ended["told"] += 1
            except grpc.RpcError as error:
                ended[error.code().name] += 1
    return ended


def main() -> None:
    """Ask for everything, and print what came of it."""
    server = grpc.server(futures.ThreadPoolExecutor(2 * FETCHERS), options=SIZES)
    server.add_generic_rpc_handlers((Store(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    seen: dict[str, Any] = {}
    with Relay(upstream=f"127.0.0.1:{port}", listen="127.0.0.1:0") as relay:

        def release() -> None:
            deadline = time.monotonic() + PATIENCE_S
            while sample(relay, "mantaray_relay_proxy_in_flight") < FETCHERS:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            all_ask.set()

        threading.Thread(target=release).start()
        seen["fetched"] = all(fetched(relay, REQUEST, (("authorization", "Bearer a"),)))
        seen["asked"] = len(asked)
        seen["shared"] = sample(relay, "mantaray_relay_packages_shared_total")
        asked.clear()
        seen["none"] = all(fetched(relay, MISSING, ()))
        seen["asked_for_none"] = len(asked)
        seen["peak_bytes"] = peak_bytes(relay.pid)
        seen["watches"] = watches(relay)
        seen["watches_again"] = watches(relay)["told"] > 0
        deadline = time.monotonic() + PATIENCE_S
        while (held := sample(relay, "mantaray_relay_held_bytes")) and time.monotonic() < deadline:
            time.sleep(0.02)
        seen["held_bytes"] = held
    server.stop(None)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
