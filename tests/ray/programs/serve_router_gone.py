"""Requests that are cancelled, replicas that go, and slots that are given up, in simulated time.

Prints as JSON what became of the requests that stay, with the routers of Ray and one of a user's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from typing import Any

from ray.serve._private.request_router.request_router import FIFOMixin, RequestRouter
from serve_router_simulated import (
    Loop,
    Replica,
    ask,
    initialize,
    make_router,
    pending,
    simulated,
    without_controller,
)

COUNT = 30
# Of simulated time. All that is answered is answered long before.
LONGEST_S = 60


class Unordered(RequestRouter):  # type: ignore[misc]
    """A router of a user's that takes any replica and does not keep the order."""

    async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
        return [[random.choice(candidate_replicas)]]


class InOrder(FIFOMixin, Unordered):  # type: ignore[misc]
    """The same, in order."""


def three(loop: Loop) -> list[Replica]:
    return [Replica(loop, seed, 0.1, 0.0002, f"replica {seed}") for seed in range(3)]


async def answered(tasks: list[asyncio.Task[Any]]) -> int:
    """Return how many requests were answered in the end."""
    done, left = await asyncio.wait(tasks, timeout=LONGEST_S)
    for task in left:
        task.cancel()
    return sum(not task.cancelled() and task.exception() is None for task in done)


async def replicas_go(loop: Loop, cls: Any) -> int:
    """Take two of three replicas away while requests wait."""
    router = make_router(loop)
    initialize(router, cls)
    replicas = three(loop)
    router.request_router.update_replicas(replicas)
    asked = [ask(loop, router, number) for number in range(COUNT)]
    await asyncio.sleep(0.15)
    router.request_router.update_replicas(replicas[:1])
    return await answered(asked)


async def requests_go(loop: Loop, cls: Any) -> int:
    """Cancel all but every third request while they wait."""
    router = make_router(loop)
    initialize(router, cls)
    router.request_router.update_replicas(three(loop))
    asked = [ask(loop, router, number) for number in range(COUNT)]
    for turn in range(COUNT):
        await asyncio.sleep(0.01)
        if turn % 3:
            asked[turn].cancel()
    return await answered(asked[::3])


async def replica_dies(loop: Loop) -> int:
    """Ask for a model whose replica is dead, before the controller knows."""
    router = make_router(loop)
    initialize(router)
    replicas = three(loop)
    replicas[0].multiplexed_model_ids = frozenset(("m",))
    router.request_router.update_replicas(replicas)
    await asyncio.sleep(0.1)
    router.request_router.on_replica_actor_died(replicas[0].replica_id)
    return await answered([ask(loop, router, number, "m") for number in range(COUNT)])


async def reservations(loop: Loop) -> Any:
    """Reserve a slot and give it up, again and again, in one task; what then counts as running."""
    router = make_router(loop)
    if not hasattr(router, "choose_replica"):
        return None
    initialize(router)
    replica = Replica(loop, 1, 0.1, 0.0002)
    replica._replica_info = None  # type: ignore[attr-defined]
    router.request_router.update_replicas([replica])
    for number in range(10):
        token, _ = await _reserved(router, replica, number)
        await router._release_slot_and_refresh_cache(_Selection(replica, token), replica)
    routing = vars(router.request_router).get("_mantaray_routing")
    left = None if routing is None else routing.accounts.known(replica.replica_id)
    return {"left": left, "answered": await answered([ask(loop, router, 100)])}


async def _reserved(router: Any, replica: Replica, number: int) -> tuple[str, Any]:
    chosen, token = await router._pick_and_reserve_replica(pending(number))
    assert chosen is replica
    return token, chosen


class _Selection:
    """What Ray keeps for a slot that it has reserved."""

    _dispatched = False

    def __init__(self, replica: Replica, token: str) -> None:
        """Take what a release needs."""
        self._replica = replica
        self._slot_token = token

    async def _release_slot(self, *, force: bool = False) -> int:
        return await self._replica.release_slot(self._slot_token)


def main() -> None:
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    without_controller()
    told: dict[str, Any] = {}
    for cls in (Unordered, InOrder):
        told[f"replicas go, {cls.__name__}"] = simulated(replicas_go, cls)
        told[f"requests go, {cls.__name__}"] = simulated(requests_go, cls)
    told["replica dies"] = simulated(replica_dies)
    told["reservations"] = simulated(reservations)
    print(json.dumps(told))


main()
