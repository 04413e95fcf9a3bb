"""What the processes of this machine report of their garbage collections, read from their files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mantaray.gc.telemetry import DIRECTORY
from mantaray.node_files import start_ticks

_RAYLET_OPTION = b"--session_dir="


@dataclass(frozen=True)
class ProcessStat:
    """One process.

    Attributes:
        pid: its id.
        title: what it is called now, "ray::Model.predict" or a driver's command line.
        told: the content of its file.
    """

    pid: int
    title: str
    told: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {**self.told, "title": self.title}


def running_sessions(proc: str = "/proc") -> list[str]:
    """Return the session directories of the raylets that run on this machine, sorted.

    Args:
        proc: where the kernel shows processes.
    """
    found: set[str] = set()
    for line in Path(proc).glob("[0-9]*/cmdline"):
        try:
            program, *arguments = line.read_bytes().split(b"\0")
        except OSError:
            continue
        if os.path.basename(program) != b"raylet":
            continue
        for argument in arguments:
            if argument.startswith(_RAYLET_OPTION):
                found.add(os.fsdecode(argument[len(_RAYLET_OPTION) :]))
    return sorted(found)


def stat_sessions(sessions: Iterable[str], proc: str = "/proc") -> list[ProcessStat]:
    """Return the processes that have reported and still run, by session and id.

    Args:
        sessions: Ray's session directories.
        proc: where the kernel shows processes.
    """
    found = []
    for session in sessions:
        for path in sorted(Path(session, DIRECTORY).glob("*.json"), key=lambda p: p.name.zfill(20)):
            try:
                told = json.loads(path.read_text())
                pid = int(told["pid"])
                if start_ticks(pid, proc) != told["start_ticks"]:
                    continue  # Another process has the id by now.
                title = Path(proc, str(pid), "cmdline").read_bytes()
            except (OSError, ValueError, KeyError):
                continue  # It ended, or is writing its first lines.
            words = title.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace").strip()
            found.append(ProcessStat(pid, words, told))
    return found
