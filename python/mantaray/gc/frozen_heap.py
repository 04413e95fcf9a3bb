"""A heap whose survivors a collector freezes, and what is known of objects that the program has frozen.

A program may call `gc.freeze` itself. `gc.unfreeze` would undo that too, so from then on the collector
unfreezes nothing.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mantaray.gc.interfaces import Heap


# Python 3.12 freezes some 375 objects itself when it starts. A program that has imported Ray freezes
# more than ten thousand.
_FROZEN_BY_PYTHON = 1_000


class _Probe:
    """Garbage made after each freeze. If a collection does not find it, the program has frozen it."""

    def __init__(self) -> None:
        self.itself = self


class FrozenHeap:
    """The heap of one process. Not thread-safe: the collector holds its lock.

    Args:
        heap: the module `gc`.
        can_freeze: False where freezing does not make collections shorter (free-threaded Python).
    """

    def __init__(self, heap: Heap, *, can_freeze: bool) -> None:
        self.heap = heap
        # Whether a collection of this collector runs in this moment.
        self.is_collecting = False
        # Whether objects are frozen since the collector's last freeze.
        self.has_frozen = False
        self._can_freeze = can_freeze
        # None until it is known; False once the program freezes objects of its own.
        self._owns_freezing: bool | None = None if can_freeze else False
        self._probe: _Probe | None = None

    @property
    def freezes(self) -> bool:
        """Whether survivors are frozen. They are not if the program has frozen objects."""
        return self._owns_freezing is not False

    @property
    def owns_freezing(self) -> bool:
        """Whether it is known that the program has frozen no objects."""
        return self._owns_freezing is True

    @property
    def can_unfreeze(self) -> bool:
        """Whether objects are frozen, and the collector froze all of them."""
        return self.has_frozen and self.owns_freezing

    def find_out(self) -> bool:
        """Return whether the collector may freeze objects."""
        if self._owns_freezing is None:
            # Objects that the program froze earlier must stay frozen.
            self._owns_freezing = not self._program_has_frozen()
        return self._owns_freezing

    def freeze(self) -> None:
        """Freeze all objects."""
        self.heap.freeze()
        self.has_frozen = True
        self._probe = _Probe()

    def give_way_to_user(self) -> None:
        """Freeze and unfreeze nothing from now on: the program freezes objects of its own."""
        if self.can_unfreeze:
            self.heap.unfreeze()
        self.has_frozen = False
        self._owns_freezing = False
        self._probe = None

    def thaw(self) -> bool:
        """Unfreeze everything, unless the program has frozen objects.

        Returns:
            False if another collection was running, so that nothing could be unfrozen.
        """
        seen = True
        if self.can_unfreeze:
            seen = self.collect_unfrozen(2) is not None
            if seen and self.owns_freezing:
                self.heap.unfreeze()
        self.has_frozen = False
        self._probe = None
        self._owns_freezing = None if self._can_freeze else False
        return seen

    def resume(self) -> None:
        """Freeze again if the program has unfrozen everything.

        Call it only in an idle process, because counting frozen objects takes time.
        """
        if self._can_freeze and not self.freezes and not self._program_has_frozen():
            self._owns_freezing = True
            self.has_frozen = False

    def _program_has_frozen(self) -> bool:
        return self.heap.get_freeze_count() > _FROZEN_BY_PYTHON

    def collect(self, generation: int) -> int:
        """Collect up to a generation; return the number of unreachable objects."""
        self.is_collecting = True
        try:
            return self.heap.collect(generation)
        finally:
            self.is_collecting = False

    def collect_unfrozen(self, generation: int) -> int | None:
        """Collect unfrozen objects, and learn whether the program has frozen objects.

        The probe was made after the collector's last freeze. A collection of all objects that are
        not frozen finds it, unless the program has frozen it.

        Args:
            generation: the oldest one to collect. Only with 2 something is learned.

        Returns:
            How many unreachable objects were found. None if another collection was running, so that
            nothing was done.
        """
        probe = None
        if generation == 2 and self._probe is not None:
            probe, self._probe = weakref.ref(self._probe), None
        before = self.heap.get_stats()[generation]["collections"]
        found = self.collect(generation)
        if self.heap.get_stats()[generation]["collections"] == before:
            self._probe = probe() if probe is not None else self._probe
            return None
        if probe is not None and probe() is not None:
            self._owns_freezing = False
        return found
