"""Serve with requests over gRPC instead of actor calls; prints what was answered, as JSON.

The mode comes with Ray's variables: RAY_SERVE_USE_GRPC_BY_DEFAULT or RAY_SERVE_THROUGHPUT_OPTIMIZED.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import ray
from ray import serve

PORT = int(sys.argv[1])


class Work:
    """What the replicas do."""

    async def __call__(self, number: int) -> int:
        await asyncio.sleep(0.05)
        return number

    async def count(self, upto: int) -> Any:
        for number in range(upto):
            await asyncio.sleep(0.01)
            yield number

    async def fail(self) -> None:
        raise ValueError("a failure of the user's code")

    async def pid(self) -> int:
        return os.getpid()


# One request at a time.
One = serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})(Work)


async def failing(handle: Any, count: int) -> dict[str, int]:
    """Let the user's code fail; return how many requests failed, and what is answered after that."""
    failed = 0
    for each in [handle.fail.remote() for _ in range(count)]:
        try:
            await asyncio.wait_for(each, 60)
        except ValueError:
            failed += 1
    return {"failed": failed, **await burst(handle, 5)}


async def burst(handle: Any, count: int) -> dict[str, Any]:
    """Send requests at once; return how many were answered, and how long all took, in seconds."""
    began = time.monotonic()
    asked = [handle.remote(number) for number in range(count)]
    answers = [await asyncio.wait_for(each, 60) for each in asked]
    return {"answered": len(set(answers)), "seconds": round(time.monotonic() - began, 2)}


async def killed(handle: Any) -> dict[str, int]:
    """Kill one of two replicas while requests queue."""
    pid = await asyncio.wait_for(handle.pid.remote(), 30)
    asked = [asyncio.ensure_future(_answer(handle, number)) for number in range(30)]
    await asyncio.sleep(0.2)
    os.kill(pid, 9)
    counts = {"answered": 0, "failed": 0, "hanging": 0}
    for each in asked:
        try:
            await asyncio.wait_for(each, 60)
            counts["answered"] += 1
        except asyncio.TimeoutError:
            counts["hanging"] += 1
        except Exception:
            counts["failed"] += 1
    return counts


async def _answer(handle: Any, number: int) -> Any:
    return await handle.remote(number)


async def ask(one: Any, two: Any, roomy: Any, zero: Any) -> dict[str, Any]:
    """Send all requests, from within an event loop: the throughput mode routes in the caller's."""
    seen: dict[str, Any] = {"one": await burst(one, 20), "roomy": await burst(roomy, 80)}
    streams = [one.options(stream=True).count.remote(5) for _ in range(3)]
    seen["streams"] = []
    for stream in streams:
        seen["streams"].append([number async for number in stream])
    seen["failing"] = await failing(one, 10)
    seen["killed"] = await killed(two)
    seen["after the kill"] = (await burst(two, 10))["answered"]
    seen["zero"] = [(await burst(zero, 5))["answered"]]
    deadline = time.monotonic() + 60
    while serve.status().applications["zero"].deployments["Zero"].replica_states:
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    seen["is zero again"] = time.monotonic() < deadline
    seen["zero"].append((await burst(zero, 5))["answered"])
    # It closes the handles in their event loop.
    await serve.shutdown_async()
    return seen


def main() -> None:
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    scaling = {
        "min_replicas": 0,
        "max_replicas": 1,
        "initial_replicas": 0,
        "downscale_delay_s": 1,
        "downscale_to_zero_delay_s": 1,
        "look_back_period_s": 1,
        "metrics_interval_s": 0.5,
    }
    one, two, roomy, zero = (
        serve.run(app.bind(), name=name, route_prefix=None)
        for name, app in {
            "one": One,
            "two": One.options(name="Two", num_replicas=2),
            "roomy": One.options(name="Roomy", max_ongoing_requests=8),
            "zero": One.options(name="Zero", autoscaling_config=scaling),
        }.items()
    )
    from ray.serve._private.constants import RAY_SERVE_USE_GRPC_BY_DEFAULT

    seen = asyncio.run(ask(one, two, roomy, zero))
    seen["over gRPC"] = RAY_SERVE_USE_GRPC_BY_DEFAULT
    ray.shutdown()
    print(json.dumps(seen))


main()
