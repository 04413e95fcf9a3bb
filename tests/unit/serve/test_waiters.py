"""Waiters and the backoff: no wake is lost, none wakes two, nothing spins or overflows."""

from __future__ import annotations

import asyncio
import math

import pytest
from mantaray.serve.backoff import FLOOR_S, Backoff
from mantaray.serve.waiters import Waiters, Wake
from mantaray.settings import SettingError

LONG_S = 120.0


async def _start(waiters: Waiters, order: float, timeout_s: float = LONG_S) -> asyncio.Task[object]:
    waiters.enter()
    task: asyncio.Task[object] = asyncio.ensure_future(
        waiters.wait(f"waiter {order}", order, timeout_s)
    )
    await asyncio.sleep(0)
    return task


def test_one_slot_wakes_the_oldest_and_nobody_else() -> None:
    async def run() -> None:
        waiters = Waiters()
        tasks = [await _start(waiters, order) for order in (3, 1, 2)]
        waiters.wake("replica")
        await asyncio.sleep(0)
        assert [task.done() for task in tasks] == [False, True, False]
        assert waiters.waiting == 2
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_wake_is_handed_on_to_each_waiter_once() -> None:
    async def run() -> None:
        waiters = Waiters()
        tasks = [await _start(waiters, order) for order in (1, 2)]
        wake = Wake("replica")
        assert waiters.hand_on(wake)
        assert waiters.hand_on(wake)
        assert await tasks[0] is wake
        assert await tasks[1] is wake
        # Both look again, and both have had it.
        again = asyncio.ensure_future(waiters.wait("waiter 1", 1, LONG_S))
        waiters.hand_on(wake)
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()

    asyncio.run(run())


def test_wake_is_not_lost_when_its_waiter_is_cancelled_in_that_moment() -> None:
    async def run() -> None:
        waiters = Waiters()
        first, second = [await _start(waiters, order) for order in (1, 2)]
        waiters.wake("replica")
        first.cancel()
        wake = await asyncio.wait_for(second, 60)
        assert isinstance(wake, Wake)

    asyncio.run(run())


def test_wake_that_comes_while_a_task_looks_is_kept_for_it() -> None:
    async def run() -> None:
        waiters = Waiters()
        waiters.enter()
        waiters.wake("replica")
        assert await waiters.wait("a", 1, LONG_S) is not None
        waiters.leave()
        # Nobody is left: it is not kept for whoever comes much later.
        waiters.wake("replica")
        waiters.enter()
        assert await waiters.wait("b", 1, 0.01) is None

    asyncio.run(run())


def test_nothing_stays_behind_when_the_time_is_over() -> None:
    async def run() -> None:
        waiters = Waiters()
        task = await _start(waiters, 1, 0.01)
        assert await task is None
        assert waiters.waiting == 0

    asyncio.run(run())


@pytest.mark.parametrize("attempt", [0, 10, 1_100, 10**6])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 1.5, 2.0, 1e300])
def test_backoff_never_overflows_and_never_spins(attempt: int, multiplier: float) -> None:
    backoff = Backoff(0.025, multiplier, 0.5, 1.0)
    wait_s = backoff.jittered_s(backoff.base_s(attempt))
    assert FLOOR_S <= wait_s <= 0.5
    assert math.isfinite(wait_s)


def test_backoff_grows_as_upstream_states() -> None:
    backoff = Backoff.default()
    waits = [backoff.jittered_s(backoff.base_s(attempt)) for attempt in range(6)]
    assert waits == [0.025, 0.05, 0.1, 0.2, 0.4, 0.5]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S", "0"),
        ("RAY_SERVE_ROUTER_RETRY_BACKOFF_MULTIPLIER", "two"),
        ("RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S", "inf"),
        ("MANTARAY_SERVE_BACKOFF_JITTER", "1.1"),
        ("MANTARAY_SERVE_BACKOFF_JITTER", "nan"),
    ],
)
def test_bad_knob_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name):
        Backoff.read({name: value})


def test_jitter_of_zero_and_one_are_allowed() -> None:
    assert Backoff.read({"MANTARAY_SERVE_BACKOFF_JITTER": "0"}).jitter == 0
    assert Backoff.read({"MANTARAY_SERVE_BACKOFF_JITTER": "1"}).jitter == 1
