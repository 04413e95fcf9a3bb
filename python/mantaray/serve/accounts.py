"""Which slots of which replicas are taken, as far as one router knows.

Ray's router keeps a cache of queue lengths. These accounts count a slot in it as taken from the
moment when it is given away, and answers that were on their way at that moment do not free it
again. Everything here runs in the event loop of the router.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from mantaray.serve.guard import log_failure

# How long a task that has found a slot waits to learn whether a rejected request has a claim to the
# slot. After that the task is left to the backoff, and the slot to the rejected request.
_ANSWERS_S = 0.1
# Replicas and their queue lengths; None if a length is not known.
Lengths = list[tuple[Any, int | None]]
Task = asyncio.Task[Any]


@dataclass(frozen=True)
class Asked:
    """A request that was sent to a replica, which has not accepted or rejected it yet.

    Attributes:
        replica_id: where it was sent.
        counted: whether the cache of queue lengths contains it already.
        late: whether the answer comes with the result, as for unary calls over gRPC. Its queue
            length is then as old as the request.
    """

    replica_id: Hashable
    counted: bool
    late: bool


class Accounts:
    """The slots that one router has given away, and the answers that it waits for."""

    def __init__(self, router: Any) -> None:
        """Start with no slot given away.

        Args:
            router: Ray's request router.
        """
        self._router = router
        # How often each replica was chosen, and how many of these slots have not reached their
        # request.
        self.chosen: Counter[Any] = Counter()
        self._unhanded: Counter[Any] = Counter()
        # Requests that were sent, or are about to be, and that the replica has neither accepted nor
        # rejected.
        self._asked: dict[Task, Asked] = {}
        self._unanswered: Counter[Any] = Counter()
        # Tasks that wait until a replica has accepted or rejected all of them.
        self._for_answers: dict[Any, set[asyncio.Future[None]]] = {}
        # Tasks are forgotten when they end.
        self._last: dict[Task, Any] = {}
        # Requests of this router that a replica has, as far as is known.
        self._running: Counter[Any] = Counter()

    # --- What happens to requests

    def choose(self, replica_id: Any) -> None:
        """Count a slot as taken at once, because a routing task has chosen the replica."""
        self.chosen[replica_id] += 1
        self._unhanded[replica_id] += 1
        self.add_to_cache(replica_id, 1)

    def give_back(self, replica_id: Any) -> None:
        """Free a slot that was given away and is not used after all."""
        self._unhanded[replica_id] -= self._unhanded[replica_id] > 0
        self.add_to_cache(replica_id, -1)

    def sent(self, task: Task | None, replica_id: Any, late: bool = False) -> None:
        """Note that the task of a request sends it to a replica.

        Args:
            task: the task.
            replica_id: the replica.
            late: see `Asked`.
        """
        if task is None:
            return
        self.answered(task)
        if task not in self._last:
            task.add_done_callback(self._ended)
        self._last[task] = replica_id
        self._running[replica_id] += 1
        counted = self._unhanded[replica_id] > 0
        self._unhanded[replica_id] -= counted
        self._asked[task] = Asked(replica_id, counted, late)
        self._unanswered[replica_id] += 1

    def asked(self, task: Task | None) -> Asked | None:
        """Return the request of a task that its replica has not answered."""
        return self._asked.get(task) if task is not None else None

    def answered(self, task: Task | None) -> bool:
        """Note that a replica has accepted or rejected a request; return whether that answer was open."""
        asked = self._asked.pop(task, None) if task is not None else None
        if asked is None:
            return False
        replica_id = asked.replica_id
        self._unanswered[replica_id] -= 1
        if not self._unanswered[replica_id]:
            for future in self._for_answers.pop(replica_id, ()):
                if not future.done():
                    future.set_result(None)
        return True

    def under_way(self, replica_id: Any) -> int:
        """Return how many slots are given away to requests that a replica has not counted yet."""
        return self._unhanded[replica_id] + self._unanswered[replica_id]

    def last(self, task: Task | None) -> Any:
        """Return the replica to which a task has sent a request last; None if there is none."""
        return self._last.get(task) if task is not None else None

    def known(self, replica_id: Any) -> int:
        """Return how many requests of this router a replica has or is about to have."""
        return self._running[replica_id] + self._unhanded[replica_id]

    def stopped(self, replica_id: Any) -> None:
        """Note that a replica has one request of this router less."""
        self._running[replica_id] -= self._running[replica_id] > 0

    def idle(self, replica_id: Any) -> None:
        """Note that a replica has no request."""
        if not self._unanswered[replica_id]:
            self._running[replica_id] = 0

    def _ended(self, task: Task) -> None:
        try:
            self.answered(task)
            # A task that succeeds leaves a running request behind, whose result shows when it has
            # ended.
            replica_id = self._last.pop(task, None)
            if task.cancelled() or task.exception() is not None:
                self.stopped(replica_id)
        except Exception:
            log_failure("noting the end of a request's task")

    async def answer_to_all(self, replica_ids: list[Any]) -> None:
        """Wait a moment until one of some replicas has answered all requests that were sent to it."""
        future = asyncio.get_running_loop().create_future()
        for replica_id in replica_ids:
            self._for_answers.setdefault(replica_id, set()).add(future)
        try:
            await asyncio.wait([future], timeout=_ANSWERS_S)
        finally:
            for replica_id in replica_ids:
                waiting = self._for_answers.get(replica_id, set())
                waiting.discard(future)
                if not waiting:
                    self._for_answers.pop(replica_id, None)

    # --- The queue lengths that replicas report

    def corrected(self, results: Lengths, before: Mapping[Any, int]) -> Lengths:
        """Add the requests that replicas may not have counted yet.

        Args:
            results: replicas and their queue lengths; None if none was received.
            before: the value of `chosen` when they were asked.
        """
        corrected: Lengths = []
        for replica, length in results:
            replica_id = replica.replica_id
            uncounted = max(self.chosen[replica_id] - before.get(replica_id, 0), 0)
            if keeps_order(replica):
                uncounted = max(uncounted, self._unanswered[replica_id])
            if length is not None:
                if length == 0:
                    self.idle(replica_id)
                length += uncounted
                self.set_cache(replica_id, length)
            corrected.append((replica, length))
        return corrected

    def is_unsure(self, replica: Any, length: int | None) -> bool:
        """Return whether a request that a replica rejected may have a claim to its free slot."""
        return length == 0 and keeps_order(replica) and self._unanswered[replica.replica_id] > 0

    def keep_only(self, replica_ids: Collection[Any]) -> None:
        """Forget replicas that are gone, except for requests in flight to them."""
        for counter in (self._unhanded, self._unanswered, self._running):
            for replica_id in [each for each in counter if each not in replica_ids]:
                if counter[replica_id] <= 0:
                    del counter[replica_id]
        for replica_id in [each for each in self.chosen if each not in replica_ids]:
            del self.chosen[replica_id]

    # --- The cache of queue lengths

    def cached(self, replica_id: Any) -> int | None:
        """Return the cached queue length of a replica."""
        length: int | None = self._router._replica_queue_len_cache.get(replica_id)
        return length

    def set_cache(self, replica_id: Any, length: int) -> None:
        """Set the cached queue length of a replica, if Ray uses the cache."""
        if self._router._use_replica_queue_len_cache:
            self._router._replica_queue_len_cache.update(replica_id, length)

    def add_to_cache(self, replica_id: Any, change: int) -> None:
        """Change the cached queue length of a replica; it starts at none."""
        self.set_cache(replica_id, max((self.cached(replica_id) or 0) + change, 0))

    def count_unanswered(self, replica_id: Any) -> None:
        """Keep the slots of requests that may be turned away; later requests would overtake them."""
        length = self.cached(replica_id)
        if length is not None and length < self._unanswered[replica_id]:
            self.set_cache(replica_id, self._unanswered[replica_id])

    def uncount(self, replica_id: Any) -> None:
        """Lower the cached queue length by one, if there is one."""
        if self.cached(replica_id) is not None:
            self.add_to_cache(replica_id, -1)


def keeps_order(replica: Any) -> bool:
    """Return whether requests are served strictly in the order in which they came.

    With several slots requests run side by side anyway. Keeping the order would cost a tenth and
    more of the throughput if requests take no longer than a call to the replica.
    """
    return bool(replica.max_ongoing_requests == 1)


def free_slots(lengths: Lengths) -> dict[Any, int]:
    """Return how many slots are free, by the ids of the replicas that have some."""
    return {
        replica.replica_id: replica.max_ongoing_requests - length
        for replica, length in lengths
        if length is not None and length < replica.max_ongoing_requests
    }
