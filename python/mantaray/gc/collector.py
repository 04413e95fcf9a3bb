"""When to collect what: the decisions of the `gc` patch, without Ray, threads or a real clock.

Ray asks a process to collect (a *trigger*) when the cluster is short of memory in the object store or
of resources that actor handles keep. A collection stops every thread of the process while it visits each
container, so this collector freezes the containers that have survived one (`gc.freeze`):

- a *young* collection visits the containers that are new since the last one and freezes the survivors;
- a *search* finds garbage among all containers, frozen or not, in a forked child, and frees it in short
  collections (see `mantaray.gc.search`). It follows a trigger, growth, or a minute with new frozen objects;
- a *full* collection unfreezes everything, visits it all and freezes it again. It runs at once if it is
  expected to be short. A large heap is collected in full only if no search is possible: when the process
  is idle, or, within a share of time, when triggers free nothing or the process has grown.

The clock, the garbage collector and the facts about the process are handed in. `trigger` may be called from
any thread and never collects. `automatic_starts` and `automatic_ends` run in the thread whose allocation
started a collection. One thread calls the rest.

Faults this survives: a `gc.freeze` by the user, before or later (never undone: from then on nothing is
unfrozen); a collection in another thread (asked again); a collection that raises (the heap is frozen
again); a search that fails (full collections take over for a while).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mantaray.gc.model import Collection, Counts, Kind, Policy

if TYPE_CHECKING:
    from mantaray.gc.interfaces import Heap, Search, World

# What one block of memory adds to a full collection, and one container to any, before it was
# measured. Measured on an idle machine: 0.05 and 0.07 us.
_FIRST_PAUSE_PER_BLOCK_S = 40e-9
_FIRST_PAUSE_PER_OBJECT_S = 150e-9
# Fewer objects than this say nothing about the pause of one.
_TELLING_OBJECTS = 20_000
# Triggers in a row that freed nothing of the store: pressure persists. While it does, Ray asks every
# 10 to 30 seconds; without any it asks every ten minutes, which is no pressure.
_FRUITLESS_TRIGGERS = 2
_PRESSURE_GAP_S = 120.0
# Fulls in an idle process may take this many times the share of others.
_IDLE_SHARE_FACTOR = 5
# As CPython does: a heap that has grown by a quarter is worth a look.
_GROWTH = 1.25
_GROWTH_BYTES = 64_000_000
# Ray asks every process once in this time anyhow; something frozen does not wait longer.
_MAX_AGE_S = 600.0
# A search follows automatic freezing after this time at the latest, if searches may take their share.
_SEARCH_AGE_S = 60.0
# Searches run in a process of their own, this share of the time.
_SEARCH_SHARE = 0.1
_SEARCH_DEADLINE_S = 300.0
_SEARCH_LOOK_S = 0.02
# After a failed search, full collections answer for so long.
_SEARCH_FAILED_S = 300.0
# The longest stall that an automatic collection of the oldest generation, or one step of freeing what a
# search has found, is meant to cause.
_STEP_PAUSE_S = 0.003
# Ray itself switches the collector off for moments; wait for so long, looking so often.
_DISABLED_WAIT_S = 1.0
_DISABLED_LOOK_S = 0.02
_LONGEST_LOOK_S = 1.0


class _Probe:
    """Garbage of ours, made after a freeze: if a collection does not find it, someone froze it."""

    def __init__(self) -> None:
        self.itself = self


@dataclass
class _Searching:
    """A search that runs, or whose findings are being freed."""

    why: str
    started_s: float
    held: int
    pause_s: float
    ended_s: float | None = None
    objects: int = 0


class Collector:
    """Decides about the collections of one process and runs them.

    Args:
        heap: the module `gc`.
        world: what is known of the process.
        policy: the knobs.
        clock: monotonic seconds.
        cpu_clock: seconds that the calling thread has run. How long the next collection will take is
            learned from it, for a busy machine stretches a pause by chance.
        can_freeze: False where freezing does not make collections shorter (free-threaded Python).
        on_collection: called after each collection, outside its pause.
        search: finds garbage without stopping the process; None if there is no such way.
    """

    def __init__(
        self,
        heap: Heap,
        world: World,
        policy: Policy,
        clock: Callable[[], float],
        *,
        cpu_clock: Callable[[], float] | None = None,
        can_freeze: bool = True,
        on_collection: Callable[[Collection], None] = lambda _: None,
        search: Search | None = None,
    ) -> None:
        self.counts = Counts()
        self.policy = policy
        # Held while something is decided or collected, so that a fork waits for the end of it. A
        # destructor that runs in a collection may fork too.
        self.at_work = threading.RLock()
        self._heap = heap
        self._world = world
        self._clock = clock
        self._cpu_clock = cpu_clock or clock
        self._on_collection = on_collection
        self._triggers_lock = threading.Lock()
        self._triggers = 0
        self._asked_at: float | None = None
        self._can_freeze = can_freeze
        self._moves: bool | None = None if can_freeze else False
        self._has_frozen = False
        self._probe: _Probe | None = None
        self._owed_since: float | None = None
        self._fruitless = 0
        self._fruitless_at = -float("inf")
        self._pause_per_object_s = _FIRST_PAUSE_PER_OBJECT_S
        self._last_full: tuple[float, int] | None = None
        self._full_allowed_at = -float("inf")
        self._idle_full_allowed_at = -float("inf")
        self._rss_base_bytes = 0
        self._search = search
        self._searching: _Searching | None = None
        self._search_allowed_at = -float("inf")
        self._search_usable_at = -float("inf")
        self._is_asked_to_search = False
        self._is_collecting = False
        self._thawed_for_user = False

    @property
    def freezes(self) -> bool:
        """Whether survivors are frozen; not so where the user has frozen something."""
        return self._moves is not False

    @property
    def has_frozen(self) -> bool:
        """Whether what is frozen was frozen by this collector alone."""
        return self._has_frozen and self._moves is True

    def give_way_to_user(self) -> None:
        """Freeze and unfreeze nothing from now on: the program freezes objects of its own."""
        with self.at_work:
            if self._has_frozen and self._moves:
                self._heap.unfreeze()
            self._has_frozen = False
            self._moves = False
            self._probe = None

    @property
    def owes_full(self) -> bool:
        """Whether something was put out of sight that no full collection has seen since."""
        return self._owed_since is not None

    def trigger(self) -> None:
        """Note that Ray has asked. Any number of triggers before the next step count as one."""
        with self._triggers_lock:
            self._triggers += 1

    def step(self) -> float | None:
        """Do what is due.

        Returns:
            After how many seconds to call again; None: not before the next trigger.
        """
        with self.at_work:
            self._take_triggers()
            if self._search is not None and not self._full_is_short():
                self._search.prepare()
            if self._searching is not None:
                self._follow_search()
            if self._asked_at is not None:
                if not self._heap.isenabled() and not self._has_waited():
                    return _DISABLED_LOOK_S
                self._answer()
            elif self.owes_full and self._searching is None:
                self._look()
            if self._asked_at is not None:
                return _DISABLED_LOOK_S
            if self._searching is not None:
                return _SEARCH_LOOK_S
            return min(self.policy.idle_s / 2, _LONGEST_LOOK_S) if self.owes_full else None

    def restart(self) -> None:
        """Go on in a forked child: what is frozen stays so, nothing is asked for."""
        self.at_work = threading.RLock()
        self._triggers_lock = threading.Lock()
        self._triggers = 0
        self._asked_at = None
        self._owed_since = None
        self._is_collecting = False
        # The search belongs to the parent; its child process is not ours to wait for.
        self._searching = None
        self._search = None

    def automatic_starts(self, *, is_explicit: bool) -> bool:
        """Prepare a collection of the oldest generation that this collector has not started.

        Python's own collection of a large heap would be a long stall, so the heap is frozen first and a
        search is owed instead. A collection that the program asks for must see everything, so the heap
        is unfrozen first.

        Args:
            is_explicit: whether the program asked for it.

        Returns:
            Whether objects were frozen that a search has to visit.
        """
        if self._is_collecting or not self.at_work.acquire(blocking=False):
            return False
        try:
            if is_explicit:
                self._thaw_for_user()
                return False
            return self._freeze_instead()
        finally:
            self.at_work.release()

    def automatic_ends(self) -> None:
        """Freeze again what a collection by the program has seen."""
        if self._thawed_for_user and self.at_work.acquire(blocking=False):
            try:
                self._thawed_for_user = False
                self._owed_since = None
                self._freeze()
            finally:
                self.at_work.release()

    def thaw(self) -> None:
        """Put everything back where it was, if nobody else has frozen anything."""
        with self.at_work:
            if self._moves and self._has_frozen:
                seen = self._see_to_the_user(2) is not None
                if seen and self._moves:
                    self._heap.unfreeze()
            self._has_frozen = False
            self._probe = None
            self._moves = None if self._can_freeze else False
            self._owed_since = None
            self._fruitless = 0

    def _thaw_for_user(self) -> None:
        if self._moves and self._has_frozen:
            self._heap.unfreeze()
            self._thawed_for_user = True

    def _freeze_instead(self) -> bool:
        if self._search is None or not self._may_freeze() or self._full_is_short():
            return False
        if not self._search.is_possible:
            # Modules are not loaded in the middle of an allocation: the next step finds out.
            return self._search.is_possible is None
        limit = int(_STEP_PAUSE_S / self._pause_per_object_s)
        # A heap that was never frozen is known to be large. Counting it would take long.
        if self._has_frozen and self._heap.count_oldest(limit) < limit:
            return False
        self._freeze()
        self.counts.automatic_freezes += 1
        if self._owed_since is not None:
            return False
        self._owed_since = self._clock()
        return True

    def _may_freeze(self) -> bool:
        if self._moves is None:
            # What the user has frozen before is not ours to unfreeze.
            self._moves = self._heap.get_freeze_count() == 0
        return self._moves

    def _take_triggers(self) -> None:
        with self._triggers_lock:
            taken, self._triggers = self._triggers, 0
        self.counts.triggers += taken
        if not taken:
            return
        self.counts.coalesced += taken - (self._asked_at is None)
        if self._asked_at is None:
            self._asked_at = self._clock()

    def _has_waited(self) -> bool:
        """Return whether a trigger has waited long enough for a collector that is switched off.

        Ray switches it off for moments. Stock Ray collects in a process that keeps it off, and so does
        this collector.
        """
        assert self._asked_at is not None
        return self._clock() - self._asked_at >= _DISABLED_WAIT_S

    def _answer(self) -> None:
        """Answer the triggers that have come."""
        self._asked_at = None
        self._may_freeze()
        if self._rss_base_bytes == 0:
            self._rss_base_bytes = self._world.rss_bytes()
        if self._full_is_short() and self._clock() >= self._full_allowed_at:
            self._full("short")
            return
        released = self._young()
        if self._asked_at is not None:
            return
        now = self._clock()
        if released or now - self._fruitless_at > _PRESSURE_GAP_S:
            self._fruitless = 0
        if not released:
            self._fruitless += 1
            self._fruitless_at = now
        if self._owed_since is None:
            self._owed_since = self._clock()
        self._is_asked_to_search = True
        if self._searching is None:
            self._look()

    def _look(self) -> None:
        """Start the search, or run the full collection, that is owed if the time for it has come."""
        now = self._clock()
        if self._search_is_usable(now):
            why = self._why_search(now)
            if why is None or self._start_search(why):
                return
        if now >= self._idle_full_allowed_at and self._world.is_idle(self.policy.idle_s):
            self._recheck_the_user()
            self._full("idle")
        elif now < self._full_allowed_at:
            return
        elif self._fruitless >= _FRUITLESS_TRIGGERS:
            self._full("pressure")
        elif self._has_grown():
            self._full("memory")
        elif self._owed_since is not None and now - self._owed_since >= _MAX_AGE_S:
            self._full("age")

    def _search_is_usable(self, now: float) -> bool:
        if self._search is None or now < self._search_usable_at:
            return False
        return self._moves is True and self._has_frozen and not self._full_is_short()

    def _why_search(self, now: float) -> str | None:
        """Return why a search is due now; None if none is."""
        if now < self._search_allowed_at:
            return None
        if self._is_asked_to_search:
            return "trigger"
        if self._has_grown():
            return "memory"
        if self._owed_since is not None and now - self._owed_since >= _SEARCH_AGE_S:
            return "age"
        return None

    def _start_search(self, why: str) -> bool:
        """Return whether a search was started; its stall is the fork."""
        assert self._search is not None
        before_s = self._clock()
        if not self._search.start():
            self._search_usable_at = before_s + _SEARCH_FAILED_S
            return False
        now = self._clock()
        self._searching = _Searching(why, now, self._world.held(), now - before_s)
        # What is frozen from now on is owed another search.
        self._is_asked_to_search = False
        self._owed_since = None
        return True

    def _follow_search(self) -> None:
        """See what has become of the search; free a part of what it has found."""
        running = self._searching
        assert self._search is not None
        assert running is not None
        if running.ended_s is None:
            succeeded = self._search.poll()
            now = self._clock()
            if succeeded is None and now - running.started_s < _SEARCH_DEADLINE_S:
                return
            if not succeeded:
                self._give_up_search(now)
                return
            running.ended_s = now
        before_s = self._clock()
        # The youngest generation of a process that has switched the collector off can be large.
        if not self._heap.isenabled():
            self._freeze()
        if self._search.bring(int(_STEP_PAUSE_S / self._pause_per_object_s / 2)):
            running.objects += self._collect(0)
        running.pause_s = max(running.pause_s, self._clock() - before_s)
        if self._search.left() == 0:
            self._end_search(running)

    def _give_up_search(self, now: float) -> None:
        assert self._search is not None
        self._search.stop()
        self._searching = None
        self.counts.failed_searches += 1
        self._search_usable_at = now + _SEARCH_FAILED_S
        self._owed_since = now

    def _end_search(self, running: _Searching) -> None:
        assert self._search is not None
        assert running.ended_s is not None
        self._search.stop()
        self._searching = None
        took_s = running.ended_s - running.started_s
        self._search_allowed_at = self._clock() + took_s / _SEARCH_SHARE
        self._fruitless = 0
        self._rss_base_bytes = self._world.rss_bytes()
        self._tell(Kind.SEARCH, running.why, running.pause_s, running.objects, running.held)

    def _full_is_short(self) -> bool:
        blocks = self._world.blocks()
        if self._last_full is None:
            expected_s = blocks * _FIRST_PAUSE_PER_BLOCK_S
        else:
            took_s, then_blocks = self._last_full
            expected_s = took_s * blocks / max(then_blocks, 1)
        return expected_s <= self.policy.short_pause_s

    def _has_grown(self) -> bool:
        rss_bytes = self._world.rss_bytes()
        if self.policy.rss_limit_bytes is not None:
            return rss_bytes > self.policy.rss_limit_bytes
        return rss_bytes > self._rss_base_bytes * _GROWTH + _GROWTH_BYTES

    def _reach(self) -> tuple[int | None, int]:
        """Return the oldest generation that a short collection can take in, and its objects.

        A heap that was never frozen is known to be large, else it would have been collected in full:
        its oldest generation is not even counted, for that touches every object too.
        """
        bound = self.policy.short_pause_s / self._pause_per_object_s
        younger = len(self._heap.get_objects(0)) + len(self._heap.get_objects(1))
        if younger > bound:
            return None, 0
        if self._has_frozen or not self.freezes:
            objects = younger + len(self._heap.get_objects(2))
            if objects <= bound:
                return 2, objects
        return 1, younger

    def _young(self) -> int:
        """Collect what is new as far as that is short, freeze it; return what was released."""
        generation, objects = self._reach()
        held = self._world.held()
        before_s, before_cpu_s = self._clock(), self._cpu_clock()
        found: int | None = 0
        if generation is not None:
            found = self._see_to_the_user(generation)
        if found is None:
            return 0
        if self._moves:
            self._freeze()
        pause_s = self._clock() - before_s
        if objects > _TELLING_OBJECTS:
            took_s = self._cpu_clock() - before_cpu_s
            self._pause_per_object_s = (self._pause_per_object_s + took_s / objects) / 2
        return self._tell(Kind.YOUNG, "trigger", pause_s, found, held)

    def _full(self, why: str) -> None:
        """Collect everything that we may."""
        held = self._world.held()
        before_s, before_cpu_s = self._clock(), self._cpu_clock()
        found = 0
        if self._moves and self._has_frozen:
            # First the new alone: it shows whether somebody else has frozen something.
            new = self._see_to_the_user(2)
            if new is None:
                return
            found = new
        if self._moves:
            self._heap.unfreeze()
        try:
            found += self._collect(2)
        finally:
            if self._moves:
                self._freeze()
        end_s = self._clock()
        pause_s, took_s = end_s - before_s, self._cpu_clock() - before_cpu_s
        self._full_allowed_at = end_s + pause_s / self.policy.time_share
        self._idle_full_allowed_at = end_s + pause_s / self.policy.time_share / _IDLE_SHARE_FACTOR
        self._owed_since = None
        self._fruitless = 0
        self._last_full = (took_s, self._world.blocks())
        self._rss_base_bytes = self._world.rss_bytes()
        self._tell(Kind.FULL, why, pause_s, found, held)

    def _tell(self, kind: Kind, why: str, pause_s: float, objects: int, held: int) -> int:
        """Count and report a collection; return what it released."""
        released = max(0, held - self._world.held())
        done = Collection(kind, why, pause_s, objects, released)
        self.counts.add(done)
        self._on_collection(done)
        return released

    def _collect(self, generation: int) -> int:
        self._is_collecting = True
        try:
            return self._heap.collect(generation)
        finally:
            self._is_collecting = False

    def _freeze(self) -> None:
        self._heap.freeze()
        self._has_frozen = True
        self._probe = _Probe()

    def _see_to_the_user(self, generation: int) -> int | None:
        """Collect what is in sight, and see by it whether the user has frozen something.

        The probe was made after our last freeze. A collection of everything in sight finds it,
        unless it was put out of sight by somebody else.

        Returns:
            How many unreachable objects were found; None when another collection was running, so
            that nothing was done: then the trigger is asked again.
        """
        probe = None
        if generation == 2 and self._probe is not None:
            probe, self._probe = weakref.ref(self._probe), None
        before = self._heap.get_stats()[generation]["collections"]
        found = self._collect(generation)
        if self._heap.get_stats()[generation]["collections"] == before:
            self._probe = probe() if probe is not None else self._probe
            self._asked_at = self._clock()
            return None
        if probe is not None and probe() is not None:
            self._moves = False
        return found

    def _recheck_the_user(self) -> None:
        """Freeze again once the user has unfrozen everything; only asked when it hurts nobody."""
        if self._can_freeze and self._moves is False and self._heap.get_freeze_count() == 0:
            self._moves = True
            self._has_frozen = False
