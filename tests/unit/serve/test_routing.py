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
    cache = SimpleNamespace(get=lengths.get, update=lengths.__setitem__, invalidate_key=lengths.pop)
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
    routing.accounts.choose(replica.replica_id)
    routing.accounts.sent(asyncio.current_task(), replica.replica_id)
    await answer.wait()
    routing.answer(asyncio.current_task(), replica.replica_id, 1, None)


def test_free_slot_is_kept_for_a_request_that_may_have_been_turned_away() -> None:
    async def scenario() -> None:
        routing, answer = routing_to(REPLICA), asyncio.Event()
        request = asyncio.ensure_future(sent_and_turned_away(routing, REPLICA, answer))
        await settle()
        before = Counter(routing.accounts.chosen)
        heard = asyncio.ensure_future(routing.probed([(REPLICA, 0)], before))
        await settle()
        # The replica is free, as it says; another request would overtake the one it turned away.
        assert not heard.done()
        assert routing.accounts.cached("one") == 1
        answer.set()
        await request
        assert await heard == [(REPLICA, 0)]
        assert routing.accounts.cached("one") == 0

    asyncio.run(scenario())


def test_late_word_of_an_earlier_request_does_not_free_the_slot_of_one_that_was_just_sent() -> None:
    async def scenario() -> None:
        routing, answer = routing_to(REPLICA), asyncio.Event()
        request = asyncio.ensure_future(sent_and_turned_away(routing, REPLICA, answer))
        await settle()
        routing.accounts.uncount("one")
        routing.completed("one")
        assert routing.accounts.cached("one") == 1
        answer.set()
        await request

    asyncio.run(scenario())


def test_word_of_a_free_slot_does_not_free_one_that_was_just_given_away() -> None:
    async def scenario() -> None:
        routing = routing_to(REPLICA)
        # A routing task has decided; the task of the request has not run yet.
        routing.accounts.choose("one")
        routing._heard("one", 0)
        assert routing.accounts.cached("one") == 1
        routing.answer(None, "one", 0, None)
        assert routing.accounts.cached("one") == 1

    asyncio.run(scenario())


def test_slot_is_not_lost_when_a_request_ends_without_an_answer() -> None:
    async def scenario() -> None:
        routing = routing_to(REPLICA)
        request = asyncio.ensure_future(sent_and_turned_away(routing, REPLICA, asyncio.Event()))
        await settle()
        before = Counter(routing.accounts.chosen)
        heard = asyncio.ensure_future(routing.probed([(REPLICA, 0)], before))
        await settle()
        request.cancel()
        assert await heard == [(REPLICA, 0)]

    asyncio.run(scenario())


def test_replica_with_several_slots_waits_for_no_answer() -> None:
    async def scenario() -> None:
        routing, answer = routing_to(ROOMY), asyncio.Event()
        request = asyncio.ensure_future(sent_and_turned_away(routing, ROOMY, answer))
        await settle()
        before = Counter(routing.accounts.chosen)
        assert await routing.probed([(ROOMY, 3)], before) == [(ROOMY, 3)]
        answer.set()
        await request

    asyncio.run(scenario())


def test_queue_length_that_comes_with_a_late_result_does_not_replace_what_is_known() -> None:
    async def scenario() -> None:
        routing = routing_to(ROOMY)
        accounts = routing.accounts
        for _ in range(3):
            accounts.choose("one")
        accounts.sent(asyncio.current_task(), "one", late=True)
        # As old as the request: the two that were sent later are not in it.
        accounts.set_cache("one", 1)
        routing.answer(asyncio.current_task(), "one", 1, before=3)
        routing.accepted_late("one")
        assert accounts.cached("one") == 3

    asyncio.run(scenario())


def test_reservations_that_are_given_up_in_one_long_task_do_not_count_as_running() -> None:
    async def scenario() -> None:
        routing = routing_to(REPLICA)
        for _ in range(5):
            routing.accounts.choose("one")
            routing.accounts.sent(asyncio.current_task(), "one")
            routing.answer(asyncio.current_task(), "one", 1, None)
            assert routing.accounts.known("one") == 1
            routing.released("one")
        assert routing.accounts.known("one") == 0

    asyncio.run(scenario())


def test_request_that_is_sent_without_asking_counts_until_its_result_is_here() -> None:
    async def request(routing: Routing) -> None:
        routing.accounts.choose("one")
        routing.accounts.sent(asyncio.current_task(), "one")

    async def scenario() -> None:
        routing = routing_to(ROOMY)
        await asyncio.create_task(request(routing))
        await settle()
        assert routing.accounts.known("one") == 1
        routing.completed("one")
        assert routing.accounts.known("one") == 0

    asyncio.run(scenario())


def test_failed_request_does_not_count_as_a_free_slot_of_a_dead_replica() -> None:
    async def scenario() -> None:
        routing = routing_to(REPLICA)
        routing.accounts.choose("one")
        routing.accounts.sent(asyncio.current_task(), "one")
        routing.failed("one")
        routing.accounts.uncount("one")
        routing.completed("one")
        # Not known: whoever wants to send a request there asks first.
        assert routing.accounts.cached("one") is None

    asyncio.run(scenario())
