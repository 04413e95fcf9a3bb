"""Reads of the GCS that many ask at the same time reach it as few.

Nobody is told what was no longer true when it was asked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.support import http2
from tests.support.bare_relay import BareRelay
from tests.support.http2 import RST_STREAM

TIMEOUT_S = 120.0
READ = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
WRITE = "/ray.rpc.NodeInfoGcsService/RegisterNode"
WINDOW_MS = 25
# Reads of one kind that leave at once after a rest.
BURST = 20
CANCEL = bytes(3) + b"\x08"


class Table:
    """An upstream whose table has as many entries as there were writes."""

    def __init__(self) -> None:
        self.came: list[bytes] = []
        self.entries = 0

    def reply(self, message: bytes) -> bytes | http2.Raw | None:
        """Answer a read with the number of entries; hold or break what asks for it."""
        self.came.append(message)
        if message == b"write":
            self.entries += 1
        if message == b"break":
            return http2.Raw(lambda stream: b"", closes=True)
        return None if message.startswith(b"hold") else str(self.entries).encode()


@pytest.fixture
def table() -> Table:
    """Empty."""
    return Table()


@pytest.fixture
def upstream(table: Table) -> Iterator[http2.Server]:
    """Serves the table."""
    with http2.Server(table.reply) as server:
        yield server


@pytest.fixture
def relay(upstream: http2.Server) -> Iterator[BareRelay]:
    """Shares reads, as it does by default."""
    with BareRelay(upstream.port) as relay:
        yield relay


@pytest.fixture
def clients(relay: BareRelay, table: Table) -> Iterator[http2.Clients]:
    """Connections to the relay, whose own connections to the upstream stand.

    While a connection is being made, gRPC keeps the calls that wait for it, the last one first.
    """
    clients = http2.Clients(relay.port)
    for _ in range(40):
        clients.connect().send(http2.request(1, "/warm/Up", b"warm"))
    assert all_ended(clients)
    clients.close()
    table.came.clear()
    clients = http2.Clients(relay.port)
    yield clients
    clients.close()


def all_ended(clients: http2.Clients) -> bool:
    """Wait until each client's last call has ended."""
    return clients.run(lambda: all(client.ended for client in clients.all), TIMEOUT_S)


def seen(client: http2.Client, stream: int = 1) -> int:
    """Return how many entries a client was told of."""
    return int(client.received[stream][5:])


def test_thousands_of_processes_that_read_the_node_table_at_once_do_not_ask_the_gcs_each(
    relay: BareRelay, clients: http2.Clients, table: Table
) -> None:
    table.entries = 7
    began_s = time.monotonic()
    for _ in range(1_000):
        clients.connect().send(http2.request(1, READ, b""))
    assert all_ended(clients)
    took_ms = (time.monotonic() - began_s) * 1e3
    assert {seen(client) for client in clients.all} == {7}
    # An upstream that answers quickly is asked often, and yet not by each.
    assert len(table.came) < 700, took_ms
    told = relay.metrics()
    assert told['mantaray_relay_reads_total{method="GetAllNodeInfo"}'] == 1_000
    assert told['mantaray_relay_reads_asked_total{method="GetAllNodeInfo"}'] == len(table.came)


def test_no_read_is_answered_with_what_was_true_before_it_was_asked(
    clients: http2.Clients, table: Table
) -> None:
    choose = random.Random(16)
    writer = clients.connect()
    readers = [clients.connect() for _ in range(40)]
    streams = dict.fromkeys(readers, -1)
    least = dict.fromkeys(readers, 0)  # what each reader has to be told at least
    written, read = 0, 0
    deadline = time.monotonic() + TIMEOUT_S
    while read < 4_000:
        assert time.monotonic() < deadline
        for reader in readers:
            stream = streams[reader]
            if stream > 0 and stream in reader.ended:
                assert seen(reader, stream) >= least[reader], "an answer older than its question"
                read += 1
            if stream < 0 or stream in reader.ended:
                streams[reader] = max(stream, -1) + 2
                least[reader] = written
                reader.send(http2.request(streams[reader], READ, b""))
        if choose.random() < 0.5:
            stream = 2 * written + 1
            writer.send(http2.request(stream, WRITE, b"write"))
            assert clients.run(lambda: stream in writer.ended, TIMEOUT_S)  # noqa: B023
            written += 1
        clients.run(lambda: False, 0.002)
    assert written > 10
    assert table.came.count(b"") < read / 2


def test_a_read_does_not_pass_the_write_that_its_client_has_sent_before(
    clients: http2.Clients, table: Table
) -> None:
    for _ in range(100):
        clients.connect().send(http2.request(1, READ, b""))
    writer = clients.connect()
    writer.send(http2.request(1, WRITE, b"write") + http2.request(3, READ, b""))
    assert all_ended(clients)
    assert clients.run(lambda: {1, 3} <= writer.ended, TIMEOUT_S)
    assert seen(writer, 3) == 1
    # A client whose write is not answered reads at once, whatever the others wait for.
    holding = clients.connect()
    holding.send(http2.request(1, WRITE, b"hold"))
    assert clients.run(lambda: b"hold" in table.came, TIMEOUT_S)
    before = len(table.came)
    for stream in range(3, 103, 2):
        holding.send(http2.request(stream, READ, b""))
    assert clients.run(lambda: 101 in holding.ended, TIMEOUT_S)
    assert len(table.came) == before + 50


