"""Clients and upstreams that break the protocol or their connection.

Others do not notice, and nothing stays behind.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support import bad_clients, http2
from tests.support.bad_clients import ECHO, RELAY, WATCH
from tests.support.bare_relay import BareRelay
from tests.support.http2 import DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM

TIMEOUT_S = 120.0
ROUNDS = 20
LARGE = bytes(3_000_000)


def reply(message: bytes) -> bytes | http2.Raw | None:
    """Answer as the message asks for, or with the message itself."""
    return ANSWERS.get(message, message)


def _half(stream: int) -> bytes:
    """Return the beginning of a reply: the message says it is longer."""
    part = http2.frame(DATA, 0, stream, http2.message(LARGE)[:1000])
    return http2.frame(HEADERS, END_HEADERS, stream, http2.REPLY_HEADERS) + part


ANSWERS: dict[bytes, bytes | http2.Raw | None] = {
    b"wait": None,
    b"large": LARGE,
    b"reset the stream": http2.Raw(lambda s: http2.frame(RST_STREAM, 0, s, bytes(3) + b"\x02")),
    b"half a message": http2.Raw(
        lambda s: _half(s) + http2.frame(RST_STREAM, 0, s, bytes(3) + b"\x02")
    ),
    b"half a message, and reset": http2.Raw(_half, closes=True),
    b"no trailers": http2.Raw(
        lambda s: (
            http2.frame(HEADERS, END_HEADERS, s, http2.REPLY_HEADERS)
            + http2.frame(DATA, END_STREAM, s, http2.message(b"x"))
        )
    ),
    b"go away": http2.Raw(lambda s: http2.frame(GOAWAY, 0, 0, bytes(8)), closes=True),
    b"nonsense": http2.Raw(lambda s: b"HTTP/1.1 400 Bad Request\r\n\r\n", closes=True),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[http2.Server]:
    """Answers what it is asked for."""
    with http2.Server(reply) as server:
        yield server


@pytest.fixture(scope="module")
def relay(upstream: http2.Server) -> Iterator[BareRelay]:
    """Has to survive all tests of this file."""
    with BareRelay(upstream.port, "--grace-ms=100") as relay:
        yield relay


@pytest.fixture
def clients(relay: BareRelay) -> Iterator[http2.Clients]:
    """Connections to the relay."""
    clients = http2.Clients(relay.port)
    yield clients
    clients.close()


def assert_answers(clients: http2.Clients) -> None:
    """See that the relay answers an ordinary call."""

    def answered() -> bool:
        client = clients.connect()
        client.send(http2.request(1, ECHO, b"hello"))
        assert clients.run(lambda: bool(client.ended) or client.closed, TIMEOUT_S)
        return client.received_bytes == len(http2.message(b"hello"))

    # A connection upstream that was just broken has to be made anew.
    assert any(answered() for _ in range(500))


def assert_nothing_stays(relay: BareRelay) -> None:
    """See that the relay holds neither calls nor messages."""
    gauges = ("mantaray_relay_proxy_in_flight", "mantaray_relay_held_bytes")
    assert relay.eventually(lambda seen: all(seen[name] == 0 for name in gauges)), relay.metrics()


@pytest.mark.parametrize("misbehave", bad_clients.ALL)
def test_a_client_that_misbehaves_harms_nobody_and_leaves_nothing(
    misbehave: Callable[[http2.Client], None], relay: BareRelay, clients: http2.Clients
) -> None:
    innocent = clients.connect()
    innocent.send(http2.request(1, ECHO, b"wait"))
    for _ in range(ROUNDS):
        misbehave(http2.Client(relay.port, window_bytes=0))
    assert_answers(clients)
    assert not innocent.ended
    assert not innocent.closed
    innocent.send(http2.frame(RST_STREAM, 0, 1, bytes(3) + b"\x08"))
    assert_nothing_stays(relay)


@pytest.mark.parametrize(
    "answer", [name for name, value in ANSWERS.items() if isinstance(value, http2.Raw)]
)
def test_an_upstream_that_misbehaves_ends_the_call_and_nothing_else(
    answer: bytes, relay: BareRelay, clients: http2.Clients
) -> None:
    for _ in range(ROUNDS):
        client = clients.connect()
        client.send(http2.request(1, ECHO, answer))
        assert clients.run(lambda: bool(client.ended), TIMEOUT_S), answer  # noqa: B023
        # Its connection to the relay stays.
        assert not client.closed
    assert_answers(clients)
    assert_nothing_stays(relay)


def test_a_client_whose_bytes_come_one_by_one_is_served(
    relay: BareRelay, clients: http2.Clients
) -> None:
    client = clients.connect()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in http2.request(1, ECHO, b"slowly"):
        client.send(bytes([byte]))
    assert clients.run(lambda: bool(client.ended), TIMEOUT_S)
    assert client.received_bytes == len(http2.message(b"slowly"))


def test_a_reader_that_stops_holds_up_no_other_reader(
    relay: BareRelay, clients: http2.Clients
) -> None:
    stopped = [clients.connect(window_bytes=1_000) for _ in range(ROUNDS)]
    for client in stopped:
        client.send(http2.request(1, ECHO, b"large"))
    # They have got what they take.
    assert clients.run(lambda: all(c.received_bytes == 1_000 for c in stopped), TIMEOUT_S)
    reader = clients.connect()
    reader.send(http2.request(1, ECHO, b"large"))
    assert clients.run(lambda: bool(reader.ended), TIMEOUT_S)
    assert reader.received_bytes == len(http2.message(LARGE))
    assert not any(client.ended for client in stopped)
    for client in stopped:
        client.send(http2.frame(RST_STREAM, 0, 1, bytes(3) + b"\x08"))
    assert_nothing_stays(relay)


def test_connections_that_come_and_go_leave_no_descriptor_and_no_memory(
    relay: BareRelay, clients: http2.Clients
) -> None:
    def come_and_go(count: int) -> tuple[int, int]:
        for number in range(count):
            client = http2.Client(relay.port)
            client.send(http2.request(1, ECHO, b"wait"))
            client.close(reset=number % 2 == 0)
        assert_answers(clients)
        assert_nothing_stays(relay)
        return relay.descriptors(), relay.memory_bytes()

    descriptors, memory_bytes = come_and_go(200)
    for _ in range(3):
        again = come_and_go(200)
    assert again[0] <= descriptors + 20
    assert again[1] < memory_bytes + 20_000_000


def test_a_flood_of_watches_does_not_end_the_relay(
    relay: BareRelay, clients: http2.Clients
) -> None:
    choose = random.Random(16)
    for _ in range(ROUNDS // 2):
        flood = http2.Client(relay.port)
        watches = b""
        for stream in range(1, 2_000, 2):
            # Some watch what the upstream has, some have not said all, some leave at once.
            of = RELAY if choose.random() < 0.8 else b"hello"
            watches += http2.request(stream, WATCH, of, ends=choose.random() < 0.9)
            if choose.random() < 0.2:
                watches += http2.frame(RST_STREAM, 0, stream, bytes(3) + b"\x08")
        flood.send(watches)
        flood.close(reset=choose.random() < 0.5)
    assert_answers(clients)
    assert_nothing_stays(relay)
