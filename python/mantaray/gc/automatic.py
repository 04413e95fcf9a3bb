"""Collections that Ray did not ask for: Python's automatic ones, and those of the program.

Python collects the oldest generation by itself whenever a heap has grown by a quarter, and stops the
process while it visits the heap. `gc.callbacks` tells `HeapGuard` just before such a collection starts.
It lets the collector freeze a large heap first, so that nothing is left to visit, and a search follows.

The program must not notice that objects are frozen. A `gc.collect()` of the program is told apart from an
automatic collection, and visits everything. `gc.get_objects`, `gc.get_referrers` and
`gc.get_freeze_count` answer as if nothing were frozen. A `gc.freeze()` of the program ends ours.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mantaray.gc.collector import Collector

_OLDEST = 2


class HeapGuard:
    """Watches the collections of this process that its collector did not start.

    Args:
        collector: the collector of this process.
        on_owed: called when a search has become due. The call comes in the middle of an allocation
            of any thread, so it must not take a lock.
    """

    def __init__(self, collector: Collector, on_owed: Callable[[], None]) -> None:
        self._collector = collector
        self._on_owed = on_owed
        self._explicit: set[int] = set()
        self._originals: dict[str, Any] = {}
        self._stand_ins: dict[str, Any] = {}

    def attach(self) -> None:
        """Watch from now on."""
        if self._originals:
            return
        gc.callbacks.append(self._notice)
        stand_ins: dict[str, Callable[[Any], Any]] = {
            "collect": self._collect,
            "get_objects": self._seeing_all,
            "get_referrers": self._seeing_all,
            "get_freeze_count": self._count_frozen,
            "freeze": self._freeze,
        }
        for name, make in stand_ins.items():
            original = getattr(gc, name)
            self._originals[name] = original
            self._stand_ins[name] = functools.wraps(original)(make(original))
            setattr(gc, name, self._stand_ins[name])

    def detach(self) -> None:
        """Stop watching. A function that another library has replaced since stays as it is."""
        if self._notice in gc.callbacks:
            gc.callbacks.remove(self._notice)
        for name, original in self._originals.items():
            if getattr(gc, name) is self._stand_ins[name]:
                setattr(gc, name, original)
        self._originals = {}

    def _notice(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != _OLDEST:
            return
        if phase != "start":
            self._collector.automatic_ends()
        elif self._collector.automatic_starts(is_explicit=self._is_explicit()):
            self._on_owed()

    def _is_explicit(self) -> bool:
        """Return whether the program asked for the collection that starts now.

        A program may call a `gc.collect` that it imported before the stand-in was there, or collect from C.
        Python starts a collection of the oldest generation by itself only if its count is above the
        threshold.
        """
        if threading.get_ident() in self._explicit:
            return True
        return gc.get_count()[_OLDEST] <= gc.get_threshold()[_OLDEST]

    def _collect(self, original: Callable[..., int]) -> Callable[..., int]:
        def collect(*args: Any, **kwargs: Any) -> int:
            ident = threading.get_ident()
            self._explicit.add(ident)
            try:
                return original(*args, **kwargs)
            finally:
                self._explicit.discard(ident)

        return collect

    def _seeing_all(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def see(*args: Any, **kwargs: Any) -> Any:
            with self._thawed():
                return original(*args, **kwargs)

        return see

    def _count_frozen(self, original: Callable[[], int]) -> Callable[[], int]:
        def count() -> int:
            return 0 if self._collector.has_frozen else original()

        return count

    def _freeze(self, original: Callable[[], None]) -> Callable[[], None]:
        def freeze() -> None:
            self._collector.give_way_to_user()
            original()

        return freeze

    @contextmanager
    def _thawed(self) -> Iterator[None]:
        with self._collector.at_work:
            self._collector.automatic_starts(is_explicit=True)
            try:
                yield
            finally:
                self._collector.automatic_ends()
