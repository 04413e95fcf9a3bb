"""What a relay says about itself, read from its admin address."""

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
        node_id: of the node at the other end, hexadecimal; a relay has one made up.
        relay_id: of the relay at the other end; empty for a node or a GCS.
        upstream: whether it is the stream to the upstream.
        address: of the other end, as gRPC writes it; empty for the upstream.
        admin: admin address that a relay at the other end told; empty if it told none.
        dialect: what is spoken: "bare" (Ray before 2.53), "batch", or "unknown".
        nodes: how many nodes live behind it.
        behind: how many changes it has yet to take.
        behind_ms: how long it has not been up to date.
        connected_ms: how long it has been there.
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
    """A relay as it stands.

    Attributes:
        relay_id: its id, new with every start.
        upstream: HOST:PORT.
        upstream_connected: whether its stream to the upstream stands.
        upstream_problem: why not; may be empty while nobody needs that stream.
        window_ms: how long updates are gathered on their way to nodes.
        nodes: in the view, those beyond the upstream too.
        refused: streams refused or ended for what they sent.
        streams: all of them, the one to the upstream among them.
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
    """Ask a relay how it stands.

    Args:
        admin: its admin address, HOST:PORT.

    Raises:
        OSError: it does not answer.
        ValueError: what answers is no relay.
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
    """Make a status of what a relay said.

    Raises:
        ValueError: a relay does not say such things.
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
