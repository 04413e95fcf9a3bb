"""What relays say about themselves, and the table that `mantaray relay status` makes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner
from mantaray.cli.relay import relay_command
from mantaray.syncer.status import parse_status

from mantaray.syncer import fetch_status


def stream(**more: Any) -> dict[str, Any]:
    """A stream as a relay describes it."""
    return {
        "node_id": "ab" * 28,
        "relay_id": "",
        "upstream": False,
        "dialect": "batch",
        "nodes": 1,
        "behind": 0,
        "behind_ms": 0,
        "connected_ms": 61_000,
        "address": "ipv4:10.0.0.7:50000",
        "admin": "",
    } | more


def status(**more: Any) -> dict[str, Any]:
    """A relay as it describes itself."""
    return {
        "relay_id": "1" * 16,
        "upstream": "head:6379",
        "upstream_connected": True,
        "upstream_problem": "",
        "window_ms": 25,
        "nodes": 3,
        "refused": 0,
        "streams": [],
    } | more


class Admin:
    """An admin address that says what it is told to say."""

    def __init__(self) -> None:
        self.said: Any = status()
        admin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(admin.said).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def admins() -> Iterator[tuple[Admin, Admin]]:
    """Two admin addresses."""
    pair = Admin(), Admin()
    yield pair
    for admin in pair:
        admin.server.shutdown()
        admin.server.server_close()


def test_table_shows_the_tree_and_the_lag(admins: tuple[Admin, Admin]) -> None:
    upper, lower = admins
    lower.said = status(
        relay_id="2" * 16,
        upstream="upper:6379",
        streams=[
            stream(node_id="ef" * 28, address="ipv4:10.0.2.1:40000"),
            stream(upstream=True, node_id="0" * 56, nodes=2),
        ],
    )
    upper.said = status(
        streams=[
            stream(relay_id="2" * 16, nodes=1, behind=4, behind_ms=12, admin=lower.address),
            stream(),
        ]
    )
    done = CliRunner().invoke(relay_command, ["status", upper.address])
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert lines == [
        "relay or node address nodes lag behind connected dialect",
        f"relay {'1' * 16} to head:6379 {upper.address} 3 12 ms 4",
        f"node {'ab' * 8} 10.0.0.7:50000 1 0 ms 0 61 s batch",
        f"relay {'2' * 16} 10.0.0.7:50000 1 12 ms 4 61 s batch",
        f"node {'ef' * 8} 10.0.2.1:40000 1 0 ms 0 61 s batch",
    ]
    assert done.output.splitlines()[4].startswith("    node")


def test_a_relay_without_upstream_says_why(admins: tuple[Admin, Admin]) -> None:
    admins[0].said = status(upstream_connected=False, upstream_problem="no route")
    done = CliRunner().invoke(relay_command, ["status", admins[0].address])
    assert "to head:6379 (not connected: no route)" in done.output


def test_another_relay_at_a_told_address_is_not_taken_for_the_one_below(
    admins: tuple[Admin, Admin],
) -> None:
    upper, other = admins
    other.said = status(relay_id="3" * 16, streams=[stream(node_id="ef" * 28)])
    upper.said = status(streams=[stream(relay_id="2" * 16, admin=other.address)])
    done = CliRunner().invoke(relay_command, ["status", upper.address])
    assert "ef" * 8 not in done.output


def test_no_relay_is_an_error_with_a_hint() -> None:
    done = CliRunner().invoke(relay_command, ["status", "127.0.0.1:1"])
    assert done.exit_code == 1
    assert "error: no relay answers at 127.0.0.1:1" in done.output
    assert "hint: name the address" in done.output


def test_what_is_no_relay_is_not_taken_for_one(admins: tuple[Admin, Admin]) -> None:
    admins[0].said = {"streams": [{"surprise": 1}]}
    with pytest.raises(ValueError, match="not the status of a relay"):
        fetch_status(admins[0].address)


def test_downstream_leaves_the_upstream_out() -> None:
    told = parse_status(status(streams=[stream(), stream(upstream=True)]))
    assert len(told.streams) == 2
    assert [one.upstream for one in told.downstream] == [False]
