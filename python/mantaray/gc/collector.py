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
from collections.abc import Callable
from typing import TYPE_CHECKING

from mantaray.gc.frozen_heap import FrozenHeap
from mantaray.gc.model import Collection, Counts, Kind, Policy
from mantaray.gc.searches import Searches

if TYPE_CHECKING:
    from mantaray.gc.interfaces import Heap, Search, World

# How much longer each block of memory makes a full collection, and each container any collection.
# These values, of an idle machine, count until the process has measured its own.
_FIRST_PAUSE_PER_BLOCK_S = 40e-9
_FIRST_PAUSE_PER_OBJECT_S = 150e-9
# A collection of fewer objects than this is too short to learn the pause per object from.
_OBJECTS_TO_LEARN_FROM = 20_000
# If so many triggers in a row freed nothing of the store, the shortage persists. During a shortage
# Ray asks every 10 to 30 seconds. Without one it asks every ten minutes.
_FRUITLESS_TRIGGERS = 2
_PRESSURE_GAP_S = 120.0
# Full collections in an idle process may take this many times the share of time.
_IDLE_SHARE_FACTOR = 5
_OLDEST = 2
# As CPython does: a heap that has grown by a quarter is worth a look.
_GROWTH = 1.25
_GROWTH_BYTES = 64_000_000
# Ray asks every process once in this time, so frozen objects do not wait longer either.
_MAX_AGE_S = 600.0
# A search follows automatic freezing after this time at the latest, if searches may take their share.
_SEARCH_AGE_S = 60.0
_SEARCH_LOOK_S = 0.02
# The longest stall that an automatic collection of the oldest generation, or one step of freeing what a
# search has found, is meant to cause.
_STEP_PAUSE_S = 0.003
# Ray itself switches the collector off for moments. Wait this long for it, and look this often.
_DISABLED_WAIT_S = 1.0
_DISABLED_LOOK_S = 0.02
_LONGEST_LOOK_S = 1.0


