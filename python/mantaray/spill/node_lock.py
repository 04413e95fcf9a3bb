"""A lock that a node holds as long as it lives, for processes that cannot see the node's processes.

A container's pids mean nothing outside it, but a lock of a file (flock) works across containers of
one machine. So a starting node opens a lock file beside its spill directory, locks it, and lets its
raylet inherit the descriptor. The raylet never uses it. The kernel releases the lock when the
raylet and the processes that it started have ended, however they end.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Iterator, Sequence
from types import ModuleType

from mantaray.spill import owner


def lock_path(node_directory: str) -> str:
    """Return the path of the lock file of a node's directory."""
    return owner.record_path(node_directory) + ".lock"


def is_held(node_directory: str) -> bool | None:
    """Return whether a living node holds the lock of its directory.

    Args:
        node_directory: a node's own spill directory.

    Returns:
        None if this cannot be known: there is no lock file, or it cannot be opened.
    """
    try:
        descriptor = os.open(lock_path(node_directory), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def inherited_by_children(services: ModuleType, node_directories: Sequence[str]) -> Iterator[None]:
    """Lock the directories of a node and let the processes started meanwhile inherit the locks.

    If no process has inherited a lock in the end, its file is removed. Otherwise the node would look dead.

    Args:
        services: Ray's module that starts processes.
        node_directories: the node's own spill directories.
    """
    held: dict[int, str] = {}
    for node_directory in node_directories:
        path = lock_path(node_directory)
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            held[descriptor] = path
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    popen = services.ConsolePopen
    vars(services)["ConsolePopen"] = functools.partial(popen, pass_fds=tuple(held))
    try:
        yield
    finally:
        vars(services)["ConsolePopen"] = popen
        for descriptor, path in held.items():
            os.close(descriptor)
            _remove_unless_inherited(path)


def _remove_unless_inherited(path: str) -> None:
    """Remove a lock file that no process holds. Until now this process held it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)


def remove(node_directory: str) -> None:
    """Remove the lock file of a directory that has been removed."""
    with contextlib.suppress(OSError):
        os.unlink(lock_path(node_directory))
