"""Sends requests to Serve as fast as it takes them; prints requests per second as JSON.

Arguments: numbers of replicas, "1,8".
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time
from typing import Any

import aiohttp
import ray
from ray import serve

REPLICAS = [int(count) for count in sys.argv[1].split(",")]
CALLERS = 32
SECONDS = 3.0
ROUNDS = 3


@serve.deployment(max_ongoing_requests=16, ray_actor_options={"num_cpus": 0})
class Echo:
    """Answers at once."""

    async def __call__(self, request: Any) -> str:
        return "answer"


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Callers:
    """Asks through a handle from within Serve, as composed applications do."""

    def __init__(self, echo: Any) -> None:
        """Take the handle."""
        self._echo = echo

    async def measure(self) -> float:
        async def ask() -> None:
            await self._echo.remote(1)

        return await per_second(ask)


async def per_second(ask: Any) -> float:
    """Return how many requests per second some callers get answered."""
    await ask()
    ends = time.monotonic() + SECONDS
    counts = [0] * CALLERS

    async def call(number: int) -> None:
        while time.monotonic() < ends:
            await ask()
            counts[number] += 1

    await asyncio.gather(*(call(number) for number in range(CALLERS)))
    return sum(counts) / SECONDS


async def http(url: str) -> float:
    """Return the same through the proxy."""
    async with aiohttp.ClientSession() as session:

        async def ask() -> None:
            async with session.get(url) as answer:
                assert await answer.text() == "answer"

        return await per_second(ask)


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    told: dict[str, dict[str, float]] = {}
    for replicas in REPLICAS:
        echo = Echo.options(num_replicas=replicas)  # type: ignore[attr-defined]
        serve.run(echo.bind(), name="echo", route_prefix="/echo")
        app = Callers.bind(echo.bind())  # type: ignore[attr-defined]
        callers = serve.run(app, name="callers", route_prefix="/callers")
        url = f"http://127.0.0.1:{port}/echo"
        handles = [callers.measure.remote().result(timeout_s=120) for _ in range(ROUNDS)]
        https = [asyncio.run(http(url)) for _ in range(ROUNDS)]
        told[f"handle, {replicas} replicas"] = {"per_second": statistics.median(handles)}
        told[f"HTTP, {replicas} replicas"] = {"per_second": statistics.median(https)}
    serve.shutdown()
    ray.shutdown()
    print(json.dumps(told))


main()
