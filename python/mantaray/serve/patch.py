"""The patches `router` and `slots`: Serve's request routers wake on events.

`router` replaces the loop that looks for a replica, in which Ray sleeps, and brings upstream's
knobs to 2.48. It attaches to each request router of this process and leaves their classes alone,
because Serve pickles them; see `mantaray.serve.attach`. With `slots` a replica reports free slots
to the routers that wait for it, one after the other; see `mantaray.serve.slots`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from types import ModuleType
from typing import Any

from mantaray import settings
from mantaray.overlay import Installation, Patch, Target, register, targets_in
from mantaray.serve import ATTRIBUTE
from mantaray.serve.guard import log_failure

_ROUTERS = "ray.serve._private.request_router.request_router"
_COMMON = "ray.serve._private.request_router.common"
_POW_2 = "ray.serve._private.request_router.pow_2_router"
_ROUTER = "ray.serve._private.router"
_API = "ray.serve._private.api"
_PACKAGE = "ray.serve._private"
_REPLICA = "ray.serve._private.replica"
_METADATA = "ray.serve._private.common"
_DEPLOYMENT = "ray.serve._private.deployment_info"
# The attribute of Ray's router in which requests wait until it knows its deployment.
_EVENT = "_request_router_initialized_event"


def _install_router(module: ModuleType, installation: Installation) -> None:
    cls = module.AsyncioRouter
    _keep_order_from_the_start(cls, installation)
    _attach_to_request_routers(cls, installation)
    if hasattr(cls, "_release_slot_and_refresh_cache"):
        _note_released_slots(cls, installation)
    if hasattr(module.RequestRouter, "decrement_queue_len_cache"):
        _note_failures(cls, installation)
    else:
        _note_completions(cls, installation)


def _keep_order_from_the_start(cls: Any, installation: Installation) -> None:
    def make(wrapped: Any, asyncio_router: Any, args: Any, kwargs: Any) -> None:
        from mantaray.serve.turns import EventInOrder

        given = kwargs.get(_EVENT)
        if given is None or (type(given) is asyncio.Event and not given.is_set()):
            # No request waits for it before the router is made.
            kwargs = kwargs | {_EVENT: EventInOrder()}
        wrapped(*args, **kwargs)

    installation.wrap(cls, "__init__", make)


def _attach_to_request_routers(cls: Any, installation: Installation) -> None:
    """Attach to each request router where Ray makes it and hands it out."""
    get = vars(cls)["request_router"].fget

    def request_router(asyncio_router: Any) -> Any:
        router = get(asyncio_router)
        known = getattr(router, "__dict__", None)
        if known is not None and ATTRIBUTE not in known:
            from mantaray.serve.attach import attach

            attach(router)
        return router

    installation.replace(cls, "request_router", property(request_router))


def _note_released_slots(cls: Any, installation: Installation) -> None:
    """Note slots that were reserved by `choose_replica` and given up without a request."""

    async def release(wrapped: Any, asyncio_router: Any, args: Any, kwargs: Any) -> None:
        selection, replica = args
        is_held = selection._slot_token is not None
        is_held = is_held and (not selection._dispatched or kwargs.get("force", False))
        await wrapped(*args, **kwargs)
        routing = _routing_of(asyncio_router)
        if is_held and routing is not None:
            try:
                routing.released(replica.replica_id)
            except Exception:
                log_failure("noting a slot that is given up")

    installation.wrap(cls, "_release_slot_and_refresh_cache", release)


def _note_failures(cls: Any, installation: Installation) -> None:
    """Note requests that failed on their way, which Ray then counts as completed."""

    def finished(wrapped: Any, asyncio_router: Any, args: Any, kwargs: Any) -> None:
        wrapped(*args, **kwargs)
        try:
            routing = _routing_of(asyncio_router)
            if routing is not None and _has_failed(args[-1]):
                routing.failed(args[0])
        except Exception:
            log_failure("noting that a request has failed")

    installation.wrap(cls, "_process_finished_request", finished)


def _has_failed(call: Any) -> bool:
    """Return whether a call over gRPC found no replica, or lost it; not whether the user's code raised."""
    inner = getattr(call, "_cython_call", None)
    return inner is not None and not inner.is_ok()


def _note_completions(cls: Any, installation: Installation) -> None:
    """Note when requests end, as Ray does since 2.55."""

    async def send(wrapped: Any, asyncio_router: Any, args: Any, kwargs: Any) -> Any:
        sent = await wrapped(*args, **kwargs)
        try:
            _watch(asyncio_router, sent[0] if isinstance(sent, tuple) else sent)
        except Exception:
            log_failure("waiting for the end of a request")
        return sent

    installation.wrap(cls, "route_and_send_request", send)


