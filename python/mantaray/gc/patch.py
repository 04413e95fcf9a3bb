"""The patch `gc`: what Ray does when it wants memory of the object store back from a process.

Ray 2.48 calls `gc.collect` in a thread of its compiled part, through the name `gc` of that module: there
a stand-in takes the call. Ray 2.60 has a thread for it, which is handed another function to call. The
rest listens: to connecting and disconnecting, to tasks that come and go, and to buffers of the object
store that values are made of.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

from mantaray.overlay import Installation, Patch, Target, register, targets_of

_WORKER = "ray._private.worker"
_NODE = "ray._private.node"
_SERIALIZATION = "ray._private.serialization"
_COMPAT = "ray._private.async_compat"
_MANAGER = "ray._private.gc_collect_manager"
_COMPILED = "ray._raylet"


class _StandIn(wrapt.ObjectProxy):  # type: ignore[type-arg]
    """The module `gc` but for `collect`, which only asks for a collection."""

    def collect(self, generation: int = 2) -> int:
        """Ask for a collection."""
        from mantaray.gc.service import SERVICE

        return SERVICE.collect(generation)


def _install_worker(module: ModuleType, installation: Installation) -> None:
    from mantaray.gc.policy import check_for_start
    from mantaray.gc.service import SERVICE

    def connect(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        mode = kwargs.get("mode", args[2] if len(args) > 2 else module.WORKER_MODE)
        if mode == module.SCRIPT_MODE:
            check_for_start()
        result = wrapped(*args, **kwargs)
        SERVICE.connect(module.global_worker)
        return result

    def disconnect(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        exits = bool(kwargs.get("exiting_interpreter", args[0] if args else False))
        SERVICE.disconnect(ends=exits)
        return wrapped(*args, **kwargs)

    def get_serialization_context(worker: Any) -> Any:
        SERVICE.activity.touch()
        return context_of(worker)

    def get_new_event_loop() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = new_loop()
        SERVICE.activity.loops.add(loop)
        return loop

    compiled = sys.modules[_COMPILED]
    context_of = module.Worker.get_serialization_context
    new_loop = vars(compiled)["get_new_event_loop"]
    manager = vars(compiled).get("PythonGCThread")
    SERVICE.attach(has_thread=manager is not None)
    installation.on_undo(SERVICE.detach)
    if manager is None:
        installation.replace(compiled, "gc", _StandIn(vars(compiled)["gc"]))
    else:
        _hand_over(manager, installation)
    installation.replace(compiled, "get_new_event_loop", get_new_event_loop)
    installation.wrap(module, "connect", connect)
    installation.wrap(module, "disconnect", disconnect)
    installation.replace(module.Worker, "get_serialization_context", get_serialization_context)
    if module.global_worker.connected:
        SERVICE.connect(module.global_worker)


def _hand_over(manager: Any, installation: Installation) -> None:
    """Give Ray's own thread another function to call.

    Raises:
        RuntimeError: the thread is not what the patch was written for.
    """
    from mantaray.gc.service import SERVICE
    from mantaray.overlay.checks import conflicts
    from mantaray.overlay.versions import InstalledSources

    # Not a target of the patch: Ray 2.48 has no such module.
    problem = conflicts((_MANAGER_TARGET,), InstalledSources(Path(sys.modules["ray"].__path__[0])))
    if problem is not None:
        raise RuntimeError(problem)

    def init(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        collect = kwargs.get("gc_collect_func") or SERVICE.collect
        return wrapped(*args, **{**kwargs, "gc_collect_func": collect})

    installation.wrap(manager, "__init__", init)
    for thread in threading.enumerate():
        if isinstance(thread, manager):
            installation.replace(thread, "_gc_collect_func", SERVICE.collect)


def _install_node(module: ModuleType, installation: Installation) -> None:
    def init(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.gc import policy

        handing_on: AbstractContextManager[None] = nullcontext()
        if not kwargs.get("connect_only", args[4] if len(args) > 4 else False):
            policy.check_for_start()
            if not hasattr(sys.modules[_COMPILED], "PythonGCThread"):
                params = kwargs["ray_params"] if "ray_params" in kwargs else args[0]
                handing_on = policy.handing_on(params._system_config)
        with handing_on:
            return wrapped(*args, **kwargs)

    installation.wrap(module.Node, "__init__", init)


def _install_serialization(module: ModuleType, installation: Installation) -> None:
    from mantaray.gc.service import SERVICE

    def unpack_pickle5_buffers(data: Any) -> tuple[Any, list[Any]]:
        in_band, buffers = unpack(data)
        return in_band, SERVICE.buffers.watch(buffers) if buffers else buffers

    unpack = module.unpack_pickle5_buffers
    installation.replace(module, "unpack_pickle5_buffers", unpack_pickle5_buffers)


# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = {
    _WORKER: (
        "3e952bf18b188db672262d40a2b2ce5e66346ce6160a6e2e9b2b8dbc6650236a",
        "5d17b9611da21b6700e15c04a718670eacfcdb3be3a80b20eb48626989a4e545",
    ),
    _NODE: (
        "b2316c06aabb7f34ced456806414398195ebeccbf6f55618ab3925c1937c1e7b",
        "4e6cb679c0bd57069bc829c9f6223296113d7c79ab12b0c08d90759ba8f9f2ca",
    ),
    _SERIALIZATION: (
        "491959d423294c167442f54bd9d82613ac4709e9fa286f7d815ad059970061ec",
        "89cc5009b3e3f92e40ea355b2880c52f61fb8c7894d94565d17f43befa1164da",
    ),
    _COMPAT: (
        "8cdb2dffe6c433a031ec0e7106bc41a515c40da82e34676063d82996a1c48080",
        "6a9c14921b90dada5a01fe42f98012b67d7b4eda2e74720ff112058f3bd94c14",
    ),
}
_FINGERPRINTS = {
    (_WORKER, "connect"): ("4eaea5e8cc0c9ef9", "be9c9098901dfb87"),
    (_WORKER, "disconnect"): ("d6db6e2a90279f72", "f65b64ac9b519c94"),
    (_WORKER, "Worker.get_serialization_context"): ("c6edfb96893931fe",),
    (_WORKER, "Worker.main_loop"): ("ad4d3cd54125b445",),
    (_NODE, "Node.__init__"): ("cc0b44545e3ec3a8", "7740e3ee2c44e0ba"),
    (_SERIALIZATION, "SerializationContext._deserialize_pickle5_data"): (
        "5d5039bd8234abfb",
        "6b3cd1a9cfe58daa",
    ),
    (_COMPAT, "get_new_event_loop"): ("960e5f1e819efbbc", "7e65eb4de0ae577f"),
}
_MANAGER_TARGET = Target(
    _MANAGER,
    "PythonGCThread",
    ("943891613f18bf01",),
    ("50169fdf4b0ceb2f9b92aeba2a273a03315b181b35b77b57fb727d479ed9facd",),
)

GC_PATCH = Patch(
    name="gc",
    summary="short pauses when Ray asks for garbage collection: old heap frozen, full when idle",
    ray_versions=">=2.48,<2.61",
    plain_since="2.50",
    enough_since=None,
    targets=targets_of(_FINGERPRINTS, _FILES),
    installers={
        _WORKER: _install_worker,
        _NODE: _install_node,
        _SERIALIZATION: _install_serialization,
    },
)

register(GC_PATCH)
