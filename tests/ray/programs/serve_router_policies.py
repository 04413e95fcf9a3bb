"""What decides between replicas, on two nodes: locality, models, settings, and Ray's own other routers."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from serve_router_common import remembered

LLM = "ray.llm._internal.serve"
OTHERS = {
    "prefix on 2.48": f"{LLM}.request_router.prefix_aware.prefix_aware_router.PrefixAwarePow2ReplicaRouter",
    "prefix": f"{LLM}.routing_policies.prefix_aware.prefix_aware_router.PrefixCacheAffinityRouter",
    "round robin": "ray.serve.experimental.round_robin_router.RoundRobinRouter",
    "consistent hash": "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",
    "capacity queue": "ray.serve.experimental.capacity_queue_router.CapacityQueueRouter",
}


@serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})
class Where:
    """Says which process and node it is; counts the models it loads."""

    def __init__(self) -> None:
        self.loads = 0

    async def __call__(self, prompt: Any = None, seconds: float = 0.05) -> Any:
        await asyncio.sleep(seconds)
        return [os.getpid(), ray.get_runtime_context().get_node_id()]

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model: str) -> str:
        self.loads += 1
        return model

    async def with_model(self) -> Any:
        model = await self.load(serve.get_multiplexed_model_id())
        await asyncio.sleep(0.03)
        return [os.getpid(), model, self.loads]


def run(name: str, **options: Any) -> Any:
    """Deploy under a name of its own: a process keeps one router for each name."""
    serve.delete("app")
    deployment = Where.options(name=name, **options)
    handle = serve.run(deployment.bind(), name="app", route_prefix=None)
    time.sleep(0.5)
    return handle


def results(responses: list[Any]) -> list[Any]:
    return [response.result(timeout_s=30) for response in responses]


def locality() -> dict[str, Any]:
    """One replica on each node: the near one is taken while it is free, the other one when it is not."""
    handle = run("Near", num_replicas=2, max_replicas_per_node=1)
    far_too = results([handle.remote() for _ in range(12)])
    near: Any = DeploymentHandle("Near", "app")
    near._init(_prefer_local_routing=True)
    near.remote().result(timeout_s=30)
    here = ray.get_runtime_context().get_node_id()
    one_by_one = []
    for _ in range(20):
        one_by_one.append(near.remote(seconds=0.0).result(timeout_s=30)[1] == here)
        # For a moment the replica counts the request whose answer is here already.
        time.sleep(0.05)
    at_once = results([near.remote() for _ in range(12)])
    return {
        "replicas": len({pid for pid, _ in far_too}),
        "one by one": sum(one_by_one),
        "at once": sorted(Counter(node == here for _, node in at_once).values()),
    }


def models() -> dict[str, Any]:
    """Four models on two replicas that hold two each."""
    handle = run("Models", num_replicas=2).options(method_name="with_model")
    names = [f"m{number}" for number in range(4)]
    for name in names:
        handle.options(multiplexed_model_id=name).remote().result(timeout_s=30)
    time.sleep(1.5)
    one_by_one: dict[str, set[int]] = {name: set() for name in names}
    for number in range(20):
        name = names[number % 4]
        answer = handle.options(multiplexed_model_id=name).remote().result(timeout_s=30)
        one_by_one[name].add(answer[0])
        time.sleep(0.05)
    before = _loads(handle)
    asked = [handle.options(multiplexed_model_id=names[n % 4]).remote() for n in range(40)]
    answers = results(asked)
    return {
        "places": sorted(len(pids) for pids in one_by_one.values()),
        "right": [model for _, model, _ in answers] == [names[n % 4] for n in range(40)],
        "replicas": len({pid for pid, _, _ in answers}),
        "loads": sum(_most_loads(answers).values()) - before,
    }


def _most_loads(answers: list[Any]) -> dict[int, int]:
    most: dict[int, int] = {}
    for pid, _, loads in answers:
        most[pid] = max(loads, most.get(pid, 0))
    return most


def _loads(handle: Any) -> int:
    asked = [handle.options(multiplexed_model_id=f"m{n % 4}").remote() for n in range(8)]
    return sum(_most_loads(results(asked)).values())


def other_routers() -> dict[str, Any]:
    """Each router that this Ray brings along: what is asked at once is answered, from all replicas."""
    seen: dict[str, Any] = {}
    for name, path in OTHERS.items():
        try:
            importlib.import_module(path.rpartition(".")[0])
        except ImportError:
            continue
        keywords: dict[str, Any] = {}
        options: dict[str, Any] = {}
        if name == "capacity queue":
            keywords = {"capacity_queue_actor_name": "queue"}
            options = capacity_queue()
        config = RequestRouterConfig(request_router_class=path, request_router_kwargs=keywords)
        handle = run(name, num_replicas=3, request_router_config=config, **options)
        began = time.monotonic()
        answers = results(
            [handle.remote(SimpleNamespace(prompt=f"prompt {number}")) for number in range(30)]
        )
        seen[name] = {
            "answers": len(answers),
            "replicas": sorted(Counter(pid for pid, _ in answers).values()),
            "seconds": round(time.monotonic() - began, 2),
        }
    return seen


def capacity_queue() -> dict[str, Any]:
    from ray.serve.config import DeploymentActorConfig
    from ray.serve.experimental.capacity_queue import CapacityQueue

    queue = DeploymentActorConfig(
        name="queue",
        actor_class=CapacityQueue,
        init_kwargs={"acquire_timeout_s": 5.0, "token_ttl_s": None},
        actor_options={"num_cpus": 0},
    )
    return {"deployment_actors": [queue]}


def waits(name: str, **options: Any) -> list[float]:
    """Return thirty delays before the second retry of a live router."""
    made = remembered()
    handle = run(name, **options)
    handle.remote().result(timeout_s=30)
    return [made[-1].delay_s(1) for _ in range(30)]


def main() -> None:
    ray.init(log_to_driver=False)
    serve.start(proxy_location="Disabled")
    seen: dict[str, Any] = {"locality": locality(), "models": models()}
    seen["jittered"] = waits("Jittered")
    if "initial_backoff_s" in RequestRouterConfig(request_router_kwargs={}).__fields__:
        config = RequestRouterConfig(initial_backoff_s=0.2, backoff_multiplier=3, max_backoff_s=0.5)
        seen["configured"] = waits("Configured", request_router_config=config)
    seen["others"] = other_routers()
    serve.shutdown()
    ray.shutdown()
    print(json.dumps(seen))


main()
