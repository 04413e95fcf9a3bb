"""What a node has on disk: segments, live bytes, disk bytes. Read from the directories alone."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SpillStat:
    """The state of one node's spill directory. Sizes in bytes."""

    path: str
    segments: int
    objects: int
    live_bytes: int
    disk_bytes: int
    damaged: int

    @property
    def amplification(self) -> float:
        """Disk bytes over live bytes; 1 when there is neither."""
        if self.live_bytes == 0:
            return 1.0 if self.disk_bytes == 0 else float("inf")
        return self.disk_bytes / self.live_bytes


def stat_directory(path: str) -> SpillStat:
    """Return what lies in a node's directory, Mantaray's or stock Ray's.

    Of a file without per-object links (stock Ray's and the fall-back's) all bytes count as live:
    which of them are is known to the raylet alone.

    Args:
        path: the node's directory.
    """
    from mantaray._native import spill

    disk: dict[tuple[int, int], int] = {}
    objects = live_bytes = damaged = 0
    for parent, _, names in os.walk(path):
        for name in names:
            if name in (spill.OWNER_FILE, "alive"):
                continue
            try:
                info = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            disk[(info.st_dev, info.st_ino)] = info.st_blocks * 512
            link = spill.parse_link_name(name)
            if link is None:
                live_bytes += info.st_size
            elif link[4]:
                damaged += 1
            else:
                objects += 1
                live_bytes += link[2]
    return SpillStat(path, len(disk), objects, live_bytes, sum(disk.values()), damaged)


def running_spill_directories() -> list[str]:
    """Return the spill directories of the nodes that run on this machine and have spilled.

    A raylet hands its configuration to its IO workers on their command line, which is where this
    reads it; a node without IO workers has spilled nothing.
    """
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "environ").read_bytes() and (process / "cmdline").read_bytes()
        except OSError:
            continue
        for argument in arguments.split(b"\0"):
            if argument.startswith(b"--object-spilling-config="):
                found.update(_directories_in(argument.partition(b"=")[2]))
    return sorted(found)


def _directories_in(encoded: bytes) -> list[str]:
    try:
        config = json.loads(base64.b64decode(encoded))
        paths = config["params"]["directory_path"]
    except (ValueError, KeyError, TypeError):
        return []
    return [paths] if isinstance(paths, str) else list(paths)
