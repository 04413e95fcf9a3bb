"""Ordinary work on a cluster behind relays: tasks, actors, placement groups, and keepers of what they got.

Arguments: how many nodes; "start" to leave detached actors on each, or "check" to ask those; the
dashboard's address, if `ray status`, Serve and a submitted job are wanted too (an application that
was left by "start" has to answer still). Prints what was seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# What is waited for comes soon, or, on a machine with much else to do, late.
PATIENCE_S = 180


@ray.remote(num_cpus=0)
class Keeper:
    """Keeps what it is given, as long as it lives."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def keep(self, number: int) -> list[int]:
        """Keep a number; return the process and all numbers."""
        self.kept.append(number)
        return [os.getpid(), *self.kept]


@ray.remote(num_cpus=1)
def where() -> str:
    """Return on which node it ran."""
    time.sleep(0.3)
    return ray.get_runtime_context().get_node_id()


def ask_keepers(nodes: list[str], mode: str) -> list[list[int]]:
    """Start a keeper on each node, or find them; return what they keep."""
    if mode == "start":
        keepers = [
            Keeper.options(
                name=f"keeper-{node}",
                lifetime="detached",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote()
            for node in nodes
        ]
    else:
        keepers = [ray.get_actor(f"keeper-{node}") for node in nodes]
    kept: list[list[int]] = ray.get(
        [k.keep.remote(len(nodes)) for k in keepers], timeout=PATIENCE_S
    )
    return kept


def run_everywhere(count: int) -> int:
    """Run tasks until each node had one; return how many nodes had."""
    spread = where.options(scheduling_strategy="SPREAD")
    ran: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    # Where a worker is slow to start, others take its share.
    while len(ran) < count and time.monotonic() < deadline:
        ran.update(ray.get([spread.remote() for _ in range(2 * count)], timeout=PATIENCE_S))
    return len(ran)


def serve_and_submit(mode: str, dashboard: str) -> dict[str, Any]:
    """Answer requests with Serve, run a submitted job; return how both went."""
    from ray import serve
    from ray.job_submission import JobSubmissionClient

    @serve.deployment(num_replicas=3, ray_actor_options={"num_cpus": 0})
    class Echo:
        """Says what it is told."""

        def __call__(self, word: str) -> str:
            """Return the word."""
            return word

    # Before the application, so that both take their time together.
    client = JobSubmissionClient(dashboard)
    entry = f"{sys.executable} -c \"import ray; ray.init(); print('says', len(ray.nodes()))\""
    job = client.submit_job(entrypoint=entry)
    # Requests come through handles; an HTTP port might be another cluster's.
    serve.start(http_options={"location": "NoServer"})
    serve.run(Echo.bind(), name=mode, route_prefix=None)
    handles = [serve.get_app_handle(name) for name in ("start", mode)]
    words = [str(number) for number in range(20)]
    answers = [[h.remote(word).result(timeout_s=PATIENCE_S) for word in words] for h in handles]
    deadline = time.monotonic() + PATIENCE_S
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.2)
    return {
        "served": answers == [words, words],
        "job": client.get_job_status(job).value,
        "job_said": "says" in client.get_job_logs(job),
    }


def nodes_in_status(nodes: list[str]) -> int:
    """Return how many of the nodes `ray status` tells of."""
    status = subprocess.run(
        ["ray", "status", "-v"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return sum(node in status.stdout for node in nodes)


def main() -> None:
    """Do the work."""
    count, mode = int(sys.argv[1]), sys.argv[2]
    ray.init(log_to_driver=False, namespace="keepers")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        alive = [node for node in ray.nodes() if node["Alive"]]
        if len(alive) == count or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    nodes = sorted(node["NodeID"] for node in alive)
    told: dict[str, Any] = {
        "nodes": len(nodes),
        "kept": ask_keepers(nodes, mode),
        "ran_on": run_everywhere(count),
    }
    group = placement_group([{"CPU": 1}] * count, strategy="STRICT_SPREAD")
    ray.get(group.ready(), timeout=PATIENCE_S)
    remove_placement_group(group)
    if len(sys.argv) > 3:
        told |= serve_and_submit(mode, sys.argv[3])
        told["in_status"] = nodes_in_status(nodes)
    print(json.dumps(told), flush=True)
    ray.shutdown()
    # Threads of Serve's handles would hold up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
