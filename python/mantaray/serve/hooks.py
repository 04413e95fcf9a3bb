"""What stands in the place of methods of Ray's request routers; each calls the method it replaces.

Serve sends the classes of request routers from process to process *by value*, so nothing here may
be a closure or an object of wrapt's: a function of a module travels as its name, and stays itself.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mantaray.overlay import Installation
from mantaray.serve.routing import choose_replicas_with_backoff, routing_of
from mantaray.serve.slots import ROUTER

MODULE = "ray.serve._private.request_router.request_router"
_ORIGINALS: dict[tuple[str, str], Callable[..., Any]] = {}


def install(module: ModuleType, installation: Installation) -> None:
    """Put the functions below into Ray's classes, as far as this Ray has such methods."""
    for (owner, name), function in _REPLACEMENTS.items():
        cls = vars(module)[owner]
        if name in vars(cls):
            _ORIGINALS[owner, name] = vars(cls)[name]
            installation.replace(cls, name, function)


def _original(name: str, owner: str = "RequestRouter") -> Callable[..., Any]:
    if (owner, name) not in _ORIGINALS:
        # A process in which the patch is switched off was sent a class from one where it is on.
        cls = vars(importlib.import_module(MODULE))[owner]
        _ORIGINALS[owner, name] = vars(cls)[name]
    return _ORIGINALS[owner, name]


async def _select(router: Any, *args: Any, **kwargs: Any) -> Any:
    replica = await _original("_select_from_candidate_replicas")(router, *args, **kwargs)
    if replica is not None:
        routing_of(router).choose(replica.replica_id)
    return replica


async def _choose_for(router: Any, pending_request: Any, *, is_retry: bool = False) -> Any:
    routing = routing_of(router)
    task = asyncio.current_task()
    if is_retry:
        routing.routed_again(task)
    # The replica keeps slots for routers by this name.
    vars(pending_request.metadata)[ROUTER] = routing.listener.name
    choose = _original("_choose_replica_for_request")
    try:
        replica = await choose(router, pending_request, is_retry=is_retry)
    except asyncio.CancelledError:
        future = pending_request.future
        if future.done() and not future.cancelled() and future.exception() is None:
            routing.given_back(future.result().replica_id)
        raise
    routing.sent(task, replica.replica_id)
    return replica


async def _probe(router: Any, *args: Any, **kwargs: Any) -> Any:
    routing = routing_of(router)
    before = Counter(routing.chosen)
    results = await _original("_probe_queue_lens")(router, *args, **kwargs)
    return await routing.probed(results, before)


def _heard(router: Any, replica_id: Any, info: Any) -> None:
    _original("on_new_queue_len_info")(router, replica_id, info)
    # An object that holds the number on 2.48.
    routing_of(router).answer(replica_id, getattr(info, "num_ongoing_requests", info))


def _update(router: Any, replicas: Any) -> None:
    _original("update_replicas")(router, replicas)
    routing_of(router).replicas_changed()


def _send(router: Any, replica_id: Any) -> None:
    routing = routing_of(router)
    if routing.is_counted(replica_id):
        # It was counted when the replica was chosen; Ray counts it now.
        routing.uncount(replica_id)
    _original("on_send_request")(router, replica_id)


def _complete(router: Any, replica_id: Any) -> None:
    _original("decrement_queue_len_cache")(router, replica_id)
    routing_of(router).completed(replica_id)


def _fulfill(router: Any, replica: Any, request_metadata: Any = None) -> None:
    metadata = routing_of(router).who_goes(replica, request_metadata)
    _original("_fulfill_next_pending_request", "FIFOMixin")(router, replica, metadata)


_OF_ROUTERS: dict[str, Callable[..., Any]] = {
    "_choose_replicas_with_backoff": choose_replicas_with_backoff,
    "_select_from_candidate_replicas": _select,
    "_choose_replica_for_request": _choose_for,
    "_probe_queue_lens": _probe,
    "on_new_queue_len_info": _heard,
    "update_replicas": _update,
    "on_send_request": _send,
    "decrement_queue_len_cache": _complete,
}
_REPLACEMENTS = {("RequestRouter", name): function for name, function in _OF_ROUTERS.items()}
# Of routers that answer requests in the order in which they came; others pair requests themselves.
_REPLACEMENTS["FIFOMixin", "_fulfill_next_pending_request"] = _fulfill
