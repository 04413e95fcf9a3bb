"""The status of a relay, read from its admin address."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 5.0
# Requests go to the address that was named, whatever proxy the environment asks for.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class StreamStatus:
    """A sync stream of a relay.

    Attributes:
        node_id: of the node at the other end, hexadecimal. A relay has a random node id.
        relay_id: of the relay at the other end; empty for a node or a GCS.
        upstream: whether it is the stream to the upstream.
        address: of the other end, as gRPC writes it; empty for the upstream.
        admin: the admin address that a relay at the other end announced; empty if it announced none.
        dialect: the message format: "bare" (Ray before 2.53), "batch", or "unknown".
        nodes: how many living nodes are behind it.
        behind: how many changes have not been sent on it yet.
        behind_ms: how long it has not been up to date.
        connected_ms: how long it has existed.
    """

    node_id: str
    relay_id: str
    upstream: bool
    address: str
    admin: str
    dialect: str
    nodes: int
    behind: int
    behind_ms: int
    connected_ms: int


@dataclass(frozen=True)
class RelayStatus:
    """The status of a relay.

    Attributes:
        relay_id: its id, new with every start.
        upstream: HOST:PORT.
        upstream_connected: whether its stream to the upstream is connected.
        upstream_problem: why not; may be empty while no node needs that stream.
        window_ms: how long the relay gathers updates for nodes.
        nodes: how many nodes are in the view, including those beyond the upstream.
        refused: how many streams were refused, or ended because of what they sent.
        streams: all streams, including the one to the upstream.
    """

    relay_id: str
    upstream: str
    upstream_connected: bool
    upstream_problem: str
    window_ms: int
    nodes: int
    refused: int
    streams: tuple[StreamStatus, ...]

    @property
    def downstream(self) -> tuple[StreamStatus, ...]:
        """The streams of nodes and of further relays."""
        return tuple(stream for stream in self.streams if not stream.upstream)


def fetch_status(admin: str) -> RelayStatus:
    """Ask a relay for its status.

    Args:
        admin: its admin address, HOST:PORT.

    Raises:
        OSError: it does not answer.
        ValueError: the answer is not that of a relay.
    """
    return parse_status(json.loads(_get(admin, "/status")))


def fetch_metrics(admin: str) -> str:
    """Return a relay's metrics as Prometheus text; see `fetch_status` for the errors."""
    return _get(admin, "/metrics")


def is_healthy(admin: str) -> bool:
    """Return whether a relay at this admin address, HOST:PORT, answers that it is alive."""
    try:
        _get(admin, "/healthz")
    except OSError:
        return False
    return True


def parse_status(said: Any) -> RelayStatus:
    """Make a status of a relay's answer.

    Raises:
        ValueError: the answer is not that of a relay.
    """
    try:
        streams = tuple(
            StreamStatus(**{"address": "", "admin": "", **stream}) for stream in said["streams"]
        )
        return RelayStatus(**{**said, "streams": streams})
    except (TypeError, KeyError) as error:
        raise ValueError(f"this is not the status of a relay: {error}") from error


def _get(admin: str, path: str) -> str:
    with _OPENER.open(f"http://{admin}{path}", timeout=TIMEOUT_S) as response:
        text: bytes = response.read()
    return text.decode()
