"""The sections of a report: each is HTML made of recordings, or a sentence that says what is missing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from mantaray.report import names
from mantaray.report.charts import (
    Format,
    Line,
    in_bytes,
    in_bytes_per_second,
    in_ms,
    line_chart,
    plain,
)
from mantaray.report.model import Node, Relay
from mantaray.report.recording import Point, Recording, combine, growth, quantile, rate

_MOST_ROWS = 20
_MOST_LINES = 4
_GC_KINDS = {"young": 1, "search": 3, "full": 2}

Recordings = Mapping[str, Recording]


def spilling(nodes: Sequence[Node], recordings: Recordings) -> str:
    """Return what lies on the disks, and how fast objects are spilled and restored.

    Args:
        nodes: of the cluster.
        recordings: by exporter.
    """
    live, disk = (_all(recordings, name) for name in (names.LIVE_BYTES, names.DISK_BYTES))
    if not live or not disk:
        return _paragraph(
            "No node reports spilling. Either no object has been spilled since the nodes started, or "
            "the patches `spill` and `states` are not attached."
        )
    live_sum, disk_sum = combine(live), combine(disk)
    charts = _card(
        "Live data and disk space",
        _of_disks(live_sum[-1][1], disk_sum[-1][1]),
        [Line("live", live_sum, 1), Line("on disk", disk_sum, 2)],
        in_bytes,
    )
    spilled, restored = (
        combine([rate(points) for points in _all(recordings, name)])
        for name in (names.SPILLED_BYTES, names.RESTORED_BYTES)
    )
    if spilled and restored:
        grown = [
            sum(growth(points) for points in _all(recordings, name))
            for name in (names.SPILLED_BYTES, names.RESTORED_BYTES)
        ]
        charts += _card(
            "Spilling and restoring",
            f"The cluster spilled {in_bytes(grown[0])} and restored {in_bytes(grown[1])} in this time.",
            [Line("spilled", spilled, 2), Line("restored", restored, 1)],
            in_bytes_per_second,
        )
    return f'<div class="cards">{charts}</div>{_table_of_disks(nodes, recordings)}'


def _of_disks(live: float, disk: float) -> str:
    told = f"At the end, {in_bytes(live)} of live objects take {in_bytes(disk)} of disk"
    return told + (f": {disk / live:.2f} bytes for each live byte." if live else ".")


def _table_of_disks(nodes: Sequence[Node], recordings: Recordings) -> str:
    rows = []
    for node in nodes:
        recording = recordings.get(node.exporter, Recording())
        disk = recording.last(names.DISK_BYTES)
        live = recording.last(names.LIVE_BYTES)
        if disk is None or live is None:
            continue
        speeds = []
        for name in (names.SPILLED_BYTES, names.RESTORED_BYTES):
            rates = combine([rate(points) for points in recording.named(name)])
            speeds.append(in_bytes_per_second(max((each for _, each in rates), default=0)))
        ratio = f"{disk / live:.2f}" if live else "-"
        rows.append((disk, (node.name, in_bytes(live), in_bytes(disk), ratio, *speeds)))
    rows.sort(key=lambda row: -row[0])
    head = ("node", "live", "on disk", "disk / live", "spilled, at most", "restored, at most")
    return _table(head, [cells for _, cells in rows])


def stalls(nodes: Sequence[Node], recordings: Recordings) -> str:
    """Return how long garbage collections have stopped processes; see `spilling` for the arguments."""
    lines = []
    rows = []
    for kind, colour in _GC_KINDS.items():
        pauses = {
            node.name: combine(recordings[node.exporter].named(names.GC_PAUSE_MS, Kind=kind), max)
            for node in nodes
            if node.exporter in recordings
        }
        pauses = {name: points for name, points in pauses.items() if points}
        if not pauses:
            continue
        lines.append(Line(kind, combine(list(pauses.values()), max), colour))
        made = sum(
            growth(points)
            for recording in recordings.values()
            for points in recording.named(names.GC_COLLECTIONS, Kind=kind)
        )
        worst = max(pauses, key=lambda name: pauses[name][-1][1])
        longest_ms = pauses[worst][-1][1]
        where = worst if longest_ms else "-"
        rows.append((kind, plain(made), in_ms(longest_ms), where))
    if not lines:
        return _paragraph(
            "No process has reported a garbage collection that Ray asked for, or the patches `gc` and "
            "`states` are not attached."
        )
    longest_ms = max(points[-1][1] for points in (line.points for line in lines))
    told = (
        f"The longest stall of a process that still runs was {in_ms(longest_ms)}."
        if longest_ms
        else "No process that still runs has been stopped by a collection that Ray asked for."
    )
    chart = _card("Longest stall so far, by kind of collection", told, lines, in_ms)
    table = _table(("collection", "in this time", "longest stall", "node"), rows)
    return _beside(chart, table)


def waits(recordings: Recordings) -> str:
    """Return how long requests have waited in the routers of Ray Serve.

    Args:
        recordings: by exporter.
    """
    deployments = sorted(
        {
            name
            for recording in recordings.values()
            for metric in (names.QUEUED_REQUESTS, names.WAIT_MS_BUCKET)
            for name in recording.values_of(metric, "deployment")
        }
    )
    if not deployments:
        return _paragraph("No router of Ray Serve reports requests in this time.")
    queued = {}
    rows = []
    for name in deployments:
        found = _all(recordings, names.QUEUED_REQUESTS, deployment=name)
        queued[name] = combine(found) if found else []
        most = max((value for _, value in queued[name]), default=None)
        buckets = _waits_in_this_time(recordings, name)
        if buckets:
            handed = max(buckets.values())
            times = [quantile(part, buckets) for part in (0.5, 0.99)]
            shown = [plain(handed), *("-" if each is None else in_ms(each) for each in times)]
        else:
            shown = ["not exported"] * 3
        rows.append((name, "-" if most is None else plain(most), *shown))
    busiest = sorted(queued, key=lambda name: -max((v for _, v in queued[name]), default=0))
    lines = [
        Line(name, queued[name], number)
        for number, name in enumerate(busiest[:_MOST_LINES], 1)
        if queued[name]
    ]
    told = "Requests that wait in routers for a replica."
    if len(busiest) > _MOST_LINES:
        told += f" The {_MOST_LINES} deployments of {len(busiest)} with the longest queues."
    chart = _card("Waiting requests", told, lines, plain) if lines else ""
    head = ("deployment", "waiting, at most", "requests", "wait, p50", "wait, p99")
    note = ""
    if any("not exported" in row for row in rows):
        note = _paragraph("Ray before 2.55 does not export how long requests wait in a router.")
    return _beside(chart, _table(head, rows) + note)


def _waits_in_this_time(recordings: Recordings, deployment: str) -> dict[float, float]:
    found: dict[float, float] = {}
    for recording in recordings.values():
        bounds = recording.values_of(names.WAIT_MS_BUCKET, "le")
        for bound in bounds:
            for points in recording.named(names.WAIT_MS_BUCKET, deployment=deployment, le=bound):
                found[float(bound)] = found.get(float(bound), 0) + growth(points)
    return found


def relays(asked: Sequence[Relay], recordings: Recordings) -> str:
    """Return the trees of relays.

    Args:
        asked: the relays.
        recordings: of the relays, by admin address.
    """
    if not any(relay.branches for relay in asked):
        where = " or ".join(relay.admin for relay in asked)
        return _paragraph(
            f"No relay answers at {where}. If the cluster has relays, name their admin addresses "
            "with `--relay`."
        )
    cards = ""
    for relay in asked:
        items = "".join(
            f'<li style="margin-left:{min(branch.depth, 8) * 0.8:.1f}rem">{html.escape(branch.name)}'
            f' <span class="quiet">{html.escape(", ".join(branch.facts))}</span></li>'
            for branch in relay.branches
        )
        if items:
            title = html.escape(f"Relay at {relay.admin}")
            cards += f'<div class="card"><h3>{title}</h3><ul class="tree">{items}</ul></div>'
    lag = _all(recordings, names.RELAY_LAG_MS)
    if lag:
        worst = combine(lag, max)
        told = (
            f"The slowest stream of a relay was at most {in_ms(max(v for _, v in worst))} behind."
        )
        cards += _card("Lag of the slowest stream", told, [Line("lag", worst, 1)], in_ms)
    return f'<div class="cards">{cards}</div>'


def _all(recordings: Recordings, name: str, **labels: str) -> list[list[Point]]:
    return [points for each in recordings.values() for points in each.named(name, **labels)]


def _card(title: str, told: str, lines: Sequence[Line], shown: Format) -> str:
    chart = line_chart(f"{title}. {told}", lines, shown)
    return (
        f'<figure class="card" style="margin:0"><h3>{html.escape(title)}</h3>{chart}'
        f"<figcaption>{html.escape(told)}</figcaption></figure>"
    )


def _beside(chart: str, table: str) -> str:
    return f'<div class="cards">{chart}<div class="card">{table}</div></div>'


def _table(head: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    first = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[:_MOST_ROWS]
    )
    table = f'<div class="wide" tabindex="0"><table><thead><tr>{first}</tr></thead>'
    more = len(rows) - _MOST_ROWS
    rest = _paragraph(f"{more} more nodes are not shown.") if more > 0 else ""
    return f"{table}<tbody>{body}</tbody></table></div>{rest}"


def _paragraph(words: str) -> str:
    parts = html.escape(words).split("`")
    marked = "".join(
        f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts)
    )
    return f"<p>{marked}</p>"
