"""The search for garbage in a forked child, as the `Search` of a collector.

The native part does the work; see `src/mantaray/python/heap_scan.h`. This module decides whether a search
is possible: the child needs memory of its own for what it notes about each object, and the kernel copies
the pages that the process writes to meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from mantaray.memory import available_bytes
from mantaray.overlay import native_module

if TYPE_CHECKING:
    from mantaray._native import gc as native_gc

_LOG = logging.getLogger(__name__)
# Bytes that the child notes about one object: 12 in a table that is kept 57 % full, and a place on
# a stack.
_BYTES_PER_BLOCK = 29
# The share of the process's memory that is reserved for pages copied during a search.
_COPIED_SHARE = 0.2


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
        self._can_collapse = True

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

    def collapse_pages(self) -> None:
        """Move the memory of this process into huge pages, so that the kernel has less to copy in a fork.

        Nothing happens if the kernel has no huge pages or was told to use none.
        """
        if not self._is_possible or not self._can_collapse:
            return
        try:
            from mantaray._native import gc as native

            native.collapse_pages()
        except NotImplementedError as error:
            self._can_collapse = False
            _LOG.info("searches for garbage fork from small pages: %s", error)
        except OSError as error:
            _LOG.info("not all memory is in huge pages: %s", error)

    def has_room(self) -> bool:
        """Return whether there is memory for what the child notes, and for pages copied meanwhile.

        Each file that is read gives up the GIL, so beside a busy thread this takes a while.
        """
        needed = self._blocks() * _BYTES_PER_BLOCK + int(self._rss_bytes() * _COPIED_SHARE)
        available = available_bytes()
        if needed > available:
            _LOG.info("no search for garbage: it may need %d bytes of %d", needed, available)
        return needed <= available

    def start(self) -> bool:
        """Fork the child; return False if the system refuses."""
        if not self._is_possible:
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
