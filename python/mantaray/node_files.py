"""Small files in which the processes of a node publish figures, and their sums for the whole node.

Each process writes one JSON file in a directory of the session. The node's agent reads all of them. A
file names its node (`node_id`) and its process (`pid` and `start_ticks`), so the agent recognises and
removes the files of killed processes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any


class NodeFiles:
    """The files of one node's processes. Sums never fall, because ended processes stay counted."""

    def __init__(self, sums: Collection[str], others: Collection[str] = ()) -> None:
        """Prepare.

        Args:
            sums: numbers in each file that are summed up over all processes, ended ones too.
            others: further numbers that each file must hold.
        """
        self._sums = tuple(sums)
        self._numbers = (*sums, *others, "pid", "start_ticks")
        # The last content of each file and the time when it was written, by the file's name.
        self._living: dict[str, tuple[int, dict[str, Any]]] = {}
        self._ended: Counter[str] = Counter()

    def read(
        self, directory: Path, node_id: str, proc: str = "/proc"
    ) -> tuple[list[dict[str, Any]], Counter[str]]:
        """Return the figures of the living processes, and the sums over living and ended processes.

        Files of ended processes are removed. Files that cannot be understood are passed over.

        Args:
            directory: where the files lie.
            node_id: the node, in hex. Several nodes may share the directory.
            proc: where the kernel shows processes.
        """
        self._look(directory, node_id, proc)
        living = [told for _, told in self._living.values() if told.get("node_id") == node_id]
        sums = Counter(self._ended)
        for told in living:
            sums.update({name: told[name] for name in self._sums})
        return living, sums

    def _look(self, directory: Path, node_id: str, proc: str) -> None:
        seen = set()
        for entry in _entries(directory):
            try:
                written_ns = entry.stat().st_mtime_ns
                known = self._living.get(entry.name)
                if known is None or known[0] != written_ns:
                    self._living[entry.name] = (written_ns, self._told(entry.path))
                told = self._living[entry.name][1]
            except (OSError, ValueError):
                continue  # The process has just ended.
            if told.get("node_id") == node_id and not _lives(told, proc):
                Path(entry.path).unlink(missing_ok=True)
                continue
            seen.add(entry.name)
        for name in self._living.keys() - seen:
            _, told = self._living.pop(name)
            if told.get("node_id") == node_id:
                self._ended.update({key: told[key] for key in self._sums})

    def _told(self, path: str) -> dict[str, Any]:
        """Return the content of a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not such a file.
        """
        told = json.loads(Path(path).read_bytes())
        if not isinstance(told, dict) or any(
            not isinstance(told.get(name), (int, float)) for name in self._numbers
        ):
            raise ValueError(f"{path} does not hold the figures of a process")
        return told


def write_file(path: Path, content: dict[str, Any]) -> None:
    """Replace a file in one step.

    Args:
        path: the file; its directory is made.
        content: the new content.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)


def start_ticks(pid: int, proc: str = "/proc") -> int:
    """Return when a process started, in clock ticks since boot. This distinguishes two with the same id.

    Args:
        pid: its id.
        proc: where the kernel shows processes.

    Raises:
        OSError: there is no such process.
    """
    stat = Path(proc, str(pid), "stat").read_text(errors="replace")
    # The name in brackets may hold anything.
    return int(stat.rpartition(")")[2].split()[19])


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if entry.name.endswith(".json")]
    except FileNotFoundError:
        return []


def _lives(told: dict[str, Any], proc: str) -> bool:
    try:
        return bool(start_ticks(told["pid"], proc) == told["start_ticks"])
    except OSError:
        return False
