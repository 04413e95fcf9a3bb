"""What nodes behind relays see of each other: a task takes resources, clients watch.

Arguments: "batch" or "bare", a node resource's name, addresses to watch at. Prints delays in ms and the
versions' order.
"""

from __future__ import annotations

import json
import sys
import time

import ray
from sync_client import SyncClient, available


def main() -> None:
    """Watch a node's CPU go and come back."""
    dialect, resource, *addresses = sys.argv[1:]
    watchers = [SyncClient(address, dialect == "batch") for address in addresses]
    ray.init(log_to_driver=False)
    node = next(n for n in ray.nodes() if n["Alive"] and resource in n["Resources"])
    node_id = bytes.fromhex(node["NodeID"])

    @ray.remote(num_cpus=1, resources={resource: 0.5})
    class Taker:
        def ping(self) -> None:
            return None

    def cpus(client: SyncClient) -> float:
        seen = client.seen.get(node_id)
        return -1.0 if seen is None else available(seen.payload).get("CPU", 0.0)

    known = [client.wait(lambda c: cpus(c) == 1.0) for client in watchers]
    taker = Taker.remote()
    ray.get(taker.ping.remote())
    begin = time.monotonic()
    taken = [client.wait(lambda c: cpus(c) == 0.0) for client in watchers]
    taken_ms = [1000 * (c.seen[node_id].at - begin) for c in watchers if node_id in c.seen]
    ray.kill(taker)
    given_back = [client.wait(lambda c: cpus(c) == 1.0) for client in watchers]
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
        "taken": taken,
        "taken_ms": taken_ms,
        "given_back": given_back,
        "rising": rising,
        "heard": heard,
        "echo": any(client.node_id in client.seen for client in watchers),
    }
    for client in watchers:
        client.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
