"""A report about a made-up cluster that has something to show in every section."""

from __future__ import annotations

from typing import Any

from mantaray.report import names
from mantaray.report.exposition import Sample
from mantaray.report.model import Branch, Node, Origin, Relay
from mantaray.report.page import render
from mantaray.report.recording import Recording

ORIGIN = Origin("10.0.0.1:6379", "the nodes", 1_700_000_000, 1_700_000_060, 5, "0.2.0")
_BOUNDS = ("1.0", "10.0", "100.0", "+Inf")


def node(number: int, **changes: Any) -> Node:
    """Return a node with Mantaray that exports metrics, but for some changes."""
    own: dict[str, Any] = {
        "node_id": f"{number:02x}" * 28,
        "address": f"10.0.0.{number}",
        "is_head": number == 1,
        "exporter": f"10.0.0.{number}:8080",
        "releases": {"Ray": "2.60.0", "Python": "3.11.7", "Mantaray": "0.2.0"},
        "patches": dict.fromkeys(
            ("gc", "joblogs", "knobs", "logs", "refs", "router", "slots", "spill", "states"),
            ("active", "attached"),
        ),
    }
    return Node(**own | changes)


def busy_recording(pause_ms: float = 34.0) -> Recording:
    """Return a minute of a node that spills, collects garbage and serves requests.

    Args:
        pause_ms: its longest stall by a full collection.
    """
    recording = Recording()
    for step in range(13):
        at_s = ORIGIN.began_s + 5 * step
        labels = (("application", "default"), ("deployment", "Model"))
        readings = [
            Sample(names.PATCHES, (("State", "attached"),), 9),
            Sample(names.LIVE_BYTES, (), 200e6 * min(1, step / 6)),
            Sample(names.DISK_BYTES, (), 220e6 * min(1, step / 6)),
            Sample(names.SPILLED_BYTES, (), 1e9 * step / 12),
            Sample(names.RESTORED_BYTES, (), 0.5e9 * step / 12),
            Sample(names.QUEUED_REQUESTS, labels, 7 if step == 5 else 0),
            *(
                Sample(names.GC_PAUSE_MS, (("Kind", kind),), longest * min(1, step / 3))
                for kind, longest in (("young", 4.0), ("search", 0.0), ("full", pause_ms))
            ),
            *(Sample(names.GC_COLLECTIONS, (("Kind", k),), step / 4) for k in ("young", "full")),
        ]
        handed = 1_000 + (10 if step > 5 else 0)
        for bound in _BOUNDS:
            before = 0 if bound == "1.0" else 1_000
            has = (("deployment", "Model"), ("le", bound))
            readings.append(Sample(names.WAIT_MS_BUCKET, has, before + handed - 1_000))
        recording.add(at_s, readings)
    return recording


def whole_report(nodes: int = 3) -> str:
    """Return the page of a cluster with so many busy nodes, a stock node and a tree of relays."""
    all_nodes = [node(number) for number in range(1, nodes + 1)]
    stock = node(
        nodes + 1, releases={"Ray": "2.60.0", "Python": "3.11.7", "Mantaray": "none"}, patches={}
    )
    refused = node(
        nodes + 2,
        patches=dict(all_nodes[0].patches)
        | {"gc": ("refused", "ray._raylet is not the known one")},
        differences=["gc is refused, elsewhere active"],
    )
    recordings = {each.exporter: busy_recording() for each in (*all_nodes, refused)}
    recordings[stock.exporter] = Recording()
    lag = Recording()
    for step in range(13):
        lag.add(ORIGIN.began_s + 5 * step, [Sample(names.RELAY_LAG_MS, (), float(step % 4))])
    tree = [
        Branch(
            0, "relay 1111111111111111 to 10.0.0.1:6379", ["relay-a:6380", "3 nodes", "up to date"]
        ),
        Branch(1, "node 0202020202020202", ["10.0.0.2:50000", "1 node", "connected for 61 s"]),
        Branch(1, "relay 2222222222222222", ["10.0.0.9:50000", "2 nodes", "3 ms behind"]),
        Branch(2, "node 0303030303030303", ["10.0.0.3:50000", "1 node", "connected for 59 s"]),
    ]
    relays = [Relay("relay-a:6380", tree)]
    return render(ORIGIN, [*all_nodes, stock, refused], relays, recordings, {"relay-a:6380": lag})
