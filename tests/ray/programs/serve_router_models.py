"""Callers that ask again and again for models which two replicas share, in simulated time.

Prints as JSON, for each mix of models, how long the requests waited, and how often a model was loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

from serve_router_simulated import (
    Loop,
    Replica,
    ask,
    initialize,
    make_router,
    simulated,
    without_controller,
)

REQUEST_S = 0.1
SLOTS = 4
LONG_S = 6.0
# How many callers ask for which model.
MIXES = {
    "no model": {"": 50},
    "one": {"a": 50},
    "two": {"a": 25, "b": 25},
    "two, skewed": {"a": 45, "b": 5},
    "four": {"a": 13, "b": 13, "c": 12, "d": 12},
    "four, skewed": {"a": 38, "b": 6, "c": 3, "d": 3},
}


class Shared(Replica):
    """A replica with several slots."""

    max_ongoing_requests = SLOTS


async def report(router: Any, replicas: list[Shared]) -> None:
    """Tell the router once a second which models the replicas have, as the controller does."""
    while True:
        await asyncio.sleep(1)
        for replica in replicas:
            replica.multiplexed_model_ids = frozenset(replica.loaded)
        router.request_router.update_replicas(replicas)


async def mix(loop: Loop, callers: dict[str, int]) -> dict[str, Any]:
    """Let callers ask for some time; return the waits, in simulated seconds, and the loads."""
    router = make_router(loop)
    initialize(router)
    replicas = [Shared(loop, seed, REQUEST_S, 0.0005, f"replica {seed}") for seed in (1, 2)]
    router.request_router.update_replicas(replicas)
    reporter = loop.create_task(report(router, replicas))
    numbers = iter(range(1_000_000))
    waits: dict[str, list[float]] = {model: [] for model in callers}

    async def call(model: str) -> None:
        while loop.time() < LONG_S:
            began = loop.time()
            result = await ask(loop, router, next(numbers), model)
            await result.ended
            waits[model].append(loop.time() - began)

    await asyncio.gather(*(call(model) for model, count in callers.items() for _ in range(count)))
    reporter.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reporter
    told = {
        model: {"longest": max(each), "median": sorted(each)[len(each) // 2]}
        for model, each in waits.items()
    }
    served = sum(map(len, waits.values())) / LONG_S
    return {"waits": told, "per second": served, "loads": sum(each.loads for each in replicas)}


def main() -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    without_controller()
    print(json.dumps({name: simulated(mix, callers) for name, callers in MIXES.items()}))


main()
