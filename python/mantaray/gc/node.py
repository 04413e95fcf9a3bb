"""The sums of what the processes of one node report of their garbage collections, as metrics.

A node has ten series, however many processes it has. Each process writes a small file (see
`telemetry`), and the agent of the node reads the files.
"""

from __future__ import annotations

from pathlib import Path

from mantaray.gc.model import Kind
from mantaray.gc.telemetry import DIRECTORY
from mantaray.node_figures import Figure
from mantaray.node_files import NodeFiles

# Names of `Counts`, by the kind of the collections that they count.
_COLLECTIONS = {Kind.YOUNG: "young", Kind.SEARCH: "searches", Kind.FULL: "full"}
_SUMS = (*_COLLECTIONS.values(), "objects", "triggers", "automatic_freezes", "failed_searches")
_TOLD = {
    "objects": ("mantaray_gc_objects_freed", "Unreachable objects that Mantaray has found."),
    "triggers": ("mantaray_gc_triggers", "Garbage collections that Ray has asked processes for."),
    "automatic_freezes": (
        "mantaray_gc_automatic_freezes",
        "Automatic collections of a large heap that were made short by freezing it.",
    ),
    "failed_searches": (
        "mantaray_gc_failed_searches",
        "Searches for garbage that did not come to an end.",
    ),
}


class NodeCounts:
    """Sums up the files of one node's processes. Sums never fall, because ended processes stay counted."""

    def __init__(self) -> None:
        self._files = NodeFiles(_SUMS, [f"longest_{kind.value}_s" for kind in Kind])

    def figures(self, session_dir: str, node_id: str, proc: str = "/proc") -> list[Figure]:
        """Return the node's figures; none before a process has reported.

        Files that killed processes have left are removed.

        Args:
            session_dir: Ray's directory of the session.
            node_id: the node, in hex. Several nodes may share the directory.
            proc: where the kernel shows processes.
        """
        living, sums = self._files.read(Path(session_dir, DIRECTORY), node_id, proc)
        if not living and not sums:
            return []
        found = [Figure(*_TOLD[name], "count", sums[name]) for name in _TOLD]
        for kind, name in _COLLECTIONS.items():
            tags = {"Kind": kind.value}
            longest_s = max((told[f"longest_{kind.value}_s"] for told in living), default=0.0)
            found.append(
                Figure(
                    "mantaray_gc_collections",
                    "Garbage collections of Mantaray: young, search or full.",
                    "count",
                    sums[name],
                    tags,
                )
            )
            found.append(
                Figure(
                    "mantaray_gc_longest_pause_ms",
                    "The longest stall by such a collection in any process that still runs.",
                    "ms",
                    longest_s * 1_000,
                    tags,
                )
            )
        return found


_COUNTS = NodeCounts()


def figures(session_dir: str, node_id: str) -> list[Figure]:
    """Return the figures of the node whose agent asks; see `NodeCounts.figures`."""
    return _COUNTS.figures(session_dir, node_id)
