"""What Mantaray keeps for one of Ray's request routers: who waits, and what wakes them.

Ray's router asks, sleeps, and asks again. Here every event that shows a free slot wakes one waiter:
a request of this router has completed, a replica joined, an answer showed a queue below its limit,
an assigned request was cancelled before it was sent, or a replica that is shared with other routers
has reported a slot (see `slots` and `listening`). So that one slot wakes one request and not all of
them, `accounts` counts a slot as taken from the moment when it is given away.

Everything here runs in the event loop of the router.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any

from mantaray.serve.accounts import Accounts, Lengths, Task, free_slots
from mantaray.serve.backoff import Backoff
from mantaray.serve.guard import log_failure

# Mantaray 0.1 left this name in pickles, under this module; see `hooks`.
from mantaray.serve.hooks import choose_replicas_with_backoff as choose_replicas_with_backoff
from mantaray.serve.listening import Listener
from mantaray.serve.models import Models, first_in_turn, oldest_that_fits
from mantaray.serve.waiters import Waiters, Wake
from mantaray.settings import read_or_default

_DRAW = "PowerOfTwoChoicesRequestRouter.choose_replicas"
_POW_2 = "ray.serve._private.request_router.pow_2_router"
# A replica may still count a request whose result has arrived. If it rejects the next request, the
# router looks at it again after these waits, and then leaves it to the backoff.
_SETTLE_S = (0.001, 0.003, 0.007, 0.015, 0.031, 0.063)
# How many replicas that are shared with other routers are asked; there may be thousands.
_MOST_LOOKED_AT = 16
_LOGGER = logging.getLogger("ray.serve")


class Routing:
    """The events of one router, and what follows from them."""

    def __init__(self, router: Any) -> None:
        """Start with no waiter.

        Args:
            router: Ray's request router.
        """
        self.router = router
        self.waiters = Waiters()
        self.accounts = Accounts(router)
        self.backoff = read_or_default(Backoff.read, _LOGGER)
        self.listener = Listener(self._heard)
        # Whether Ray's FIFOMixin chooses the request. Other routers pair requests and slots
        # themselves.
        self.in_order = False
        # Whether a request has asked for a model.
        self._has_models = False
        self._models = Models()
        self._just_freed: set[Any] = set()
        self._failed: set[Any] = set()
        # Routing tasks that have no request.
        self._idle: list[asyncio.Future[None]] = []
        # A replica and its cached queue length before the last late answer; see `accepted_late`.
        self._before_late: tuple[Any, int] | None = None
        self._limits: dict[Any, int] = {}

    def delay_s(self, attempt: int) -> float:
        """Return how long to wait before retry number `attempt` (from 0), in seconds."""
        router = self.router
        if hasattr(router, "_compute_backoff_s"):
            base_s = router._compute_backoff_s(attempt)
        elif "backoff_sequence_s" in _overridden(router):
            # A user's router that was written for a Ray with only this setting.
            sequence = router.backoff_sequence_s
            base_s = sequence[min(attempt + 1, len(sequence) - 1)]
        else:
            base_s = self.backoff.base_s(attempt)
        return self.backoff.jittered_s(base_s)

    async def wait(self, owner: object, order: float, attempt: int) -> Wake | None:
        """Wait for a wake, at most as long as the backoff says; return None if none came."""
        self._count(1)
        try:
            self._listen()
            return await self.waiters.wait(owner, order, self.delay_s(attempt))
        finally:
            self._count(-1)
            if not self.waiters.waiting:
                self.listener.stop()

    def _count(self, change: int) -> None:
        router = self.router
        router.num_routing_tasks_in_backoff += change
        router.num_routing_tasks_in_backoff_gauge.set(router.num_routing_tasks_in_backoff)

    # --- What happens to requests

    def asks(self, task: Task | None, request: Any, is_retry: bool) -> None:
        """Note that the task of a request asks for a replica.

        Args:
            task: the task.
            request: Ray's pending request.
            is_retry: whether its last replica has rejected it or died.
        """
        if request.metadata.multiplexed_model_id:
            self._has_models = True
        self.wake_idle()
        if is_retry:
            self._routed_again(task)

    async def wait_for_request(self) -> None:
        """Let a routing task without a request wait until there may be one, or for the longest backoff."""
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        try:
            await asyncio.wait([future], timeout=self.backoff.max_s)
        finally:
            self._idle.remove(future)

    def wake_idle(self) -> None:
        """Wake a routing task without a request, because a request may wait for a task."""
        for future in self._idle:
            if not future.done():
                future.set_result(None)
                return

    def _routed_again(self, task: Task | None) -> None:
        accounts = self.accounts
        accounts.answered(task)
        replica_id = accounts.last(task)
        accounts.stopped(replica_id)
        if replica_id not in self._just_freed:
            return
        self._just_freed.discard(replica_id)
        loop = asyncio.get_running_loop()
        chosen = accounts.chosen[replica_id]
        for delay_s in _SETTLE_S:
            loop.call_later(delay_s, self._look_again, replica_id, chosen)

    def _look_again(self, replica_id: Any, chosen: int) -> None:
        try:
            if self.accounts.chosen[replica_id] == chosen:
                self.waiters.wake(replica_id)
        except Exception:
            log_failure("looking at a replica again")

    def given_back(self, replica_id: Any) -> None:
        """Note that a slot was given to a request that does not use it."""
        self.accounts.give_back(replica_id)
        self.waiters.wake(replica_id)

    def completed(self, replica_id: Any) -> None:
        """Note that a request of this router has ended and its slot is free."""
        self.accounts.stopped(replica_id)
        if replica_id in self._failed:
            # The woken task asks the replica, and finds out if it is dead.
            self._failed.discard(replica_id)
            self.router._replica_queue_len_cache.invalidate_key(replica_id)
            self.waiters.wake(replica_id)
        elif replica_id in self.router._replicas:
            self._just_freed.add(replica_id)
            self.accounts.count_unanswered(replica_id)
            self.waiters.wake(replica_id)

    def failed(self, replica_id: Any) -> None:
        """Note that the request that completes next there failed on its way, so it frees no slot."""
        self._failed.add(replica_id)

    def released(self, replica_id: Any) -> None:
        """Note that a reserved slot is given up without a request."""
        self.accounts.stopped(replica_id)
        if replica_id in self.router._replicas:
            self.waiters.wake(replica_id)

    # --- What is heard of replicas

    def _listen(self) -> None:
        """Ask replicas that are full with requests of other routers to tell of their next slot."""
        replicas = list(self.router._replicas.values())
        for replica in random.sample(replicas, min(len(replicas), _MOST_LOOKED_AT)):
            if not self.listener.can_listen:
                return
            if self._is_full_of_others(replica):
                self.listener.listen(replica)

    def _is_full_of_others(self, replica: Any) -> bool:
        length = self.accounts.cached(replica.replica_id)
        if length is None or length < replica.max_ongoing_requests:
            return False
        return length > self.accounts.known(replica.replica_id)

    def _heard(self, replica_id: Any, ongoing: int) -> None:
        """Note that a replica has reported a slot, or that it had none for a long time."""
        replica = self.router._replicas.get(replica_id)
        if replica is None:
            return
        length = ongoing + self.accounts.under_way(replica_id)
        self.accounts.set_cache(replica_id, length)
        if length < replica.max_ongoing_requests:
            self.waiters.wake(replica_id)
        if self.waiters.waiting:
            self._listen()

    def answer(self, task: Task | None, replica_id: Any, ongoing: int, before: int | None) -> None:
        """Note the queue length that a replica has sent in answer to a task.

        Args:
            task: the task.
            replica_id: the replica.
            ongoing: how many requests it has.
            before: the cached queue length before Ray has stored this answer.
        """
        accounts = self.accounts
        asked = accounts.asked(task)
        accounts.answered(task)
        replica = self.router._replicas.get(replica_id)
        if replica is None:
            return
        if asked is not None and asked.late and before is not None:
            # A rejection comes at once. If this answer is no rejection, `accepted_late` follows.
            self._before_late = (replica_id, before)
            accounts.set_cache(replica_id, max(ongoing, before - 1))
            return
        if ongoing == 0:
            accounts.idle(replica_id)
        # That number does not include slots that were given away since and are not answered.
        on_the_way = accounts.under_way(replica_id)
        if on_the_way:
            accounts.set_cache(replica_id, ongoing + on_the_way)
        self.waiters.wake(replica_id, replica.max_ongoing_requests - ongoing - on_the_way)

    def accepted_late(self, replica_id: Any) -> None:
        """Note that the latest answer is as old as its request, which has succeeded."""
        of_replica, before = self._before_late or (None, 0)
        self._before_late = None
        if of_replica == replica_id:
            self.accounts.set_cache(replica_id, before)

    async def probed(self, results: Lengths, before: Mapping[Any, int]) -> Lengths:
        """Take in the queue lengths that replicas were asked for.

        A replica may reject a request that is on its way, and report a free slot a moment later.
        That slot is for this request, or a later request would overtake it.

        Args:
            results: replicas and their queue lengths; None where none came.
            before: what `chosen` was when they were asked.

        Returns:
            The same, plus the slots that were given away since.
        """
        accounts = self.accounts
        corrected = accounts.corrected(results, before)
        free = free_slots(corrected)
        unsure = [] if free else [each for each in results if accounts.is_unsure(*each)]
        if unsure:
            asked = [replica.replica_id for replica, _ in unsure]
            await accounts.answer_to_all(asked)
            # A rejected request waits again, and is the first to get a free slot.
            corrected = [each for each in corrected if each[0].replica_id not in asked]
            corrected += accounts.corrected(unsure, before)
            free = free_slots(corrected)
        if free and asyncio.current_task() in self.router._routing_tasks:
            # The task that asked takes a slot itself, from the shortest queue.
            shortest = min(
                (item for item in corrected if item[0].replica_id in free),
                key=lambda item: item[1] or 0,
            )
            free[shortest[0].replica_id] -= 1
        for replica_id, slots in free.items():
            self.waiters.wake(replica_id, slots)
        return corrected

    def replicas_changed(self) -> None:
        """Note that the set of replicas or their limits have changed."""
        replicas = self.router._replicas
        limits = {each: replica.max_ongoing_requests for each, replica in replicas.items()}
        for replica_id, limit in limits.items():
            # One wake for a new replica. Ray asks it at once, and its answer wakes the others.
            slots = limit - self._limits[replica_id] if replica_id in self._limits else 1
            self.waiters.wake(replica_id, slots)
        self._limits = limits
        self.listener.keep_only(limits)
        self._models.keep_only(limits)
        self.accounts.keep_only(limits)
        self._just_freed &= limits.keys()
        self._failed &= limits.keys()

    def died(self, replica_id: Any) -> None:
        """Note that a replica is dead.

        Before 2.60 Ray would still choose it for requests of its models. The routing task would
        then end with a KeyError, and the request would hang.
        """
        for places in getattr(self.router, "_multiplexed_model_id_to_replica_ids", {}).values():
            places.discard(replica_id)
        self._just_freed.discard(replica_id)

    # --- Looking for a replica

    def prefer(self, ranks: list[Any], wake: Wake, pending_request: Any) -> list[Any]:
        """Make sure that a random choice of two includes the replica for which a task was woken.

        This holds only if every replica is a candidate, or if the replica has a model that a
        request waits for.
        """
        router = self.router
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
        return oldest_that_fits(self.router._pending_requests_to_fulfill, self._models_on(replica))

    def first_in_turn(self, replica: Any) -> Any:
        """Return the request that gets a slot which a routing task has found; see `models`.

        Args:
            replica: where the slot is.

        Returns:
            Ray's pending request; None if Ray is to decide.
        """
        router = self.router
        # A user's router may keep the order without knowing of models.
        if not self._has_models or not hasattr(router, "_multiplexed_matching_timeout"):
            return None
        known: dict[str, bool] = {}

        def is_elsewhere(model: str) -> bool:
            if model not in known:
                replicas = router._replicas.values()
                known[model] = any(model in self._models_on(each) for each in replicas)
            return known[model]

        request = first_in_turn(
            router._pending_requests_to_fulfill,
            self._models_on(replica),
            is_elsewhere,
            router._multiplexed_matching_timeout,
        )
        model = request.metadata.multiplexed_model_id if request is not None else ""
        if model:
            self._models.sent(replica.replica_id, model, replica.multiplexed_model_ids)
        return request

    def hand_on_unused(self, wake: Wake | None, chosen: int) -> None:
        """Hand a wake on unless the replica was chosen since."""
        if wake is None or self.accounts.chosen[wake.replica_id] != chosen:
            return
        replica = self.router._replicas.get(wake.replica_id)
        if replica is None:
            return
        length = self.accounts.cached(wake.replica_id)
        if length is None or length < replica.max_ongoing_requests:
            self.waiters.hand_on(wake)


def _overridden(router: Any) -> set[str]:
    """Return the names that subclasses of Ray's RequestRouter define."""
    names: set[str] = set(vars(router))
    for cls in type(router).__mro__:
        if cls.__module__.startswith("ray.serve._private."):
            continue
        names |= set(vars(cls))
    return names


def _draws_two(router: Any) -> bool:
    # Compared by name, because Serve sends the class by value, so it is a copy in other processes.
    draw = type(router).choose_replicas
    return bool(draw.__module__ == _POW_2 and draw.__qualname__ == _DRAW)
