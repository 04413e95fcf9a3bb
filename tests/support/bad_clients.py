"""Clients that break HTTP/2, gRPC, or their connection; each function is one way to do it."""

from __future__ import annotations

import random
from collections.abc import Callable

from . import http2
from .http2 import DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM

ECHO = "/test/Echo"
SYNC = "/ray.rpc.syncer.RaySyncer/StartSync"
WATCH = "/grpc.health.v1.Health/Watch"
# The message that asks for the health of the relay itself.
RELAY = b"\x0a\x08mantaray"


def reset_in_a_message(client: http2.Client) -> None:
    """Send a part of a message, and reset the connection."""
    client.send(http2.request(1, ECHO, bytes(10_000), ends=False)[:5_000])
    client.close(reset=True)


def reset_while_waiting(client: http2.Client) -> None:
    """Ask for what never comes, and reset the connection."""
    client.send(http2.request(1, ECHO, b"wait"))
    client.close(reset=True)


def half_closed_without_a_message(client: http2.Client) -> None:
    """End a call before it has a message."""
    client.send(http2.request(1, ECHO, b"", ends=False)[: -len(http2.frame(DATA, 0, 1, bytes(5)))])
    client.send(http2.frame(DATA, END_STREAM, 1))
    client.close()


def cancelled_at_once(client: http2.Client) -> None:
    """Begin many calls and cancel each, as a rapid reset does."""
    cancel = bytes(3) + b"\x08"
    for stream in range(1, 200, 2):
        client.send(http2.request(stream, ECHO, b"x") + http2.frame(RST_STREAM, 0, stream, cancel))
    client.close()


def says_goodbye_and_stays(client: http2.Client) -> None:
    """Send GOAWAY with a call in flight; then go."""
    client.send(http2.request(1, ECHO, b"wait") + http2.frame(GOAWAY, 0, 0, bytes(8)))
    client.close()


def no_http2(client: http2.Client) -> None:
    """Send what is no HTTP/2 after the preface."""
    client.send(random.Random(1).randbytes(5_000))
    client.close()


def bad_headers(client: http2.Client) -> None:
    """Send a header block that is none."""
    client.send(http2.frame(HEADERS, END_HEADERS, 1, b"\xff" * 100))
    client.close()


def too_large_a_frame(client: http2.Client) -> None:
    """Announce a frame of 16 MB."""
    client.send(b"\xff\xff\xff" + http2.frame(DATA, 0, 1, b"x")[3:])
    client.close()


def does_not_read(client: http2.Client) -> None:
    """Ask for something large, read nothing, and go."""
    client.send(http2.request(1, ECHO, b"large"))
    client.close()


def half_a_sync_stream(client: http2.Client) -> None:
    """Open a sync stream with half a frame, and go."""
    client.send(http2.request(1, SYNC, bytes(1_000), ends=False)[:500])
    client.close(reset=True)


def sync_stream_that_ends_at_once(client: http2.Client) -> None:
    """Open a sync stream and end it."""
    client.send(http2.request(1, SYNC, b""))
    client.close()


ALL: tuple[Callable[[http2.Client], None], ...] = (
    reset_in_a_message,
    reset_while_waiting,
    half_closed_without_a_message,
    cancelled_at_once,
    says_goodbye_and_stays,
    no_http2,
    bad_headers,
    too_large_a_frame,
    does_not_read,
    half_a_sync_stream,
    sync_stream_that_ends_at_once,
)
