"""Shows in which order a replica with one slot serves the requests of a router; prints it as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from serve_router_simulated import (
    Loop,
    Replica,
    Result,
    ask,
    initialize,
    make_router,
    simulated,
    without_controller,
)

COUNT = 40


async def burst(loop: Loop, seed: int, request_s: float, delay_s: float) -> dict[str, Any]:
    """Send all requests at once; return in which order they were served, and the time over the ideal."""
    router = make_router(loop)
    initialize(router)
    replica = Replica(loop, seed, request_s, delay_s)
    router.request_router.update_replicas([replica])
    asked = [ask(loop, router, number) for number in range(COUNT)]
    results = [await task for task in asked]
    await asyncio.wait([result.ended for result in results])
    return {"served": replica.served, "over_ideal": loop.time() / (request_s * COUNT)}


async def latecomer(loop: Loop) -> list[int]:
    """Send a request in the moment in which the router that others wait for gets ready."""
    router = make_router(loop)
    came: list[int] = []

    async def route(request: Any, *args: Any) -> Any:
        came.append(request.args[0])
        return Result(loop), Replica.replica_id

    router.route_and_send_request = route
    asked = [ask(loop, router, number) for number in range(4)]
    await asyncio.sleep(0.001)
    loop.call_soon(initialize, router)
    asked += [ask(loop, router, number) for number in (4, 5)]
    await asyncio.wait(asked)
    asked.append(ask(loop, router, 6))
    await asyncio.wait(asked)
    return came


def main() -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    without_controller()
    scenarios = {"short": (0.001, 0.0002), "usual": (0.05, 0.0002), "slow machine": (0.01, 0.002)}
    told: dict[str, Any] = {
        name: [simulated(burst, seed, *times) for seed in range(20)]
        for name, times in scenarios.items()
    }
    told["latecomer"] = simulated(latecomer)
    print(json.dumps(told))


main()
