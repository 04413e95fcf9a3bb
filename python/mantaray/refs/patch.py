"""The patches `refs`, `refcount` and `nesting`.

`refs` lets finalizers act on `ray.shutdown` before Ray's core worker ends. It wraps the function that
Ray calls first when it shuts down in a process. In a process without finalizers the wrapper does
nothing. While the process is connected to Ray, it answers `mantaray refs why --path`.

`refcount` keeps a process alive when Ray's reference counter receives two notices about one borrower, on
the releases where the second notice ends the process. `nesting` does the same for an outer object that
goes out of scope again. See `mantaray.refs.guard`. They change the compiled library of Ray, which
`mantaray._native` checks when it attaches them: when a process is about to connect to Ray.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mantaray.overlay import (
    Installation,
    Patch,
    attaches_early,
    give_up,
    register,
    rely_on_native,
    targets_in,
)

if TYPE_CHECKING:
    from mantaray.refs.listener import Listener

_WORKER = "ray._private.worker"
_RAYLET = "ray._raylet"
_LOG = logging.getLogger(__name__)


class _Listening:
    """Answers questions about this process while it is connected to Ray."""

    def __init__(self) -> None:
        self._listener: Listener | None = None

    def begin(self, worker: Any) -> None:
        """Answer from now on, under the ids of Ray's global worker."""
        # Loaded here, because many processes import Ray and never connect.
        from mantaray.refs.listener import Listener

        self.end()
        try:
            self._listener = Listener(worker)
        except Exception as error:
            # Whatever the error is, Ray must go on.
            _LOG.warning("`mantaray refs why --path` cannot ask this process: %s", error)

    def end(self) -> None:
        """Stop answering."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()


def _install(module: ModuleType, installation: Installation) -> None:
    listening = _Listening()

    def connect(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        if module.global_worker.mode in (module.SCRIPT_MODE, module.WORKER_MODE):
            listening.begin(module.global_worker)
        return result

    def disconnect(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        listening.end()
        finalizers = sys.modules.get("mantaray.refs.finalizers")
        if finalizers is not None:
            finalizers.session_is_ending()
        return wrapped(*args, **kwargs)

    installation.on_undo(listening.end)
    installation.wrap(module, "connect", connect)
    installation.wrap(module, "disconnect", disconnect)
    if module.global_worker.connected:
        listening.begin(module.global_worker)


def _before_the_first_connect(
    name: str, attach: Callable[[ModuleType, Installation], None]
) -> Callable[[ModuleType, Installation], None]:
    """Return an installer that attaches a guard when a process is about to connect to Ray.

    A process that only imports Ray has no reference counter, and does not have to load the native module.

    Args:
        name: of the patch.
        attach: attaches its guard to `ray._raylet`.
    """

    def install(module: ModuleType, installation: Installation) -> None:
        if module.global_worker.connected:
            raise RuntimeError("Ray runs in this process already; attach it before ray.init()")
        tried = False

        def try_once() -> None:
            nonlocal tried
            if tried or not rely_on_native(name):
                return
            tried = True
            attach(sys.modules[_RAYLET], installation)

        def connect(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            try:
                try_once()
            except Exception as error:
                # Whatever the error is, the process must connect.
                give_up(name, f"it failed in {_RAYLET} with {type(error).__name__}: {error}")
            return wrapped(*args, **kwargs)

        if attaches_early():
            try_once()
        else:
            installation.wrap(module, "connect", connect)

    return install


def _attach_guard(module: ModuleType, installation: Installation) -> None:
    from mantaray.refs.guard import attach

    attach(module, installation)


def _attach_nesting_guard(module: ModuleType, installation: Installation) -> None:
    from mantaray.refs.guard import attach_nesting

    attach_nesting(module, installation)


REFS_PATCH = Patch(
    name="refs",
    summary="mantaray.refs.finalize: a call when no process can reach an object any more; refs why --path",
    plain_since=None,
    enough_since=None,
    targets=targets_in(_WORKER, "connect", "disconnect"),
    installers={_WORKER: _install},
)
REFCOUNT_PATCH = Patch(
    name="refcount",
    summary="a second notice about one borrower does not end the owner's process",
    plain_since="2.56",
    enough_since="2.56",
    targets=targets_in(_WORKER, "connect"),
    installers={_WORKER: _before_the_first_connect("refcount", _attach_guard)},
    needs_native=True,
)
NESTING_PATCH = Patch(
    name="nesting",
    summary="an object with references in it may go out of scope twice without ending the process",
    plain_since=None,
    enough_since=None,
    targets=targets_in(_WORKER, "connect"),
    installers={_WORKER: _before_the_first_connect("nesting", _attach_nesting_guard)},
    needs_native=True,
)

register(REFS_PATCH)
register(REFCOUNT_PATCH)
register(NESTING_PATCH)
