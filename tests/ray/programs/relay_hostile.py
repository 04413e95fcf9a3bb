"""Hostile sync streams against a relay in a live cluster.

Arguments: the relay's address, "batch" or "bare", a registered node's id. Prints how each ended.
"""

from __future__ import annotations

import json
import os
import sys

import grpc
from sync_client import METHOD, SyncClient, bytes_field, int_field, message, view


def main() -> None:
    """Send each and print with which status the relay answered."""
    address, dialect, victim = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
    batch = dialect == "batch"

    def framed(told: bytes) -> bytes:
        return bytes_field(1, told) if batch else told

    def sent(*frames: bytes, hello: bool = True) -> str:
        client = SyncClient(address, batch, say_hello=hello)
        for frame in frames:
            client.send(frame)
        said = client.refusal()
        client.close()
        return said

    own = os.urandom(28)
    good = message(own, 1, view({"CPU": 1.0}))
    seen = {
        "empty frame": sent(b""),
        "five bytes of node id": sent(framed(message(b"abcde", 1, b""))),
        "no node id": sent(framed(int_field(1, 1))),
        "unknown type": sent(framed(message(own, 1, b"", kind=2))),
        "negative version": sent(framed(message(own, 2**64 - 1, b""))),
        "damaged": sent(framed(good[:-3])),
        "damaged payload": sent(framed(message(own, 1, b"\x0a\xff\xff"))),
        "oversized": sent(framed(message(own, 1, bytes_field(9, bytes(17_000_000))))),
        "other dialect": sent(good if batch else bytes_field(1, good)),
        "in the name of another": sent(framed(message(victim, 2**62, view({"CPU": 99.0})))),
    }
    channel = grpc.insecure_channel(address)
    for name, metadata in {
        "no metadata": (),
        "short node id": (("node_id", "abcd"),),
        "no hexadecimal": (("node_id", "z" * 56),),
    }.items():
        call = channel.stream_stream(METHOD)(iter(()), metadata=metadata)
        try:
            list(call)
            seen[name] = "OK"
        except grpc.RpcError as error:
            seen[name] = error.code().name
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
