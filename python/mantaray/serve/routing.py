"""What Mantaray keeps for one of Ray's request routers: who waits, and what is known to be free.

Ray's router asks, sleeps, and asks again. Here whatever tells that a slot is free wakes one of the
sleepers: a request of this router has completed, a replica joined, an answer showed a queue below
its limit, an assigned request was cancelled before it was sent, a replica that is shared with other
routers has told of a slot (see `slots` and `listening`). For that to wake one request and
not a herd, the router's cache of queue lengths counts a slot as taken from the moment in which it
is given away, and answers that were on their way at that moment do not free it again.

Everything here runs in the event loop of the router.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from mantaray.serve.backoff import Backoff
from mantaray.serve.listening import Listener
from mantaray.serve.models import Models, oldest_that_fits, steps_back
from mantaray.serve.waiters import Waiters, Wake
from mantaray.settings import read_or_default

_DRAW = "PowerOfTwoChoicesRequestRouter.choose_replicas"
_ATTRIBUTE = "_mantaray_routing"
_POW_2 = "ray.serve._private.request_router.pow_2_router"
# A replica may still count a request whose result is here already. If it turns the next one away,
# it is looked at again after these waits, and then left to the backoff.
_SETTLE_S = (0.001, 0.003, 0.007, 0.015, 0.031, 0.063)
# Of the replicas that may be shared with other routers; for there may be thousands.
_MOST_LOOKED_AT = 16
# How long a task that has found a slot waits to hear whether it is owed to a request that was turned
# away; then it is left to the backoff, and the slot to that request.
_ANSWERS_S = 0.1
_LOGGER = logging.getLogger("ray.serve")
# Replicas and how many requests they have; None where that is not known.
_Lengths = list[tuple[Any, int | None]]


def routing_of(router: Any) -> Routing:
    """Return what is kept for a router; it is made at the first call."""
    known = vars(router).get(_ATTRIBUTE)
    if known is None:
        known = vars(router)[_ATTRIBUTE] = Routing(router)
    assert isinstance(known, Routing)
    return known


class Routing:
    """The events of one router, and what they tell."""

    def __init__(self, router: Any) -> None:
        self._router = router
        self.waiters = Waiters()
        self.backoff = read_or_default(Backoff.read, _LOGGER)
        # How often a replica was chosen; how many of these are not yet handed to their request.
        self.chosen: Counter[Any] = Counter()
        self._unhanded: Counter[Any] = Counter()
        # Requests sent (or about to be) to which the replica has not said yes or no.
        self._asked: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._unanswered: Counter[Any] = Counter()
        # Who waits until a replica has said yes or no to all of them.
        self._for_answers: dict[Any, set[asyncio.Future[None]]] = {}
        self._last: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._just_freed: set[Any] = set()
        # Requests of this router that a replica has, as far as is known.
        self._running: Counter[Any] = Counter()
        self.listener = Listener(self._heard)
        self._limits: dict[Any, int] = {}
        self._models = Models()

    def delay_s(self, attempt: int) -> float:
        """Return how long to wait before retry number `attempt` (from 0), in seconds."""
        router = self._router
        if hasattr(router, "_compute_backoff_s"):
            base_s = router._compute_backoff_s(attempt)
        elif "backoff_sequence_s" in _overridden(router):
            # A router of the user's, written for a Ray that had only this.
            sequence = router.backoff_sequence_s
            base_s = sequence[min(attempt + 1, len(sequence) - 1)]
        else:
            base_s = self.backoff.base_s(attempt)
        return self.backoff.jittered_s(base_s)

    async def wait(self, owner: object, order: float, attempt: int) -> Wake | None:
        """Wait for a wake, at most as long as the backoff says; None when nothing came."""
        self._count(1)
        self._listen()
        try:
            return await self.waiters.wait(owner, order, self.delay_s(attempt))
        finally:
            self._count(-1)
            if not self.waiters.waiting:
                self.listener.stop()

    def _count(self, change: int) -> None:
        router = self._router
        router.num_routing_tasks_in_backoff += change
        router.num_routing_tasks_in_backoff_gauge.set(router.num_routing_tasks_in_backoff)

    # --- What happens to requests

    def choose(self, replica_id: Any) -> None:
        """A routing task has decided for a replica: count the slot as taken at once."""
        self.chosen[replica_id] += 1
        self._unhanded[replica_id] += 1
        self._add_to_cache(replica_id, 1)

    def sent(self, task: asyncio.Task[Any] | None, replica_id: Any) -> None:
        """The task of a request has been given a replica and sends its request there."""
        if task is None:
            return
        self._answered(task)
        if task not in self._last:
            task.add_done_callback(self._ended)
        self._last[task] = replica_id
        self._running[replica_id] += 1
        counted = self._unhanded[replica_id] > 0
        self._unhanded[replica_id] -= counted
        self._asked[task] = (replica_id, counted)
        self._unanswered[replica_id] += 1

    def is_counted(self, replica_id: Any) -> bool:
        """Return whether the request that the current task sends is in the cache already."""
        asked = self._asked.get(_current_task())
        return asked is not None and asked == (replica_id, True)

    def _answered(self, task: asyncio.Task[Any] | None) -> bool:
        """Note that a replica has said yes or no; return whether that was still to come."""
        asked = self._asked.pop(task, None) if task is not None else None
        if asked is None:
            return False
        self._unanswered[asked[0]] -= 1
        if not self._unanswered[asked[0]]:
            for future in self._for_answers.pop(asked[0], ()):
                if not future.done():
                    future.set_result(None)
        return True

    async def _answer_to_all(self, replica_ids: list[Any]) -> None:
        """Wait for a moment until one of some replicas has said yes or no to all that it was asked."""
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

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if self._answered(task) or task.cancelled():
            self._stopped(self._last.get(task))

    def _stopped(self, replica_id: Any) -> None:
        self._running[replica_id] -= self._running[replica_id] > 0

    def routed_again(self, task: asyncio.Task[Any] | None) -> None:
        """The task of a request wants another replica: the last one turned it away or died."""
        self._answered(task)
        replica_id = self._last.get(task) if task is not None else None
        self._stopped(replica_id)
        if replica_id not in self._just_freed:
            return
        self._just_freed.discard(replica_id)
        loop = asyncio.get_running_loop()
        for delay_s in _SETTLE_S:
            loop.call_later(delay_s, self._look_again, replica_id, self.chosen[replica_id])

    def _look_again(self, replica_id: Any, chosen: int) -> None:
        if self.chosen[replica_id] == chosen:
            self.waiters.wake(replica_id)

    def given_back(self, replica_id: Any) -> None:
        """A request was cancelled between being given a slot and using it."""
        self._unhanded[replica_id] -= self._unhanded[replica_id] > 0
        self._add_to_cache(replica_id, -1)
        self.waiters.wake(replica_id)

    def completed(self, replica_id: Any) -> None:
        """A request of this router has ended and its slot is free."""
        self._stopped(replica_id)
        if replica_id in self._router._replicas:
            self._just_freed.add(replica_id)
            self._count_unanswered(replica_id)
            self.waiters.wake(replica_id)

    # --- What is heard of replicas

    def _listen(self) -> None:
        """Ask replicas that are full with requests of other routers to tell of their next slot."""
        replicas = list(self._router._replicas.values())
        for replica in random.sample(replicas, min(len(replicas), _MOST_LOOKED_AT)):
            if not self.listener.can_listen:
                return
            if self._is_full_of_others(replica):
                self.listener.listen(replica)

    def _is_full_of_others(self, replica: Any) -> bool:
        length = self._cached(replica.replica_id)
        if length is None or length < replica.max_ongoing_requests or replica.is_cross_language:
            return False
        return length > self._running[replica.replica_id] + self._unhanded[replica.replica_id]

    def _heard(self, replica_id: Any, ongoing: int) -> None:
        """A replica has told of a slot, or that there was none for a long time."""
        replica = self._router._replicas.get(replica_id)
        if replica is None:
            return
        length = ongoing + self._unanswered[replica_id]
        self._set_cache(replica_id, length)
        if length < replica.max_ongoing_requests:
            self.waiters.wake(replica_id)
        if self.waiters.waiting:
            self._listen()

    def answer(self, replica_id: Any, ongoing: int) -> None:
        """A replica has said how many requests it has, in answer to the current task."""
        self._answered(_current_task())
        replica = self._router._replicas.get(replica_id)
        if replica is None:
            return
        # What was sent since and is not answered is not in that number.
        on_the_way = self._unanswered[replica_id]
        if on_the_way:
            self._set_cache(replica_id, ongoing + on_the_way)
        self.waiters.wake(replica_id, replica.max_ongoing_requests - ongoing - on_the_way)

    async def probed(self, results: _Lengths, before: Counter[Any]) -> _Lengths:
        """Take in the queue lengths that replicas were asked for.

        A request that is on its way may be turned away by a replica that says a moment later that it has
        a slot. That slot is for this request; one that came later would overtake it.

        Args:
            results: replicas and their queue lengths; None where none came.
            before: what `chosen` was when they were asked.

        Returns:
            The same, with what was given away since counted in.
        """
        corrected = self._corrected(results, before)
        free = _free(corrected)
        unsure = [] if free else [each for each in results if self._is_unsure(*each)]
        if unsure:
            asked = [replica.replica_id for replica, _ in unsure]
            await self._answer_to_all(asked)
            # Whoever was turned away waits again, and is the first to get what is free.
            corrected = [each for each in corrected if each[0].replica_id not in asked]
            corrected += self._corrected(unsure, before)
            free = _free(corrected)
        if free and _current_task() in self._router._routing_tasks:
            # The task that asked takes one itself, from the shortest queue.
            shortest = min(
                (item for item in corrected if item[0].replica_id in free),
                key=lambda item: item[1] or 0,
            )
            free[shortest[0].replica_id] -= 1
        for replica_id, slots in free.items():
            self.waiters.wake(replica_id, slots)
        return corrected

    @staticmethod
    def _keeps_order(replica: Any) -> bool:
        """Return whether requests are served strictly in the order in which they came.

        With several slots they run beside each other anyway, and for requests that take no longer than a
        call to the replica it would cost a tenth and more of the throughput.
        """
        return bool(replica.max_ongoing_requests == 1)

    def _is_unsure(self, replica: Any, length: int | None) -> bool:
        """Return whether a slot that a replica has may be owed to a request that it has turned away."""
        return (
            length == 0 and self._keeps_order(replica) and self._unanswered[replica.replica_id] > 0
        )

    def _corrected(self, results: _Lengths, before: Counter[Any]) -> _Lengths:
        """Count in what replicas may not have counted."""
        corrected: _Lengths = []
        for replica, length in results:
            replica_id = replica.replica_id
            uncounted = self.chosen[replica_id] - before[replica_id]
            if self._keeps_order(replica):
                uncounted = max(uncounted, self._unanswered[replica_id])
            if length is not None:
                length += uncounted
                self._set_cache(replica_id, length)
            corrected.append((replica, length))
        return corrected

    def replicas_changed(self) -> None:
        """The set of replicas is another, or their limits are."""
        replicas = self._router._replicas
        limits = {each: replica.max_ongoing_requests for each, replica in replicas.items()}
        for replica_id, limit in limits.items():
            # One for a new replica: Ray asks it at once, and its answer wakes the others.
            slots = limit - self._limits[replica_id] if replica_id in self._limits else 1
            self.waiters.wake(replica_id, slots)
        self._limits = limits
        self.listener.keep_only(limits)
        self._models.keep_only(limits)
        for counter in (self.chosen, self._unhanded, self._unanswered, self._running):
            for gone in [each for each in counter if each not in limits and not counter[each] > 0]:
                del counter[gone]
        self._just_freed &= limits.keys()

    # --- Looking for a replica

    def prefer(self, ranks: list[Any], wake: Wake, pending_request: Any) -> list[Any]:
        """Make sure that a random draw of two contains the replica for which a task was woken.

        Only where every replica is a candidate, or (with a model) where this one has a model that
        somebody waits for.
        """
        router = self._router
        replica = router._replicas.get(wake.replica_id)
        drawn = ranks[0] if len(ranks) == 1 else []
        if replica is None or not drawn or replica in drawn or not _draws_two(router):
            return ranks
        if pending_request is not None:
            model = pending_request.metadata.multiplexed_model_id
            if model and not self._fits(replica):
                return ranks
            if not pending_request.routing_context.should_backoff:
                return ranks
        return [[replica, *drawn[:1]]]

    def _models_on(self, replica: Any) -> list[str]:
        return self._models.on(replica.replica_id, replica.multiplexed_model_ids)

    def _fits(self, replica: Any) -> Any:
        """Return the oldest waiting request whose model is on a replica."""
        return oldest_that_fits(self._router._pending_requests_to_fulfill, self._models_on(replica))

    def who_goes(self, replica: Any, metadata: Any) -> Any:
        """Return the metadata of the request that gets a slot which a routing task has found.

        Args:
            replica: where the slot is.
            metadata: of the request of that task; None when that is answered already.
        """
        if not hasattr(self._router, "_multiplexed_matching_timeout"):
            # A router of the user's that keeps the order and knows nothing of models.
            return metadata
        if metadata is None:
            metadata = self._oldest_metadata()
        model = metadata.multiplexed_model_id if metadata is not None else ""
        if not model:
            return metadata
        if model not in self._models_on(replica):
            metadata = self._who_steps_forward(replica, metadata)
        reported = replica.multiplexed_model_ids
        self._models.sent(replica.replica_id, metadata.multiplexed_model_id, reported)
        return metadata

    def _oldest_metadata(self) -> Any:
        pending = self._router._pending_requests_to_fulfill
        return next((each.metadata for each in pending if not each.future.done()), None)

    def _who_steps_forward(self, replica: Any, metadata: Any) -> Any:
        router = self._router
        pending = router._pending_requests_to_fulfill
        own = next((each for each in pending if each.metadata is metadata), None)
        if own is not None and not own.future.done():
            is_elsewhere = any(
                metadata.multiplexed_model_id in self._models_on(each)
                for each in router._replicas.values()
            )
            if not is_elsewhere or not steps_back(own, router._multiplexed_matching_timeout):
                return metadata
        fitting = self._fits(replica)
        if fitting is None:
            return metadata
        if own is not None and not hasattr(router, "_routing_task_by_pending_request_future"):
            # The task leaves its request here, where later Rays go on with it.
            router._pending_requests_to_route.appendleft(own)
        return fitting.metadata

    def hand_on_unused(self, wake: Wake | None, chosen: int) -> None:
        """Hand a wake on unless the replica was chosen since."""
        if wake is None or self.chosen[wake.replica_id] != chosen:
            return
        replica = self._router._replicas.get(wake.replica_id)
        if replica is None:
            return
        length = self._cached(wake.replica_id)
        if length is None or length < replica.max_ongoing_requests:
            self.waiters.hand_on(wake)

    # --- The cache of queue lengths

    def _cached(self, replica_id: Any) -> int | None:
        length: int | None = self._router._replica_queue_len_cache.get(replica_id)
        return length

    def _set_cache(self, replica_id: Any, length: int) -> None:
        if self._router._use_replica_queue_len_cache:
            self._router._replica_queue_len_cache.update(replica_id, length)

    def _add_to_cache(self, replica_id: Any, change: int) -> None:
        self._set_cache(replica_id, max((self._cached(replica_id) or 0) + change, 0))

    def _count_unanswered(self, replica_id: Any) -> None:
        """Keep the slots of requests that may be turned away; whoever came later would overtake them."""
        length = self._cached(replica_id)
        if length is not None and length < self._unanswered[replica_id]:
            self._set_cache(replica_id, self._unanswered[replica_id])

    def uncount(self, replica_id: Any) -> None:
        """Take one off the cached queue length, where there is one."""
        if self._cached(replica_id) is not None:
            self._add_to_cache(replica_id, -1)


def _free(lengths: _Lengths) -> dict[Any, int]:
    """Return how many slots are free, by the ids of the replicas that have some."""
    return {
        replica.replica_id: replica.max_ongoing_requests - length
        for replica, length in lengths
        if length is not None and length < replica.max_ongoing_requests
    }


async def choose_replicas_with_backoff(
    router: Any, pending_request: Any = None
) -> AsyncIterator[list[Any]]:
    """Yield replicas to try, again and again; what Ray's generator of this name does.

    The first retry follows at once. Before each further one the task waits for a wake, and for the
    backoff at most. Whoever iterates stops when it has found a replica.
    """
    routing = routing_of(router)
    owner = object()
    order = math.inf if pending_request is None else pending_request.created_at
    wake: Wake | None = None
    chosen = 0
    retries = 0
    routing.waiters.enter()
    try:
        while True:
            while not router._replicas:
                await _wait_for_replicas(router)
            ranks = await router.choose_replicas(
                candidate_replicas=list(router._replicas.values()), pending_request=pending_request
            )
            if wake is not None:
                chosen = routing.chosen[wake.replica_id]
                ranks = routing.prefer(ranks, wake, pending_request)
            for replicas in ranks:
                if replicas:
                    yield replicas
            routing.hand_on_unused(wake, chosen)
            wake = None
            # Narrower choices (this node, this zone) are tried first, without a pause.
            if pending_request is not None and not pending_request.routing_context.should_backoff:
                continue
            retries += 1
            if retries == 1:
                continue
            wake = await routing.wait(owner, order, retries - 2)
            # A wake is no failure: the next wait is not longer for it.
            retries -= wake is not None
    finally:
        routing.waiters.leave()
        routing.hand_on_unused(wake, chosen)


async def _wait_for_replicas(router: Any) -> None:
    quiet = {"log_to_stderr": False}
    _LOGGER.info(f"{router._deployment_id} has no replicas; requests wait.", extra=quiet)
    router._replicas_updated_event.clear()
    await router._replicas_updated_event.wait()


def _overridden(router: Any) -> set[str]:
    """Return the names that subclasses of Ray's RequestRouter define."""
    names: set[str] = set(vars(router))
    for cls in type(router).__mro__:
        if cls.__module__.startswith("ray.serve._private."):
            continue
        names |= set(vars(cls))
    return names


def _draws_two(router: Any) -> bool:
    # By name: in other processes the class is a copy, for Serve sends it by value.
    draw = type(router).choose_replicas
    return bool(draw.__module__ == _POW_2 and draw.__qualname__ == _DRAW)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
