"""Spill directories of raylets that are dead: finding and removing them.

A directory is left over only if its owner record names this machine and a raylet that no longer runs.
A raylet no longer runs if the machine was booted since, or if the pid namespace of the record has no
process of that pid and start time. All other directories stay: those without a record (stock Ray wrote
them), those of other hosts on a shared disk, those of a machine without a machine id, and those of living
raylets. The pids of another container mean nothing here. Its raylet lives if it holds its lock (see
`mantaray.spill.node_lock`).
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from mantaray.spill import node_lock, owner


@dataclass(frozen=True)
class SpillDirectory:
    """One node's spill directory and what is known about it. Sizes in bytes."""

    path: str
    left_over: bool
    why: str
    disk_bytes: int


def judge(path: str) -> tuple[bool, str]:
    """Return whether a node's directory is left over, and the reason in words."""
    record = owner.read_record(path)
    if record is None:
        return False, "no owner record"
    if not record.machine_id or not record.boot_id:
        same_host = record.boot_id == owner.boot_id() and record.boot_id != ""
    else:
        same_host = record.machine_id == owner.machine_id()
    if not same_host or record.host != socket.gethostname():
        return False, f"belongs to host {record.host}"
    if record.boot_id != owner.boot_id():
        return True, f"raylet {record.pid} ended with an earlier boot"
    # Containers may share host name, machine id, boot and the disk, but not their pids. (The inode of a
    # namespace may be used again when the namespace is gone. Its raylet is dead then, too.)
    if record.pid_namespace != owner.pid_namespace() and node_lock.is_held(path) is False:
        return True, f"raylet {record.pid} has released its lock"
    if record.pid_namespace == 0:
        return False, f"raylet {record.pid} belongs to a pid namespace that is not known"
    if record.pid_namespace != owner.pid_namespace():
        return False, f"raylet {record.pid} belongs to another pid namespace (a container's)"
    try:
        now = owner.record_of(record.pid)
    except OSError:
        return False, f"raylet {record.pid} cannot be looked at"
    if now is not None and now.start_ticks == record.start_ticks:
        return False, f"raylet {record.pid} is running"
    return True, f"raylet {record.pid} is dead"


def node_directories(directories: Iterable[str]) -> list[str]:
    """Return the node directories in spill directories, sorted.

    Ray's default spill directory is that of the session, so the directories of sibling sessions count too.

    Args:
        directories: configured spill directories.
    """
    from mantaray._native import spill

    found: set[str] = set()
    for directory in directories:
        directory = os.path.abspath(directory)
        parents = [directory]
        if os.path.basename(directory).startswith("session_"):
            siblings = glob.glob(os.path.join(os.path.dirname(directory), "session_*"))
            parents += [path for path in siblings if not os.path.islink(path)]
        for parent in parents:
            pattern = os.path.join(glob.escape(parent), spill.NODE_DIRECTORY_PREFIX + "*")
            found.update(path for path in glob.glob(pattern) if os.path.isdir(path))
    return sorted(found)


def disk_bytes(path: str) -> int:
    """Return the bytes that the files below a directory hold on disk, each file once."""
    seen: set[tuple[int, int]] = set()
    total_bytes = 0
    for parent, _, names in os.walk(path):
        for name in names:
            try:
                info = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            if (info.st_dev, info.st_ino) not in seen:
                seen.add((info.st_dev, info.st_ino))
                total_bytes += info.st_blocks * 512
    return total_bytes


def survey(directories: Iterable[str]) -> list[SpillDirectory]:
    """Return every node directory in the given spill directories, judged."""
    result = []
    for path in node_directories(directories):
        left_over, why = judge(path)
        result.append(SpillDirectory(path, left_over, why, disk_bytes(path)))
    return result


def remove(directories: Iterable[str]) -> list[str]:
    """Remove the left-over directories in the given spill directories; return their paths."""
    removed = []
    for path in node_directories(directories):
        if judge(path)[0]:
            shutil.rmtree(path, ignore_errors=True)
            if not os.path.exists(path):
                node_lock.remove(path)
                owner.remove_record(path)
                removed.append(path)
    return removed
