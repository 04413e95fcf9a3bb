"""The terms of garbage collection in a process: what a collector is handed, and what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Protocol


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

    def count_oldest(self, limit: int) -> int:
        """Return how many objects the oldest generation has in sight, counting up to `limit`."""


class Search(Protocol):
    """A search for garbage that does not stop this process; see `mantaray.gc.search`."""

    @property
    def is_possible(self) -> bool | None:
        """Whether this Python's heap can be searched; None before `prepare`."""

    def prepare(self) -> None:
        """Find out whether this Python's heap can be searched. This may import modules."""

    def start(self) -> bool:
        """Start a search; return False if none is possible now."""

    def poll(self) -> bool | None:
        """Return whether the search succeeded; None while it runs."""

    def bring(self, limit: int) -> int:
        """Move found garbage to the youngest generation, about so many objects; return how many."""

    def left(self) -> int:
        """Return how many found objects have not been brought."""

    def stop(self) -> None:
        """End a search that runs, or forget one that is done."""


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
    SEARCH = "search"


@dataclass(frozen=True)
class Collection:
    """One collection that has run.

    Attributes:
        kind: how much was looked at.
        why: what brought it about, in a word.
        pause_s: the stall of the process, in seconds; of a search, the longest of several.
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
    young: int = 0
    full: int = 0
    searches: int = 0
    failed_searches: int = 0
    automatic_freezes: int = 0
    objects: int = 0
    released: int = 0
    failures: int = 0
    longest_young_s: float = 0.0
    longest_full_s: float = 0.0
    total_full_s: float = 0.0
    longest_search_s: float = 0.0

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
        elif done.kind is Kind.SEARCH:
            self.searches += 1
            self.longest_search_s = max(self.longest_search_s, done.pause_s)
        else:
            self.full += 1
            self.longest_full_s = max(self.longest_full_s, done.pause_s)
            self.total_full_s += done.pause_s
