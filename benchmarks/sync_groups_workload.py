"""Placement groups created and removed in a loop, as a driver inside the cluster; see sync_groups.py.

Every thread creates a group, waits until it is ready, removes it, and so on.

python sync_groups_workload.py SECONDS THREADS BUNDLES
"""

from __future__ import annotations

import json
import sys
import threading
import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group

WARMUP_S = 1.0
READY_TIMEOUT_S = 30.0


def cycle(bundles: int) -> tuple[float, bool]:
    """Create a group, wait for it, remove it; return how long it took to be ready, and if it was."""
    start = time.perf_counter()
    group = placement_group([{"slot": 1}] * bundles, strategy="SPREAD")
    ready = group.wait(timeout_seconds=READY_TIMEOUT_S)
    took_s = time.perf_counter() - start
    remove_placement_group(group)
    return took_s, ready


def main() -> None:
    seconds, threads, bundles = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    ray.init(log_to_driver=False)
    latencies_ms: list[float] = []
    failed: list[float] = []
    begin = time.perf_counter() + WARMUP_S
    end = begin + seconds

    def work() -> None:
        while time.perf_counter() < end:
            took_s, ready = cycle(bundles)
            if time.perf_counter() >= begin:
                (latencies_ms if ready else failed).append(took_s * 1e3)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took_s = time.perf_counter() - begin
    ray.shutdown()
    print(json.dumps({"latencies_ms": latencies_ms, "failed": len(failed), "seconds": took_s}))


if __name__ == "__main__":
    main()
