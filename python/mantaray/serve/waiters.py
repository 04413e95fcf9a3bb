"""Who waits for a free slot, and who is woken when there is one. Pure asyncio, no Ray.

A *wake* stands for one slot that came free on one replica. It goes to the waiter with the oldest
request. A waiter that cannot use it hands it on to the next waiter, and no waiter gets the same
wake twice. So one slot wakes one waiter, no slot is lost to a waiter that cannot use it, and a wake
ends after as many steps as there are waiters. Everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Wake:
    """One slot that came free.

    Attributes:
        replica_id: of the replica with the slot.
        tried: the waiters that have had it.
    """

    replica_id: Hashable
    tried: set[object] = field(default_factory=set)


@dataclass(eq=False)
class _Waiter:
    owner: object
    order: float
    future: asyncio.Future[Wake | None]


class Waiters:
    """The routing tasks of one router: those that wait, and how many are looking meanwhile."""

    def __init__(self) -> None:
        self._waiting: list[_Waiter] = []
        self._unclaimed: list[Wake] = []
        self._looking = 0

    @property
    def waiting(self) -> int:
        """How many of the tasks really wait now."""
        return len(self._waiting)

    def enter(self) -> None:
        """Count one more task that looks for a replica. Each task must `leave` again."""
        self._looking += 1

    def leave(self) -> None:
        """Count one task less."""
        self._looking -= 1
        self._forget()

    def wake(self, replica_id: Hashable, slots: int = 1) -> None:
        """Wake one waiter for each slot that came free on a replica."""
        if not self._waiting and len(self._unclaimed) >= self._looking:
            # As nearly always where slots are free.
            return
        for _ in range(slots):
            if not self.hand_on(Wake(replica_id)):
                return

    def hand_on(self, wake: Wake) -> bool:
        """Give a wake to the oldest waiter that has not had it; return whether a waiter has or may get
        it.

        A task that is looking right now may have looked at this replica a moment too early: the
        wake is kept until it waits.
        """
        fresh = [w for w in self._waiting if w.owner not in wake.tried and not w.future.done()]
        if fresh:
            chosen = min(fresh, key=lambda waiter: waiter.order)
            wake.tried.add(chosen.owner)
            chosen.future.set_result(wake)
            return True
        if len(self._unclaimed) >= self._looking:
            return False
        self._unclaimed.append(wake)
        return True

    async def wait(self, owner: object, order: float, timeout_s: float) -> Wake | None:
        """Wait until woken.

        Args:
            owner: the waiter, which `enter` has counted.
            order: the waiter with the lowest is woken first.
            timeout_s: in seconds.

        Returns:
            The wake, or None if the time is over.
        """
        for wake in self._unclaimed:
            if owner not in wake.tried:
                self._unclaimed.remove(wake)
                wake.tried.add(owner)
                return wake
        loop = asyncio.get_running_loop()
        waiter = _Waiter(owner, order, loop.create_future())
        timer = loop.call_later(timeout_s, _expire, waiter.future)
        self._waiting.append(waiter)
        self._looking -= 1
        self._forget()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._waiting.remove(waiter)
            if not waiter.future.cancelled() and (missed := waiter.future.result()) is not None:
                # The wake and a cancellation came in the same moment, so another waiter can use the
                # slot.
                self.hand_on(missed)
            raise
        finally:
            timer.cancel()
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            self._looking += 1

    def _forget(self) -> None:
        """Drop wakes for which no waiter is left."""
        del self._unclaimed[max(self._looking, 0) :]


def _expire(future: asyncio.Future[Wake | None]) -> None:
    if not future.done():
        future.set_result(None)
