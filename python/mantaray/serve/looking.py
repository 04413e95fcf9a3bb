"""The loop in which a routing task looks for a replica; it replaces Ray's loop, which sleeps."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from mantaray.serve.guard import log_failure
from mantaray.serve.routing import Routing
from mantaray.serve.waiters import Wake

_LOGGER = logging.getLogger("ray.serve")
# The table that Ray has since 2.60, where each task looks for one request until it is answered.
_STAYS_WITH_REQUEST = "_routing_task_by_pending_request_future"
# How many looks follow each other without a pause: at this node, this zone, and all replicas.
# Without this limit a user's router that does not pause would loop without end.
_MOST_WITHOUT_PAUSE = 3
_Candidates = AsyncGenerator[list[Any], None]


class _Search:
    """The state of one routing task while it looks for a replica."""

    def __init__(self, routing: Routing, request: Any) -> None:
        self._routing = routing
        self._request = request
        self._order = math.inf if request is None else request.created_at
        self._wake: Wake | None = None
        self._chosen = 0
        self._retries = 0
        self._without_pause = 0
        self._is_counted = False

    def begin(self) -> None:
        self._routing.waiters.enter()
        self._is_counted = True

    def candidates(self, ranks: list[Any]) -> list[Any]:
        """Return the replicas to try, with the one for which the task was woken."""
        if self._wake is None:
            return ranks
        self._chosen = self._routing.accounts.chosen[self._wake.replica_id]
        return self._routing.prefer(ranks, self._wake, self._request)

    async def pause(self) -> None:
        """Wait before the next look; the first look follows at once."""
        self._hand_on()
        # Nearer replicas (of this node, of this zone) are tried first, without a pause.
        if self._request is not None and not self._request.routing_context.should_backoff:
            self._without_pause += 1
            if self._without_pause < _MOST_WITHOUT_PAUSE:
                return
        self._retries += 1
        if self._retries == 1:
            return
        self._wake = await self._routing.wait(self, self._order, self._retries - 2)
        # A wake is no failure, so the next wait is not longer.
        self._retries -= self._wake is not None

    def end(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._routing.waiters.leave()
            self._hand_on()

    def _hand_on(self) -> None:
        wake, self._wake = self._wake, None
        self._routing.hand_on_unused(wake, self._chosen)


async def choose_replicas_with_backoff(
    routing: Routing, original: Callable[[Any], _Candidates], request: Any = None
) -> _Candidates:
    """Yield replicas to try, again and again, as Ray's generator of this name does.

    The first retry follows at once. Before each further one the task waits for a wake, and for the
    backoff at most. The caller closes the generator when it has found a replica. If Mantaray fails,
    Ray's own generator goes on.

    Args:
        routing: what is kept for the router.
        original: Ray's own generator.
        request: Ray's pending request; None if the task has none of its own.
    """
    router = routing.router
    is_broken = False
    search = _Search(routing, request)
    try:
        try:
            search.begin()
        except Exception:
            is_broken = True
            log_failure("beginning to look for a replica")
        if request is None and not routing.in_order and not is_broken:
            # This router gives a slot to the very request for which a task looks, and this task has
            # none. Ray's own loop looks all the same, and may block the event loop.
            try:
                await routing.wait_for_request()
                return
            except Exception:
                is_broken = True
                log_failure("waiting for a request to route")
        while not is_broken:
            while not router._replicas:
                await _wait_for_replicas(router)
            ranks = await router.choose_replicas(
                candidate_replicas=list(router._replicas.values()), pending_request=request
            )
            try:
                ranks = search.candidates(ranks)
            except Exception:
                log_failure("preferring a replica with a free slot")
            for replicas in ranks:
                if replicas:
                    yield replicas
            if _is_answered(router, request):
                return
            try:
                await search.pause()
            except Exception:
                is_broken = True
                log_failure("waiting for a free slot")
            if _is_answered(router, request):
                return
        async with aclosing(original(request)) as candidates:
            async for replicas in candidates:
                yield replicas
    except GeneratorExit:
        # The caller has found a replica, or gives up.
        try:
            _keep(routing, request)
        except Exception:
            log_failure("keeping a request for the next routing task")
        raise
    finally:
        try:
            search.end()
        except Exception:
            log_failure("ending the look for a replica")


def _is_answered(router: Any, request: Any) -> bool:
    """Return whether a task looks for a request that needs no replica any more.

    The task then starts again with a request that needs one.
    """
    return (
        request is not None and request.future.done() and not hasattr(router, _STAYS_WITH_REQUEST)
    )


def _keep(routing: Routing, request: Any) -> None:
    """Return a request that a task leaves unanswered to the queue of requests to route.

    Before 2.60 a task leaves its request when it has served another one, or when there are more tasks
    than Ray wants now that replicas or requests are gone. Nobody would look for a replica for it again.
    """
    router = routing.router
    if request is None or request.future.done() or hasattr(router, _STAYS_WITH_REQUEST):
        return
    queue = router._pending_requests_to_route
    place = 0
    for waiting in queue:
        if waiting is request:
            return
        if request.created_at < waiting.created_at:
            break
        place += 1
    queue.insert(place, request)
    routing.wake_idle()
    # Run this when the leaving task has ended.
    asyncio.get_running_loop().call_soon(router._maybe_start_routing_tasks)


async def _wait_for_replicas(router: Any) -> None:
    quiet = {"log_to_stderr": False}
    _LOGGER.info(f"{router._deployment_id} has no replicas; requests wait.", extra=quiet)
    router._replicas_updated_event.clear()
    await router._replicas_updated_event.wait()
