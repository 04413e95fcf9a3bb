"""The collector of this process: it is made when Ray connects and ends when Ray disconnects."""

from __future__ import annotations

import _thread
import atexit
import gc
import logging
import sys
import sysconfig
import time
from typing import Any

from mantaray.gc.automatic import HeapGuard
from mantaray.gc.collector import Collector
from mantaray.gc.heap import PythonHeap
from mantaray.gc.model import Collection
from mantaray.gc.policy import is_wanted, read_policy
from mantaray.gc.process import ACTIVITY, BUFFERS, RayProcess
from mantaray.gc.search import ForkSearch
from mantaray.gc.telemetry import WRITE_PERIOD_S, StateFile
from mantaray.gc.thread import CollectorThread
from mantaray.settings import read_or_default

_LOG = logging.getLogger(__name__)


class Service:
    """One collector with its thread, figures and file."""

    def __init__(self) -> None:
        self.buffers = BUFFERS
        self.activity = ACTIVITY
        self.collector: Collector | None = None
        self._thread: CollectorThread | None = None
        self._guard: HeapGuard | None = None
        self._file: StateFile | None = None
        self._last: Collection | None = None
        self._has_failed = False
        self._is_attached = False
        self._is_wanted = True
        self._has_thread = False

    def attach(self, *, has_thread: bool) -> None:
        """Stand in for the collections that Ray asks for.

        Args:
            has_thread: whether this Ray has a thread for them, and decides itself whether to use it.
        """
        self._is_attached = True
        self._has_thread = has_thread

    def detach(self) -> None:
        """Leave the collections that Ray asks for to Python."""
        self._is_attached = False
        self.disconnect()

    def collect(self, generation: int = 2) -> int:
        """Ask for a collection and return at once. Ray calls this instead of `gc.collect`.

        Returns:
            How many objects were freed, always 0, because it is not known yet.
        """
        if not self._is_attached or not self._is_wanted:
            return gc.collect(generation)
        if self._thread is not None:
            self._thread.trigger()
        return 0

    def connect(self, worker: Any) -> None:
        """Take triggers from now on.

        Args:
            worker: Ray's global worker, connected.
        """
        if self._thread is None:
            process = RayProcess(worker, self.buffers, self.activity)
            can_freeze = not sysconfig.get_config_var("Py_GIL_DISABLED")
            self.collector = Collector(
                PythonHeap(),
                process,
                read_or_default(read_policy, _LOG),
                time.monotonic,
                cpu_clock=time.thread_time,
                can_freeze=can_freeze,
                on_collection=self._note,
                search=ForkSearch(process.blocks, process.rss_bytes) if can_search() else None,
            )
            self._thread = CollectorThread(self.collector, self._report, WRITE_PERIOD_S)
            self._guard = HeapGuard(self.collector, self._wake)
            atexit.register(self.disconnect, ends=True)
        assert self.collector is not None
        self._is_wanted = self._has_thread or is_wanted()
        self.collector.policy = read_or_default(read_policy, _LOG)
        self._file = _state_file(worker)
        self._thread.open()
        if self._is_wanted and self._guard is not None and can_search():
            self._guard.attach()

    def disconnect(self, *, ends: bool = False) -> None:
        """Take no more triggers, end the thread, and leave the heap as it was.

        Args:
            ends: the process ends, so that nothing has to be put back.
        """
        if self._thread is None or self.collector is None:
            return
        if self._guard is not None:
            self._guard.detach()
        self._thread.close()
        if not ends:
            self.collector.thaw()
        file, self._file = self._file, None
        if file is not None:
            file.remove()

    def _wake(self) -> None:
        """Wake the collector's thread without any lock, from the middle of an allocation."""
        if self._thread is None:
            return
        try:
            _thread.start_new_thread(self._thread.wake, ())
        except RuntimeError:
            # The interpreter is ending, so no search is needed any more.
            pass

    def _note(self, done: Collection) -> None:
        self._last = done
        _LOG.debug(
            "%s collection (%s): %.1f ms, %d objects, %d of the store",
            done.kind.value,
            done.why,
            done.pause_s * 1_000,
            done.objects,
            done.released,
        )

    def _report(self) -> bool:
        """Write what has happened; return whether there is more to write."""
        collector, file = self.collector, self._file
        if collector is None or file is None:
            return False
        try:
            return file.update(collector.counts, _state(collector), self._last)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                _LOG.warning("figures of garbage collection are lost", exc_info=True)
            return False


def can_search() -> bool:
    """Return whether this Python's heap can be searched in a forked child; see `heap_lists.h`."""
    return sys.version_info < (3, 14) and not sysconfig.get_config_var("Py_GIL_DISABLED")


def _state(collector: Collector) -> str:
    if not collector.freezes:
        return "frozen by the user"
    return "owes a full collection" if collector.owes_full else "up to date"


def _state_file(worker: Any) -> StateFile | None:
    from ray._private.worker import SCRIPT_MODE

    try:
        session_dir = worker.node.get_session_dir_path()
        node_id = worker.current_node_id.hex()
        return StateFile(session_dir, worker.mode == SCRIPT_MODE, node_id)
    except Exception:
        _LOG.debug("no directory for the state of garbage collection", exc_info=True)
        return None


SERVICE = Service()
