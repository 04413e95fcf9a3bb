"""Drives Serve through what its router has to keep: prints what was seen as one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from serve_router_common import remembered
from serve_router_custom import Last

PORT = int(sys.argv[1])


@serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})
class One:
    """One request at a time."""

    def __init__(self) -> None:
        self.order: list[int] = []

    async def __call__(self, request: Any) -> Any:
        if not isinstance(request, int):
            await asyncio.sleep(0.05)
            return "http"
        self.order.append(request)
        await asyncio.sleep(0.05)
        return request

    async def seen(self) -> list[int]:
        return self.order

    async def count(self, upto: int) -> Any:
        for number in range(upto):
            await asyncio.sleep(0.01)
            yield number

    async def pid(self) -> int:
        return os.getpid()


@serve.deployment(max_ongoing_requests=8, ray_actor_options={"num_cpus": 0})
class Batched:
    """Batches of up to four."""

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.2)
    async def __call__(self, numbers: list[int]) -> list[int]:
        return [number * 2 for number in numbers]


@serve.deployment(num_replicas=2, max_ongoing_requests=2, ray_actor_options={"num_cpus": 0})
class Models:
    """Says which model served, and counts how often one was loaded."""

    def __init__(self) -> None:
        self.loads = 0

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model: str) -> str:
        self.loads += 1
        await asyncio.sleep(0.05)
        return model

    async def __call__(self) -> str:
        await asyncio.sleep(0.02)
        return await self.load(serve.get_multiplexed_model_id())

    async def loaded(self) -> tuple[int, int]:
        return os.getpid(), self.loads


@serve.deployment(num_replicas=4, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})
class Four:
    """Four replicas."""

    async def __call__(self) -> int:
        await asyncio.sleep(0.1)
        return os.getpid()


def places(handle: Any, count: int) -> int:
    """Return from how many replicas the answers of many requests come."""
    responses = [handle.remote() for _ in range(count)]
    return len({response.result(timeout_s=30) for response in responses})


def burst(handle: Any) -> tuple[bool, int]:
    """Ask for four models, which have room on two replicas; return whether all is right, and the loads."""
    before = loads(handle)
    names = [f"m{number % 4}" for number in range(24)]
    asked = [handle.options(multiplexed_model_id=name).remote() for name in names]
    right = [response.result(timeout_s=30) for response in asked] == names
    return right, loads(handle) - before


def loads(handle: Any) -> int:
    """Return how often the two replicas have loaded a model."""
    seen: dict[int, int] = {}
    while len(seen) < 2:
        seen.update([handle.loaded.remote().result(timeout_s=30)])
    return sum(seen.values())


def cancelled(handle: Any) -> bool:
    """Cancel requests that wait; those behind them are answered."""
    responses = [handle.remote(1000 + number) for number in range(8)]
    for response in responses[2:6]:
        response.cancel()
    kept = [responses[i].result(timeout_s=30) for i in (0, 1, 6, 7)]
    return kept == [1000, 1001, 1006, 1007]


def http(number: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/one", timeout=60) as answer:
        return str(answer.read().decode())


def killed(handle: Any) -> dict[str, int]:
    """Kill the replica while requests queue: those that wait are answered by the next one."""
    pid = handle.pid.remote().result(timeout_s=30)
    responses = [handle.remote(2000 + number) for number in range(20)]
    time.sleep(0.2)
    os.kill(pid, 9)
    answered = failed = 0
    for response in responses:
        try:
            response.result(timeout_s=60)
            answered += 1
        except ray.exceptions.RayActorError:
            failed += 1
    return {"answered": answered, "failed": failed}


@ray.remote(num_cpus=0)
class Elsewhere:
    """Another process with a router of its own."""

    def __init__(self) -> None:
        self._handle = serve.get_app_handle("one")
        self._handle.pid.remote().result(timeout_s=30)
        self._responses: list[Any] = []

    def send(self, count: int) -> None:
        self._responses = [self._handle.remote(3000 + number) for number in range(count)]

    def answers(self) -> list[int]:
        return [response.result(timeout_s=60) for response in self._responses]


def idle_looks(busy: Any, made: list[Any]) -> dict[str, Any]:
    """Count how often the router looks for a replica while one request holds the only slot."""
    long = busy.options(stream=True).count.remote(200)
    next(iter(long))
    waiting = [busy.remote(number) for number in range(10)]
    time.sleep(1)
    routing = next(each for each in made if each.router._deployment_id.name == "Zero")
    router = routing.router
    choose = type(router).choose_replicas
    looks: list[float] = []

    async def counted(*args: Any, **kwargs: Any) -> Any:
        looks.append(time.monotonic())
        return await choose(router, *args, **kwargs)

    router.choose_replicas = counted
    gauge = router.num_routing_tasks_in_backoff
    waits = routing.waiters.waiting
    time.sleep(0.8)
    seen = len(looks)
    done = [response.result(timeout_s=30) for response in waiting]
    time.sleep(1.0)
    return {
        "looks": seen,
        "gauge_and_waits": [gauge, waits],
        "gauge_at_the_end": router.num_routing_tasks_in_backoff,
        "done": done,
    }


def deploy() -> list[Any]:
    """Start all applications together; return their handles."""
    config = RequestRouterConfig(request_router_class=Last)
    scaling = {"min_replicas": 0, "max_replicas": 1, "initial_replicas": 0}
    applications = {
        "one": One,
        "batched": Batched,
        "models": Models,
        "four": Four,
        "custom": Four.options(name="Custom", num_replicas=2, request_router_config=config),
        "zero": One.options(name="Zero", autoscaling_config=scaling),
    }
    return serve.run_many(
        [
            serve.RunTarget(each.bind(), name=name, route_prefix="/one" if name == "one" else None)
            for name, each in applications.items()
        ]
    )


def main() -> None:
    ray.init(address="local", num_cpus=4, log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    seen: dict[str, Any] = {}
    made = remembered()
    handle, batched, models, four, custom, zero = deploy()
    responses = [handle.remote(number) for number in range(20)]
    seen["answers"] = [response.result(timeout_s=30) for response in responses]
    seen["order"] = handle.seen.remote().result(timeout_s=30)
    streams = [handle.options(stream=True).count.remote(5) for _ in range(3)]
    seen["streams"] = [list(stream) for stream in streams]
    with ThreadPoolExecutor(12) as pool:
        seen["http"] = list(pool.map(http, range(12)))
    seen["cancelled"] = cancelled(handle)
    other = Elsewhere.remote()
    ray.get(other.__ray_ready__.remote(), timeout=60)
    ray.get(other.send.remote(20), timeout=60)
    here = [handle.remote(number) for number in range(20)]
    there = other.answers.remote()
    seen["two_routers"] = [[r.result(timeout_s=60) for r in here], ray.get(there, timeout=60)]
    seen["two_routers_order"] = handle.seen.remote().result(timeout_s=30)[-40:]
    seen["batched"] = [r.result(timeout_s=30) for r in [batched.remote(n) for n in range(12)]]
    seen["models"] = [burst(models)]
    seen["four"] = places(four, 24)
    seen["custom"] = places(custom, 8)
    waiting = [zero.remote(number) for number in range(5)]
    seen["from_zero"] = sum(response.result(timeout_s=60) for response in waiting)
    seen["idle"] = idle_looks(zero, made)
    # By now the replicas have told the controller, and that the routers, which models they hold.
    seen["models"].append(burst(models))
    seen["killed"] = killed(handle)
    serve.shutdown()
    ray.shutdown()
    print(json.dumps(seen))


main()
