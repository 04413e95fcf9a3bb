"""Draws which patch acts in which process of a Ray cluster; tools/reference.py writes the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

COLUMN = 350
GAP = 30
MARGIN = 20
PADDING = 14
LINE = 20
# A monospaced character of the chips.
CHARACTER = 7.6
_STYLE = """\
svg { color-scheme: light dark; font-family: system-ui, sans-serif; font-size: 14px; }
.node { fill: #f4f6fb; stroke: #8a94a8; }
.process { fill: #ffffff; stroke: #8a94a8; }
.compiled { fill: #e9ebf0; stroke: #8a94a8; stroke-dasharray: 5 4; }
.chip { fill: #dbe7ff; stroke: #2f5fb3; }
text { fill: #1c2330; }
.title { font-size: 17px; font-weight: 600; }
.name { font-weight: 600; }
.note { fill: #55607a; font-size: 13px; }
.patch { font-family: ui-monospace, monospace; font-size: 12.5px; fill: #173a7a; }
@media (prefers-color-scheme: dark) {
  .node { fill: #1b2130; }
  .process { fill: #252d40; }
  .compiled { fill: #1f2431; }
  .chip { fill: #24407a; stroke: #86aef5; }
  text { fill: #e8ecf5; }
  .note { fill: #aab4cb; }
  .patch { fill: #dbe7ff; }
}
"""


@dataclass(frozen=True)
class Process:
    """A process, or several of a kind.

    Attributes:
        name: what Ray calls it.
        does: what Mantaray changes there, one line each.
        patches: that act in it; none in a program that Mantaray leaves as it is.
    """

    name: str
    does: Sequence[str] = ()
    patches: Sequence[str] = ()

    @property
    def height(self) -> int:
        """Return how high its box is."""
        chips = LINE + 8 if self.patches else 0
        return 2 * PADDING - 6 + LINE * (1 + len(self.does)) + chips


COLUMNS: Sequence[tuple[str, Sequence[Process]]] = (
    (
        "Head node",
        (
            Process("gcs_server", ("compiled, unchanged",)),
            Process(
                "ray start, and what it leaves running",
                ("as on workers; keeps a relay running",),
                ("knobs", "spill", "relay", "retention"),
            ),
            Process(
                "dashboard head",
                ("finds the profiled process,", "passes whole logs on in pieces"),
                ("profiling", "pagelinks", "joblogs"),
            ),
            Process("Serve controller", ("makes the classes of replicas",), ("slots",)),
            Process("and the processes of a worker node"),
        ),
    ),
    (
        "Every worker node",
        (
            Process("raylet and object store", ("compiled, unchanged",)),
            Process(
                "ray start, and what it leaves running",
                ("chooses Ray's knobs, removes left-overs",),
                ("knobs", "spill", "retention"),
            ),
            Process("IO workers", ("write, verify and give back spilled objects",), ("spill",)),
            Process("whoever calls ray.get", ("reads small spilled objects itself",), ("direct",)),
            Process(
                "dashboard agent",
                ("reads logs in bounded memory,", "exports metrics"),
                ("logs", "joblogs", "states"),
            ),
            Process(
                "workers, actors and drivers",
                ("collect garbage with short pauses,", "count references, call finalizers"),
                ("gc", "refs", "refcount", "nesting"),
            ),
            Process(
                "Serve proxies, replicas and handles",
                ("wake when a slot comes free",),
                ("router", "slots"),
            ),
        ),
    ),
    (
        "Anywhere, if you start one",
        (
            Process(
                "mantaray relay",
                (
                    "a program of Mantaray: gathers the views",
                    "of many nodes into one stream to the",
                    "GCS, and passes all other calls on",
                ),
            ),
            Process(
                "mantaray ...",
                (
                    "the command: doctor, settings, spill stat,",
                    "refs why, logs clean, relay status",
                ),
            ),
            Process("ray --version", ("answers for a custom wheel",), ("version",)),
        ),
    ),
)
_COMPILED = "compiled, unchanged"
_FOOT = (
    "Blue names are patches. Each is attached in memory when a Python process imports Ray.",
    "Dashed boxes are compiled programs of Ray. Mantaray changes no file and none of these.",
)


def picture() -> str:
    """Return the picture as SVG."""
    heights = [sum(each.height + 12 for each in processes) for _, processes in COLUMNS]
    bottom = MARGIN + 44 + max(heights) + 6
    width = 2 * MARGIN + len(COLUMNS) * COLUMN + (len(COLUMNS) - 1) * GAP
    height = bottom + MARGIN + LINE * len(_FOOT) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-label="Which patch acts in which process">',
        f"<style>{_STYLE}</style>",
    ]
    for number, (title, processes) in enumerate(COLUMNS):
        x = MARGIN + number * (COLUMN + GAP)
        column_height = MARGIN + 44 + heights[number] + 6 - MARGIN
        parts.append(_box("node", x, MARGIN, COLUMN, column_height))
        parts.append(_text("title", x + PADDING, MARGIN + 28, title))
        y = MARGIN + 44
        for process in processes:
            parts += _process(process, x + PADDING, y, COLUMN - 2 * PADDING)
            y += process.height + 12
    for number, line in enumerate(_FOOT):
        parts.append(_text("note", MARGIN, bottom + MARGIN + LINE * number, line))
    return "\n".join(parts) + "\n</svg>\n"


def _process(process: Process, x: float, y: float, width: float) -> Iterator[str]:
    kind = "compiled" if _COMPILED in process.does else "process"
    yield _box(kind, x, y, width, process.height)
    y += PADDING + 8
    yield _text("name", x + PADDING, y, process.name)
    for line in process.does:
        y += LINE
        yield _text("note", x + PADDING, y, line)
    x += PADDING
    for patch in process.patches:
        chip = len(patch) * CHARACTER + 14
        yield _box("chip", x, y + 11, chip, LINE)
        yield _text("patch", x + 7, y + 25, patch)
        x += chip + 8


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
    )


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'
