"""One arm of `gc_pause.py`: an actor with a large heap that is asked to collect every second.

Prints one line of JSON: longest stalls in milliseconds, and what became of garbage hidden in the old heap.

python benchmarks/gc_pause_workload.py SECONDS

Below 30 seconds the share of time that full collections take is not measured.
"""

import gc
import json
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
import ray
from ray._private.internal_api import global_gc

LIVE_CONTAINERS = 3_000_000
HELD_REFS = 1_000
FRESH_CYCLES = 50
# What each call in (i) leaves behind, so that Python collects by itself, too.
LITTER = 2_000
STORE_BYTES = 200_000_000
HIDDEN = 20
HIDDEN_BYTES = 5_000_000
PRESSURE_TIMEOUT_S = 45


class Actor:
    """Ticks in a thread, has a large heap and serves calls."""

    def __init__(self) -> None:
        # Dictionaries and lists in turn, as a program's data would be.
        self.live = [{"a": i} if i % 2 else [i, "a"] for i in range(LIVE_CONTAINERS)]
        self.kept: list[object] = []
        # The longest stall of each second.
        self.stalls_s: dict[int, float] = {}
        # The longest collection of each generation, whoever started it.
        self.collections_s = [0.0, 0.0, 0.0]
        self.collection_began_s = 0.0
        gc.callbacks.append(self.note_collection)
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self) -> None:
        last = time.perf_counter()
        while True:
            time.sleep(0.001)
            now = time.perf_counter()
            second = int(now)
            self.stalls_s[second] = max(self.stalls_s.get(second, 0.0), now - last)
            last = now

    def note_collection(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self.collection_began_s = now
        else:
            generation = info["generation"]
            took_s = now - self.collection_began_s
            self.collections_s[generation] = max(self.collections_s[generation], took_s)

    def call(self, litter: int = 0) -> int:
        for _ in range(litter):
            cycle: list[object] = []
            cycle.append(cycle)
        return 1

    def stalls_ms(self) -> tuple[list[float], float]:
        """Return the longest stall of each second since the last call, and the longest collection."""
        stalls_s, self.stalls_s = self.stalls_s, {}
        longest_s, self.collections_s = max(self.collections_s), [0.0, 0.0, 0.0]
        return [stall_s * 1_000 for stall_s in stalls_s.values()], longest_s * 1_000

    def hold(self, count: int) -> None:
        self.kept = [ray.put(number) for number in range(count)]

    def waste(self, count: int) -> None:
        for number in range(count):
            cycle: list[object] = [ray.put(number)]
            cycle.append(cycle)

    def hide(self, count: int) -> None:
        """Keep objects in cycles, in the oldest generation."""
        self.hidden = []
        for _ in range(count):
            cycle: list[object] = [ray.put(np.zeros(HIDDEN_BYTES, dtype=np.uint8))]
            cycle.append(cycle)
            self.hidden.append(cycle)
        gc.collect()

    def drop(self) -> None:
        self.hidden.clear()

    def held(self) -> int:
        size: int = ray._private.worker.global_worker.core_worker.get_memory_store_size()
        return size

    def young_ms(self) -> float:
        """Return the longest pause of a young collection of Mantaray in this actor."""
        from mantaray.gc.service import SERVICE

        return SERVICE.collector.counts.longest_young_s * 1_000 if SERVICE.collector else 0.0

    def full(self) -> float:
        """Return how long full collections of Mantaray have stopped this actor so far, in seconds."""
        from mantaray.gc.service import SERVICE

        return SERVICE.collector.counts.total_full_s if SERVICE.collector else 0.0


def serve(
    actor: Any, seconds: float, ask: bool, waste: int = 0, litter: int = 0
) -> dict[str, float]:
    """Call the actor all the time, ask for a collection every second; return its stalls in ms.

    A machine that has something else to do stalls the ticker now and then, too: that shows in the
    longest of all, not in the median of the seconds' longest.
    """
    ray.get(actor.stalls_ms.remote())
    end = time.monotonic() + seconds
    next_s = time.monotonic()
    while (now := time.monotonic()) < end:
        if ask and now >= next_s:
            next_s = now + 1
            if waste:
                ray.get(actor.waste.remote(waste))
            global_gc()
        ray.get(actor.call.remote(litter))
        time.sleep(0.01)
    stalls_ms, collection_ms = ray.get(actor.stalls_ms.remote())
    return {
        "longest_ms": max(stalls_ms),
        "typical_ms": statistics.median(stalls_ms),
        "collection_ms": collection_ms,
    }


def hidden_under_pressure(actor: Any, watch_share: bool) -> dict[str, float]:
    """Fill the store while the actor serves calls and its old garbage waits to be found."""
    ray.get(actor.hide.remote(HIDDEN))
    # The first trigger puts it out of Mantaray's sight, alive.
    global_gc()
    serve(actor, 2, ask=False)
    ray.get(actor.drop.remote())
    before_full_s, start = ray.get(actor.full.remote()), time.monotonic()
    kept: list[object] = []
    put_longest_s = 0.0
    left = HIDDEN
    while left and time.monotonic() < start + PRESSURE_TIMEOUT_S:
        put_at = time.monotonic()
        kept = [*kept[-30:], ray.put(np.zeros(HIDDEN_BYTES, dtype=np.uint8))]
        put_longest_s = max(put_longest_s, time.monotonic() - put_at)
        serve(actor, 0.1, ask=False)
        left = ray.get(actor.held.remote())
    released_s = time.monotonic() - start
    # The share is one of a longer time; in a short run it is not told.
    watch_share = watch_share and ray.get(actor.full.remote()) > before_full_s
    while watch_share and time.monotonic() < start + PRESSURE_TIMEOUT_S:
        kept = [*kept[-30:], ray.put(np.zeros(HIDDEN_BYTES, dtype=np.uint8))]
        serve(actor, 0.2, ask=False)
    full_s = ray.get(actor.full.remote()) - before_full_s
    share = full_s / (time.monotonic() - start) if watch_share else 0.0
    return {
        "released_s": released_s,
        "left": left,
        "full_s": full_s,
        "full_share": share,
        "put_longest_s": put_longest_s,
    }


def main() -> None:
    """Run the scenarios and print what was seen."""
    seconds = float(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="mgc-", dir="/tmp") as root:
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=root,
            _system_config={"global_gc_min_interval_s": 0, "local_gc_min_interval_s": 0},
        )
        actor = ray.remote(Actor).remote()
        ray.get(actor.call.remote())
        time.sleep(1)
        told: dict[str, object] = {"quiet": serve(actor, min(seconds / 2, 10), ask=False)}
        told["i"] = serve(actor, seconds, ask=True, litter=LITTER)
        ray.get(actor.hold.remote(HELD_REFS))
        stalls = serve(actor, seconds, ask=True, waste=FRESH_CYCLES)
        rounds = int(seconds)
        left = ray.get(actor.held.remote()) - HELD_REFS
        released = FRESH_CYCLES * rounds - left
        young_ms = ray.get(actor.young_ms.remote())
        told["ii"] = {**stalls, "released": released, "young_ms": young_ms}
        # Without a past: no full collection has used up its share.
        ray.kill(actor)
        actor = ray.remote(Actor).remote()
        ray.get(actor.call.remote())
        told["iii"] = hidden_under_pressure(actor, seconds >= 30)
        ray.shutdown()
        print(json.dumps(told))


if __name__ == "__main__":
    main()
