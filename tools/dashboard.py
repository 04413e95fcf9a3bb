"""Makes the Grafana dashboard over every metric of the product; `python -m tools.reference` writes it.

A metric that no panel below names gets a panel of its own, so that a new metric is shown at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.metrics import NODE_PREFIX, Metric

WIDTH = 24
PANEL_HEIGHT = 7
STAT_HEIGHT = 4
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_RELAY = "mantaray_relay_"
_SYNC = "mantaray_relay_sync_"
_GC = "ray_mantaray_gc_"
_REFS = "ray_mantaray_refs_"
# Sums of spilling that never fall, by the ends of their names.
_SPILL_SUMS = re.compile(
    r"ray_mantaray_spill_(?:(?:spilled|restored|deleted|damaged|lost|repaired)_(?:objects|bytes)"
    r"|punched_bytes|\w+_punches|\w+_errors|refused_spills|call_seconds_\w+)"
)
# Sums that never fall. Ray exports all figures of a node as gauges, so the type does not tell.
_SUMS = (
    *(
        f"{_GC}{name}"
        for name in (
            *("collections", "objects_freed", "triggers"),
            *("automatic_freezes", "failed_searches"),
        )
    ),
    *(
        f"{_REFS}{name}"
        for name in (
            *("repeated_ref_removed", "repeated_publisher_failed"),
            *("merged_late_notices", "repeated_releases"),
        )
    ),
)
# By row and title: the metrics of each panel.
_ROWS: dict[str, dict[str, tuple[str, ...]]] = {
    "Nodes": {"Patches by state": ("ray_mantaray_patches",)},
    "Garbage collection": {
        "Longest stall of a process that runs": (f"{_GC}longest_pause_ms",),
        "Collections": (f"{_GC}collections", f"{_GC}automatic_freezes"),
        "Requests of Ray, and searches that failed": (f"{_GC}triggers", f"{_GC}failed_searches"),
        "Objects freed": (f"{_GC}objects_freed",),
    },
    "Reference counting": {
        "Notices and releases that came again": (
            f"{_REFS}repeated_ref_removed",
            f"{_REFS}repeated_publisher_failed",
            f"{_REFS}repeated_releases",
            f"{_REFS}merged_late_notices",
        ),
    },
    "Relay: sync streams": {
        "Nodes and streams": (f"{_SYNC}nodes", f"{_SYNC}streams"),
        "The slowest stream is behind by": (f"{_SYNC}lag_ms",),
        "How long updates wait in the relay": (f"{_SYNC}delay_seconds",),
        "Changes that streams have yet to take": (f"{_SYNC}queued",),
        "Connected to the upstream": (f"{_SYNC}upstream_connected", f"{_RELAY}listening"),
        "Connections made and given up": (
            f"{_SYNC}upstream_connects_total",
            f"{_RELAY}upstream_given_up_total",
            f"{_SYNC}streams_replaced_total",
        ),
    },
    "Relay: traffic": {
        "Sync messages": (f"{_SYNC}messages_total",),
        "gRPC messages of the sync streams": (f"{_SYNC}frames_total",),
        "Bytes of the sync streams": (f"{_SYNC}bytes_total",),
        "Saved": (f"{_SYNC}coalesced_total", f"{_SYNC}noise_held_total", f"{_SYNC}echoes_total"),
        "Calls in flight": (f"{_RELAY}proxy_in_flight",),
        "Calls that ended, by status": (f"{_RELAY}proxy_calls_total",),
        "How long calls take, long polls included": (f"{_RELAY}proxy_seconds",),
        "Memory for messages": (f"{_RELAY}held_bytes", f"{_SYNC}memory_bytes"),
        "Fetches of packages that were shared": (f"{_RELAY}packages_shared_total",),
        "Reads that came, and that the GCS was asked": (
            f"{_RELAY}reads_total",
            f"{_RELAY}reads_asked_total",
        ),
    },
    "Relay: refused, dropped and repaired": {
        "Streams refused": (f"{_SYNC}refused_total",),
        "Calls refused": (f"{_RELAY}refused_total", f"{_RELAY}rings_refused_total"),
        "Messages dropped": (
            f"{_SYNC}stale_total",
            f"{_SYNC}dead_dropped_total",
            f"{_SYNC}upstream_skipped_total",
        ),
        "Nodes that left": (
            f"{_SYNC}nodes_left_total",
            f"{_SYNC}swept_total",
            f"{_SYNC}evicted_total",
        ),
        "Repairs": (
            f"{_SYNC}repaired_buckets_total",
            f"{_SYNC}resent_total",
            f"{_SYNC}raised_total",
        ),
    },
}
_STATS = (
    ("Nodes with a refused patch", 'count(ray_mantaray_patches{State="refused"} > 0) or vector(0)'),
    (
        "Nodes without Mantaray",
        "count(count by (ip) (ray_node_cpu_count) unless count by (ip) (ray_mantaray_patches))"
        " or vector(0)",
    ),
    ("Relays without an upstream", f"count({_SYNC}upstream_connected == 0) or vector(0)"),
    ("Relays that stopped listening", f"count({_RELAY}listening == 0) or vector(0)"),
)


@dataclass
class _Layout:
    """Places panels from left to right and from top to bottom."""

    panels: list[dict[str, Any]] = field(default_factory=list)
    x: int = 0
    y: int = 0
    height: int = 0

    def add(self, panel: dict[str, Any], width: int, height: int) -> None:
        if self.x + width > WIDTH:
            self.end_line()
        place = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.panels.append({"id": len(self.panels) + 1, **panel, "gridPos": place})
        self.x, self.height = self.x + width, max(self.height, height)

    def end_line(self) -> None:
        self.x, self.y, self.height = 0, self.y + self.height, 0

    def row(self, title: str) -> None:
        self.end_line()
        self.add({"type": "row", "title": title, "collapsed": False, "panels": []}, WIDTH, 1)
        self.end_line()


def dashboard(metrics: Sequence[Metric]) -> str:
    """Return the dashboard as Grafana imports it.

    Args:
        metrics: all that there are.
    """
    known = {metric.name: metric for metric in metrics}
    layout = _Layout()
    for title, expression in _STATS:
        layout.add(_stat(title, expression), WIDTH // len(_STATS), STAT_HEIGHT)
    shown: set[str] = set()
    for row, panels in _ROWS.items():
        layout.row(row)
        for title, names in panels.items():
            layout.add(_time_series(title, [known[name] for name in names]), 8, PANEL_HEIGHT)
            shown.update(names)
    if others := [metric for metric in metrics if metric.name not in shown]:
        layout.row("Other")
        for metric in others:
            layout.add(_time_series(metric.name, [metric]), 8, PANEL_HEIGHT)
    content = {
        "uid": "mantaray",
        "title": "Mantaray",
        "description": "Every metric of Mantaray, of its nodes and of its relays.",
        "tags": ["ray", "mantaray"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "links": [],
        "panels": layout.panels,
    }
    return json.dumps(content, indent=1) + "\n"


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }
    for name, label, query in (
        ("ip", "Node", "label_values(ray_mantaray_patches, ip)"),
        ("relay", "Relay", f"label_values({_RELAY}listening, instance)"),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
            "refresh": 2,
            "sort": 1,
            "hide": 0,
        }


def _stat(title: str, expression: str) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
    return {
        "type": "stat",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": "short", "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {
            "colorMode": "background",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": expression, "instant": True}],
    }


def _time_series(title: str, metrics: Sequence[Metric]) -> dict[str, Any]:
    queries = [query for metric in metrics for query in _queries(metric, len(metrics) > 1)]
    return {
        "type": "timeseries",
        "title": title,
        "description": " ".join(metric.description for metric in metrics),
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": _unit(metrics[0]), "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
            }
            for number, (expression, legend) in enumerate(queries)
        ],
    }


def _queries(metric: Metric, is_one_of_several: bool) -> Iterator[tuple[str, str]]:
    """Yield each query of a metric with the legend of its series."""
    origin, chosen = ("instance", "relay") if metric.name.startswith(_RELAY) else ("ip", "ip")
    selected = f'{{{origin}=~"${chosen}"}}'
    if metric.kind == "histogram":
        rate = f"rate({metric.name}_bucket{selected}[$__rate_interval])"
        for quantile, label in ((0.5, "p50"), (0.99, "p99")):
            expression = f"histogram_quantile({quantile}, sum by ({origin}, le) ({rate}))"
            yield expression, f"{label} {{{{{origin}}}}}"
        return
    by = ", ".join((origin, *metric.labels))
    short = [metric.name.removeprefix(NODE_PREFIX)] if is_one_of_several else []
    legend = " ".join([*short, *(f"{{{{{label}}}}}" for label in (*metric.labels, origin))])
    if metric.kind == "counter" or _is_sum(metric):
        yield f"sum by ({by}) (rate({metric.name}{selected}[$__rate_interval]))", legend
    else:
        yield f"max by ({by}) ({metric.name}{selected})", legend


def _unit(metric: Metric) -> str:
    if metric.name.endswith("_ms"):
        return "ms"
    if metric.name.endswith("_seconds"):
        return "s"
    if metric.name.endswith("_bytes_total"):
        return "Bps"
    is_rate = metric.kind == "counter" or _is_sum(metric)
    if is_rate and metric.name.endswith("_bytes"):
        return "Bps"
    if metric.name.endswith("_bytes"):
        return "bytes"
    return "ops" if is_rate else "short"


def _is_sum(metric: Metric) -> bool:
    return metric.name in _SUMS or _SPILL_SUMS.fullmatch(metric.name) is not None
