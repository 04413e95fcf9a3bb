"""The patches `router` and `slots`: Serve's request routers wake on events.

`router` replaces the loop that looks for a replica (Ray sleeps in the middle of it), and brings
upstream's knobs to 2.48; all else is put around what is there. `slots` lets a replica tell the routers
that wait for it of a free slot, one after the other; see `mantaray.serve.slots`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from types import ModuleType
from typing import Any

from mantaray import settings
from mantaray.overlay import Installation, Patch, Target, register, targets_in

_ROUTERS = "ray.serve._private.request_router.request_router"
_COMMON = "ray.serve._private.request_router.common"
_POW_2 = "ray.serve._private.request_router.pow_2_router"
_ROUTER = "ray.serve._private.router"
_API = "ray.serve._private.api"
_PACKAGE = "ray.serve._private"
_REPLICA = "ray.serve._private.replica"
_METADATA = "ray.serve._private.common"
_DEPLOYMENT = "ray.serve._private.deployment_info"
# What Ray's router is given in which requests wait until it knows its deployment.
_EVENT = "_request_router_initialized_event"


def _install_routers(module: ModuleType, installation: Installation) -> None:
    from mantaray.serve import hooks

    hooks.install(module, installation)


def _install_router(module: ModuleType, installation: Installation) -> None:
    cls = module.AsyncioRouter

    def make(wrapped: Any, asyncio_router: Any, args: Any, kwargs: Any) -> None:
        from mantaray.serve.turns import EventInOrder

        given = kwargs.get(_EVENT)
        if given is None or (type(given) is asyncio.Event and not given.is_set()):
            # Nobody waits for it before the router is made.
            kwargs = kwargs | {_EVENT: EventInOrder()}
        wrapped(*args, **kwargs)

    installation.wrap(cls, "__init__", make)
    if hasattr(cls, "_register_decrement_queue_len_cache_callback"):
        return

    async def send(wrapped: Any, asyncio_router: Any, args: Any, kwargs: Any) -> Any:
        result, replica_id = await wrapped(*args, **kwargs)
        loop = asyncio_router._event_loop

        def ended(_: Any) -> None:
            # On a thread of Ray's. The loop is closed when the process ends.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_completed, asyncio_router.request_router, replica_id)

        result.add_done_callback(ended)
        return result, replica_id

    installation.wrap(cls, "route_and_send_request", send)


def _completed(router: Any, replica_id: Any) -> None:
    from mantaray.serve.routing import routing_of

    if router is not None:
        routing = routing_of(router)
        routing.uncount(replica_id)
        routing.completed(replica_id)


def _install_api(module: ModuleType, installation: Installation) -> None:
    def start(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.serve.backoff import Backoff

        Backoff.read()
        return wrapped(*args, **kwargs)

    installation.wrap(module, "serve_start", start)
    installation.wrap(module, "serve_start_async", start)


def _install_environment(module: ModuleType, installation: Installation) -> None:
    """Let the multiplier be a real number where Ray reads an integer.

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

    replica = _owner(module.Replica, "_can_accept_request")
    manager = module.ReplicaMetricsManager
    stand_ins = {
        (replica, "_can_accept_request"): slots.can_accept,
        (replica, "get_num_ongoing_requests"): slots.count_ongoing,
        (manager, "dec_num_ongoing_requests"): slots.ended,
    }
    for (cls, name), function in stand_ins.items():
        slots._ORIGINALS[name] = vars(cls)[name]
        installation.replace(cls, name, function)
    installation.replace(replica, "_mantaray_find_slots", slots.slots_of)
    installation.replace(module.ReplicaActor, WAIT_METHOD, slots.wait_for_slot)


def _owner(cls: Any, name: str) -> Any:
    """Return the class in which a method is, the base class on 2.48."""
    return next(each for each in cls.__mro__ if name in vars(each))


_REPLICA_METHODS = ("_can_accept_request", "get_num_ongoing_requests")
_ROUTER_TARGETS = (
    *targets_in(_ROUTERS, "RequestRouter", "FIFOMixin"),
    *targets_in(_COMMON, "ReplicaQueueLengthCache", "PendingRequest"),
    Target(_POW_2, "PowerOfTwoChoicesRequestRouter"),
    Target(_ROUTER, "AsyncioRouter"),
    Target(_METADATA, "RequestMetadata"),
    *targets_in(_API, "serve_start", "serve_start_async"),
    Target(f"{_PACKAGE}.constants_utils", "get_env_int", rays=">=2.49"),
)
_SLOTS_TARGETS = (
    *targets_in(_REPLICA, "ReplicaActor", "ReplicaMetricsManager.dec_num_ongoing_requests"),
    *targets_in(_REPLICA, *(f"ReplicaBase.{name}" for name in _REPLICA_METHODS), rays="<2.55"),
    *targets_in(_REPLICA, *(f"Replica.{name}" for name in _REPLICA_METHODS), rays=">=2.55"),
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
        _ROUTERS: _install_routers,
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
