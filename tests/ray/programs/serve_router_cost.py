"""What a request costs one of Ray's routers, in processor time; replicas and calls in simulated time.

Prints as JSON, for each number of replicas, microseconds of processor time a request and requests a
simulated second. Simulated time makes the machine's other work harmless. The simulation itself costs the
same with and without Mantaray.

Argument: how many requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
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

REQUESTS = int(sys.argv[1])
REPLICAS = (1, 8, 64)
REQUEST_S = 0.01
DELAY_S = 0.0005
# Callers for each replica: fewer than it has slots, so that none ever waits, and more.
LOADS = {"slots are free": 8, "slots are short": 24}


class Roomy(Replica):
    """A replica with several slots."""

    max_ongoing_requests = 16


async def measure(loop: Loop, count: int, callers: int) -> dict[str, float]:
    """Send requests from so many callers a replica; return what one cost, and the requests a second."""
    router = make_router(loop)
    initialize(router)
    replicas = [Roomy(loop, seed, REQUEST_S, DELAY_S, f"replica {seed}") for seed in range(count)]
    router.request_router.update_replicas(replicas)
    left = iter(range(REQUESTS))

    async def call() -> None:
        for number in left:
            result = await ask(loop, router, number)
            await result.ended

    began_s, cpu_s = loop.time(), time.process_time()
    await asyncio.gather(*(call() for _ in range(callers * count)))
    cpu_s = time.process_time() - cpu_s
    return {"cpu_us": cpu_s / REQUESTS * 1e6, "per_second": REQUESTS / (loop.time() - began_s)}


def main() -> None:
    """Measure and print."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    without_controller()
    told: dict[str, Any] = {}
    for count in REPLICAS:
        for load, callers in LOADS.items():
            told[f"{count} replicas, {load}"] = simulated(measure, count, callers)
    print(json.dumps(told))


main()
