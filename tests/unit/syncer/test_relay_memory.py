"""How much memory a relay takes when everybody wants something at the same time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import http2
from tests.support.bare_relay import BareRelay

POLL = "/ray.rpc.InternalPubSubGcsService/GcsSubscriberPoll"
GET = "/ray.rpc.InternalKVGcsService/InternalKVGet"
PACKAGE = b"\x0a\x26gcs://_ray_pkg_0123456789abcdef01.zip"
TIMEOUT_S = 120.0
bulk = bytes(20_000_000)


def long_polls(clients: http2.Clients, server: http2.Server, count: int) -> list[http2.Client]:
    """Let so many clients wait for something, each over a connection of its own."""
    polls = []
    for number in range(count):
        polls.append(clients.connect())
        polls[-1].send(http2.request(1, POLL, b"poll"))
        if number % 500 == 499:
            assert clients.run(lambda: server.waiting >= number - 400, TIMEOUT_S)  # noqa: B023
    assert clients.run(lambda: server.waiting == count, TIMEOUT_S)
    return polls


@pytest.fixture
def clients_of() -> Iterator[list[http2.Clients]]:
    """Collects clients, which are closed at the end."""
    all_clients: list[http2.Clients] = []
    yield all_clients
    for clients in all_clients:
        clients.close()


def test_a_package_is_fetched_once_even_if_requests_come_in_pieces(
    clients_of: list[http2.Clients],
) -> None:
    asked: list[bytes] = []

    def package(message: bytes) -> bytes:
        asked.append(message)
        return bulk

    with http2.Server(package) as server, BareRelay(server.port) as relay:
        clients = http2.Clients(relay.port)
        clients_of.append(clients)
        nodes = [clients.connect() for _ in range(10)]
        call = http2.request(1, GET, PACKAGE)
        at = len(call) - len(http2.frame(http2.DATA, 0, 1, http2.message(PACKAGE)))
        for node in nodes:
            node.send(call[:at])
        in_flight = "mantaray_relay_proxy_in_flight"
        assert relay.eventually(lambda seen: seen[in_flight] == len(nodes))
        for node in nodes:
            node.send(call[at:])
        assert clients.run(lambda: all(node.ended for node in nodes), TIMEOUT_S)
        assert all(node.received_bytes == len(http2.message(bulk)) for node in nodes)
        assert len(asked) == 1


@pytest.mark.slow
def test_two_hundred_nodes_of_64_workers_that_fetch_a_package_stay_below_a_stated_limit(
    clients_of: list[http2.Clients],
) -> None:
    package = bytes(100_000_000)
    with (
        http2.Server(lambda told: None if told == b"poll" else package) as server,
        BareRelay(server.port) as relay,
    ):
        clients = http2.Clients(relay.port)
        clients_of.append(clients)
        polls = long_polls(clients, server, 200 * 64)
        waiting_bytes = relay.memory_bytes()
        nodes = [clients.connect() for _ in range(200)]
        for node in nodes:
            node.send(http2.request(1, GET, PACKAGE))
        assert clients.run(lambda: all(node.ended for node in nodes), 900.0)
        assert all(node.received_bytes == len(package) + 5 for node in nodes)
        assert not any(poll.ended for poll in polls)
        assert relay.metrics()["mantaray_relay_packages_shared_total"] == 199
        peak_bytes = relay.memory_bytes("VmHWM")
        print(f"12,800 long polls: {waiting_bytes:,} bytes; with 200 fetches: {peak_bytes:,}")
        # A limit that is said in docs/relay.md.
        assert peak_bytes < 1_000_000_000
