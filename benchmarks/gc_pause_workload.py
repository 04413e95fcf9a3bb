"""One scenario of `gc_pause.py` in one process and cluster of its own; prints what was seen as JSON.

python benchmarks/gc_pause_workload.py SCENARIO SECONDS CONTAINERS

The JSON holds every stall and every collection with its begin and end, in seconds of CLOCK_MONOTONIC, so
that `gc_pause.py` can name the cause of each stall.
"""

from __future__ import annotations

import array
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray._private.internal_api import global_gc

HELD_REFS = 1_000
FRESH_CYCLES = 50
# What each call leaves behind in (a), (e) and (f), so that Python collects by itself, too.
LITTER = 2_000
# In (d), a second.
GROWTH = 1_000_000 / 60
CALL_PAUSE_S = 0.01
STORE_BYTES = 200_000_000
HIDDEN = 20
HIDDEN_BYTES = 5_000_000
PRESSURE_TIMEOUT_S = 45
# A tick that is later than this is a stall.
STALL_S = 0.005
COLLECTION_S = 0.001
# The priority that Ray gives to workers.
WORKER_NICENESS = 15
# Ticks in a process of its own that does nothing else: what stalls it is the machine.
WITNESS = f"""
import json, select, sys, time
gaps, last = [], time.perf_counter()
while not select.select([sys.stdin], [], [], 0.001)[0]:
    now = time.perf_counter()
    if now - last > {STALL_S / 2}:
        gaps.append((last, now))
    last = now
print(json.dumps(gaps))
"""
# The steps of Mantaray's collector that can take time.
STEPS = {
    "_young": "Mantaray, young",
    "_full": "Mantaray, full",
    "_start_search": "Mantaray, fork of a search",
    "_follow_search": "Mantaray, freeing what a search found",
}


class Recorder:
    """Ticks every millisecond in a thread; notes late ticks, and all collections of the process."""

    def __init__(self) -> None:
        self.gaps_s = array.array("d")
        self.stalls: list[tuple[float, float]] = []
        # Begin, end, processor time in seconds, and what it was.
        self.collections: list[tuple[float, float, float, str]] = []
        self.searches: list[tuple[float, float]] = []
        self.began: dict[int, tuple[float, float]] = {}
        # First, so that what other callbacks do counts as a part of the collection.
        gc.callbacks.insert(0, self.note_collection)
        self.watch_mantaray()
        threading.Thread(target=self.tick, name="ticker", daemon=True).start()

    def tick(self) -> None:
        last = time.perf_counter()
        while True:
            time.sleep(0.001)
            now = time.perf_counter()
            self.gaps_s.append(now - last)
            if now - last > STALL_S:
                self.stalls.append((last, now))
            last = now

    def now(self) -> tuple[float, float]:
        return time.perf_counter(), time.thread_time()

    def note(self, began: tuple[float, float], label: str) -> None:
        now_s, cpu_s = self.now()
        if now_s - began[0] > COLLECTION_S:
            self.collections.append((began[0], now_s, cpu_s - began[1], label))

    def note_collection(self, phase: str, info: dict[str, int]) -> None:
        ident = threading.get_ident()
        if phase == "start":
            self.began[ident] = self.now()
        elif ident in self.began:
            thread = threading.current_thread()
            asks = thread.__class__.__name__ in ("PythonGCThread", "_DummyThread")
            who = "Ray asked" if asks else "Python"
            if thread.name != "mantaray-gc":
                self.note(self.began.pop(ident), f"{who}, generation {info['generation']}")

    def watch_mantaray(self) -> None:
        module = sys.modules.get("mantaray.gc.collector")
        if module is None:
            return
        for name, label in STEPS.items():
            self.watch(module.Collector, name, label)
        self.watch(module.Searches, "collapse_pages", "Mantaray, huge pages")
        end = module.Searches._end

        def note_end(searches: Any, running: Any) -> Any:
            # Both clocks are the monotonic one. A search that has failed has no end.
            self.searches.append((running.started_s, running.ended_s or self.now()[0]))
            return end(searches, running)

        module.Searches._end = note_end

    def watch(self, owner: Any, name: str, label: str) -> None:
        step: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any) -> Any:
            began = self.now()
            try:
                return step(*args)
            finally:
                self.note(began, label)

        setattr(owner, name, timed)

    def take(self) -> dict[str, Any]:
        """Return what was seen since the last call."""
        gaps_s, self.gaps_s = self.gaps_s, array.array("d")
        stalls, self.stalls = self.stalls, []
        collections, self.collections = self.collections, []
        searches, self.searches = self.searches, []
        told: dict[str, Any] = {"ticks": len(gaps_s), "stalls": stalls}
        told |= {"collections": collections, "searches": searches}
        if len(gaps_s):
            told["p999_ms"] = float(np.quantile(np.frombuffer(gaps_s), 0.999)) * 1_000
            told["longest_ms"] = max(gaps_s) * 1_000
        return told


