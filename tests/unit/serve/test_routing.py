"""What a router takes to be free while answers of a replica are on their way."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from mantaray.serve.routing import Routing

REPLICA = SimpleNamespace(replica_id="one", max_ongoing_requests=1)
ROOMY = SimpleNamespace(replica_id="one", max_ongoing_requests=4)


def routing_to(replica: Any) -> Routing:
    """Return what is kept for a router with one replica; it asks nobody by itself."""
    lengths: dict[Any, int] = {}
    cache = SimpleNamespace(get=lengths.get, update=lengths.__setitem__)
    router = SimpleNamespace(
        _replicas={replica.replica_id: replica},
        _replica_queue_len_cache=cache,
        _use_replica_queue_len_cache=True,
        _routing_tasks=set(),
    )
    return Routing(router)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def sent_and_turned_away(routing: Routing, replica: Any, answer: asyncio.Event) -> None:
    """Do what the task of a request does."""
    routing.choose(replica.replica_id)
    routing.sent(asyncio.current_task(), replica.replica_id)
    await answer.wait()
    routing.answer(replica.replica_id, 1)


def test_free_slot_is_kept_for_a_request_that_may_have_been_turned_away() -> None:
    async def scenario() -> None:
        routing, answer = routing_to(REPLICA), asyncio.Event()
        request = asyncio.ensure_future(sent_and_turned_away(routing, REPLICA, answer))
        await settle()
        heard = asyncio.ensure_future(routing.probed([(REPLICA, 0)], Counter(routing.chosen)))
        await settle()
        # The replica is free, as it says; another request would overtake the one it turned away.
        assert not heard.done()
        assert routing._cached("one") == 1
        answer.set()
        await request
        assert await heard == [(REPLICA, 0)]
        assert routing._cached("one") == 0

    asyncio.run(scenario())


def test_late_word_of_an_earlier_request_does_not_free_the_slot_of_one_that_was_just_sent() -> None:
    async def scenario() -> None:
        routing, answer = routing_to(REPLICA), asyncio.Event()
        request = asyncio.ensure_future(sent_and_turned_away(routing, REPLICA, answer))
        await settle()
        routing.uncount("one")
        routing.completed("one")
        assert routing._cached("one") == 1
        answer.set()
        await request

    asyncio.run(scenario())


def test_slot_is_not_lost_when_a_request_ends_without_an_answer() -> None:
    async def scenario() -> None:
        routing = routing_to(REPLICA)
        request = asyncio.ensure_future(sent_and_turned_away(routing, REPLICA, asyncio.Event()))
        await settle()
        heard = asyncio.ensure_future(routing.probed([(REPLICA, 0)], Counter(routing.chosen)))
        await settle()
        request.cancel()
        assert await heard == [(REPLICA, 0)]

    asyncio.run(scenario())


def test_replica_with_several_slots_waits_for_no_answer() -> None:
    async def scenario() -> None:
        routing, answer = routing_to(ROOMY), asyncio.Event()
        request = asyncio.ensure_future(sent_and_turned_away(routing, ROOMY, answer))
        await settle()
        assert await routing.probed([(ROOMY, 3)], Counter(routing.chosen)) == [(ROOMY, 3)]
        answer.set()
        await request

    asyncio.run(scenario())