def _watch(asyncio_router: Any, result: Any) -> None:
    routing = _routing_of(asyncio_router)
    replica_id = routing and routing.accounts.last(asyncio.current_task())
    if routing is None or replica_id is None:
        return
    loop = asyncio_router._event_loop

    def completed(result: Any) -> None:
        try:
            if _has_failed(result):
                routing.failed(replica_id)
            routing.accounts.uncount(replica_id)
            routing.completed(replica_id)
        except Exception:
            log_failure("noting that a request has completed")

    def ended(result: Any) -> None:
        # This runs on a thread of Ray. The loop is closed when the process ends.
        if not loop.is_closed():
            loop.call_soon_threadsafe(completed, result)

    result.add_done_callback(ended)


def _routing_of(asyncio_router: Any) -> Any:
    router = asyncio_router.request_router
    return None if router is None else vars(router).get(ATTRIBUTE)


def _install_api(module: ModuleType, installation: Installation) -> None:
    def start(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.serve.backoff import Backoff

        Backoff.read()
        return wrapped(*args, **kwargs)

    installation.wrap(module, "serve_start", start)
    installation.wrap(module, "serve_start_async", start)


def _install_environment(module: ModuleType, installation: Installation) -> None:
    """Accept a real number as the multiplier where Ray reads an integer.

    The package is imported just before the module that reads Ray's variables.
    """
    name = f"{module.__name__}.constants_utils"
    if importlib.util.find_spec(name) is None:
        return

    def real(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        variable = args[0] if args else kwargs.get("name")
        if variable == settings.SERVE_BACKOFF_MULTIPLIER.name:
            return settings.SERVE_BACKOFF_MULTIPLIER.read()
        return wrapped(*args, **kwargs)

    utils = importlib.import_module(name)
    installation.wrap(utils, "get_env_int", real)


def _install_slots(module: ModuleType, installation: Installation) -> None:
    from mantaray.serve import slots
    from mantaray.serve.listening import WAIT_METHOD

    for name, function in slots.STAND_INS.items():
        cls = module.ReplicaMetricsManager if name == slots.ENDED else module.Replica
        # A method of a base class up to 2.54. Only later releases reserve slots.
        owner = next((each for each in cls.__mro__ if name in vars(each)), None)
        if owner is not None:
            slots.ORIGINALS[name] = vars(owner)[name]
            installation.replace(owner, name, function)
    installation.replace(module.Replica, "_mantaray_find_slots", slots.slots_of)
    installation.replace(module.ReplicaActor, WAIT_METHOD, slots.wait_for_slot)


_ROUTER_TARGETS = (
    *targets_in(_ROUTERS, "RequestRouter", "FIFOMixin", "MultiplexMixin"),
    *targets_in(_COMMON, "ReplicaQueueLengthCache", "PendingRequest"),
    Target(_POW_2, "PowerOfTwoChoicesRequestRouter"),
    Target(_ROUTER, "AsyncioRouter"),
    Target(_METADATA, "RequestMetadata"),
    *targets_in(_API, "serve_start", "serve_start_async"),
    Target(f"{_PACKAGE}.constants_utils", "get_env_int", rays=">=2.49"),
)
_ACCEPT, _ONGOING = "_can_accept_request", "get_num_ongoing_requests"
_SLOTS_TARGETS = (
    *targets_in(_REPLICA, "ReplicaActor", "ReplicaMetricsManager.dec_num_ongoing_requests"),
    *targets_in(_REPLICA, f"ReplicaBase.{_ACCEPT}", f"ReplicaBase.{_ONGOING}", rays="<2.55"),
    Target(_REPLICA, f"Replica.{_ACCEPT}", rays=">=2.54"),
    Target(_REPLICA, f"Replica.{_ONGOING}", rays=">=2.55"),
    Target(_REPLICA, "Replica.release_slot", rays=">=2.56"),
    Target(_METADATA, "RequestMetadata"),
    Target(_DEPLOYMENT, "DeploymentInfo.actor_def"),
)

ROUTER_PATCH = Patch(
    name="router",
    summary="Serve's replica router wakes on the event that frees a slot; upstream's backoff knobs",
    plain_since="2.49",
    enough_since=None,
    targets=_ROUTER_TARGETS,
    installers={
        _PACKAGE: _install_environment,
        _ROUTER: _install_router,
        _API: _install_api,
    },
)
SLOTS_PATCH = Patch(
    name="slots",
    summary="Serve's replicas tell the routers that wait for them of free slots, each in its turn",
    plain_since=None,
    enough_since=None,
    targets=_SLOTS_TARGETS,
    installers={_REPLICA: _install_slots},
)

register(ROUTER_PATCH)
register(SLOTS_PATCH)
