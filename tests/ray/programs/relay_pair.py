"""Work on nodes behind two relays of one address while somebody kills the relays.

Arguments: "batch" or "bare", for how many seconds, and names of nodes, which are resources of which
each node has 100. Prints how much work was done, what was lost, and how late the GCS's view of each
node was: "lags" has for each step of a node's resource when it began (s since the start) and after
how many seconds the GCS showed it or a later one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sync_client import SyncClient, available

PATIENCE_S = 120
AMOUNT = 100
STEP_S = 0.3


@ray.remote(num_cpus=0)
def hold(seconds: float) -> float:
    """Keep its resources; return since when it has them, of the machine's monotonic clock."""
    began = time.monotonic()
    time.sleep(seconds)
    return began


@ray.remote(num_cpus=0)
def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


@ray.remote(num_cpus=0)
class Short:
    """An actor that lives for one call."""

    def answer(self) -> int:
        """Return a number."""
        return 42


@ray.remote(num_cpus=0, max_restarts=0)
class Worker:
    """Gives work to another node, and remembers how much.

    Args:
        neighbour: a resource of the node that works.
    """

    def __init__(self, neighbour: str) -> None:
        self._on = {neighbour: 0.01}
        self._done = 0

    def work(self) -> int:
        """Run tasks and an actor on the neighbour; return how much work was done since the start."""
        tasks = [double.options(resources=self._on).remote(number) for number in range(10)]
        assert ray.get(tasks, timeout=PATIENCE_S) == [2 * number for number in range(10)]
        # The GCS registers and places each actor: calls that a dying relay has in flight.
        short = Short.options(resources=self._on).remote()
        assert ray.get(short.answer.remote(), timeout=PATIENCE_S) == 42
        ray.kill(short)
        self._done += 1
        return self._done


class Steps:
    """Takes ever other amounts of a node's resource, and sees when the GCS shows them.

    Args:
        name: of the resource.
        node_id: of the node.
        watcher: is told by the GCS.
    """

    def __init__(self, name: str, node_id: bytes, watcher: SyncClient) -> None:
        self._name = name
        self._node_id = node_id
        self._watcher = watcher
        self._steps: list[tuple[float, float]] = []  # when each began, and what is left then
        self._shown: list[tuple[float, float]] = []  # when something was shown, and what
        self.failed = 0

    def take_one(self, number: int) -> None:
        """Take an amount for a moment."""
        amount = 1 + number % (AMOUNT - 10)
        task = hold.options(resources={self._name: amount})
        try:
            began = ray.get(task.remote(STEP_S), timeout=PATIENCE_S)
        except Exception as error:
            print(f"{self._name}: {error!r}", file=sys.stderr)
            self.failed += 1
        else:
            self._steps.append((began, AMOUNT - amount))

    def look(self) -> None:
        """Note what the GCS shows."""
        seen = self._watcher.seen.get(self._node_id)
        if seen is not None and (not self._shown or self._shown[-1][0] != seen.at):
            left = available(seen.payload).get(self._name, 0.0)
            self._shown.append((seen.at, round(left)))

    def lags(self, start: float) -> list[tuple[float, float]]:
        """Return for each step when it began and how many seconds later it or a later one was shown."""
        first_shown: dict[int, float] = {}
        for number, (began, left) in enumerate(self._steps):
            until = began + (AMOUNT - 10) * STEP_S / 2
            times = [at for at, shown in self._shown if shown == left and began <= at < until]
            if times:
                first_shown[number] = times[0]
        lags = []
        for number, (began, _) in enumerate(self._steps):
            later = [at for other, at in first_shown.items() if other >= number]
            lags.append((began - start, min(later) - began if later else PATIENCE_S))
        return lags


def main() -> None:
    """Work until the time is over."""
    dialect, seconds, *names = sys.argv[1:]
    ray.init(log_to_driver=False)
    nodes = {
        next(name for name in names if name in node["Resources"]): node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and any(name in node["Resources"] for name in names)
    }
    watcher = SyncClient(os.environ["RAY_ADDRESS"], dialect == "batch")
    workers = [
        Worker.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(nodes[name], soft=False)
        ).remote(names[(at + 1) % len(names)])
        for at, name in enumerate(names)
    ]
    ray.get([worker.work.remote() for worker in workers], timeout=PATIENCE_S)
    steps = {name: Steps(name, bytes.fromhex(nodes[name]), watcher) for name in names}
    print("ready", file=sys.stderr, flush=True)
    start = time.monotonic()
    stop = threading.Event()
    seen: dict[str, Any] = {"rounds": 0, "lost": 0, "longest_s": 0.0}

    def look() -> None:
        while not stop.wait(0.002):
            for one in steps.values():
                one.look()

    def step(one: Steps) -> None:
        number = 0
        while not stop.is_set():
            one.take_one(number)
            number += 1

    threads = [threading.Thread(target=look)]
    threads += [threading.Thread(target=step, args=(one,)) for one in steps.values()]
    for thread in threads:
        thread.start()
    done = [1] * len(workers)
    while time.monotonic() < start + float(seconds):
        began = time.monotonic()
        try:
            told = ray.get([worker.work.remote() for worker in workers], timeout=PATIENCE_S)
        except Exception as error:
            print(repr(error), file=sys.stderr)
            seen["lost"] += 1
            continue
        seen["lost"] += told != [count + 1 for count in done]
        done = told
        seen["rounds"] += 1
        seen["longest_s"] = max(seen["longest_s"], time.monotonic() - began)
        time.sleep(0.1)
    # What was taken last is to be shown as well.
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join()
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    seen["start"] = start
    seen["nodes_lost"] = len(set(nodes.values()) - alive)
    seen["failed_steps"] = sum(one.failed for one in steps.values())
    seen["lags"] = {name: one.lags(start) for name, one in steps.items()}
    print(json.dumps(seen), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
