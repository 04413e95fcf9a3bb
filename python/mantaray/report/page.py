"""The HTML page of a report."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Mapping, Sequence

from mantaray.report import names, sections
from mantaray.report.charts import plain
from mantaray.report.model import Node, Origin, Relay
from mantaray.report.recording import Recording
from mantaray.report.style import CSS

_MOST_NAMES = 12
# Both mean that a patch is in force. Which one it is depends on what the process has imported.
_SHOWN_STATES = {"armed": "attached", "active": "attached"}
# What is worth a sentence if it is not zero.
_WARNINGS = {
    names.DAMAGED: "spilled objects were found damaged",
    names.LOST: "reads of spilled objects found no file",
    names.REFUSED_SPILLS: "spills found no room",
    names.SKIPPED: "spill directories cannot be used now",
    names.FALLBACK: "spill directories lack something, so spilling falls back to Ray's way there",
}


def render(
    origin: Origin,
    nodes: Sequence[Node],
    relays: Sequence[Relay],
    recordings: Mapping[str, Recording],
    of_relays: Mapping[str, Recording],
) -> str:
    """Return the whole page.

    Args:
        origin: of the figures.
        nodes: of the cluster, the head first.
        relays: that were asked.
        recordings: of the nodes, by exporter.
        of_relays: of the relays, by admin address.
    """
    parts = (
        ("Patches by node", patches_by_node(nodes)),
        ("Spilling", sections.spilling(nodes, recordings)),
        ("Stalls by garbage collection", sections.stalls(nodes, recordings)),
        ("Waits in Ray Serve's routers", sections.waits(recordings)),
        ("Relays", sections.relays(relays, of_relays)),
    )
    body = "".join(
        f"<section><h2>{html.escape(title)}</h2>{part}</section>" for title, part in parts
    )
    title = html.escape(f"Mantaray report of {origin.cluster}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body><header><h1>{title}</h1>{_opening(origin, nodes)}</header>"
        f"{_needs_a_look(warnings(nodes, relays, recordings))}{body}</body></html>\n"
    )


def _opening(origin: Origin, nodes: Sequence[Node]) -> str:
    began, ended = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
        for moment in (origin.began_s, origin.ended_s)
    )
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    words = (
        f"{count}. Figures from {began} to {ended} UTC, one every {origin.every_s:g} s, from "
        f"{origin.source}. Made by Mantaray {origin.mantaray}."
    )
    return f'<p class="quiet">{html.escape(words)}</p>'


def _needs_a_look(found: Sequence[str]) -> str:
    if not found:
        return '<section><h2>What needs a look</h2><p class="well">Nothing.</p></section>'
    items = "".join(f"<li>{html.escape(words)}</li>" for words in found)
    return f'<section><h2>What needs a look</h2><ul class="look">{items}</ul></section>'


def warnings(
    nodes: Sequence[Node], relays: Sequence[Relay], recordings: Mapping[str, Recording]
) -> list[str]:
    """Return a sentence for each thing that needs a look; see `render` for the arguments."""
    return [
        *(words for node in nodes for words in _of_node(node, recordings)),
        *(
            f"Relay at {relay.admin}: {relay.problem}."
            for relay in relays
            if relay.branches and relay.problem
        ),
    ]


def _of_node(node: Node, recordings: Mapping[str, Recording]) -> Iterator[str]:
    if node.problem is not None:
        yield f"{node.name}: {node.problem}."
    elif not node.has_mantaray:
        yield f"{node.name}: Mantaray is not installed there, so the node runs Ray as it came."
    if node.has_mantaray:
        for words in node.differences:
            yield f"{node.name}: {words}."
    for patch, (state, why) in sorted(node.patches.items()):
        if state == "refused" and why != node.problem:
            yield f"{node.name}: the patch {patch} is refused: {why}."
    recording = recordings.get(node.exporter)
    if recording is None:
        yield f"{node.name}: the node exports no metrics, so the charts below leave it out."
    elif recording.problem is not None:
        yield f"{node.name}: {recording.problem}, so the charts below leave the node out."
    elif node.has_mantaray and not recording.named(names.PATCHES):
        yield f"{node.name}: the node exports no metrics of Mantaray; the patch states is not attached."
    if recording is not None:
        for name, words in _WARNINGS.items():
            if count := recording.last(name):
                yield f"{node.name}: {plain(count)} {words}."


def patches_by_node(nodes: Sequence[Node]) -> str:
    """Return a card for each group of nodes that are alike, with the state of each patch."""
    groups: dict[object, list[Node]] = {}
    for node in nodes:
        alike = (
            tuple(sorted(node.releases.items())),
            tuple(sorted((name, state) for name, (state, _) in shown_patches(node).items())),
            node.problem,
        )
        groups.setdefault(alike, []).append(node)
    cards = "".join(_group(group) for group in groups.values())
    return f'<div class="cards">{cards}</div>'


def shown_patches(node: Node) -> dict[str, tuple[str, str]]:
    """Return the patches of a node with the states that people are shown, and their reasons."""
    return {
        name: (_SHOWN_STATES.get(state, state), why) for name, (state, why) in node.patches.items()
    }


def _group(group: Sequence[Node]) -> str:
    node = group[0]
    called = [f"{each.name}{', head' if each.is_head else ''}" for each in group[:_MOST_NAMES]]
    if len(group) > _MOST_NAMES:
        called.append(f"and {len(group) - _MOST_NAMES} more")
    releases = ", ".join(f"{name} {release}" for name, release in node.releases.items())
    patches = sorted(shown_patches(node).items())
    chips = "".join(
        f'<li class="{html.escape(state)}" title="{html.escape(why)}">'
        f"{html.escape(name)} {html.escape(state)}</li>"
        for name, (state, why) in patches
    )
    reasons = "".join(
        f"<p>{html.escape(f'{name} {state}: {why}')}</p>"
        for name, (state, why) in patches
        if state in ("refused", "off")
    )
    if not chips:
        reasons += f"<p>{html.escape(node.problem or 'No patches: Ray runs as it came.')}</p>"
    size = "1 node" if len(group) == 1 else f"{len(group)} nodes"
    return (
        f'<div class="card"><h3>{size}: {html.escape("; ".join(called))}</h3>'
        f'<p class="quiet">{html.escape(releases)}</p><ul class="chips">{chips}</ul>{reasons}</div>'
    )
