"""What the processes of one node have told of their garbage collections, summed up for the node's metrics.

Ten series a node, however many processes it has: each process writes a small file (see `telemetry`), and
the agent of the node reads them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from mantaray.gc.model import Kind
from mantaray.gc.telemetry import DIRECTORY, start_ticks
from mantaray.node_figures import Figure

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
    """Sums up the files of one node's processes. Sums never fall: what has ended stays counted."""

    def __init__(self) -> None:
        # What each file said last, and when it was written, by its name.
        self._living: dict[str, tuple[int, dict[str, Any]]] = {}
        self._ended: Counter[str] = Counter()

    def figures(self, session_dir: str, node_id: str, proc: str = "/proc") -> list[Figure]:
        """Return the node's figures; none before a process has told something.

        Files that killed processes have left are removed.

        Args:
            session_dir: Ray's directory of the session.
            node_id: the node, in hex. Several nodes may share the directory.
            proc: where the kernel shows processes.
        """
        self._read(Path(session_dir, DIRECTORY), node_id, proc)
        living = [told for _, told in self._living.values() if told.get("node_id") == node_id]
        sums = Counter(self._ended)
        for told in living:
            sums.update({name: told[name] for name in _SUMS})
        if not living and not self._ended:
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

    def _read(self, directory: Path, node_id: str, proc: str) -> None:
        seen = set()
        for entry in _entries(directory):
            try:
                written_ns = entry.stat().st_mtime_ns
                known = self._living.get(entry.name)
                if known is None or known[0] != written_ns:
                    self._living[entry.name] = (written_ns, _told(entry.path))
                told = self._living[entry.name][1]
            except (OSError, ValueError):
                continue  # The process ends just now.
            if told.get("node_id") == node_id and not _lives(told, proc):
                Path(entry.path).unlink(missing_ok=True)
                continue
            seen.add(entry.name)
        for name in self._living.keys() - seen:
            _, told = self._living.pop(name)
            if told.get("node_id") == node_id:
                self._ended.update({key: told[key] for key in _SUMS})


_COUNTS = NodeCounts()


def figures(session_dir: str, node_id: str) -> list[Figure]:
    """Return the figures of the node whose agent asks; see `NodeCounts.figures`."""
    return _COUNTS.figures(session_dir, node_id)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if entry.name.endswith(".json")]
    except FileNotFoundError:
        return []


def _told(path: str) -> dict[str, Any]:
    """Return what a file says.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file.
    """
    told = json.loads(Path(path).read_bytes())
    numbers = (*_SUMS, *(f"longest_{kind.value}_s" for kind in Kind), "pid", "start_ticks")
    if not isinstance(told, dict) or any(
        not isinstance(told.get(name), (int, float)) for name in numbers
    ):
        raise ValueError(f"{path} does not tell of garbage collections")
    return told


def _lives(told: dict[str, Any], proc: str) -> bool:
    try:
        return bool(start_ticks(told["pid"], proc) == told["start_ticks"])
    except OSError:
        return False
