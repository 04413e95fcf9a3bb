"""How long an event loop was kept from its work: by garbage collection, a long call, a busy machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class StallMeter:
    """Wakes up again and again on its event loop, and sees how late it is.

    Args:
        tick_ms: between two wake-ups; also the shortest stall that is worth telling.
        clock: seconds, monotonic.
    """

    def __init__(
        self, tick_ms: float = 1.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._tick_s = tick_ms / 1000.0
        self._clock = clock
        self._longest_s = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            before_s = self._clock()
            await asyncio.sleep(self._tick_s)
            late_s = self._clock() - before_s - self._tick_s
            self._longest_s = max(self._longest_s, late_s)

    def take_ms(self) -> float:
        """Return the longest stall since this was last asked, in milliseconds."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s * 1000.0
