"""Python's own garbage collector as a `Heap`: the functions of `gc` as they were before any stand-in."""

from __future__ import annotations

import gc
from typing import Any


class PythonHeap:
    """The functions of `gc`, kept because stand-ins may take their places later."""

    def __init__(self) -> None:
        self.collect = gc.collect
        self.freeze = gc.freeze
        self.unfreeze = gc.unfreeze
        self.isenabled = gc.isenabled
        self.get_freeze_count = gc.get_freeze_count
        self.get_stats = gc.get_stats
        self._get_objects = gc.get_objects

    def get_objects(self, generation: int | None = None) -> list[Any]:
        """Return the objects that are not frozen, of one generation or all."""
        return self._get_objects(generation)

    def count(self, generation: int, limit: int) -> int:
        """Return how many objects a generation has, counting up to `limit`; frozen ones do not count."""
        from mantaray._native import gc as native

        return native.count_objects(generation, generation, limit)
