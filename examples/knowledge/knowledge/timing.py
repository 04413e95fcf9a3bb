"""How long the stages of a query took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Timings:
    """Milliseconds by stage; a stage that runs more than once adds up.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._spent_ms: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the `with` block, also of one that raises, as this stage's."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(name, (self._clock() - start) * 1000.0)

    def add(self, name: str, spent_ms: float) -> None:
        """Count time that was measured elsewhere."""
        self._spent_ms[name] = self._spent_ms.get(name, 0.0) + spent_ms

    def as_dict(self) -> dict[str, float]:
        """Return the milliseconds so far, by stage, in the order in which the stages began to count."""
        return {name: round(spent, 3) for name, spent in self._spent_ms.items()}
