"""The part of a router that asks full replicas to report free slots.

A router shares such replicas with other routers. It makes one call to a replica at a time, to a few
replicas at most, and only while requests wait.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection
from typing import Any

from mantaray.serve.guard import log_failure

WAIT_METHOD = "mantaray_wait_for_slot"
MOST_CALLS = 4
_LONGEST_S = 10.0


class Listener:
    """The calls of one router. Everything runs in its event loop."""

    def __init__(self, heard: Callable[[Any, int], None]) -> None:
        """Start with no call.

        Args:
            heard: called with a replica's id and how many requests it has, after each answer.
        """
        self.name = uuid.uuid4().hex
        self._heard = heard
        self._calls: dict[Any, asyncio.Task[None]] = {}
        # Replicas that are known to have the method, and those that tell nobody.
        self._telling: set[Any] = set()
        self._deaf: set[Any] = set()

    @property
    def can_listen(self) -> bool:
        """Whether another call may be made."""
        return len(self._calls) < MOST_CALLS

    def listen(self, replica: Any) -> None:
        """Ask a replica to report its next free slot, unless such a call is open."""
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

        replica_id = replica.replica_id
        ref: Any = None
        try:
            handle = replica._actor_handle
            if replica_id not in self._telling:
                # A handle has the methods that the class has in this process. An actor ends when it is
                # called by the name of a method that it does not have.
                ref = handle.__ray_call__.remote(tells_of_slots)
                if not await ref:
                    self._deaf.add(replica_id)
                    return
                self._telling.add(replica_id)
            ref = getattr(handle, WAIT_METHOD).remote(self.name, _LONGEST_S)
            ongoing = await ref
        except AttributeError:
            # The class in this process has no such method, or the replica is no actor of Ray's.
            self._deaf.add(replica_id)
            return
        except asyncio.CancelledError:
            ray.cancel(ref)
            raise
        except ray.exceptions.RayError:
            # The replica is dead or unreachable, which Ray's router finds out by itself.
            return
        if ongoing < 0:
            self._deaf.add(replica_id)
            return
        # The answer may be the reason for the next call to the same replica.
        self._calls.pop(replica_id, None)
        try:
            self._heard(replica_id, ongoing)
        except Exception:
            log_failure("taking in that a replica has a slot")

    def _ended(self, replica_id: Any, task: asyncio.Task[None]) -> None:
        if self._calls.get(replica_id) is task:
            del self._calls[replica_id]
        try:
            if not task.cancelled():
                task.result()
        except Exception:
            log_failure("asking a replica to tell of a free slot")

    def stop(self) -> None:
        """Cancel all calls, because no request waits any more."""
        calls, self._calls = self._calls, {}
        for task in calls.values():
            task.cancel()

    def keep_only(self, replica_ids: Collection[Any]) -> None:
        """Forget replicas that are gone."""
        self._deaf &= set(replica_ids)
        self._telling &= set(replica_ids)


def tells_of_slots(actor: Any) -> bool:
    """Return whether a replica's actor has the method; runs in the replica."""
    return hasattr(type(actor), WAIT_METHOD)


# By value, because a replica's environment may have no Mantaray.
tells_of_slots.__module__ = "__main__"
