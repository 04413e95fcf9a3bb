"""A bounded queue of queries on one event loop, with a future for each.

Higher priorities first, first come first served within one. A query leaves the queue when it is
answered, fails, passes its deadline, is cancelled by whoever holds its future, or when the queue is
closed and does not drain in time; in each case its future says so, and no other query notices. All
methods are called on the event loop's own thread, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from knowledge.types import DeadlineExceeded, KnowledgeError, QueueFull, ShuttingDown

Request = TypeVar("Request")
Reply = TypeVar("Reply")
_LONGEST_RETRY_S = 60.0


class Priority(enum.IntEnum):
    """Which queries go first; a lower one waits as long as there are higher ones."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclasses.dataclass(frozen=True)
class QueueStats:
    """What a queue is doing, and what became of the queries it took or refused."""

    waiting: int
    running: int
    answered: int
    failed: int
    late: int
    cancelled: int
    refused: int


@dataclasses.dataclass(eq=False)
class _Entry(Generic[Request, Reply]):
    number: int
    request: Request
    priority: Priority
    future: asyncio.Future[Reply]
    submitted_s: float
    alarm: asyncio.TimerHandle | None = None
    task: asyncio.Task[Reply] | None = None
    started_s: float = 0.0


class QueryQueue(Generic[Request, Reply]):
    """Runs up to `workers` queries at a time; up to `capacity` more wait.

    Args:
        work: answers a request; called with it and with how long it waited, in milliseconds.
        capacity: how many may wait, at least 1.
        workers: how many run at a time, at least 1.
    """

    def __init__(
        self, work: Callable[[Request, float], Awaitable[Reply]], capacity: int, workers: int
    ) -> None:
        if capacity < 1 or workers < 1:
            raise ValueError("a queue has room for at least one query and at least one worker")
        self._work = work
        self._capacity = capacity
        self._workers = workers
        self._waiting: dict[Priority, OrderedDict[int, _Entry[Request, Reply]]]
        self._waiting = {priority: OrderedDict() for priority in Priority}
        self._running: dict[int, _Entry[Request, Reply]] = {}
        self._next_number = 0
        self._closed = False
        self._usual_s = 0.1
        self._counts = dict.fromkeys(("answered", "failed", "late", "cancelled", "refused"), 0)

    def submit(
        self,
        request: Request,
        *,
        priority: Priority = Priority.NORMAL,
        deadline_ms: float | None = None,
    ) -> asyncio.Future[Reply]:
        """Take a query; cancelling the returned future takes it back, waiting or running.

        Args:
            request: handed to `work`.
            priority: ahead of all lower ones that still wait.
            deadline_ms: from now; the future then fails with DeadlineExceeded. None: no deadline.

        Raises:
            QueueFull: `capacity` queries wait already.
            ShuttingDown: the queue is closed.
        """
        if self._closed:
            raise ShuttingDown("the service is shutting down and takes no more queries")
        if self._count_waiting() >= self._capacity:
            self._counts["refused"] += 1
            raise QueueFull(
                f"{self._capacity} queries are waiting already; try again later",
                self._time_to_clear_s(),
            )
        loop = asyncio.get_running_loop()
        entry: _Entry[Request, Reply]
        entry = _Entry(self._next_number, request, priority, loop.create_future(), loop.time())
        self._next_number += 1
        if deadline_ms is not None:
            entry.alarm = loop.call_later(max(0.0, deadline_ms) / 1000.0, self._expire, entry)
        entry.future.add_done_callback(lambda _: self._future_done(entry))
        self._waiting[priority][entry.number] = entry
        self._pump()
        return entry.future

    async def close(self, drain_s: float) -> None:
        """Take no more queries; wait for those taken; fail what is not answered after `drain_s`."""
        self._closed = True
        entries = [entry for waiting in self._waiting.values() for entry in waiting.values()]
        entries += self._running.values()
        if entries:
            await asyncio.wait([entry.future for entry in entries], timeout=drain_s)
        for entry in entries:
            _fail(entry, ShuttingDown("the service shut down before this query was answered"))
        tasks = [entry.task for entry in entries if entry.task is not None]
        if tasks:
            # They were cancelled; one that will not end must not keep the service from ending.
            await asyncio.wait(tasks, timeout=1.0)

    def stats(self) -> QueueStats:
        """Return what the queue is doing."""
        return QueueStats(self._count_waiting(), len(self._running), **self._counts)

    def _count_waiting(self) -> int:
        # A future cancelled in this turn of the loop has not told us yet, but waits no more.
        return sum(
            not entry.future.done()
            for waiting in self._waiting.values()
            for entry in waiting.values()
        )

    def _time_to_clear_s(self) -> float:
        rounds = math.ceil(self._capacity / self._workers)
        return min(_LONGEST_RETRY_S, max(1.0, rounds * self._usual_s))

    def _pump(self) -> None:
        while len(self._running) < self._workers:
            entry = self._take()
            if entry is None:
                return
            self._start(entry)

    def _take(self) -> _Entry[Request, Reply] | None:
        for waiting in self._waiting.values():
            while waiting:
                _, entry = waiting.popitem(last=False)
                if not entry.future.done():
                    return entry
        return None

    def _start(self, entry: _Entry[Request, Reply]) -> None:
        loop = asyncio.get_running_loop()
        entry.started_s = loop.time()
        waited_ms = (entry.started_s - entry.submitted_s) * 1000.0
        entry.task = loop.create_task(self._run(entry.request, waited_ms))
        self._running[entry.number] = entry
        entry.task.add_done_callback(lambda task: self._task_done(entry, task))

    async def _run(self, request: Request, waited_ms: float) -> Reply:
        return await self._work(request, waited_ms)

    def _expire(self, entry: _Entry[Request, Reply]) -> None:
        place = "running" if entry.task else "waiting"
        _fail(entry, DeadlineExceeded(f"the query's deadline passed while it was {place}"))

    def _task_done(self, entry: _Entry[Request, Reply], task: asyncio.Task[Reply]) -> None:
        del self._running[entry.number]
        spent_s = asyncio.get_running_loop().time() - entry.started_s
        self._usual_s += 0.1 * (spent_s - self._usual_s)
        if task.cancelled():
            _fail(entry, KnowledgeError("the query was cancelled inside the service"))
        elif (error := task.exception()) is not None:
            _fail(entry, error)
        elif not entry.future.done():
            entry.future.set_result(task.result())
        self._pump()

    def _future_done(self, entry: _Entry[Request, Reply]) -> None:
        self._waiting[entry.priority].pop(entry.number, None)
        if entry.alarm is not None:
            entry.alarm.cancel()
        if entry.task is not None:
            entry.task.cancel()
        self._counts[_outcome(entry.future)] += 1


def _fail(entry: _Entry[Any, Any], error: BaseException) -> None:
    if entry.future.done():
        return
    if isinstance(error, StopIteration):
        # A future refuses it: it would end whoever awaits.
        error = KnowledgeError("the query ended with StopIteration")
    entry.future.set_exception(error)


def _outcome(future: asyncio.Future[Any]) -> str:
    if future.cancelled():
        return "cancelled"
    # Asking for the exception also keeps asyncio quiet when nobody waits for this query any more.
    error = future.exception()
    if error is None:
        return "answered"
    return "late" if isinstance(error, DeadlineExceeded) else "failed"
