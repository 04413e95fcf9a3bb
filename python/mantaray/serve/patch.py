"""The patches `router` and `slots`: Serve's request routers wake on events.

`router` replaces the loop that looks for a replica (Ray sleeps in the middle of it), and brings
upstream's knobs to 2.48; all else is put around what is there. `slots` lets a replica tell the routers
that wait for it of a free slot, one after the other; see `mantaray.serve.slots`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from mantaray import settings
from mantaray.overlay import Installation, Patch, register, targets_of
from mantaray.overlay.fingerprints import digest, fingerprint

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
    _expect(utils, "get_env_int", _GET_ENV_INT)
    installation.wrap(utils, "get_env_int", real)


def _install_slots(module: ModuleType, installation: Installation) -> None:
    from mantaray.serve import slots
    from mantaray.serve.listening import WAIT_METHOD

    replica = _owner(module.Replica, "_can_accept_request")
    for name, fingerprints in _REPLICA_METHODS.items():
        _expect(module, f"{replica.__name__}.{name}", fingerprints)
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


def _expect(module: ModuleType, attribute: str, fingerprints: tuple[str, ...]) -> None:
    """Check what is not on every Ray, or in another place, as targets are checked.

    Raises:
        RuntimeError: it is not what the patch was written for.
    """
    assert module.__file__ is not None
    source = Path(module.__file__).read_bytes()
    if digest(source) in _FILES.get(module.__name__, ()):
        return
    found = fingerprint(source, attribute)
    if found not in fingerprints:
        expected = " or ".join(fingerprints)
        raise RuntimeError(f"{attribute} is not as expected ({expected}), found {found}")


def _owner(cls: Any, name: str) -> Any:
    """Return the class in which a method is, the base class on 2.48."""
    return next(each for each in cls.__mro__ if name in vars(each))


# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = {
    _ROUTERS: (
        "388cc2e153500686c68b2ac5aeb16a501d95e4e55dab1ddfd47d36cd16cc3c3f",
        "8a453e61f90a360c525980850a19c8e5960736c59a68dc901f7f26f3e6fed369",
    ),
    _COMMON: (
        "b5e7858fd067a4aaf1745a836da64baafaf4727372596347e9503f284b53a4b1",
        "98a1fd98f35a3a684cefb79e2ee45b975dd967602939df9cd6982e47ee1f942d",
    ),
    _POW_2: (
        "71e0d6cf6e5b4967b63fdefdec54c7bf0ee23cb7972fe9954c1bf05ce0c6ed46",
        "bd5247d08cefb60d52b3f40977e47458e1eb5e0e6a82f4b7180fbb3be43a3124",
    ),
    _ROUTER: (
        "1a7a889047bcc6ea3446249c02a5b515f6f99526da9713a8f46604dc85fa5bb8",
        "3e02c99cbe6df41e91196f988334f003864ef6a651d6847ef4ee62f50e9e0e20",
    ),
    _REPLICA: (
        "064f58689e93a951a6ac5ab45c2efd53ebb0535fc6229efc9726e58c4eb33c90",
        "77af08eed4ea7cb2f1cdb62454a65c0b90f2bdfaa4e9c528dcaf5717b9967be2",
    ),
    _METADATA: (
        "c0a76ef737e7fab10a7e8e4bd53003038de06a9a3fdece5bc5907ebae7469346",
        "3505901dc6ab77ee3e17c8acf6a140279b4856272baa42d09b6c5891addd48c9",
    ),
    _DEPLOYMENT: (
        "975c2c30f20dbeb0fe1fc381aea1e6529bf6e950647a5b1ab921570761f1754b",
        "1eac713c6e039444650d2c77ac8ea381b8b5d42798baa339d1e76b45d7c831b2",
    ),
    "ray.serve._private.constants_utils": (
        "196ca69623c18678cc962fa16d93b133dd9cd286af4f49e3282ce50d309354d0",
    ),
    _API: (
        "52894c4263dff522288dae3057d91a0495af762f525de18eb306bf07b7213d58",
        "8ff13bc43b21c1e8605515ec76af5a552c2a0cc01c589807be345d3930b7089f",
    ),
}
_FINGERPRINTS = {
    (_ROUTERS, "RequestRouter"): ("16c07d0f700c9d31", "4f64ac916897791e"),
    (_ROUTERS, "FIFOMixin"): ("61317ff7b46aed60", "bc3eb9833711dc74"),
    (_COMMON, "ReplicaQueueLengthCache"): ("afcda6a558f9aa89", "2295ba4b75e4e72b"),
    (_COMMON, "PendingRequest"): ("19022ef3d5231392", "6bd49b91f26db114"),
    (_POW_2, "PowerOfTwoChoicesRequestRouter"): ("f80ba95739e7acf0", "dbd590627f44d33d"),
    (_ROUTER, "AsyncioRouter"): ("967c9eb3f742ced2", "f47905ff910ded17"),
    (_METADATA, "RequestMetadata"): ("8cd9f06c588c2f42", "3eb0e450ed5060e2"),
    (_API, "serve_start"): ("c1d811e889f45bb8", "a80741e07537f529"),
    (_API, "serve_start_async"): ("c33324089f7ff091", "ee15c77c80666736"),
}
_SLOTS_FINGERPRINTS = {
    (_REPLICA, "ReplicaActor"): ("78f2553d8f45ff87", "746957d5821ce880"),
    (_REPLICA, "ReplicaMetricsManager.dec_num_ongoing_requests"): (
        "3320225221c28f5f",
        "9ed2ba9b66c568fc",
    ),
    (_METADATA, "RequestMetadata"): _FINGERPRINTS[_METADATA, "RequestMetadata"],
    (_DEPLOYMENT, "DeploymentInfo.actor_def"): ("2cb1eb0cd1282ff8",),
}
# Not targets: the class has another name on 2.48, and the function is not there.
_REPLICA_METHODS = {
    "_can_accept_request": ("ab1ca64297178291", "945e239cf98e2bab"),
    "get_num_ongoing_requests": ("6e7f0b09f45002f5", "3655e21b98abf83a"),
}
_GET_ENV_INT = ("aed0fb148083725c",)

ROUTER_PATCH = Patch(
    name="router",
    summary="Serve's replica router wakes on the event that frees a slot; upstream's backoff knobs",
    ray_versions=">=2.48,<2.61",
    plain_since="2.49",
    enough_since=None,
    targets=targets_of(_FINGERPRINTS, _FILES),
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
    ray_versions=">=2.48,<2.61",
    plain_since=None,
    enough_since=None,
    targets=targets_of(_SLOTS_FINGERPRINTS, _FILES),
    installers={_REPLICA: _install_slots},
)

register(ROUTER_PATCH)
register(SLOTS_PATCH)
