"""Examines the memory of this process in a forked copy of it, so that the process itself goes on.

Part of `mantaray.refs`. The process stops only for the fork, which copies its page tables. The copy has one
thread, which may read every Python object. Other threads of the process may have been in the middle of
anything when the copy was made. So the copy imports nothing, takes no lock, keeps the interpreter's lock,
and never frees a reference of Ray. It ends without the process's own clean-up.

This module calls the fork of the C library. `os.fork` would free the variables of all other threads in the
copy, and the search needs these variables.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mantaray.memory import available_bytes

# How long a fork takes for each byte of the process's own memory, with room to spare (measured: 12 to 15 ms
# for each gigabyte).
FORK_MS_PER_GB = 20.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
# A copy that is made while another thread asks for the interpreter would wait for that thread for ever.
_TRIES = 4
_BEGIN_TIMEOUT_S = 0.5
_BEGUN = b"+"


class LookError(RuntimeError):
    """The memory cannot be examined; the message says why."""


class Look(NamedTuple):
    """The result of an examination.

    Attributes:
        told: what the function returned.
        stop_ms: how long the process stopped, in milliseconds.
    """

    told: bytes
    stop_ms: float


def look(function: Callable[[], bytes], *, timeout_s: float, max_stop_ms: float) -> Look:
    """Call a function in a copy of this process.

    Args:
        function: called in the copy, under the rules above.
        timeout_s: after how many seconds the copy is ended.
        max_stop_ms: how long this process may stop, in milliseconds.

    Raises:
        LookError: the fork would take too long or too much memory, or the copy did not finish.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise LookError("this Python runs without the interpreter's lock")
    own_bytes = _own_bytes()
    expected_ms = own_bytes / 1e9 * FORK_MS_PER_GB
    if expected_ms > max_stop_ms:
        raise LookError(
            f"its {own_bytes / 1e9:.1f} GB of memory cannot be copied within {max_stop_ms:g} ms;"
            f" allow {expected_ms:.0f} ms with --max-stop-ms"
        )
    # The copy changes reference counts while it searches, and the kernel copies each page that it changes.
    available = available_bytes()
    if own_bytes > available:
        raise LookError(
            f"a search may take {own_bytes:,} bytes of memory, and only {available:,} are free"
        )
    stop_ms = 0.0
    for _ in range(_TRIES):
        copy = _Copy(function)
        stop_ms = max(stop_ms, copy.stop_ms)
        try:
            if copy.read(_BEGIN_TIMEOUT_S, 1) == _BEGUN:
                return Look(copy.read(timeout_s), stop_ms)
        finally:
            copy.end()
    raise LookError(f"a copy of the process did not begin its search in {_TRIES} tries")


class _Copy:
    """A copy of this process that calls a function."""

    def __init__(self, function: Callable[[], bytes]) -> None:
        self._libc = ctypes.PyDLL(None)
        self._reader, writer = os.pipe()
        parent = os.getpid()
        # A thread that has just got the interpreter keeps it for some milliseconds.
        time.sleep(0)
        began_s = time.perf_counter()
        self._pid: int = self._libc.fork()
        if self._pid == 0:
            self._run(function, writer, parent)
        self.stop_ms = (time.perf_counter() - began_s) * 1_000
        os.close(writer)
        if self._pid < 0:
            os.close(self._reader)
            raise LookError("the system refuses to copy the process")

    def read(self, timeout_s: float, limit: int | None = None) -> bytes:
        """Return all that the copy writes, or `limit` bytes of it, or what has arrived at the timeout.

        Raises:
            LookError: the copy takes longer and no limit was given, or it failed.
        """
        parts, size = [], 0
        deadline_s = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while limit is None or size < limit:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1_000):
                if limit is None:
                    raise LookError(f"the search was not finished after {timeout_s:g} s")
                break
            part = os.read(self._reader, limit or 65_536)
            if not part:
                break
            parts.append(part)
            size += len(part)
        told = b"".join(parts)
        if limit is None and not told:
            raise LookError("the copy of the process failed")
        return told

    def end(self) -> None:
        """End the copy if it still runs."""
        os.close(self._reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _run(self, function: Callable[[], bytes], writer: int, parent: int) -> None:
        """Run in the copy. This does not return."""
        libc = self._libc
        try:
            # A collection could free a reference of Ray, and other threads may have held Ray's locks.
            gc.disable()
            libc.write(writer, _BEGUN, 1)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            libc.nice(15)
            if libc.getppid() == parent:
                told = function()
                written = 0
                while 0 <= written < len(told):
                    wrote = libc.write(writer, told[written:], len(told) - written)
                    written = written + wrote if wrote >= 0 else -1
        finally:
            libc._exit(0)


def _own_bytes() -> int:
    """Return how many bytes of memory are this process's own. A fork copies their page tables."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES
