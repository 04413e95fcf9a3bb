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
from types import ModuleType
from typing import Any

import wrapt

from mantaray.overlay import Installation, Patch, Target, register, targets_in

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
    """Give Ray's own thread another function to call."""
    from mantaray.gc.service import SERVICE

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


_TARGETS = (
    *targets_in(
        _WORKER, "connect", "disconnect", "Worker.get_serialization_context", "Worker.main_loop"
    ),
    Target(_NODE, "Node.__init__"),
    Target(_SERIALIZATION, "SerializationContext._deserialize_pickle5_data"),
    Target(_COMPAT, "get_new_event_loop"),
    Target(_MANAGER, "PythonGCThread", rays=">=2.50"),
)

GC_PATCH = Patch(
    name="gc",
    summary="short pauses when Ray asks for garbage collection: old heap frozen, full when idle",
    plain_since="2.50",
    enough_since=None,
    targets=_TARGETS,
    installers={
        _WORKER: _install_worker,
        _NODE: _install_node,
        _SERIALIZATION: _install_serialization,
    },
)

register(GC_PATCH)
