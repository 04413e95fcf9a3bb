"""Attaches Mantaray to one of Ray's request routers: to the object, never to its class.

Serve pickles the classes of request routers *by value* and keeps them in its checkpoints. Every
process that reads the pickle would need what Mantaray puts into such a class. So each process
attaches to the router objects that it makes itself, and leaves the classes as they are.

A hook is called as `hook(routing, original, …)`, where `original` is the method that the object had
before, including what its subclasses override.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from mantaray.serve import ATTRIBUTE
from mantaray.serve.guard import log_failure
from mantaray.serve.looking import choose_replicas_with_backoff
from mantaray.serve.models import move_into_place
from mantaray.serve.routing import Routing
from mantaray.serve.slots import ROUTER

_RAYS = "ray.serve._private.request_router.request_router"
_FULFILL = "_fulfill_next_pending_request"


def attach(router: Any) -> None:
    """Attach to a request router. A failure is logged, and the router stays as it was.

    Args:
        router: Ray's, or a user's router that is derived from Ray's.
    """
    before = dict(vars(router))
    try:
        routing = Routing(router)
        vars(router)[ATTRIBUTE] = routing
        routing.in_order = _owner(router, _FULFILL).__name__ == "FIFOMixin"
        for name, hook in _HOOKS.items():
            original = getattr(router, name, None)
            if original is None:
                continue
            if name in _REPLACED and _owner(router, name).__module__ != _RAYS:
                continue
            vars(router)[name] = partial(hook, routing, original)
        routing.replicas_changed()
    except Exception:
        log_failure("attaching to a request router")
        vars(router).clear()
        vars(router).update(before | {ATTRIBUTE: None})


def _owner(router: Any, name: str) -> type:
    """Return the class that a method of a router comes from."""
    # Compared by name, because Serve sends classes by value, so they are copies.
    return next(cls for cls in type(router).__mro__ if name in vars(cls))


async def _select(routing: Routing, original: Any, *args: Any, **kwargs: Any) -> Any:
    replica = await original(*args, **kwargs)
    if replica is not None:
        try:
            routing.accounts.choose(replica.replica_id)
        except Exception:
            log_failure("counting a slot as taken")
    return replica


async def _choose_for(
    routing: Routing, original: Any, request: Any, *, is_retry: bool = False
) -> Any:
    task = asyncio.current_task()
    try:
        # The replica keeps slots for routers by this name.
        vars(request.metadata)[ROUTER] = routing.listener.name
        routing.asks(task, request, is_retry)
    except Exception:
        log_failure("noting a request")
    try:
        replica = await original(request, is_retry=is_retry)
    except asyncio.CancelledError:
        try:
            future = request.future
            if future.done() and not future.cancelled() and future.exception() is None:
                routing.given_back(future.result().replica_id)
        except Exception:
            log_failure("noting that a request is cancelled")
        raise
    try:
        routing.accounts.sent(task, replica.replica_id, _answers_late(request.metadata))
    except Exception:
        log_failure("noting where a request is sent")
    return replica


def _answers_late(metadata: Any) -> bool:
    """Return whether a replica's answer comes with the result: for unary calls over gRPC."""
    return not getattr(metadata, "_by_reference", True) and not metadata.is_streaming


async def _probe(routing: Routing, original: Any, *args: Any, **kwargs: Any) -> Any:
    before: dict[Any, int] = {}
    try:
        before = dict(routing.accounts.chosen)
    except Exception:
        log_failure("noting what was given away")
    results = await original(*args, **kwargs)
    try:
        return await routing.probed(results, before)
    except Exception:
        log_failure("taking in queue lengths")
    return results


def _heard(routing: Routing, original: Any, replica_id: Any, info: Any) -> None:
    before = None
    try:
        before = routing.accounts.cached(replica_id)
    except Exception:
        log_failure("looking at the cached queue length")
    original(replica_id, info)
    try:
        # Before 2.56 the number is inside an object.
        ongoing = getattr(info, "num_ongoing_requests", info)
        routing.answer(asyncio.current_task(), replica_id, ongoing, before)
    except Exception:
        log_failure("taking in a replica's answer")


def _routed(routing: Routing, original: Any, request: Any, replica_id: Any, result: Any) -> None:
    try:
        if _answers_late(request.metadata):
            routing.accepted_late(replica_id)
    except Exception:
        log_failure("noting that a replica has accepted a request")
    original(request, replica_id, result)


def _update(routing: Routing, original: Any, replicas: Any) -> None:
    original(replicas)
    try:
        routing.replicas_changed()
    except Exception:
        log_failure("taking in a change of replicas")


def _died(routing: Routing, original: Any, replica_id: Any) -> None:
    original(replica_id)
    try:
        routing.died(replica_id)
    except Exception:
        log_failure("noting that a replica is dead")


def _send(routing: Routing, original: Any, replica_id: Any) -> None:
    try:
        asked = routing.accounts.asked(asyncio.current_task())
        if asked is not None and asked.counted and asked.replica_id == replica_id:
            # It was counted when the replica was chosen, and Ray counts it again now.
            routing.accounts.uncount(replica_id)
    except Exception:
        log_failure("counting a request that is sent")
    original(replica_id)


def _complete(routing: Routing, original: Any, replica_id: Any) -> None:
    original(replica_id)
    try:
        routing.completed(replica_id)
    except Exception:
        log_failure("noting that a request has completed")


def _index(routing: Routing, original: Any, request: Any) -> None:
    original(request)
    try:
        model = request.metadata.multiplexed_model_id
        if model:
            move_into_place(routing.router._pending_requests_by_model_id[model])
    except Exception:
        log_failure("putting a request into its place")


def _fulfill(routing: Routing, original: Any, replica: Any, request_metadata: Any = None) -> None:
    router = routing.router
    metadata = request_metadata
    give = original
    try:
        request = routing.first_in_turn(replica) if routing.in_order else None
        if request is not None:
            metadata = request.metadata
            give = _exactly(router, request) or original
        elif not _has_use(routing, metadata):
            routing.given_back(replica.replica_id)
    except Exception:
        log_failure("finding the request that gets a slot")
    give(replica, metadata)


def _exactly(router: Any, request: Any) -> Callable[..., None] | None:
    """Return Ray's method that gives a slot to just this request; None if it would find another."""
    found = router._get_pending_request_matching_internal_request_id(request.metadata)
    if found is not request:
        return None
    # The last class that has it: RequestRouter, in front of which FIFOMixin stands.
    owner = [cls for cls in type(router).__mro__ if _FULFILL in vars(cls)][-1]
    return partial(vars(owner)[_FULFILL], router)


def _has_use(routing: Routing, metadata: Any) -> bool:
    """Return whether a request waits for the slot that a routing task has found."""
    router = routing.router
    if routing.in_order:
        return any(not request.future.done() for request in router._pending_requests_to_fulfill)
    return router._get_pending_request_matching_internal_request_id(metadata) is not None


_HOOKS: dict[str, Callable[..., Any]] = {
    "_choose_replicas_with_backoff": choose_replicas_with_backoff,
    "_select_from_candidate_replicas": _select,
    "_choose_replica_for_request": _choose_for,
    "_probe_queue_lens": _probe,
    _FULFILL: _fulfill,
    "_add_pending_request_to_indices": _index,
    "on_new_queue_len_info": _heard,
    "on_request_routed": _routed,
    "update_replicas": _update,
    "on_replica_actor_died": _died,
    "on_send_request": _send,
    "decrement_queue_len_cache": _complete,
}
# These replace the method, and only if it is Ray's own.
_REPLACED = {"_choose_replicas_with_backoff", _FULFILL}
