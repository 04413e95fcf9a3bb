"""In a router: asks full replicas, which it shares with other routers, to tell it of a free slot.

One call to a replica at a time, to a few replicas at most, and only while somebody waits.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection
from typing import Any

from mantaray.serve.guard import guarded

WAIT_METHOD = "mantaray_wait_for_slot"
MOST_CALLS = 4
_LONGEST_S = 10.0


class Listener:
    """The calls of one router. Everything runs in its event loop."""

    def __init__(self, heard: Callable[[Any, int], None]) -> None:
        """Begin with no call.

        Args:
            heard: called with a replica's id and how many requests it has, after each answer.
        """
        self.name = uuid.uuid4().hex
        self._heard = heard
        self._calls: dict[Any, asyncio.Task[None]] = {}
        self._deaf: set[Any] = set()

    @property
    def can_listen(self) -> bool:
        """Whether another call may be made."""
        return len(self._calls) < MOST_CALLS

    def listen(self, replica: Any) -> None:
        """Ask a replica to tell of its next free slot, unless it is asked already."""
        replica_id = replica.replica_id
        if replica_id in self._calls or replica_id in self._deaf or not self.can_listen:
            return
        if getattr(replica, "is_cross_language", False):
            return
        task = asyncio.get_running_loop().create_task(self._ask(replica))
        self._calls[replica_id] = task
        task.add_done_callback(lambda done: self._ended(replica_id, done))

    async def _ask(self, replica: Any) -> None:
        import ray

        try:
            call = getattr(replica._actor_handle, WAIT_METHOD)
        except AttributeError:
            # A replica that was started without Mantaray.
            self._deaf.add(replica.replica_id)
            return
        ref = call.remote(self.name, _LONGEST_S)
        try:
            ongoing = await ref
        except asyncio.CancelledError:
            ray.cancel(ref)
            raise
        except ray.exceptions.RayError:
            # Dead or unreachable; Ray's router finds that out by itself.
            return
        if ongoing < 0:
            self._deaf.add(replica.replica_id)
            return
        # The answer may be the reason for the next call to the same replica.
        self._calls.pop(replica.replica_id, None)
        with guarded("taking in that a replica has a slot"):
            self._heard(replica.replica_id, ongoing)

    def _ended(self, replica_id: Any, task: asyncio.Task[None]) -> None:
        if self._calls.get(replica_id) is task:
            del self._calls[replica_id]
        with guarded("asking a replica to tell of a free slot"):
            if not task.cancelled():
                task.result()

    def stop(self) -> None:
        """Give up all calls: nobody waits any more."""
        calls, self._calls = self._calls, {}
        for task in calls.values():
            task.cancel()

    def keep_only(self, replica_ids: Collection[Any]) -> None:
        """Forget replicas that are gone."""
        self._deaf &= set(replica_ids)
