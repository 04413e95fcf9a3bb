"""What a node has on disk: segments, live bytes, disk bytes. All of it is read from the directories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_RAYLET_OPTION = b"--fallback_directory="


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

    def to_json(self) -> dict[str, object]:
        """Return everything for JSON, which has no infinity: amplification is null then."""
        amplification = self.amplification if self.live_bytes or not self.disk_bytes else None
        return {**asdict(self), "amplification": amplification}


def stat_directory(path: str) -> SpillStat:
    """Return what is in a node's directory, of Mantaray or of stock Ray.

    All bytes of a file without a link for each object (a file of stock Ray or of the fallback) count as
    live, because only the raylet knows which of them are.

    Args:
        path: the node's directory.
    """
    from mantaray._native import spill

    disk: dict[tuple[int, int], int] = {}
    objects = live_bytes = damaged = 0
    for parent, _, names in os.walk(path):
        for name in names:
            if name == spill.OWNER_FILE:
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


def running_spill_directories(proc: str = "/proc") -> list[str]:
    """Return the spill directories of the nodes that run on this machine, sorted.

    The command line of every raylet names its first directory. IO workers of Mantaray keep all directories
    of their node open. Processes of other users count if this process may read their state.

    Args:
        proc: where the kernel shows processes.
    """
    found: set[str] = set()
    for process in Path(proc).glob("[0-9]*"):
        try:
            found.update(_named_by_raylet((process / "cmdline").read_bytes()))
            found.update(_held_open(process / "fd"))
        except OSError:
            continue
    return sorted(found)


def _named_by_raylet(command_line: bytes) -> Iterator[str]:
    program, *arguments = command_line.split(b"\0")
    if os.path.basename(program) != b"raylet":
        return
    for argument in arguments:
        if argument.startswith(_RAYLET_OPTION):
            yield os.fsdecode(argument[len(_RAYLET_OPTION) :])


def _held_open(descriptors: Path) -> Iterator[str]:
    from mantaray._native import spill

    for descriptor in descriptors.iterdir():
        try:
            parent, name = os.path.split(os.readlink(descriptor))
        except OSError:
            continue  # The descriptor was closed meanwhile.
        if name.startswith(spill.NODE_DIRECTORY_PREFIX) and os.path.isdir(descriptor):
            yield parent