class Collector:
    """Decides about the collections of one process and runs them.

    Args:
        heap: the module `gc`.
        world: what is known of the process.
        policy: the knobs.
        clock: monotonic seconds.
        cpu_clock: seconds that the calling thread has run. The collector learns from it how long
            the next collection will take, because on a busy machine pauses are longer by chance.
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
        # Held while the collector decides or collects, so that a fork waits until it has finished.
        # It is reentrant because a destructor that runs in a collection may fork too.
        self.at_work = threading.RLock()
        self._frozen = FrozenHeap(heap, can_freeze=can_freeze)
        self._world = world
        self._clock = clock
        self._cpu_clock = cpu_clock or clock
        self._on_collection = on_collection
        self._triggers_lock = threading.Lock()
        self._triggers = 0
        self._asked_at: float | None = None
        self._owed_since: float | None = None
        self._fruitless = 0
        self._fruitless_at = -float("inf")
        self._pause_per_object_s = _FIRST_PAUSE_PER_OBJECT_S
        self._last_full: tuple[float, int] | None = None
        self._full_allowed_at = -float("inf")
        self._idle_full_allowed_at = -float("inf")
        self._rss_base_bytes = 0
        self._searches = (
            Searches(search, self._frozen, world, clock) if search is not None else None
        )
        self._thawed_for_user = False

    @property
    def freezes(self) -> bool:
        """Whether survivors are frozen. They are not if the program has frozen objects."""
        return self._frozen.freezes

    @property
    def has_frozen(self) -> bool:
        """Whether objects are frozen, and this collector froze all of them."""
        return self._frozen.can_unfreeze

    def give_way_to_user(self) -> None:
        """Freeze and unfreeze nothing from now on: the program freezes objects of its own."""
        with self.at_work:
            self._frozen.give_way_to_user()

    @property
    def owes_full(self) -> bool:
        """Whether objects were frozen that no full collection has visited since."""
        return self._owed_since is not None

    def trigger(self) -> None:
        """Note that Ray has asked. Any number of triggers before the next step count as one."""
        with self._triggers_lock:
            self._triggers += 1

    def step(self) -> float | None:
        """Do what is due.

        Returns:
            After how many seconds to call again; None if not before the next trigger.
        """
        with self.at_work:
            wait_s = self._step()
        searches = self._searches
        if searches is None or not searches.wants_to_get_ready:
            return wait_s
        # Others may collect, and fork, meanwhile.
        searches.get_ready(collapses_pages=self.policy.collapses_pages)
        with self.at_work:
            searches.wants_to_get_ready = False
            if self.owes_full and not searches.is_running:
                self._run_what_is_owed(is_prepared=True)
            return self._wait_s()

    def _step(self) -> float | None:
        self._take_triggers()
        searches = self._searches
        if searches is not None and not self._full_is_short():
            searches.prepare()
        if searches is not None and searches.is_running:
            self._follow_search(searches)
        if self._asked_at is not None:
            if not self._frozen.heap.isenabled() and not self._has_waited():
                return _DISABLED_LOOK_S
            self._answer()
        elif self.owes_full and not self._is_searching:
            self._run_what_is_owed()
        return self._wait_s()

    def _wait_s(self) -> float | None:
        if self._asked_at is not None:
            return _DISABLED_LOOK_S
        if self._is_searching:
            return _SEARCH_LOOK_S
        return min(self.policy.idle_s / 2, _LONGEST_LOOK_S) if self.owes_full else None

    @property
    def _is_searching(self) -> bool:
        return self._searches is not None and self._searches.is_running

    def restart(self) -> None:
        """Continue in a forked child. Frozen objects stay frozen, and no trigger is open."""
        self.at_work = threading.RLock()
        self._triggers_lock = threading.Lock()
        self._triggers = 0
        self._asked_at = None
        self._owed_since = None
        self._frozen.is_collecting = False
        # The search belongs to the parent; its child process is not ours to wait for.
        self._searches = None

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
        if self._frozen.is_collecting or not self.at_work.acquire(blocking=False):
            return False
        try:
            if is_explicit:
                self._thaw_for_user()
                return False
            return self._freeze_instead()
        finally:
            self.at_work.release()

    def automatic_ends(self) -> None:
        """Freeze the objects again that a collection by the program has visited."""
        if self._thawed_for_user and self.at_work.acquire(blocking=False):
            try:
                self._thawed_for_user = False
                self._owed_since = None
                self._frozen.freeze()
            finally:
                self.at_work.release()

    def thaw(self) -> None:
        """Unfreeze everything, unless the program has frozen objects."""
        with self.at_work:
            if not self._frozen.thaw():
                self._asked_at = self._clock()
            self._owed_since = None
            self._fruitless = 0

    def _thaw_for_user(self) -> None:
        if self.has_frozen:
            self._frozen.heap.unfreeze()
            self._thawed_for_user = True

    def _freeze_instead(self) -> bool:
        searches = self._searches
        if searches is None or not self._frozen.find_out() or self._full_is_short():
            return False
        if not searches.is_possible:
            # No module is loaded in the middle of an allocation. The next step finds out.
            return searches.is_possible is None
        limit = int(_STEP_PAUSE_S / self._pause_per_object_s)
        # A heap that was never frozen is known to be large. Counting it would take long.
        if self._frozen.has_frozen and self._frozen.heap.count(_OLDEST, limit) < limit:
            return False
        self._frozen.freeze()
        self.counts.automatic_freezes += 1
        if self._owed_since is not None:
            return False
        self._owed_since = self._clock()
        return True

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

        Ray switches it off for moments. Stock Ray collects even in a process that keeps it off, and
        so does this collector.
        """
        assert self._asked_at is not None
        return self._clock() - self._asked_at >= _DISABLED_WAIT_S

    def _answer(self) -> None:
        """Answer the triggers that have come."""
        self._asked_at = None
        self._frozen.find_out()
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
        if self._searches is not None:
            self._searches.is_asked = True
        if not self._is_searching:
            self._run_what_is_owed()

    def _run_what_is_owed(self, *, is_prepared: bool = False) -> None:
        """Start the search, or run the full collection, that is owed if the time for it has come.

        Args:
            is_prepared: whether the search has just been got ready, so that it may fork.
        """
        now = self._clock()
        searches = self._searches
        if searches is not None and self._can_search(searches):
            why = self._why_search(searches, now)
            if why is None:
                return
            if not is_prepared:
                searches.wants_to_get_ready = True
                return
            if self._start_search(searches, why):
                return
        if now >= self._idle_full_allowed_at and self._world.is_idle(self.policy.idle_s):
            self._frozen.resume()
            self._full("idle")
        elif now < self._full_allowed_at:
            return
        elif self._fruitless >= _FRUITLESS_TRIGGERS:
            self._full("pressure")
        elif self._has_grown():
            self._full("memory")
        elif self._owed_since is not None and now - self._owed_since >= _MAX_AGE_S:
            self._full("age")

    def _can_search(self, searches: Searches) -> bool:
        return searches.is_usable and self.has_frozen and not self._full_is_short()

    def _why_search(self, searches: Searches, now: float) -> str | None:
        """Return why a search is due now; None if none is."""
        if not searches.is_allowed:
            return None
        if searches.is_asked:
            return "trigger"
        if self._has_grown():
            return "memory"
        if self._owed_since is not None and now - self._owed_since >= _SEARCH_AGE_S:
            return "age"
        return None

    def _start_search(self, searches: Searches, why: str) -> bool:
        if not searches.start(why):
            return False
        # Objects that are frozen from now on need another search.
        self._owed_since = None
        return True

    def _follow_search(self, searches: Searches) -> None:
        done = searches.follow(int(_STEP_PAUSE_S / self._pause_per_object_s / 2))
        if done is None:
            return
        if done.ended_s is None:
            self.counts.failed_searches += 1
            self._owed_since = self._clock()
            return
        self._fruitless = 0
        self._rss_base_bytes = self._world.rss_bytes()
        self._report(Kind.SEARCH, done.why, done.pause_s, done.objects, done.held)

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

    def _short_generation(self) -> tuple[int | None, int]:
        """Return the oldest generation that a short collection can take in, and its objects.

        A heap that was never frozen is known to be large, or it would have been collected in full.
        Its oldest generation is not even counted, because counting touches every object too.
        """
        bound = int(self.policy.short_pause_s / self._pause_per_object_s)
        younger = self._count(0, bound + 1) + self._count(1, bound + 1)
        if younger > bound:
            return None, 0
        if self._frozen.has_frozen or not self.freezes:
            objects = younger + self._count(_OLDEST, bound + 1)
            if objects <= bound:
                return _OLDEST, objects
        return 1, younger

    def _count(self, generation: int, limit: int) -> int:
        """Return how many objects a generation has, counting up to `limit` where that is possible."""
        if self._searches is not None and self._searches.is_possible:
            return self._frozen.heap.count(generation, limit)
        return len(self._frozen.heap.get_objects(generation))

    def _young(self) -> int:
        """Collect and freeze the new objects, as far as that is short; return what was released."""
        generation, objects = self._short_generation()
        held = self._world.held()
        before_s, before_cpu_s = self._clock(), self._cpu_clock()
        found: int | None = 0
        if generation is not None:
            found = self._collect_unfrozen(generation)
        if found is None:
            return 0
        if self._frozen.owns_freezing:
            self._frozen.freeze()
        pause_s = self._clock() - before_s
        if objects > _OBJECTS_TO_LEARN_FROM:
            took_s = self._cpu_clock() - before_cpu_s
            self._pause_per_object_s = (self._pause_per_object_s + took_s / objects) / 2
        return self._report(Kind.YOUNG, "trigger", pause_s, found, held)

    def _full(self, why: str) -> None:
        """Collect everything, except objects that the program has frozen."""
        held = self._world.held()
        before_s, before_cpu_s = self._clock(), self._cpu_clock()
        found = 0
        if self.has_frozen:
            # Collect only the new objects first, which shows whether the program has frozen
            # objects.
            new = self._collect_unfrozen(2)
            if new is None:
                return
            found = new
        if self._frozen.owns_freezing:
            self._frozen.heap.unfreeze()
        try:
            found += self._frozen.collect(2)
        finally:
            if self._frozen.owns_freezing:
                self._frozen.freeze()
        end_s = self._clock()
        pause_s, took_s = end_s - before_s, self._cpu_clock() - before_cpu_s
        self._full_allowed_at = end_s + pause_s / self.policy.time_share
        self._idle_full_allowed_at = end_s + pause_s / self.policy.time_share / _IDLE_SHARE_FACTOR
        self._owed_since = None
        self._fruitless = 0
        self._last_full = (took_s, self._world.blocks())
        self._rss_base_bytes = self._world.rss_bytes()
        self._report(Kind.FULL, why, pause_s, found, held)

    def _report(self, kind: Kind, why: str, pause_s: float, objects: int, held: int) -> int:
        """Count and report a collection; return what it released."""
        released = max(0, held - self._world.held())
        done = Collection(kind, why, pause_s, objects, released)
        self.counts.add(done)
        self._on_collection(done)
        return released

    def _collect_unfrozen(self, generation: int) -> int | None:
        """Collect unfrozen objects; see `FrozenHeap.collect_unfrozen`.

        If another collection was running, the trigger is open again.
        """
        found = self._frozen.collect_unfrozen(generation)
        if found is None:
            self._asked_at = self._clock()
        return found
