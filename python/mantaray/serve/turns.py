"""An event that keeps the order of those who wait for it. Pure asyncio, no Ray.

Requests that come before a router knows its deployment wait for an event. asyncio wakes waiters one
turn of the loop after the event was set. A request that comes in between finds the event set and
would overtake them. Here it queues behind the waiters that are still waking up.
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
        """Wait until the event is set and all earlier callers have returned."""
        if self.is_set() and not self._coming:
            return True
        self._coming += 1
        try:
            if self.is_set():
                # The woken waiters are in the loop's queue already, so this callback runs behind
                # them.
                await asyncio.sleep(0)
            else:
                await super().wait()
        finally:
            self._coming -= 1
        return True
