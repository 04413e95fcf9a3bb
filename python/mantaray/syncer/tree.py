"""The relays and nodes below a relay, as lines that a table or a page shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mantaray.syncer.status import RelayStatus, StreamStatus, fetch_status

_MAX_DEPTH = 16


@dataclass(frozen=True)
class TreeLine:
    """A relay, or a node that joined through one.

    Attributes:
        depth: how far below the relay that was asked.
        name: "relay ..." or "node ...".
        address: where it is.
        nodes: how many nodes live behind it, itself included.
        behind: how many changes have not been sent to it yet.
        behind_ms: how long it has not been up to date.
        connected_ms: how long its stream has existed; None for the relay that was asked.
        dialect: of its stream; empty for the relay that was asked.
    """

    depth: int
    name: str
    address: str
    nodes: int
    behind: int
    behind_ms: int
    connected_ms: int | None = None
    dialect: str = ""


def relay_tree(status: RelayStatus, address: str, depth: int = 0) -> Iterator[TreeLine]:
    """Yield a line for the relay and for each of its streams, followed by what is below the stream.

    A relay further down is asked itself if it announced an admin address and answers there.

    Args:
        status: of the relay at the top.
        address: what to call it.
        depth: of its line.
    """
    name = f"relay {status.relay_id} to {status.upstream}"
    if not status.upstream_connected:
        reason = f": {status.upstream_problem}" if status.upstream_problem else ""
        name += f" (not connected{reason})"
    # The slowest of its streams, including the one to the upstream.
    behind_ms = max((stream.behind_ms for stream in status.streams), default=0)
    behind = sum(stream.behind for stream in status.streams)
    yield TreeLine(depth, name, address, status.nodes, behind, behind_ms)
    for stream in sorted(status.downstream, key=lambda stream: (stream.relay_id, stream.node_id)):
        yield _of_stream(stream, depth + 1)
        if stream.relay_id and stream.admin and depth < _MAX_DEPTH:
            yield from _below(stream, depth + 1)


def _below(stream: StreamStatus, depth: int) -> Iterator[TreeLine]:
    try:
        status = fetch_status(stream.admin)
    except (OSError, ValueError):
        return
    # The same loopback address may belong to another relay here.
    if status.relay_id == stream.relay_id:
        lines = relay_tree(status, stream.admin, depth)
        next(lines)  # The stream's own line stands for the relay.
        yield from lines


def _of_stream(stream: StreamStatus, depth: int) -> TreeLine:
    return TreeLine(
        depth=depth,
        name=f"relay {stream.relay_id}" if stream.relay_id else f"node {stream.node_id[:16]}",
        address=stream.address.partition(":")[2] or stream.address,
        nodes=stream.nodes,
        behind=stream.behind,
        behind_ms=stream.behind_ms,
        connected_ms=stream.connected_ms,
        dialect=stream.dialect,
    )
