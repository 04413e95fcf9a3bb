"""Drives Serve through what its router has to keep: prints what was seen as one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve
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
    """Says which model served."""

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model: str) -> str:
        return model

    async def __call__(self) -> str:
        await asyncio.sleep(0.02)
        return await self.load(serve.get_multiplexed_model_id())


@serve.deployment(num_replicas=4, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})
class Four:
    """Four replicas."""

    async def __call__(self) -> int:
        await asyncio.sleep(0.1)
        return os.getpid()


def custom_router() -> int:
    from ray.serve.config import RequestRouterConfig

    deployment = Four.options(
        name="Custom", request_router_config=RequestRouterConfig(request_router_class=Last)
    )
    handle = serve.run(deployment.bind(), name="custom", route_prefix=None)
    responses = [handle.remote() for _ in range(8)]
    return len({response.result(timeout_s=30) for response in responses})


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


def from_zero() -> int:
    deployment = One.options(
        name="Zero",
        autoscaling_config={"min_replicas": 0, "max_replicas": 1, "initial_replicas": 0},
    )
    handle = serve.run(deployment.bind(), name="zero", route_prefix=None)
    responses = [handle.remote(number) for number in range(5)]
    return sum(response.result(timeout_s=60) for response in responses)


@ray.remote(num_cpus=0)
def elsewhere(count: int, start: float) -> list[int]:
    handle = serve.get_app_handle("one")
    handle.pid.remote().result(timeout_s=30)
    time.sleep(max(start - time.time(), 0))
    responses = [handle.remote(3000 + number) for number in range(count)]
    return [response.result(timeout_s=60) for response in responses]


def idle_looks(handle: Any) -> dict[str, Any]:
    """Count how often the router looks for a replica while one request holds the only slot."""
    from mantaray.serve.routing import Routing, routing_of

    made: list[Any] = []
    original = Routing.__init__

    def remember(self: Any, router: Any) -> None:
        original(self, router)
        made.append(router)

    Routing.__init__ = remember  # type: ignore[method-assign]
    deployment = One.options(name="Idle", max_ongoing_requests=1)
    busy = serve.run(deployment.bind(), name="idle", route_prefix=None)
    long = busy.options(stream=True).count.remote(200)
    next(iter(long))
    waiting = [busy.remote(number) for number in range(10)]
    time.sleep(1)
    router = next(each for each in made if each._deployment_id.name == "Idle")
    choose = type(router).choose_replicas
    looks: list[float] = []

    async def counted(*args: Any, **kwargs: Any) -> Any:
        looks.append(time.monotonic())
        return await choose(router, *args, **kwargs)

    router.choose_replicas = counted
    gauge = router.num_routing_tasks_in_backoff
    waits = routing_of(router).waiters.waiting
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


def main() -> None:
    ray.init(address="local", num_cpus=4, log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    seen: dict[str, Any] = {}
    handle = serve.run(One.bind(), name="one", route_prefix="/one")
    responses = [handle.remote(number) for number in range(20)]
    seen["answers"] = [response.result(timeout_s=30) for response in responses]
    seen["order"] = handle.seen.remote().result(timeout_s=30)
    streams = [handle.options(stream=True).count.remote(5) for _ in range(3)]
    seen["streams"] = [list(stream) for stream in streams]
    with ThreadPoolExecutor(12) as pool:
        seen["http"] = list(pool.map(http, range(12)))
    seen["cancelled"] = cancelled(handle)
    start = time.time() + 4
    other = elsewhere.remote(20, start)
    time.sleep(max(start - time.time(), 0))
    here = [handle.remote(number) for number in range(20)]
    seen["two_routers"] = [[r.result(timeout_s=60) for r in here], ray.get(other, timeout=60)]
    seen["two_routers_order"] = handle.seen.remote().result(timeout_s=30)[-40:]
    batched = serve.run(Batched.bind(), name="batched", route_prefix=None)
    seen["batched"] = [r.result(timeout_s=30) for r in [batched.remote(n) for n in range(12)]]
    models = serve.run(Models.bind(), name="models", route_prefix=None)
    names = [f"m{number % 4}" for number in range(24)]
    asked = [models.options(multiplexed_model_id=name).remote() for name in names]
    seen["models_right"] = [response.result(timeout_s=30) for response in asked] == names
    four = serve.run(Four.bind(), name="four", route_prefix=None)
    seen["four"] = len({r.result(timeout_s=30) for r in [four.remote() for _ in range(24)]})
    seen["custom"] = custom_router()
    seen["from_zero"] = from_zero()
    seen["idle"] = idle_looks(handle)
    seen["killed"] = killed(handle)
    seen["threads"] = threading.active_count() < 200
    serve.shutdown()
    ray.shutdown()
    print(json.dumps(seen))


main()
