"""When to collect what: the decisions of the `gc` patch, without Ray, threads or a real clock.

Ray asks a process to collect (a *trigger*) when memory in the object store is short. A collection
stops every thread of the process for as long as it takes to look at each container the process
has, so this collector keeps the old ones out of sight (`gc.freeze`):

- a *young* collection looks at what has come up since the last one and freezes the survivors;
- a *full* collection unfreezes everything, looks at it all and freezes it again. It runs at once where it
  is expected to be short; else when the process is idle, or, within a share of time, when memory asks
  for it: triggers to which young collections answer with nothing, or a process that has grown.

The clock, the garbage collector and what is known of the process are handed in. `trigger` may be called
from any thread and never collects; all the rest is called by one thread.

Faults this survives: a garbage collector that is switched off (left alone); a `gc.freeze` of the
user, before or later (never undone: from then on nothing is unfrozen); a collection that another
thread is in the middle of (asked again); a collection that raises (the heap is frozen again).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Protocol

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
# Ray itself switches the collector off for moments; wait for so long, looking so often.
_DISABLED_WAIT_S = 1.0
_DISABLED_LOOK_S = 0.02
_LONGEST_LOOK_S = 1.0


class Heap(Protocol):
    """What is used of the module `gc`; sizes of generations come from `get_objects`."""

    def collect(self, generation: int = 2) -> int:
        """Collect up to a generation; return the number of unreachable objects."""

    def freeze(self) -> None:
        """Move everything out of sight."""

    def unfreeze(self) -> None:
        """Move everything back into the oldest generation."""

    def isenabled(self) -> bool:
        """Return whether automatic collection is on."""

    def get_freeze_count(self) -> int:
        """Return how many objects are out of sight; takes time in proportion."""

    def get_objects(self, generation: int | None = None) -> list[Any]:
        """Return the objects in sight, of one generation or all."""

    def get_stats(self) -> list[dict[str, int]]:
        """Return what each generation has seen."""


class World(Protocol):
    """What the collector asks about its process."""

    def held(self) -> int:
        """Return how much of the object store this process may hold: references and buffers."""

    def is_idle(self, for_s: float) -> bool:
        """Return whether no task has run for so many seconds."""

    def blocks(self) -> int:
        """Return how many blocks of memory Python has given out."""

    def rss_bytes(self) -> int:
        """Return the resident memory of the process."""


@dataclass(frozen=True)
class Policy:
    """The knobs.

    Attributes:
        time_share: the largest share of time, from 0 to 1, that full collections take from a
            process which is not idle.
        short_pause_s: a collection expected to be this short is run whenever Ray asks, in seconds.
        idle_s: how long no task has run in an idle process, in seconds.
        rss_limit_bytes: memory above which a full collection is due; None: when it has grown by a
            quarter.
    """

    time_share: float = 0.02
    short_pause_s: float = 0.025
    idle_s: float = 2.0
    rss_limit_bytes: int | None = None


class Kind(str, Enum):
    """How much a collection looked at."""

    YOUNG = "young"
    FULL = "full"


@dataclass(frozen=True)
class Collection:
    """One collection that has run.

    Attributes:
        kind: how much was looked at.
        why: what brought it about, in a word.
        pause_s: for how long the process stood still, in seconds.
        objects: unreachable objects found.
        released: how much less of the object store is held.
    """

    kind: Kind
    why: str
    pause_s: float
    objects: int
    released: int


@dataclass
class Counts:
    """What has happened so far. Pauses in seconds."""

    triggers: int = 0
    coalesced: int = 0
    skipped_nothing_held: int = 0
    skipped_disabled: int = 0
    young: int = 0
    full: int = 0
    objects: int = 0
    released: int = 0
    failures: int = 0
    longest_young_s: float = 0.0
    longest_full_s: float = 0.0
    total_full_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return all of them by name."""
        return asdict(self)

    def add(self, done: Collection) -> None:
        """Count a collection."""
        self.objects += done.objects
        self.released += done.released
        if done.kind is Kind.YOUNG:
            self.young += 1
            self.longest_young_s = max(self.longest_young_s, done.pause_s)
        else:
            self.full += 1
            self.longest_full_s = max(self.longest_full_s, done.pause_s)
            self.total_full_s += done.pause_s


class _Probe:
    """Garbage of ours, made after a freeze: if a collection does not find it, someone froze it."""

    def __init__(self) -> None:
        self.itself = self


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

    @property
    def freezes(self) -> bool:
        """Whether survivors are frozen; not so where the user has frozen something."""
        return self._moves is not False

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
            if self._asked_at is not None:
                if not self._heap.isenabled() and not self._gives_up():
                    return _DISABLED_LOOK_S
                self._answer()
            elif self.owes_full:
                self._look()
            if self._asked_at is not None:
                return _DISABLED_LOOK_S
            return min(self.policy.idle_s / 2, _LONGEST_LOOK_S) if self.owes_full else None

    def restart(self) -> None:
        """Go on in a forked child: what is frozen stays so, nothing is asked for."""
        self.at_work = threading.RLock()
        self._triggers_lock = threading.Lock()
        self._triggers = 0
        self._asked_at = None
        self._owed_since = None

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

    def _take_triggers(self) -> None:
        with self._triggers_lock:
            taken, self._triggers = self._triggers, 0
        self.counts.triggers += taken
        if not taken:
            return
        self.counts.coalesced += taken - (self._asked_at is None)
        if self._asked_at is None:
            self._asked_at = self._clock()

    def _gives_up(self) -> bool:
        """Return whether a trigger has waited long enough for a collector that is switched off."""
        assert self._asked_at is not None
        return self._clock() - self._asked_at >= _DISABLED_WAIT_S

    def _answer(self) -> None:
        """Answer the triggers that have come."""
        self._asked_at = None
        if not self._heap.isenabled():
            self.counts.skipped_disabled += 1
            return
        if self._world.held() == 0:
            self.counts.skipped_nothing_held += 1
            self._fruitless = 0
            return
        if self._moves is None:
            # What the user has frozen before is not ours to unfreeze.
            self._moves = self._heap.get_freeze_count() == 0
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
        self._look()

    def _look(self) -> None:
        """Run the full collection that is owed, if the time for it has come."""
        if not self._heap.isenabled():
            return
        now = self._clock()
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
            found += self._heap.collect(2)
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
        found = self._heap.collect(generation)
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
