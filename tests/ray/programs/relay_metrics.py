"""Moves all that a relay counts, and reads its metrics before, in between and after.

Arguments: the addresses of the relay, of its admin server and of the GCS behind it, and "batch" or
"bare". Prints what was done and the metrics, read by Prometheus' own parser: values by sample.
"""

from __future__ import annotations

import json
import queue
import sys
import time
import urllib.request
from typing import Any

import grpc
from prometheus_client.parser import text_string_to_metric_families
from sync_client import METHOD, SyncClient, bytes_field, message, view

PROXIED, BURST, BIG, STALE = 5, 20, 20, 3
BIG_BYTES = 200_000


def scrape(admin: str) -> tuple[dict[str, str], dict[str, float]]:
    """Return the types of all metrics, and the values of all samples."""
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    values = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
        values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return {family.name: family.type for family in families}, values


def wait_for(admin: str, condition: Any) -> dict[str, float]:
    """Return the metrics as soon as the condition holds for them, or after a while."""
    deadline = time.monotonic() + 90
    while True:
        values = scrape(admin)[1]
        if condition(values) or time.monotonic() > deadline:
            return values
        time.sleep(0.02)


def main() -> None:
    """Do it all, one after the other."""
    address, admin, gcs, dialect = sys.argv[1:]
    batch = dialect == "batch"
    types, before = scrape(admin)

    listener, teller = SyncClient(address, batch), SyncClient(address, batch)
    far = SyncClient(gcs, batch)
    # A node that never reads.
    outgoing: queue.Queue[bytes | None] = queue.Queue()
    channel = grpc.insecure_channel(address)
    sleeper = channel.stream_stream(METHOD)(
        iter(outgoing.get, None), metadata=(("node_id", "5" * 56),)
    )
    first = time.time_ns() + 10**9

    def tell(number: int, payload: bytes) -> None:
        told = message(teller.node_id, first + number, payload)
        teller.send(bytes_field(1, told) if batch else told)

    def heard(number: int) -> bool:
        return listener.wait(
            lambda client: (
                teller.node_id in client.seen
                and client.seen[teller.node_id].version == first + number
            )
        )

    for number in range(BURST):
        tell(number, view({"CPU": float(number)}))
    done = heard(BURST - 1) and listener.wait(lambda client: far.node_id in client.seen)
    for number in range(STALE):
        tell(number, view({"CPU": 1.0}))

    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    for _ in range(PROXIED):
        try:
            health(b"")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x08mantaray")
    next(watch)

    for number in range(BURST, BURST + BIG):
        tell(number, view({"CPU": 1.0}) + bytes_field(9, bytes(BIG_BYTES)))
        done = done and heard(number)
    behind = wait_for(admin, lambda values: values["mantaray_relay_sync_lag_ms"] > 300)
    sleeper.cancel()
    outgoing.put(None)
    after = wait_for(admin, lambda values: values["mantaray_relay_sync_queued"] == 0)
    for client in (listener, teller, far):
        client.close()
    told = {"types": types, "before": before, "behind": behind, "after": after, "done": done}
    sent = {
        "proxied": PROXIED,
        "messages": BURST + STALE + BIG,
        "bytes": BIG * BIG_BYTES,
        "stale": STALE,
    }
    print(json.dumps(told | {"sent": sent}))


if __name__ == "__main__":
    main()
