"""The search for garbage in a forked child, as the `Search` of a collector.

The native part does the work; see `src/mantaray/python/heap_scan.h`. This module decides whether a search
is possible: the child needs memory of its own for what it notes about each object, and the kernel copies
the pages that the process writes to meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mantaray.overlay import native_module

if TYPE_CHECKING:
    from mantaray._native import gc as native_gc

_LOG = logging.getLogger(__name__)
# Bytes that the child notes about one object: 12 in a table that is kept 57 % full, and a place on
# a stack.
_BYTES_PER_BLOCK = 29
# The share of the process's memory that is reserved for pages copied during a search.
_COPIED_SHARE = 0.2
_CGROUP_ROOT = "/sys/fs/cgroup"


class ForkSearch:
    """Searches the heap of this process.

    Args:
        blocks: returns how many blocks of memory Python has given out.
        rss_bytes: returns the resident memory of this process.
    """

    def __init__(self, blocks: Callable[[], int], rss_bytes: Callable[[], int]) -> None:
        self._blocks = blocks
        self._rss_bytes = rss_bytes
        self._scan: native_gc.HeapScan | None = None
        self._is_possible: bool | None = None

    @property
    def is_possible(self) -> bool | None:
        """Whether this Python's heap can be searched; None before `prepare`."""
        return self._is_possible

    def prepare(self) -> None:
        """Find out whether this Python's heap can be searched: load the native part and check the lists."""
        if self._is_possible is not None:
            return
        try:
            # Loading a damaged file would end this process, so a child process tries it first.
            native_module.load()
            from mantaray._native import gc as native

            native.count_objects(0, 0, 1)
            self._is_possible = True
        except (native_module.NativeError, ImportError, NotImplementedError) as error:
            _LOG.warning("garbage of this process is found by full collections only: %s", error)
            self._is_possible = False

    def start(self) -> bool:
        """Fork the child; return False if memory is short or the system refuses."""
        self.prepare()
        if not self._is_possible:
            return False
        needed = self._blocks() * _BYTES_PER_BLOCK + int(self._rss_bytes() * _COPIED_SHARE)
        available = available_bytes()
        if needed > available:
            _LOG.info("no search for garbage: it may need %d bytes of %d", needed, available)
            return False
        try:
            from mantaray._native import gc as native

            self._scan = native.HeapScan()
        except OSError as error:
            _LOG.info("no search for garbage: %s", error)
            return False
        return True

    def poll(self) -> bool | None:
        """Return whether the search succeeded; None while it runs."""
        return self._scan.poll() if self._scan is not None else False

    def bring(self, limit: int) -> int:
        """Move found garbage to the youngest generation, about so many objects; return how many."""
        return self._scan.bring(limit) if self._scan is not None else 0

    def left(self) -> int:
        """Return how many found objects have not been brought."""
        return self._scan.left if self._scan is not None else 0

    def stop(self) -> None:
        """End a search that runs, or forget one that is done."""
        scan, self._scan = self._scan, None
        if scan is not None:
            scan.stop()


def available_bytes(proc: str = "/proc", cgroup_root: str = _CGROUP_ROOT) -> int:
    """Return how much memory the machine and the control groups still allow this process.

    Args:
        proc: where the kernel shows processes.
        cgroup_root: where control groups (version 1 or 2) are mounted.

    Raises:
        OSError: the machine does not report its memory.
    """
    for line in Path(proc, "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            machine = int(line.split()[1]) * 1024
            return min([machine, *_group_headrooms(proc, Path(cgroup_root))])
    raise OSError(f"{proc}/meminfo has no line MemAvailable")


def _group_headrooms(proc: str, root: Path) -> Iterator[int]:
    """Yield the remaining bytes of each control group with a limit; an unreadable group is skipped."""
    try:
        lines = Path(proc, "self", "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            files, group = ("memory.max", "memory.current"), root / name.lstrip("/")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            group = root / "memory" / name.lstrip("/")
        else:
            continue
        # In a container the path may name a group that is not mounted. The root is the container's then.
        for each in (group, *group.parents):
            headroom = _headroom(each, *files)
            if headroom is not None:
                yield headroom
            if each == root:
                break


def _headroom(group: Path, limit_file: str, usage_file: str) -> int | None:
    try:
        limit = (group / limit_file).read_text().strip()
        if limit == "max":
            return None
        usage = int((group / usage_file).read_text())
        # The kernel takes back pages of files before it ends a process.
        cached = _inactive_file_bytes((group / "memory.stat").read_text())
        return max(0, int(limit) - usage + cached)
    except (OSError, ValueError):
        return None


def _inactive_file_bytes(stat: str) -> int:
    figures = dict(line.split() for line in stat.splitlines() if line.count(" ") == 1)
    return int(figures.get("total_inactive_file", figures.get("inactive_file", 0)))
