"""The values of garbage collection in a process: what a collector is given, and what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum


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
        collapses_pages: whether the heap is moved into huge pages around a search.
    """

    time_share: float = 0.02
    short_pause_s: float = 0.025
    idle_s: float = 2.0
    rss_limit_bytes: int | None = None
    collapses_pages: bool = True


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
        why: its cause, in one word.
        pause_s: the stall of the process, in seconds; of a search, the longest of several.
        objects: how many unreachable objects it found.
        released: how much less of the object store is held.
    """

    kind: Kind
    why: str
    pause_s: float
    objects: int
    released: int


@dataclass
class Counts:
    """Counts of what has happened so far, and the longest pauses in seconds."""

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
