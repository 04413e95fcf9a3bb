"""What nodes behind relays see of each other: a task takes resources, clients watch.

Arguments: "batch" or "bare", a node resource's name, the process id of another node's raylet, and
addresses to watch at. Some rounds as it is, and one while that raylet is stopped. Prints delays in ms
and the versions' order.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from sync_client import SyncClient, available

TIMEOUT_S = 120.0
ROUNDS = 5


def cpus(client: SyncClient, node_id: bytes) -> float:
    """Return the free CPUs that a client has been told of a node, -1 if it knows none such."""
    seen = client.seen.get(node_id)
    return -1.0 if seen is None else available(seen.payload).get("CPU", 0.0)


@ray.remote(num_cpus=1)
def hold(until: Path) -> None:
    """Keep its resources until a file is there."""
    while not until.exists():
        time.sleep(0.002)


def take(watchers: list[SyncClient], node_id: bytes, resource: str) -> dict[str, Any]:
    """Take a node's CPU and give it back; return who saw both, and at most how many ms it took.

    Times are from before the task was submitted, and from before it was told to end: what Ray itself
    needs to start and end it is in them.
    """

    def until(cpu: float) -> tuple[list[bool], float]:
        seen = [c.wait(lambda c: cpus(c, node_id) == cpu, TIMEOUT_S) for c in watchers]
        last = max((c.seen[node_id].at for c in watchers if node_id in c.seen), default=0.0)
        return seen, 1000 * (last - begin)

    with tempfile.TemporaryDirectory() as directory:
        end = Path(directory, "end")
        begin = time.monotonic()
        holder = hold.options(resources={resource: 0.5}).remote(end)
        taken, taken_ms = until(0.0)
        begin = time.monotonic()
        end.touch()
        given_back, given_back_ms = until(1.0)
        ray.get(holder, timeout=TIMEOUT_S)
    return {
        "taken": taken,
        "taken_ms": taken_ms,
        "given_back": given_back,
        "given_back_ms": given_back_ms,
    }


def main() -> None:
    """Watch a node's CPU go and come back."""
    dialect, resource, to_stop, *addresses = sys.argv[1:]
    watchers = [SyncClient(address, dialect == "batch") for address in addresses]
    ray.init(log_to_driver=False)
    node = next(n for n in ray.nodes() if n["Alive"] and resource in n["Resources"])
    node_id = bytes.fromhex(node["NodeID"])
    known = [c.wait(lambda c: cpus(c, node_id) == 1.0, TIMEOUT_S) for c in watchers]
    rounds = [take(watchers, node_id, resource) for _ in range(ROUNDS - 1)]
    os.kill(int(to_stop), signal.SIGSTOP)
    try:
        rounds.append(take(watchers, node_id, resource))
    finally:
        os.kill(int(to_stop), signal.SIGCONT)
    rising = all(
        seen.history == sorted(set(seen.history)) for c in watchers for seen in c.seen.values()
    )
    # What one pretended node says, the other hears, and not itself.
    version = watchers[0].publish({"CPU": 3.0})
    first, last = watchers[0], watchers[-1]
    heard = last.wait(
        lambda c: first.node_id in c.seen and c.seen[first.node_id].version >= version
    )
    told = {
        "known": known,
        "rounds": rounds,
        "rising": rising,
        "heard": heard,
        "echo": any(client.node_id in client.seen for client in watchers),
    }
    for client in watchers:
        client.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
