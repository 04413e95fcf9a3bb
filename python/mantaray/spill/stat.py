"""What a node has on disk: segments, live bytes, disk bytes. Read from the directories alone."""

from __future__ import annotations

import os
from dataclasses import dataclass


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
