"""An independent client of Ray's resource-view sync: grpcio, and protobuf taken apart by hand.

It pretends to be a node. The other programs import it; on its own it does nothing.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

METHOD = "/ray.rpc.syncer.RaySyncer/StartSync"
RESOURCE_VIEW, COMMANDS = 0, 1
# What is waited for comes at once, or, on a machine with much else to do, late.
PATIENCE_S = 90.0


def varint(value: int) -> bytes:
    """Encode an unsigned integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def int_field(number: int, value: int) -> bytes:
    """Encode a varint field."""
    return varint(number << 3) + varint(value)


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Take a message apart: numbers and values of its fields."""
    at = 0

    def read_varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = read_varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, read_varint()
        elif kind == 2:
            size = read_varint()
            yield key >> 3, data[at : at + size]
            at += size
        else:
            size = {1: 8, 5: 4}[kind]
            yield key >> 3, data[at : at + size]
            at += size


def view(available: dict[str, float], total: dict[str, float] | None = None) -> bytes:
    """Encode a ResourceViewSyncMessage."""

    def entries(number: int, amounts: dict[str, float]) -> bytes:
        return b"".join(
            bytes_field(number, bytes_field(1, name.encode()) + b"\x11" + struct.pack("<d", amount))
            for name, amount in amounts.items()
        )

    return entries(1, available) + entries(2, total or available)


def available(payload: bytes) -> dict[str, float]:
    """Return the available resources that a ResourceViewSyncMessage tells."""
    found = {}
    for number, entry in fields(payload):
        if number == 1:
            parts = dict(fields(entry))
            found[parts[1].decode()] = struct.unpack("<d", parts.get(2, bytes(8)))[0]
    return found


def message(node_id: bytes, version: int, payload: bytes, kind: int = RESOURCE_VIEW) -> bytes:
    """Encode a RaySyncMessage."""
    parts = int_field(1, version)
    if kind:
        parts += int_field(2, kind)
    return parts + bytes_field(3, payload) + bytes_field(4, node_id)


@dataclass
class Seen:
    """The newest that a client has been sent about a node.

    Attributes:
        version: of the message.
        payload: its content.
        at: when it came, of the monotonic clock.
        history: all versions of resource views, as they came.
    """

    version: int
    payload: bytes
    at: float
    history: list[int] = field(default_factory=list)


class SyncClient:
    """A node that says what it is told to say, and notes what it hears.

    Args:
        address: of a GCS or a relay, HOST:PORT.
        batch: whether it speaks batches (Ray from 2.53) or bare messages.
        node_id: 28 bytes; random if not given.
        metadata: further metadata of the stream.
        say_hello: whether it tells its own view at once.
        credentials: for TLS; none for a connection without.
    """

    def __init__(
        self,
        address: str,
        batch: bool,
        node_id: bytes | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
        say_hello: bool = True,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.node_id = node_id or os.urandom(28)
        self.batch = batch
        self.seen: dict[bytes, Seen] = {}
        self.error: grpc.RpcError | None = None
        self.ended = threading.Event()
        self._outgoing: queue.Queue[bytes | None] = queue.Queue()
        self._version = 0
        if credentials is None:
            self._channel = grpc.insecure_channel(address)
        else:
            self._channel = grpc.secure_channel(address, credentials)
        start = self._channel.stream_stream(METHOD)
        self.call = start(
            iter(self._outgoing.get, None), metadata=(("node_id", self.node_id.hex()), *metadata)
        )
        if say_hello:
            self.publish({"CPU": 0.0})
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, frame: bytes) -> None:
        """Send one gRPC message."""
        self._outgoing.put(frame)

    def publish(self, resources: dict[str, float]) -> int:
        """Tell what resources this node has; return the message's version."""
        self._version = max(self._version + 1, time.time_ns())
        told = message(self.node_id, self._version, view(resources))
        self.send(bytes_field(1, told) if self.batch else told)
        return self._version

    def wait(self, condition: Any, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until condition(self) holds; return whether it did."""
        deadline = time.monotonic() + timeout_s
        while not condition(self):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def refusal(self, timeout_s: float = PATIENCE_S) -> str:
        """Return with which status the stream ended; OPEN if it did not."""
        if not self.ended.wait(timeout_s):
            return "OPEN"
        return self.error.code().name if self.error else "OK"

    def close(self) -> None:
        """End the stream and the connection."""
        self.call.cancel()
        self._outgoing.put(None)
        self._channel.close()

    def _listen(self) -> None:
        try:
            for frame in self.call:
                now = time.monotonic()
                batch = frame[:1] == b"\x0a"
                told = [part for n, part in fields(frame) if n == 1] if batch else [frame]
                for one in told:
                    self._note(dict(fields(one)), now)
        except grpc.RpcError as error:
            self.error = error
        self.ended.set()

    def _note(self, parts: dict[int, Any], now: float) -> None:
        if parts.get(2, 0) != RESOURCE_VIEW:
            return
        known = self.seen.get(parts[4])
        history = known.history if known else []
        history.append(parts.get(1, 0))
        self.seen[parts[4]] = Seen(parts.get(1, 0), parts.get(3, b""), now, history)
