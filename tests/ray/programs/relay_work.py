"""Ordinary work on a cluster behind relays: tasks, actors, placement groups, `ray status`, and keepers.

Arguments: how many nodes, "start" to leave detached actors on each, or "check" to ask those. Prints
what was seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


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
    time.sleep(0.5)
    return ray.get_runtime_context().get_node_id()


def main() -> None:
    """Do the work."""
    count, mode = int(sys.argv[1]), sys.argv[2]
    ray.init(log_to_driver=False, namespace="keepers")
    deadline = time.monotonic() + 60
    while True:
        nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        if len(nodes) == count or time.monotonic() > deadline:
            break
        time.sleep(0.2)
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
    kept = ray.get([keeper.keep.remote(len(nodes)) for keeper in keepers], timeout=60)
    spread = where.options(scheduling_strategy="SPREAD")
    ran = ray.get([spread.remote() for _ in range(3 * count)], timeout=60)
    group = placement_group([{"CPU": 1}] * count, strategy="STRICT_SPREAD")
    ray.get(group.ready(), timeout=60)
    remove_placement_group(group)
    status = subprocess.run(
        ["ray", "status", "-v"], capture_output=True, text=True, timeout=60, check=False
    )
    told = {
        "nodes": len(nodes),
        "kept": kept,
        "ran_on": len(set(ran)),
        "in_status": sum(node in status.stdout for node in nodes),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
