"""The query queue: nothing is lost, nothing waits for ever, and no query harms another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowledge.queue import Priority, QueryQueue
from knowledge.types import DeadlineExceeded, KnowledgeError, QueueFull, ShuttingDown

Queue = QueryQueue[Any, Any]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function; a hang ends the test."""

    async def bounded() -> Any:
        return await asyncio.wait_for(main(), 120)

    return asyncio.run(bounded())


async def settle() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(10):
        await asyncio.sleep(0)


class Gate:
    """Work that stays until it is let go; a request is answered with itself."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.cancelled: list[Any] = []
        self.open = asyncio.Event()

    async def __call__(self, request: Any, waited_ms: float) -> Any:
        self.started.append(request)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request)
            raise
        if isinstance(request, BaseException):
            raise request
        return request


def test_higher_priorities_go_first_and_equal_ones_in_their_order() -> None:
    async def main() -> None:
        gate = Gate()
        queue: Queue = QueryQueue(gate, capacity=10, workers=1)
        futures = [queue.submit("first")]
        for name, priority in [
            ("low1", Priority.LOW),
            ("normal1", Priority.NORMAL),
            ("high1", Priority.HIGH),
            ("low2", Priority.LOW),
            ("high2", Priority.HIGH),
            ("normal2", Priority.NORMAL),
        ]:
            futures.append(queue.submit(name, priority=priority))
        gate.open.set()
        assert await asyncio.gather(*futures) == [
            "first",
            "low1",
            "normal1",
            "high1",
            "low2",
            "high2",
            "normal2",
        ]
        assert gate.started == ["first", "high1", "high2", "normal1", "normal2", "low1", "low2"]

    run(main)


def test_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def main() -> None:
        gate = Gate()
        queue: Queue = QueryQueue(gate, capacity=2, workers=1)
        futures = [queue.submit(n) for n in range(3)]
        with pytest.raises(QueueFull, match="2 queries are waiting") as refused:
            queue.submit(3)
        assert 1.0 <= refused.value.retry_after_s <= 60.0
        gate.open.set()
        assert await asyncio.gather(*futures) == [0, 1, 2]
        assert await queue.submit(4) == 4
        assert queue.stats().refused == 1

    run(main)


def test_cancelled_query_that_waits_frees_its_place_at_once() -> None:
    async def main() -> None:
        gate = Gate()
        queue: Queue = QueryQueue(gate, capacity=1, workers=1)
        running = queue.submit("running")
        waiting = queue.submit("waiting")
        waiting.cancel()
        # In the same turn of the loop: nobody has told the queue yet.
        next_one = queue.submit("next")
        gate.open.set()
        assert list(await asyncio.gather(running, next_one)) == ["running", "next"]
        assert gate.started == ["running", "next"]
        assert queue.stats().cancelled == 1

    run(main)


def test_cancelled_query_that_runs_is_stopped_and_its_worker_goes_on() -> None:
    async def main() -> None:
        gate = Gate()
        queue: Queue = QueryQueue(gate, capacity=4, workers=1)
        running, other = queue.submit("running"), queue.submit("other")
        await settle()
        running.cancel()
        await settle()
        assert gate.cancelled == ["running"]
        gate.open.set()
        assert await other == "other"

    run(main)


@pytest.mark.parametrize("ahead", [0, 1])
def test_deadline_ends_a_query_wherever_it_is(ahead: int) -> None:
    async def main() -> None:
        gate = Gate()
        queue: Queue = QueryQueue(gate, capacity=4, workers=1)
        before = [queue.submit(n) for n in range(ahead)]
        late = queue.submit("late", deadline_ms=200)
        with pytest.raises(DeadlineExceeded, match="waiting" if ahead else "running"):
            await late
        await settle()
        assert gate.cancelled == ([] if ahead else ["late"])
        gate.open.set()
        assert await asyncio.gather(*before, queue.submit("next")) == [*range(ahead), "next"]
        assert queue.stats().late == 1

    run(main)


@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), KeyError("x"), asyncio.CancelledError(), StopIteration(), OSError()],
)
def test_failing_query_fails_alone(error: BaseException) -> None:
    async def main() -> None:
        async def work(request: Any, waited_ms: float) -> Any:
            await asyncio.sleep(0)
            if isinstance(request, BaseException):
                raise request
            return request

        queue: Queue = QueryQueue(work, capacity=9, workers=2)
        futures = [queue.submit(r) for r in ("a", error, "b", error, "c")]
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert [done[0], done[2], done[4]] == ["a", "b", "c"]
        assert all(isinstance(done[n], Exception) for n in (1, 3)), done
        assert await queue.submit("d") == "d"

    run(main)


def test_work_that_is_cancelled_from_inside_is_an_error_not_a_cancelled_future() -> None:
    async def main() -> None:
        async def work(request: Any, waited_ms: float) -> Any:
            raise asyncio.CancelledError

        queue: Queue = QueryQueue(work, capacity=1, workers=1)
        with pytest.raises(KnowledgeError, match="cancelled inside"):
            await queue.submit("x")

    run(main)


def test_closing_drains_what_was_taken_and_refuses_the_rest() -> None:
    async def main() -> None:
        async def work(request: Any, waited_ms: float) -> Any:
            await asyncio.sleep(0.01)
            return request

        queue: Queue = QueryQueue(work, capacity=9, workers=2)
        futures = [queue.submit(n) for n in range(8)]
        closing = asyncio.ensure_future(queue.close(drain_s=20))
        await settle()
        with pytest.raises(ShuttingDown):
            queue.submit("late")
        await closing
        assert [future.result() for future in futures] == list(range(8))

    run(main)


def test_what_does_not_drain_in_time_is_told_so() -> None:
    async def main() -> None:
        gate = Gate()
        queue: Queue = QueryQueue(gate, capacity=9, workers=1)
        futures = [queue.submit(n) for n in range(3)]
        await queue.close(drain_s=0.05)
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(one) for one in done] == [ShuttingDown] * 3
        assert gate.cancelled == [0]
        assert queue.stats().running == 0

    run(main)


def test_work_that_will_not_end_keeps_neither_its_asker_nor_the_service() -> None:
    async def main() -> None:
        stubborn_done = asyncio.Event()

        async def work(request: Any, waited_ms: float) -> Any:
            while not stubborn_done.is_set():
                try:
                    await stubborn_done.wait()
                except asyncio.CancelledError:
                    continue

        queue: Queue = QueryQueue(work, capacity=1, workers=1)
        future = queue.submit("x", deadline_ms=10)
        with pytest.raises(DeadlineExceeded):
            await future
        assert queue.stats().running == 1  # it does occupy its worker
        await queue.close(drain_s=0.01)
        stubborn_done.set()

    run(main)


def test_time_waited_is_told_to_the_work() -> None:
    async def main() -> None:
        waits: list[float] = []

        async def work(request: Any, waited_ms: float) -> None:
            waits.append(waited_ms)
            await asyncio.sleep(0.05)

        queue: Queue = QueryQueue(work, capacity=2, workers=1)
        await asyncio.gather(queue.submit(1), queue.submit(2))
        assert waits[0] < waits[1]
        assert waits[1] >= 40

    run(main)


def test_queue_without_room_or_workers_cannot_be_made() -> None:
    for capacity, workers in [(0, 1), (1, 0)]:
        with pytest.raises(ValueError, match="at least one"):
            QueryQueue(Gate, capacity, workers)  # type: ignore[arg-type]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "submit", "cancel", "finish", "fail", "turn"]),
        st.sampled_from(list(Priority)),
        st.sampled_from([None, None, 0.0, 1.0, 10_000.0]),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(
    actions=ACTIONS,
    capacity=st.integers(1, 5),
    workers=st.integers(1, 3),
    calm=st.booleans(),
    seed=st.integers(),
)
def test_whatever_happens_each_query_has_one_outcome_and_bounds_hold(
    actions: list[tuple[str, Priority, float | None]],
    capacity: int,
    workers: int,
    calm: bool,
    seed: int,
) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        inside: dict[int, asyncio.Future[None]] = {}
        waiting_then: dict[int, dict[int, Priority]] = {}
        taken: dict[int, tuple[Priority, asyncio.Future[Any]]] = {}

        async def work(number: int, waited_ms: float) -> int:
            waiting_then[number] = {
                n: priority
                for n, (priority, future) in taken.items()
                if n not in waiting_then and not future.done() and n != number
            }
            inside[number] = asyncio.get_running_loop().create_future()
            try:
                await inside[number]
            finally:
                del inside[number]
            return number

        queue = QueryQueue(work, capacity, workers)
        refused = 0
        for number, (action, priority, deadline_ms) in enumerate(actions):
            open_ones = [one for one in inside.values() if not one.done()]
            if action == "submit":
                try:
                    future = queue.submit(number, priority=priority, deadline_ms=deadline_ms)
                    taken[number] = (priority, future)
                except QueueFull:
                    refused += 1
                    unsettled = sum(not future.done() for _, future in taken.values())
                    assert unsettled >= capacity
            elif action == "cancel" and taken:
                chance.choice(list(taken.values()))[1].cancel()
            elif action == "finish" and open_ones:
                chance.choice(open_ones).set_result(None)
            elif action == "fail" and open_ones:
                chance.choice(open_ones).set_exception(RuntimeError("planted"))
            if calm or action == "turn":
                await settle()
            stats = queue.stats()
            assert stats.waiting <= capacity
            assert stats.running <= workers
        await settle()
        closing = asyncio.ensure_future(queue.close(drain_s=10))
        while not closing.done():
            for one in inside.values():
                if not one.done():
                    one.set_result(None)
            await asyncio.sleep(0)
        await closing
        stats = queue.stats()
        assert all(future.done() for _, future in taken.values())
        for number, (_, future) in taken.items():
            if not future.cancelled() and future.exception() is None:
                assert future.result() == number
        outcomes = stats.answered + stats.failed + stats.late + stats.cancelled
        assert (outcomes, stats.refused) == (len(taken), refused)
        assert (stats.waiting, stats.running) == (0, 0)
        # Between two actions of one turn, what was chosen to run has not begun to.
        for number, others in waiting_then.items() if calm else ():
            mine = taken[number][0]
            # Those that waited when it started are not ahead of it.
            assert all((mine, number) < (priority, n) for n, priority in others.items()), others

    run(main)
