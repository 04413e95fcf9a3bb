"""One arm of `serve_router.py`: runs the scenarios in a cluster of its own, prints JSON."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve

Stamp = tuple[int, float, float]


@serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})
class Sleeper:
    """Sleeps as long as it is told; says which process it was, when it began and ended."""

    async def __call__(self, request: Any) -> Any:
        http = not isinstance(request, float)
        began = time.time()
        await asyncio.sleep(float(request.query_params["s"]) if http else request)
        return [os.getpid(), began, time.time()]

    async def pid(self) -> int:
        return os.getpid()


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def sender(count: int, seconds: float, start: float) -> list[Stamp]:
    """Another process with a handle of its own."""
    handle = serve.get_app_handle("app")
    handle.remote(0.001).result()
    time.sleep(max(start - time.time(), 0))
    return send(handle, count, seconds)


def send(handle: Any, count: int, seconds: float) -> list[Stamp]:
    responses = [handle.remote(seconds) for _ in range(count)]
    return [tuple(response.result()) for response in responses]


def figures(stamps: list[Stamp], began: float, ideal_s: float) -> dict[str, float]:
    """Return the time over ideal, and the waits between two requests on one replica."""
    waits = []
    by_replica: dict[int, list[Stamp]] = {}
    for stamp in stamps:
        by_replica.setdefault(stamp[0], []).append(stamp)
    for served in by_replica.values():
        served.sort(key=lambda stamp: stamp[1])
        waits += [max(b[1] - a[2], 0) * 1e3 for a, b in itertools.pairwise(served)]
    cuts = statistics.quantiles(waits, n=100) if len(waits) > 1 else [0.0] * 99
    return {
        "over_ideal": (time.time() - began) / ideal_s,
        "p50_ms": cuts[49],
        "p99_ms": min(cuts[98], max(waits, default=0.0)),
    }


def deploy(**options: Any) -> Any:
    deployment: Any = Sleeper
    handle = serve.run(deployment.options(**options).bind(), name="app", route_prefix="/")
    if "autoscaling_config" not in options:
        send(handle, options.get("num_replicas", 1), 0.001)
    return handle


def one_replica(count: int, seconds: float) -> dict[str, float]:
    handle = deploy()
    began = time.time()
    return figures(send(handle, count, seconds), began, count * seconds)


def four_replicas() -> dict[str, float]:
    handle = deploy(num_replicas=4)
    began = time.time()
    return figures(send(handle, 80, 0.1), began, 20 * 0.1)


def two_routers() -> dict[str, float]:
    deploy()
    start = time.time() + 5
    refs = [sender.remote(15, 0.1, start) for _ in range(2)]
    answers = ray.get(refs)
    told = figures([stamp for each in answers for stamp in each], start, 30 * 0.1)
    # Of the first half of all requests: those of the router that got fewer, over an even share.
    half = sorted(stamp[1] for each in answers for stamp in each)[14]
    told["fair"] = min(sum(stamp[1] <= half for stamp in each) for each in answers) / 7
    return told


def over_http(port: int) -> dict[str, float]:
    deploy()

    def get(_: int) -> Stamp:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?s=0.1", timeout=60) as answer:
            return tuple(json.loads(answer.read()))

    get(0)
    began = time.time()
    with ThreadPoolExecutor(30) as pool:
        return figures(list(pool.map(get, range(30))), began, 30 * 0.1)


def from_zero() -> dict[str, float]:
    """Counted from the start of the first request: until then there is no replica."""
    handle = deploy(autoscaling_config={"min_replicas": 0, "max_replicas": 1})
    stamps = send(handle, 20, 0.1)
    return figures(stamps, min(stamp[1] for stamp in stamps), 20 * 0.1)


def replica_killed() -> dict[str, float]:
    """Counted from the first request that the new replica serves."""
    handle = deploy()
    pid = handle.pid.remote().result()
    responses = [handle.remote(0.1) for _ in range(20)]
    time.sleep(0.3)
    os.kill(pid, 9)
    stamps: list[Stamp] = []
    for response in responses:
        try:
            stamps.append(tuple(response.result()))
        except ray.exceptions.RayActorError:
            continue
    later = [stamp for stamp in stamps if stamp[0] != pid]
    return figures(later, min(stamp[1] for stamp in later), len(later) * 0.1)


def free_port() -> int:
    """Return a port that is free, below those that the kernel gives to Ray's own sockets."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def main() -> None:
    port = free_port()
    ray.init(address="local", num_cpus=4, log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    scenarios: dict[str, Callable[[], dict[str, float]]] = {
        "20 x 300 ms": lambda: one_replica(20, 0.3),
        "40 x 50 ms": lambda: one_replica(40, 0.05),
        "8 x 1.5 s": lambda: one_replica(8, 1.5),
    }
    if sys.argv[1] == "full":
        scenarios |= {
            "4 replicas, 80 x 100 ms": four_replicas,
            "2 routers, 30 x 100 ms": two_routers,
            "HTTP, 30 x 100 ms": lambda: over_http(port),
            "0 to 1, 20 x 100 ms": from_zero,
            "killed, 20 x 100 ms": replica_killed,
        }
    seen = {}
    for name, scenario in scenarios.items():
        seen[name] = scenario()
        serve.delete("app")
    serve.shutdown()
    ray.shutdown()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
