"""The searches of one collector: whether one may start, the one that runs, and freeing what it has found.

A search reads the heap in a forked child (see `mantaray.gc.search`). Its stalls are the fork and the short
collections that free what it has found. The fork is short if the heap lies in huge pages, so the pages are
collapsed before a search; that takes seconds for a very large heap, in which the process goes on. After a
search they are collapsed again: each page that the process has changed meanwhile was copied, and the huge
page behind the copy is only given back with all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mantaray.gc.frozen_heap import FrozenHeap
    from mantaray.gc.interfaces import Search, World

# Searches run in a process of their own, this share of the time.
_SHARE = 0.1
_DEADLINE_S = 300.0
# After a failed search, full collections answer for so long.
_FAILED_S = 300.0


@dataclass
class Searched:
    """A search that runs, or whose findings are being freed.

    Attributes:
        why: what it was started for.
        started_s: when its child was forked.
        ended_s: when the child had ended; None while it runs.
        held: what the process held of the store before it.
        pause_s: the longest stall.
        objects: how many objects were freed.
    """

    why: str
    started_s: float
    held: int
    pause_s: float
    ended_s: float | None = None
    objects: int = 0


class Searches:
    """Starts searches within their share of time, and frees what they find.

    Args:
        search: does the work.
        frozen: the heap.
        world: what is known of the process.
        clock: monotonic seconds.
    """

    def __init__(
        self, search: Search, frozen: FrozenHeap, world: World, clock: Callable[[], float]
    ) -> None:
        # Whether a trigger has asked for a search that has not started.
        self.is_asked = False
        # Whether `get_ready` is to be called: before a search, and after it.
        self.wants_to_get_ready = False
        self._search = search
        self._frozen = frozen
        self._world = world
        self._clock = clock
        self._running: Searched | None = None
        self._allowed_at = -float("inf")
        self._usable_at = -float("inf")
        self._collapse_s = 0.0
        self._has_room = False

    @property
    def is_running(self) -> bool:
        """Whether a search runs, or its findings are being freed."""
        return self._running is not None

    @property
    def is_possible(self) -> bool | None:
        """Whether this Python's heap can be searched; None before `prepare`."""
        return self._search.is_possible

    @property
    def is_usable(self) -> bool:
        """Whether no search has failed a short while ago."""
        return self._clock() >= self._usable_at

    @property
    def is_allowed(self) -> bool:
        """Whether searches have not used up their share of time."""
        return self._clock() >= self._allowed_at

    def prepare(self) -> None:
        """Find out whether this Python's heap can be searched. This may import modules."""
        self._search.prepare()

    def get_ready(self, *, collapses_pages: bool) -> None:
        """Find out whether memory suffices for a search, and make its fork short.

        This reads files, and takes seconds for a very large heap, so no lock may be held.

        Args:
            collapses_pages: whether to move the heap into huge pages.
        """
        before_s = self._clock()
        self._has_room = self._search.has_room()
        if self._has_room and collapses_pages:
            self._search.collapse_pages()
        self._collapse_s += self._clock() - before_s

    def start(self, why: str) -> bool:
        """Return whether a search was started; its stall is the fork."""
        before_s = self._clock()
        if not self._has_room or not self._search.start():
            self._usable_at = before_s + _FAILED_S
            return False
        now = self._clock()
        self._running = Searched(why, now, self._world.held(), now - before_s)
        self.is_asked = False
        return True

    def follow(self, limit: int) -> Searched | None:
        """Check on the search, and free a part of what it has found.

        Args:
            limit: about how many objects to free now.

        Returns:
            The search if it is over. If it has failed, `ended_s` is None.
        """
        running = self._running
        assert running is not None
        if running.ended_s is None:
            succeeded = self._search.poll()
            now = self._clock()
            if succeeded is None and now - running.started_s < _DEADLINE_S:
                return None
            if not succeeded:
                self._usable_at = now + _FAILED_S
                return self._end(running)
            running.ended_s = now
        before_s = self._clock()
        # The youngest generation of a process that has switched the collector off can be large.
        if not self._frozen.heap.isenabled():
            self._frozen.freeze()
        if self._search.bring(limit):
            running.objects += self._frozen.collect(0)
        running.pause_s = max(running.pause_s, self._clock() - before_s)
        if self._search.left():
            return None
        took_s = running.ended_s - running.started_s + self._collapse_s
        self._allowed_at = self._clock() + took_s / _SHARE
        return self._end(running)

    def _end(self, running: Searched) -> Searched:
        self._search.stop()
        self._running = None
        self._collapse_s = 0.0
        self.wants_to_get_ready = True
        return running
