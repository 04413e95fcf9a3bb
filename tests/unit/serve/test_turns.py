"""An event that keeps the order of those who wait for it."""

from __future__ import annotations

import asyncio

from mantaray.serve.turns import EventInOrder


async def come(event: EventInOrder, came: list[int], number: int) -> None:
    """Wait for the event, and then be the next in the list."""
    await event.wait()
    came.append(number)


def test_latecomer_goes_behind_those_who_were_woken_before_it() -> None:
    async def scenario() -> None:
        event, came = EventInOrder(), list[int]()
        first = [asyncio.ensure_future(come(event, came, number)) for number in range(3)]
        await asyncio.sleep(0)
        event.set()
        # These run before the event loop gets to those above.
        for number in (3, 4):
            first.append(asyncio.ensure_future(come(event, came, number)))
        await asyncio.gather(*first)
        assert came == list(range(5))

    asyncio.run(scenario())


def test_latecomer_in_the_same_turn_of_the_loop_goes_behind_too() -> None:
    async def scenario() -> None:
        event, came = EventInOrder(), list[int]()
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(come(event, came, number)) for number in range(3)]
        await asyncio.sleep(0)
        loop.call_soon(event.set)
        tasks += [asyncio.ensure_future(come(event, came, number)) for number in (3, 4)]
        loop.call_soon(lambda: tasks.append(asyncio.ensure_future(come(event, came, 5))))
        await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        assert came == list(range(6))

    asyncio.run(scenario())


def test_cancelled_waiter_holds_nobody_up() -> None:
    async def scenario() -> None:
        event = EventInOrder()
        waiter = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)
        event.set()
        waiter.cancel()
        await asyncio.sleep(0)
        assert waiter.cancelled()
        later = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)
        assert later.done()

    asyncio.run(scenario())


def test_nobody_waits_once_all_have_gone() -> None:
    async def scenario() -> None:
        event = EventInOrder()
        event.set()
        for _ in range(2):
            task = asyncio.ensure_future(event.wait())
            await asyncio.sleep(0)
            assert task.done()

    asyncio.run(scenario())
