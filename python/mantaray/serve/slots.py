"""The part of a replica that knows which routers wait for a slot, and whose turn it is.

A router learns of the slots that its own requests free, and not of those that other routers free.
So a router that shares a full replica asks it for reports. For each slot the replica reports to one
router, in the order in which they asked, and keeps the slot for that router for a moment. Otherwise
a router that learns of its own slots sooner would keep the replica to itself. This module uses
asyncio and nothing of Ray.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from mantaray.serve.guard import log_failure

# How long a slot is kept for the router that got the report. Its request takes a few milliseconds.
_KEPT_S = 0.03
SLOTS = "_mantaray_slots"
ROUTER = "_mantaray_router"


class Slots:
    """The slots of one replica. Everything runs in the event loop of the replica."""

    def __init__(self, ongoing: Callable[[], int], limit: Callable[[], int]) -> None:
        """Start with no router waiting.

        Args:
            ongoing: how many requests the replica has now.
            limit: how many it may have.
        """
        self._ongoing = ongoing
        self._limit = limit
        self.loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._kept: list[tuple[str, float]] = []

    def kept(self) -> int:
        """How many free slots are kept for routers."""
        now = self.loop.time()
        self._kept = [each for each in self._kept if each[1] > now]
        return len(self._kept)

    async def wait(self, router: str, longest_s: float) -> int:
        """Wait until there is a slot for a router, and keep the slot for it for a moment.

        Args:
            router: who asks.
            longest_s: in seconds.

        Returns:
            How many requests the replica has. If the time is over, as many as it may have, or more.
        """
        future = self.loop.create_future()
        entry = (router, future)
        self._waiting.append(entry)
        timer = self.loop.call_later(longest_s, _end, future)
        self.freed()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                # The report and a cancellation came in the same moment, so another router can use
                # the slot.
                self.take(router)
                self.freed()
            raise
        finally:
            timer.cancel()
            if entry in self._waiting:
                self._waiting.remove(entry)
        return self._ongoing() + self.kept() - self._is_kept_for(router)

    def freed(self) -> None:
        """Report to as many routers as there are slots, in their turn."""
        free = self._limit() - self._ongoing() - self.kept()
        while free > 0 and self._waiting:
            router, future = self._waiting.popleft()
            if future.done():
                continue
            future.set_result(None)
            self._kept.append((router, self.loop.time() + _KEPT_S))
            self.loop.call_later(_KEPT_S + 0.001, self.freed)
            free -= 1

    def take(self, router: str | None) -> bool:
        """Return whether a request of a router may have a slot, and stop keeping that slot."""
        kept = self.kept()
        for number, (owner, _) in enumerate(self._kept):
            if owner == router:
                del self._kept[number]
                return True
        return self._ongoing() + kept < self._limit()

    def _is_kept_for(self, router: str) -> int:
        return any(owner == router for owner, _ in self._kept)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# --- What is put into Ray's classes

ORIGINALS: dict[str, Callable[..., Any]] = {}
ENDED = "dec_num_ongoing_requests"


def slots_of(replica: Any) -> Slots:
    """Return the slots of a replica (Ray's object); they are made at the first call."""
    known = vars(replica).get(SLOTS)
    if known is None:
        count = ORIGINALS["get_num_ongoing_requests"]
        known = Slots(lambda: count(replica), lambda: replica.max_ongoing_requests)
        vars(replica)[SLOTS] = vars(replica._metrics_manager)[SLOTS] = known
    assert isinstance(known, Slots)
    return known


def _can_accept(replica: Any, request_metadata: Any) -> bool:
    """Replace Ray's method: answer as Ray does, unless the slot is kept for another router."""
    accepted: bool = ORIGINALS["_can_accept_request"](replica, request_metadata)
    try:
        slots = vars(replica).get(SLOTS)
        if accepted and slots is not None:
            is_direct = getattr(request_metadata, "is_direct_ingress", False)
            return is_direct or bool(slots.take(getattr(request_metadata, ROUTER, None)))
    except Exception:
        log_failure("asking whether a slot is kept for a router")
    return accepted


def _count_ongoing(replica: Any) -> int:
    """Replace Ray's method: count slots that are kept as taken."""
    ongoing: int = ORIGINALS["get_num_ongoing_requests"](replica)
    try:
        slots = vars(replica).get(SLOTS)
        if slots is not None:
            return ongoing + int(slots.kept())
    except Exception:
        log_failure("counting the slots that are kept for routers")
    return ongoing


def _ended(manager: Any, *args: Any, **kwargs: Any) -> Any:
    """Replace Ray's method that counts a request less, after which there may be a slot."""
    result = ORIGINALS[ENDED](manager, *args, **kwargs)
    _tell(vars(manager).get(SLOTS))
    return result


def _released(replica: Any, *args: Any, **kwargs: Any) -> Any:
    """Replace Ray's method that gives up a reserved slot."""
    result = ORIGINALS["release_slot"](replica, *args, **kwargs)
    _tell(vars(replica).get(SLOTS))
    return result


def _tell(slots: Slots | None) -> None:
    if slots is None:
        return
    try:
        # Called soon and not now, because Ray has not released the slot yet.
        slots.loop.call_soon_threadsafe(slots.freed)
    except Exception:
        log_failure("telling a router of a free slot")


STAND_INS: dict[str, Callable[..., Any]] = {
    "_can_accept_request": _can_accept,
    "get_num_ongoing_requests": _count_ongoing,
    "release_slot": _released,
    ENDED: _ended,
}


async def wait_for_slot(actor: Any, router: str, longest_s: float) -> int:
    """Wait for a slot, on behalf of a router; return -1 if the replica does not support it."""
    find = getattr(type(actor._replica_impl), "_mantaray_find_slots", None)
    return -1 if find is None else await find(actor._replica_impl).wait(router, longest_s)


# Ray sends the actor's class by value, so this function must travel by value too. A replica whose
# environment has no Mantaray then starts all the same.
wait_for_slot.__module__ = "__main__"