def test_a_reader_that_leaves_takes_nobody_along_and_leaves_nothing(
    relay: BareRelay, clients: http2.Clients
) -> None:
    for _ in range(20):
        for number in range(60):
            client = clients.connect() if number % 2 else http2.Client(relay.port)
            client.send(http2.request(1, READ, b""))
            if number % 4 == 0:
                client.close(reset=True)
            elif number % 4 == 2:
                client.send(http2.frame(RST_STREAM, 0, 1, CANCEL))
                client.close()
    assert all_ended(clients)
    assert all(seen(client) == 0 for client in clients.all)
    gauges = ("mantaray_relay_proxy_in_flight", "mantaray_relay_held_bytes")
    assert relay.eventually(lambda told: all(told[name] == 0 for name in gauges))


def test_a_read_that_nobody_waits_for_any_more_is_cancelled(
    relay: BareRelay, clients: http2.Clients, upstream: http2.Server
) -> None:
    client = clients.connect()
    client.send(http2.request(1, READ, b"hold"))
    assert clients.run(lambda: upstream.waiting == 1, TIMEOUT_S)
    client.send(http2.frame(RST_STREAM, 0, 1, CANCEL))
    assert relay.eventually(lambda told: told["mantaray_relay_proxy_in_flight"] == 0)
    # A relay with a read under way would not end.


def test_the_deadline_of_one_reader_ends_no_other_read(
    clients: http2.Clients, upstream: http2.Server, table: Table
) -> None:
    client = clients.connect()
    hasty = http2.request(1, READ, b"hold", metadata=[("grpc-timeout", "300m")])
    client.send(hasty + http2.request(3, READ, b"hold"))
    assert clients.run(lambda: 1 in client.ended, TIMEOUT_S)
    # They had one flight.
    assert table.came == [b"hold"]
    assert not clients.run(lambda: 3 in client.ended, 1.0)
    assert upstream.waiting == 1


def test_an_upstream_that_breaks_fails_the_reads_of_that_moment_and_no_later_one(
    clients: http2.Clients,
) -> None:
    for _ in range(60):
        clients.connect().send(http2.request(1, READ, b"break"))
    assert all_ended(clients)
    assert not any(1 in client.received for client in clients.all)
    assert not any(client.closed for client in clients.all)

    def reads() -> bool:
        client = clients.connect()
        client.send(http2.request(1, READ, b""))
        assert clients.run(lambda: bool(client.ended), TIMEOUT_S)
        return client.received.get(1) == http2.message(b"0")

    assert any(reads() for _ in range(500))


def test_callers_with_other_credentials_or_other_questions_share_nothing(
    clients: http2.Clients, table: Table
) -> None:
    for number in range(3 * BURST):
        token = ("authorization", f"Bearer {number}")
        clients.connect().send(http2.request(1, READ, b"", metadata=[token]))
        clients.connect().send(http2.request(1, READ, b"of node %d" % number))
    assert all_ended(clients)
    assert len(table.came) == 6 * BURST


@pytest.mark.parametrize("option", ["none", "GetAllJobInfo,CheckAlive"])
def test_a_method_that_is_switched_off_passes_each_time(
    option: str, upstream: http2.Server, table: Table
) -> None:
    with BareRelay(upstream.port, f"--shared-reads={option}") as relay:
        clients = http2.Clients(relay.port)
        for _ in range(10 * BURST):
            clients.connect().send(http2.request(1, READ, b""))
        assert all_ended(clients)
        clients.close()
        told = relay.metrics()
    assert len(table.came) == 10 * BURST
    assert told['mantaray_relay_reads_total{method="GetAllNodeInfo"}'] == 0


def test_a_relay_below_a_relay_shares_reads_and_keeps_its_path(
    relay: BareRelay, table: Table
) -> None:
    with BareRelay(relay.port) as lower:
        clients = http2.Clients(lower.port)
        for _ in range(200):
            clients.connect().send(http2.request(1, READ, b""))
        assert all_ended(clients)
        assert {seen(client) for client in clients.all} == {0}
        clients.close()
    assert len(table.came) < 100


def test_calls_that_a_client_sends_together_reach_the_gcs_in_their_order(
    clients: http2.Clients, table: Table
) -> None:
    sent = []
    for number in range(300):
        client = clients.connect()
        together = b""
        for step in range(5):
            sent.append(b"%d:%d" % (number, step))
            together += http2.request(2 * step + 1, WRITE, sent[-1])
        client.send(together)
    last = 9
    assert clients.run(lambda: all(last in client.ended for client in clients.all), TIMEOUT_S)
    came = [tuple(map(int, name.split(b":"))) for name in table.came]
    assert len(came) == len(sent)
    # In order for each client.
    assert sorted(came, key=lambda one: one[0]) == sorted(came)


def test_a_call_that_begins_without_a_message_is_opened_all_the_same(
    clients: http2.Clients, upstream: http2.Server
) -> None:
    client = clients.connect()
    whole = http2.request(1, WRITE, b"write", ends=False)
    head = whole[: -len(http2.frame(http2.DATA, 0, 1, http2.message(b"write")))]
    # The upstream sees the call before there is a message.
    before = upstream.opened
    client.send(head)
    assert clients.run(lambda: upstream.opened == before + 1, TIMEOUT_S)
    client.send(whole[len(head) :] + http2.frame(http2.DATA, http2.END_STREAM, 1))
    assert clients.run(lambda: 1 in client.ended, TIMEOUT_S)
    assert seen(client) == 1
