"""What the collector needs to know of a process of Ray: what it holds, and whether it is idle."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

# A process that uses more of a core than this is not idle, whatever its tasks do.
_IDLE_CPU_SHARE = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Counting memory blocks takes at most this share of the time, except when memory has changed by so
# much.
_RECOUNT_SHARE = 0.0005
_RECOUNT_CHANGE = 0.1
_RECOUNT_BYTES = 8_000_000


class Buffers:
    """Counts the buffers of the object store that values of this process lie in.

    A value that was deserialised without a copy keeps its buffer, even long after its reference is
    gone, and Ray does not count such buffers. So each buffer is handed on behind an array that can
    be watched. Without numpy a buffer cannot be watched, and counts for ever once it was handed
    out.
    """

    def __init__(self) -> None:
        # Keyed by identity, because an array has no hash, and neither has a weak reference to it.
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._unwatched = 0

    def __len__(self) -> int:
        return len(self._watched) + self._unwatched

    def watch(self, buffers: Sequence[Any]) -> list[Any]:
        """Return the buffers to use instead of these. They have the same bytes and are as read-only."""
        numpy = _numpy()
        return [self._watch(buffer, numpy) for buffer in buffers]

    def _watch(self, buffer: Any, numpy: Any) -> Any:
        try:
            array = numpy.frombuffer(buffer, dtype=numpy.uint8)
        except (AttributeError, ValueError, TypeError, BufferError):
            # There is no numpy, or the buffer is empty or has a form that numpy cannot wrap.
            self._unwatched += 1
            return buffer
        reference = weakref.ref(array, self._forget)
        self._watched[id(reference)] = reference
        return memoryview(array)

    def _forget(self, reference: weakref.ref[Any]) -> None:
        self._watched.pop(id(reference), None)


def _numpy() -> Any:
    """Return numpy, or None where there is none.

    A buffer nearly always holds an array, whose deserialisation is about to import numpy anyway.
    """
    try:
        import numpy
    except ImportError:
        return None
    return numpy


class Activity:
    """Tells whether tasks run in this process.

    `touch` is called when a task has its arguments read or its result written, and when a driver puts or
    gets; what runs between the two shows in the frames of the threads and in the event loops of
    asynchronous actors.
    """

    def __init__(self) -> None:
        self.last_s = time.monotonic()
        self.loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._cpu: deque[tuple[float, float]] = deque(maxlen=256)

    def touch(self) -> None:
        """Note that Ray is running a task, or that a driver puts or gets."""
        self.last_s = time.monotonic()

    def is_idle(self, for_s: float, is_worker: bool) -> bool:
        """Return whether no task has run for so many seconds; only the collector's thread asks.

        Args:
            for_s: in seconds. The answer is no until the question has been asked for that long.
            is_worker: whether the main thread is Ray's. A driver's main thread is judged by the
                processor time it uses.
        """
        now = time.monotonic()
        # The collector's own processor time says nothing about the tasks.
        self._cpu.append((now, time.process_time() - time.thread_time()))
        if now - self.last_s < for_s or self._uses_cpu(now, for_s):
            return False
        return not (is_worker and (runs_task_in_a_thread() or self._runs_task_in_a_loop()))

    def _uses_cpu(self, now: float, for_s: float) -> bool:
        """Return whether the process was busy; True if that is not known."""
        while len(self._cpu) > 1 and self._cpu[1][0] <= now - for_s:
            self._cpu.popleft()
        then, used = self._cpu[0]
        if now - then < for_s:
            return True
        return self._cpu[-1][1] - used > _IDLE_CPU_SHARE * (now - then)

    def _runs_task_in_a_loop(self) -> bool:
        for loop in list(self.loops):
            if loop.is_closed():
                continue
            try:
                tasks = asyncio.all_tasks(loop)
            except RuntimeError:
                return True  # Threads may start and end while they are listed.
            if any(_is_of_ray(task) for task in tasks):
                return True
        return False


def _is_of_ray(task: asyncio.Task[Any]) -> bool:
    """Return whether a task of an event loop is a call of an actor, and not one that the program made.

    Calls run inside a coroutine of Ray's compiled part.
    """
    return "cython" in type(task.get_coro()).__name__


def runs_task_in_a_thread() -> bool:
    """Return whether the main thread or one of Ray's pools is in the middle of Python code.

    Between two tasks the main thread stands in the worker's main loop, and the pools of threaded
    actors, of which `threading` does not know, have no Python frame at all.
    """
    threads = {thread.ident: thread for thread in threading.enumerate()}
    main = threading.main_thread().ident
    for ident, frame in sys._current_frames().items():
        if ident == main:
            if frame.f_code.co_name != "main_loop":
                return True
        elif ident not in threads or _is_foreign(threads[ident]):
            return True
    return False


def _is_foreign(thread: threading.Thread) -> bool:
    """Return whether a thread was not started by Python, and only passes through it."""
    return isinstance(thread, threading._DummyThread)


class Blocks:
    """Counts the blocks of memory that Python has given out; less often if counting takes long.

    Python visits all of its memory pools for it, with the GIL held: 15 ms for thirty million containers.

    Args:
        rss_bytes: returns the resident memory of this process.
        clock: monotonic seconds.
        count: counts the blocks.
    """

    def __init__(
        self,
        rss_bytes: Callable[[], int],
        clock: Callable[[], float] = time.perf_counter,
        count: Callable[[], int] = sys.getallocatedblocks,
    ) -> None:
        self._rss_bytes = rss_bytes
        self._clock = clock
        self._count = count
        self._known = 0
        self._known_rss_bytes = 0
        self._again_at = -float("inf")

    def __call__(self) -> int:
        """Return how many blocks there are, or an earlier count if memory has hardly changed since."""
        try:
            rss_bytes = self._rss_bytes()
        except OSError:
            # No file descriptor is left. The caller is in the middle of an allocation, where
            # nothing may fail.
            return self._count()
        changed = abs(rss_bytes - self._known_rss_bytes)
        much = self._known_rss_bytes * _RECOUNT_CHANGE + _RECOUNT_BYTES
        before_s = self._clock()
        if before_s >= self._again_at or changed > much:
            self._known = self._count()
            self._known_rss_bytes = rss_bytes
            self._again_at = before_s + (self._clock() - before_s) / _RECOUNT_SHARE
        return self._known


class RayProcess:
    """The `World` of a collector in a process that is connected to Ray.

    Args:
        worker: Ray's global worker.
        buffers: of this process.
        activity: of this process.
    """

    def __init__(self, worker: Any, buffers: Buffers, activity: Activity) -> None:
        self._worker = worker
        self._buffers = buffers
        self._activity = activity
        self._blocks = Blocks(self.rss_bytes)

    def held(self) -> int:
        """Return how many objects this process refers to, and buffers its values lie in.

        Each object that a reference of this process keeps alive, owned or borrowed, has an entry in
        its in-process store, whose size is known at once. Walking the table of references would
        stall the process for 25 to 55 ms if there are 20,000.
        """
        size: int = self._worker.core_worker.get_memory_store_size()
        return size + len(self._buffers)

    def is_idle(self, for_s: float) -> bool:
        """Return whether no task has run for so many seconds."""
        return self._activity.is_idle(for_s, is_worker=self._worker.mode == _worker_mode())

    def blocks(self) -> int:
        """Return how many blocks of memory Python has given out."""
        return self._blocks()

    def rss_bytes(self) -> int:
        """Return the resident memory of the process without what it shares with the store."""
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared = file.read().split()[:3]
        return (int(resident) - int(shared)) * _PAGE_BYTES


def _worker_mode() -> Any:
    from ray._private.worker import WORKER_MODE

    return WORKER_MODE


# Of this process; the patch feeds them from the time when Ray is imported.
BUFFERS = Buffers()
ACTIVITY = Activity()
