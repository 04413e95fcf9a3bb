"""An event that keeps the order of those who wait for it. Pure asyncio, no Ray.

Requests that come before a router knows its deployment wait for an event. asyncio wakes those who wait
one turn of the loop after the event was set; whoever comes in between finds it set and is ahead of them
all. Here a latecomer goes behind those who are still on their way.
"""

from __future__ import annotations

import asyncio
from typing import Literal


class EventInOrder(asyncio.Event):
    """An asyncio.Event whose `wait` returns in the order in which it was called."""

    def __init__(self) -> None:
        super().__init__()
        self._coming = 0

    async def wait(self) -> Literal[True]:
        """Wait until the event is set and all have gone who called this before."""
        if self.is_set() and not self._coming:
            return True
        self._coming += 1
        try:
            if self.is_set():
                # Those who were woken are in the loop's queue already; this is behind them.
                await asyncio.sleep(0)
            else:
                await super().wait()
        finally:
            self._coming -= 1
        return True
