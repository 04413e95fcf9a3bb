"""Records which raylet a spill directory belongs to, so that a later node knows whether it is left over.

The record names the raylet (pid and start time), the pid namespace in which that pid means
something, the boot and the machine. Only directories whose record names this machine are judged,
because the others on a shared disk belong to other hosts. Containers of one machine may share everything
except the pid namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

# The directory of the records in a spill directory.
RECORDS = ".mantaray-owners"


@dataclass(frozen=True)
class OwnerRecord:
    """The owner of a spill directory.

    Attributes:
        pid: the raylet's.
        start_ticks: when it started, in clock ticks since boot.
        boot_id: the boot it ran in, or empty.
        machine_id: the machine's, or empty.
        host: the host name.
        pid_namespace: inode of the namespace that the pid belongs to; 0 when not known, as in older
            records.
    """

    pid: int
    start_ticks: int
    boot_id: str
    machine_id: str
    host: str
    pid_namespace: int = 0


def _read_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def boot_id() -> str:
    """Return the id of the running boot, empty where the kernel does not say."""
    return _read_line("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """Return the id of this machine, empty where there is none (many containers)."""
    return _read_line("/etc/machine-id")


def pid_namespace() -> int:
    """Return the inode of this process's pid namespace, 0 where pids cannot be looked up reliably.

    That is so where /proc is missing or shows the pids of another namespace.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return 0
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def parent_raylet_pid() -> int:
    """Return the pid of the raylet that started this IO worker; 0 if its parent is not a raylet."""
    pid = os.getppid()
    return pid if _read_line(f"/proc/{pid}/comm") == "raylet" else 0


def record_of(pid: int) -> OwnerRecord | None:
    """Return the record that names a running process of this host, or None when there is none."""
    from mantaray._native import spill

    start_ticks = spill.process_start_ticks(pid)
    if start_ticks is None:
        return None
    return OwnerRecord(
        pid, start_ticks, boot_id(), machine_id(), socket.gethostname(), pid_namespace()
    )


def record_path(node_directory: str) -> str:
    """Return the path of the record of a node's directory.

    It lies beside the directory, so that the directory is empty when nothing is spilled.
    """
    parent, name = os.path.split(os.path.abspath(node_directory))
    return os.path.join(parent, RECORDS, name)


def write_record(node_directory: str, raylet_pid: int) -> None:
    """Write the record of a node's directory, once.

    If the directory does not exist, nothing is written: its disk may have vanished, and a record would be
    written to the disk below the mount point.

    Args:
        node_directory: the node's own spill directory.
        raylet_pid: the raylet's pid.
    """
    from mantaray._native import spill

    record = record_of(raylet_pid)
    path = Path(record_path(node_directory))
    if record is None or path.exists() or not os.path.isdir(node_directory):
        return
    # Several IO workers may start at once; they write the same record, and rename is atomic.
    temporary = path.with_name(f"{spill.TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps(asdict(record)) + "\n")
        temporary.rename(path)
    except OSError:
        # The disk may be full. The directory works without a record, but it is never removed as left over.
        with contextlib.suppress(OSError):
            temporary.unlink()


def mark_in_use(node_directory: str) -> int:
    """Open a node's directory and return the descriptor, to keep while this IO worker lives.

    `mantaray.spill.stat` finds the directories of running nodes by these descriptors. The command line of
    an IO worker does not name them, because its title overwrites it, and the command line of a raylet names
    only the first directory.

    Args:
        node_directory: the node's own spill directory.

    Raises:
        OSError: it cannot be opened.
    """
    # O_PATH: a directory that may be written but not listed is good enough to spill to.
    return os.open(node_directory, os.O_PATH | os.O_DIRECTORY)


def read_record(node_directory: str) -> OwnerRecord | None:
    """Return the record of a node's directory, or None when it has none that can be read."""
    from mantaray._native import spill

    # Older versions wrote it into the directory itself.
    for path in (record_path(node_directory), os.path.join(node_directory, spill.OWNER_FILE)):
        try:
            return OwnerRecord(**json.loads(Path(path).read_text()))
        except (OSError, ValueError, TypeError):
            continue
    return None


def remove_record(node_directory: str) -> None:
    """Remove the record of a node's directory that has been removed."""
    path = record_path(node_directory)
    with contextlib.suppress(OSError):
        os.unlink(path)
        os.rmdir(os.path.dirname(path))  # Fails while it holds records of other nodes.
