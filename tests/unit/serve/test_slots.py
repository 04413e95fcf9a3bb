"""Slots of a shared replica: each router in its turn, and no slot lost."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from mantaray.serve import slots
from mantaray.serve.slots import Slots


@pytest.fixture(autouse=True)
def slots_are_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not run for a moment would find them given away."""
    monkeypatch.setattr(slots, "_KEPT_S", 60.0)


class Replica:
    """A replica that counts its requests."""

    def __init__(self, limit: int) -> None:
        self.ongoing = limit
        self.limit = limit
        self.slots = Slots(lambda: self.ongoing, lambda: self.limit)

    def end_one(self) -> None:
        self.ongoing -= 1
        self.slots.freed()

    def asks(self, router: str, longest_s: float = 100.0) -> asyncio.Task[int]:
        return asyncio.ensure_future(self.slots.wait(router, longest_s))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_slot_tells_one_router_in_the_order_of_asking() -> None:
    async def scenario() -> None:
        replica = Replica(1)
        first, second = replica.asks("first"), replica.asks("second")
        await settle()
        replica.end_one()
        await settle()
        assert first.result() == 0
        assert not second.done()
        assert replica.slots.take("first")
        replica.ongoing += 1
        replica.end_one()
        assert await second == 0

    asyncio.run(scenario())


def test_kept_slot_is_not_given_to_who_was_quicker() -> None:
    async def scenario() -> None:
        replica = Replica(1)
        told = replica.asks("slow")
        await settle()
        replica.end_one()
        assert not replica.slots.take("quick")
        assert not replica.slots.take(None)
        await told
        assert replica.slots.take("slow")
        assert replica.slots.kept() == 0

    asyncio.run(scenario())


def test_slot_of_a_router_that_does_not_come_goes_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots, "_KEPT_S", 0.01)

    async def scenario() -> None:
        replica = Replica(1)
        gone, next_one = replica.asks("gone"), replica.asks("next")
        await settle()
        replica.end_one()
        await gone
        assert await asyncio.wait_for(next_one, 60) == 0
        assert replica.slots.take("next")

    asyncio.run(scenario())


def test_cancelled_router_does_not_take_a_slot_with_it() -> None:
    async def scenario() -> None:
        replica = Replica(1)
        early, late, last = (replica.asks(name) for name in ("early", "late", "last"))
        await settle()
        early.cancel()
        await settle()
        replica.end_one()
        # Told already, but it does not know yet.
        late.cancel()
        assert await asyncio.wait_for(last, 60) == 0
        assert replica.slots.take("last")
        assert replica.slots.kept() == 0

    asyncio.run(scenario())


def test_free_slot_is_told_at_once() -> None:
    async def scenario() -> None:
        replica = Replica(2)
        replica.ongoing = 1
        assert await asyncio.wait_for(replica.asks("one"), 60) == 1
        # The only free slot is kept for the first one.
        second = replica.asks("two", longest_s=0.005)
        assert await second == 2

    asyncio.run(scenario())


def test_waiting_ends_after_a_while() -> None:
    async def scenario() -> None:
        replica = Replica(1)
        assert await replica.asks("one", longest_s=0.01) == 1
        assert not replica.slots.take("one")

    asyncio.run(scenario())


def test_raised_limit_is_used() -> None:
    async def scenario() -> None:
        replica = Replica(1)
        waiting = replica.asks("one")
        await settle()
        replica.limit = 2
        replica.slots.freed()
        assert await waiting == 1

    asyncio.run(scenario())


def test_function_in_the_actor_needs_no_mantaray() -> None:
    """It travels by value, and answers where the replica knows nothing of slots."""

    class Bare:
        _replica_impl = object()

    assert slots.wait_for_slot.__module__ == "__main__"
    names = {"getattr", "type", "_replica_impl", "wait"}
    assert set(slots.wait_for_slot.__code__.co_names) == names
    assert inspect.iscoroutinefunction(slots.wait_for_slot)
    assert asyncio.run(slots.wait_for_slot(Bare(), "one", 1.0)) == -1
