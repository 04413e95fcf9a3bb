"""Removes old log files, oldest first, so that a node's logs stay below a size or an age.

A file that some process has open is never removed, even if the process belongs to another user. The
kernel is asked right before the removal: it grants a write lease only on a file that no other process
has open. Where it grants no leases at all (some network file systems), the open files of all processes
are searched instead, and nothing is removed if one of these processes cannot be looked into.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import signal
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DEFAULT_DIRECTORIES = "/tmp/ray/session_2*/logs"


@dataclass(frozen=True)
class Limits:
    """The limits; None is no limit.

    Attributes:
        max_bytes: how many bytes on disk all log files may take together.
        max_age_s: how long ago the last change of a file may be, in seconds.
    """

    max_bytes: int | None = None
    max_age_s: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.max_bytes is not None or self.max_age_s is not None


@dataclass(frozen=True)
class LogFile:
    """A log file as it was found, with its size in bytes on disk and times in seconds since the epoch."""

    path: str
    size_bytes: int
    changed_at_s: float
    identity: tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """The outcome for one file.

    Attributes:
        log: the file.
        removed: whether it was removed, or would be.
        why: in words.
    """

    log: LogFile
    removed: bool
    why: str


def session_directories() -> list[str]:
    """Return the log directories of all sessions on this machine, at Ray's usual place."""
    return sorted(glob.glob(DEFAULT_DIRECTORIES))


def find_logs(directories: Iterable[str]) -> list[LogFile]:
    """Return the regular files below some directories, oldest first. Links are not followed."""
    found: dict[tuple[int, int], LogFile] = {}
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for name in names:
                path = os.path.join(parent, name)
                with contextlib.suppress(OSError):
                    info = os.lstat(path)
                    if stat.S_ISREG(info.st_mode):
                        identity = (info.st_dev, info.st_ino)
                        found[identity] = LogFile(
                            path, info.st_blocks * 512, info.st_mtime, identity
                        )
    return sorted(found.values(), key=lambda log: (log.changed_at_s, log.path))


def clean(
    directories: Sequence[str], limits: Limits, *, dry_run: bool = False, now_s: float | None = None
) -> list[Verdict]:
    """Remove old log files.

    Args:
        directories: where to look, including everything below.
        limits: the limits.
        dry_run: whether to remove nothing and only return the verdicts.
        now_s: the time to compare with; the present by default.

    Returns:
        A verdict for each file that is past a limit, in the order of removal.
    """
    now_s = time.time() if now_s is None else now_s
    logs = find_logs(directories)
    total_bytes = sum(log.size_bytes for log in logs)
    verdicts = []
    for log in logs:
        why = _past(limits, log, total_bytes, now_s)
        if why is None:
            continue
        kept = _why_kept(log) if dry_run else _remove(log)
        if kept is None:
            total_bytes -= log.size_bytes
        verdicts.append(Verdict(log, kept is None, kept or why))
    return verdicts


def _past(limits: Limits, log: LogFile, total_bytes: int, now_s: float) -> str | None:
    """Return which limit a file is past; None if it may stay."""
    if limits.max_age_s is not None and now_s - log.changed_at_s > limits.max_age_s:
        return f"not changed for more than {limits.max_age_s:.0f} s"
    if limits.max_bytes is not None and total_bytes > limits.max_bytes:
        return f"all logs hold more than {limits.max_bytes} bytes"
    return None


def _remove(log: LogFile) -> str | None:
    """Remove a file; return why it was kept, or None."""
    kept = _why_kept(log)
    if kept is not None:
        return kept
    try:
        os.unlink(log.path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be removed ({error.strerror})"
    return None


def _why_kept(log: LogFile) -> str | None:
    """Return why a file must stay; None if no process has it open and it is still the one found."""
    try:
        fd = os.open(log.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"it cannot be opened ({error.strerror})"
    try:
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) != log.identity or info.st_mtime > log.changed_at_s:
            return "it was changed meanwhile"
        opened = _is_open_elsewhere(fd)
    finally:
        os.close(fd)
    if opened is None:
        opened = _found_open(log.identity)
    return "a process has it open" if opened else None


def _is_open_elsewhere(fd: int) -> bool | None:
    """Return whether another descriptor of the file is open anywhere; None if the kernel cannot say."""
    try:
        # If a process opens the file meanwhile, the kernel sends a signal. This one is ignored by
        # default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        return True if error.errno in (errno.EAGAIN, errno.EBUSY) else None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _found_open(identity: tuple[int, int]) -> bool:
    """Search the open files of all processes. True also if a process cannot be looked into."""
    for process in glob.glob("/proc/[0-9]*"):
        try:
            entries = os.listdir(f"{process}/fd")
        except FileNotFoundError:
            continue
        except OSError:
            return True
        for entry in entries:
            with contextlib.suppress(OSError):
                info = os.stat(f"{process}/fd/{entry}")
                if (info.st_dev, info.st_ino) == identity:
                    return True
    return False
