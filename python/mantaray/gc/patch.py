"""The patch `gc`: how a process answers when Ray wants memory of the object store back.

Ray 2.48 calls `gc.collect` in a thread of its compiled part, through the name `gc` of a module,
where a stand-in takes the call. Ray 2.60 has a thread for it, which gets another function to call.
The other hooks notice when the process connects and disconnects, when tasks start and end, and from
which buffers of the object store values are made.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mantaray.gc.process import ACTIVITY, BUFFERS
from mantaray.overlay import Installation, Patch, Target, register, targets_in

if TYPE_CHECKING:
    from mantaray.gc.service import Service

_WORKER = "ray._private.worker"
_NODE = "ray._private.node"
_SERIALIZATION = "ray._private.serialization"
_COMPAT = "ray._private.async_compat"
_MANAGER = "ray._private.gc_collect_manager"
_COMPILED = "ray._raylet"


class _StandIn(ModuleType):
    """The module `gc`, except that `collect` only asks for a collection."""

    def __init__(self, module: ModuleType, collect: Callable[..., int]) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.collect = collect
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Services:
    """The service of this process, loaded when it is first needed.

    Many processes import Ray and never connect, such as commands and the dashboard's.
    """

    def __init__(self, has_thread: bool) -> None:
        """Keep what the service has to know.

        Args:
            has_thread: whether this Ray has a thread for collections.
        """
        self._has_thread = has_thread
        self._service: Service | None = None

    def get(self) -> Service:
        """Return the service, which stands in for the collections that Ray asks for."""
        if self._service is None:
            from mantaray.gc.service import SERVICE

            SERVICE.attach(has_thread=self._has_thread)
            self._service = SERVICE
        return self._service

    def collect(self, generation: int = 2) -> int:
        """Ask for a collection; this is what Ray calls."""
        return self.get().collect(generation)

    def disconnect(self, ends: bool) -> None:
        """Tell the service, if there is one, that the process leaves its cluster."""
        if self._service is not None:
            self._service.disconnect(ends=ends)

    def detach(self) -> None:
        """Leave the collections that Ray asks for to Python."""
        if self._service is not None:
            self._service.detach()


def _install_worker(module: ModuleType, installation: Installation) -> None:
    compiled = sys.modules[_COMPILED]
    context_of = module.Worker.get_serialization_context
    new_loop = vars(compiled)["get_new_event_loop"]
    manager = vars(compiled).get("PythonGCThread")
    services = _Services(has_thread=manager is not None)

    def connect(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        mode = kwargs.get("mode", args[2] if len(args) > 2 else module.WORKER_MODE)
        if mode == module.SCRIPT_MODE:
            from mantaray.gc.policy import check_for_start

            check_for_start()
        result = wrapped(*args, **kwargs)
        services.get().connect(module.global_worker)
        return result

    def disconnect(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        exits = bool(kwargs.get("exiting_interpreter", args[0] if args else False))
        services.disconnect(exits)
        return wrapped(*args, **kwargs)

    def get_serialization_context(worker: Any) -> Any:
        ACTIVITY.touch()
        return context_of(worker)

    def get_new_event_loop() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = new_loop()
        ACTIVITY.loops.add(loop)
        return loop

    installation.on_undo(services.detach)
    if manager is None:
        installation.replace(compiled, "gc", _StandIn(vars(compiled)["gc"], services.collect))
    else:
        _hand_over(manager, services, installation)
    installation.replace(compiled, "get_new_event_loop", get_new_event_loop)
    installation.wrap(module, "connect", connect)
    installation.wrap(module, "disconnect", disconnect)
    installation.replace(module.Worker, "get_serialization_context", get_serialization_context)
    if module.global_worker.connected:
        services.get().connect(module.global_worker)


def _hand_over(manager: Any, services: _Services, installation: Installation) -> None:
    """Give Ray's own thread another function to call."""

    def init(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        collect = kwargs.get("gc_collect_func") or services.collect
        return wrapped(*args, **{**kwargs, "gc_collect_func": collect})

    installation.wrap(manager, "__init__", init)
    for thread in threading.enumerate():
        if isinstance(thread, manager):
            installation.replace(thread, "_gc_collect_func", services.collect)


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
    def unpack_pickle5_buffers(data: Any) -> tuple[Any, list[Any]]:
        in_band, buffers = unpack(data)
        return in_band, BUFFERS.watch(buffers) if buffers else buffers

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