class Actor:
    """Has a large heap and serves calls."""

    def __init__(self, containers: int) -> None:
        self.recorder = Recorder()
        began = time.perf_counter()
        # Dictionaries and lists in turn, as a program's data would be.
        self.live = [{"a": i} if i % 2 else [i, "a"] for i in range(containers)]
        self.building = {"seconds": time.perf_counter() - began, **self.recorder.take()}
        self.kept: list[object] = []
        self.hidden: list[object] = []

    def call(self, litter: int = 0, growth: int = 0) -> int:
        for _ in range(litter):
            cycle: list[object] = []
            cycle.append(cycle)
        self.live.extend([{"a": i} if i % 2 else [i, "a"] for i in range(growth)])
        return 1

    def take(self) -> dict[str, Any]:
        return {"building_s": self.building["seconds"], **self.recorder.take()}

    def hold(self, count: int) -> None:
        self.kept = [ray.put(number) for number in range(count)]

    def waste(self, count: int) -> None:
        for number in range(count):
            cycle: list[object] = [ray.put(number)]
            cycle.append(cycle)

    def hide(self, count: int) -> None:
        """Keep objects in cycles, in the oldest generation."""
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

    def counts(self) -> dict[str, float]:
        """Return what Mantaray's collector has counted in this process; nothing on stock."""
        service = sys.modules.get("mantaray.gc.service")
        collector = service.SERVICE.collector if service is not None else None
        counts: dict[str, float] = collector.counts.as_dict() if collector is not None else {}
        return counts


class AsyncActor(Actor):
    """The same on an event loop."""

    async def acall(self, litter: int = 0) -> int:
        await asyncio.sleep(0)
        return self.call(litter)


def serve(call: Callable[[], Any], seconds: float, each_second: Callable[[], Any]) -> None:
    """Call all the time; do something each second."""
    end = time.monotonic() + seconds
    next_s = time.monotonic()
    while (now := time.monotonic()) < end:
        if now >= next_s:
            next_s = now + 1
            each_second()
        call()
        time.sleep(CALL_PAUSE_S)


def nothing() -> None:
    """Ask for nothing."""


def in_actor(scenario: str, seconds: float, containers: int) -> dict[str, Any]:
    """Run one of the scenarios (a) to (e)."""
    kind: Any = AsyncActor if scenario == "e" else Actor
    actor = ray.remote(kind).remote(containers)
    ray.get(actor.call.remote())
    if scenario in "bc":
        ray.get(actor.hold.remote(HELD_REFS if scenario == "c" else 1))

    def each_second() -> None:
        if scenario == "c":
            ray.get(actor.waste.remote(FRESH_CYCLES))
        global_gc()

    calls: dict[str, Callable[[], Any]] = {
        "a": lambda: ray.get(actor.call.remote(LITTER)),
        "d": lambda: ray.get(actor.call.remote(0, int(GROWTH * CALL_PAUSE_S * 1.3))),
        "e": lambda: ray.get(actor.acall.remote(LITTER)),
    }
    call = calls.get(scenario, lambda: ray.get(actor.call.remote()))
    serve(call, 2, nothing)
    ray.get(actor.take.remote())
    serve(call, seconds, each_second)
    told: dict[str, Any] = ray.get(actor.take.remote())
    left = ray.get(actor.held.remote())
    return {**told, "held": left, "counts": ray.get(actor.counts.remote())}


def in_driver(seconds: float, containers: int) -> dict[str, Any]:
    """Run the scenario (f)."""
    heap = Actor(containers)

    def call() -> None:
        heap.call(LITTER)

    serve(call, 2, nothing)
    heap.take()
    serve(call, seconds, global_gc)
    return {**heap.take(), "held": heap.held(), "counts": heap.counts()}


def hidden_under_pressure(seconds: float, containers: int) -> dict[str, Any]:
    """Fill the store while the actor serves calls and its old garbage waits to be found."""
    actor = ray.remote(Actor).remote(containers)
    ray.get(actor.call.remote())
    ray.get(actor.hide.remote(HIDDEN))

    def call() -> None:
        ray.get(actor.call.remote())

    # The first trigger puts it out of Mantaray's sight, alive.
    global_gc()
    serve(call, 2, nothing)
    ray.get([actor.drop.remote(), actor.take.remote()])
    start = time.monotonic()
    kept: list[object] = []
    put_longest_s, left = 0.0, HIDDEN
    while left and time.monotonic() < start + PRESSURE_TIMEOUT_S:
        put_at = time.monotonic()
        kept = [*kept[-30:], ray.put(np.zeros(HIDDEN_BYTES, dtype=np.uint8))]
        put_longest_s = max(put_longest_s, time.monotonic() - put_at)
        serve(call, 0.1, nothing)
        left = ray.get(actor.held.remote())
    released_s = time.monotonic() - start
    told: dict[str, Any] = ray.get(actor.take.remote())
    pressure = {"released_s": released_s, "left": left, "put_longest_s": put_longest_s}
    return {**told, **pressure, "counts": ray.get(actor.counts.remote())}


def main() -> None:
    """Run the scenario and print what was seen."""
    scenario, seconds, containers = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
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
        # Without `site`, so that neither Ray nor Mantaray is in it.
        # An actor stalls, too, when other programs want the processor, because Ray gives workers a
        # low priority. The witness has the same.
        nice = 0 if scenario == "f" else WORKER_NICENESS
        command = ["nice", "-n", str(nice), sys.executable, "-I", "-S", "-c", WITNESS]
        witness = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if scenario == "f":
            told = in_driver(seconds, containers)
        elif scenario == "hidden":
            told = hidden_under_pressure(seconds, containers)
        else:
            told = in_actor(scenario, seconds, containers)
        told["machine"] = json.loads(witness.communicate()[0])
        ray.shutdown()
        print(json.dumps(told))


if __name__ == "__main__":
    main()
