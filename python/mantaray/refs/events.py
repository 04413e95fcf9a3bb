"""Out-of-scope callbacks of Ray's reference counter, for releases whose Python interface lacks them.

Part of `mantaray.refs`. Ray's counter calls functions when an object goes out of scope.
`mantaray._native` adds such a function through the exported method of the counter. So a function of
Ray is replaced only during one look-up, and a process without finalizers pays nothing. One daemon
thread of the process waits for the callbacks.
"""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mantaray.overlay import State, native_module, status

if TYPE_CHECKING:
    from mantaray._native import interpose

_LOG = logging.getLogger("mantaray.refs")


class ScopeEvents:
    """The out-of-scope callbacks of this process's core worker during one session.

    Args:
        watch: the watch of this process, which has captured the counter of this session.
    """

    def __init__(self, watch: interpose.ScopeWatch) -> None:
        self._watch = watch

    def add(self, object_id: bytes) -> bool:
        """Ask Ray for a callback; return False if the object is out of scope or freed already."""
        return self._watch.add(object_id)

    def is_freed(self, object_id: bytes) -> bool:
        """Return whether the value of an object was freed although references to it remain."""
        return self._watch.is_freed(object_id)


class _Reader:
    """The thread that waits for the callbacks of the current session."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.on_gone: Callable[[list[bytes]], None] | None = None
        self._thread: threading.Thread | None = None

    def start(self, watch: interpose.ScopeWatch) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._run, args=(watch,), name="mantaray-scope-events", daemon=True
            )
            self._thread.start()

    def _run(self, watch: interpose.ScopeWatch) -> None:
        readable = select.poll()
        readable.register(watch.descriptor, select.POLLIN)
        while True:
            readable.poll()
            with self.lock:
                gone, on_gone = watch.take(), self.on_gone
            try:
                if gone and on_gone is not None:
                    on_gone(gone)
            except Exception:
                _LOG.exception("the thread of finalizers continues after an error")


_READER = _Reader()


def listen(core: Any, on_gone: Callable[[list[bytes]], None]) -> ScopeEvents | None:
    """Begin to listen to the counter of a core worker, in place of the previous core worker.

    Args:
        core: the core worker of this session.
        on_gone: called with the objects that went out of scope or were freed, on a thread of its own.

    Returns:
        None if this Ray's library is not as expected, or if the patch `refs` is not attached. The
        caller must then poll.
    """
    if not any(patch.name == "refs" and patch.state is State.ACTIVE for patch in status()):
        return None
    import ray

    try:
        native_module.load()
    except native_module.NativeError as error:
        _LOG.info("finalizers look at the references instead of being told: %s", error)
        return None
    from mantaray._native import interpose

    # Made without its constructor, so that no counter counts it.
    probe = ray.ObjectRef.__new__(ray.ObjectRef)
    try:
        watch = interpose.scope_watch(ray._raylet.__file__)
        with _READER.lock:
            watch.capture(lambda: _look_up(core, probe))
            _READER.on_gone = on_gone
    except RuntimeError as error:
        _LOG.info("finalizers look at the references instead of being told: %s", error)
        return None
    _READER.start(watch)
    return ScopeEvents(watch)


def _look_up(core: Any, probe: Any) -> None:
    """Make Ray look up the owner of an object that it does not know."""
    try:
        core.get_owner_address(probe)
    except ValueError:
        return
