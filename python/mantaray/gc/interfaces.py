"""What a collector is handed, as interfaces for the type checker. No process imports this module."""

from __future__ import annotations

from typing import Any, Protocol


class Heap(Protocol):
    """The part of the module `gc` that a collector uses. `get_objects` gives the sizes of generations."""

    def collect(self, generation: int = 2) -> int:
        """Collect up to a generation; return the number of unreachable objects."""

    def freeze(self) -> None:
        """Freeze all objects, so that later collections skip them."""

    def unfreeze(self) -> None:
        """Move all frozen objects back into the oldest generation."""

    def isenabled(self) -> bool:
        """Return whether automatic collection is on."""

    def get_freeze_count(self) -> int:
        """Return how many objects are frozen. The time it takes grows with their number."""

    def get_objects(self, generation: int | None = None) -> list[Any]:
        """Return the objects that are not frozen, of one generation or all."""

    def get_stats(self) -> list[dict[str, int]]:
        """Return the statistics of each generation."""

    def count(self, generation: int, limit: int) -> int:
        """Return how many objects a generation has, counting up to `limit`; frozen ones do not count.

        The heap must be one that can be searched.
        """


class Search(Protocol):
    """A search for garbage that does not stop this process; see `mantaray.gc.search`."""

    @property
    def is_possible(self) -> bool | None:
        """Whether this Python's heap can be searched; None before `prepare`."""

    def prepare(self) -> None:
        """Find out whether this Python's heap can be searched. This may import modules."""

    def has_room(self) -> bool:
        """Return whether a search and collapsed pages would find the memory they need. Reads files."""

    def collapse_pages(self) -> None:
        """Make the fork of the next search short. Takes seconds for a very large heap."""

    def start(self) -> bool:
        """Start a search; return False if the system refuses. This is its stall."""

    def poll(self) -> bool | None:
        """Return whether the search succeeded; None while it runs."""

    def bring(self, limit: int) -> int:
        """Move about so many objects of found garbage to the youngest generation; return how many."""

    def left(self) -> int:
        """Return how many found objects have not been brought."""

    def stop(self) -> None:
        """End a search that runs, or forget one that is done."""


class World(Protocol):
    """What the collector asks about its process."""

    def held(self) -> int:
        """Return how many references to objects and buffers of the object store this process holds."""

    def is_idle(self, for_s: float) -> bool:
        """Return whether no task has run for so many seconds."""

    def blocks(self) -> int:
        """Return how many blocks of memory Python has given out."""

    def rss_bytes(self) -> int:
        """Return the resident memory of the process."""
