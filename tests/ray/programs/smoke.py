"""A driver that uses each patch once, on stock Ray or on Mantaray; prints what it saw as one line of JSON.

Arguments: the directory into which the cluster spills, and the resources of the further nodes, if any
("n0,n1"). Runs where Mantaray cannot be imported, too: the same work is done and what only
Mantaray offers is left out.
"""

import asyncio
import gc
import importlib.util
import json
import sys
import threading
import time
import weakref

import ray
from ray import serve
from ray._private.internal_api import global_gc
from spill_common import disk_bytes, is_intact, payload, wait_until

HAS_MANTARAY = importlib.util.find_spec("mantaray") is not None
SPILLED, OBJECT_BYTES, KEPT_ONE_IN = 240, 1_000_000, 20
BURST, SERVICE_S = 40, 0.05
CONTAINERS, TRIGGERS = 1_500_000, 3
# Stock Ray deletes files soon or never: nothing is waited for once the disk has not changed for so long.
UNCHANGED_S = 6.0
# And 2.50 to 2.52 drop triggers that come soon after another.
COLLECTED_S = 150.0 if HAS_MANTARAY else 15.0


def settle(paths, limit_bytes):
    """Wait until the disk use is within the limit, or, on stock Ray, has stopped changing."""
    if HAS_MANTARAY:
        wait_until(lambda: disk_bytes(paths) <= limit_bytes)
        return disk_bytes(paths)
    used, since = disk_bytes(paths), time.monotonic()
    while used > limit_bytes and time.monotonic() - since < UNCHANGED_S:
        time.sleep(0.2)
        if (now := disk_bytes(paths)) != used:
            used, since = now, time.monotonic()
    return used


def read_back(refs):
    """Get all objects; return whether they are right, and how many the driver read from their files."""
    intact, from_files = True, 0
    for number, ref in refs.items():
        before_bytes = bytes_from_files()
        value = ray.get(ref)
        from_files += bytes_from_files() > before_bytes
        intact = intact and is_intact(number, value, OBJECT_BYTES)
        del value
    return intact, from_files


def bytes_from_files():
    """Return what this process holds of objects that it read from their files."""
    if not HAS_MANTARAY:
        return 0
    from mantaray._native import spill

    return spill.live_spilled_bytes()


def spilling(directory):
    """Spill many objects, let go of all but one in twenty, compare the disk use with what lives."""
    refs = {number: ray.put(payload(number, OBJECT_BYTES)) for number in range(SPILLED)}
    peak_bytes = disk_bytes([directory])
    for number in list(refs):
        if number % KEPT_ONE_IN:
            del refs[number]
    live_bytes = len(refs) * OBJECT_BYTES
    ratio = settle([directory], live_bytes * 1.05) / live_bytes
    intact, from_files = read_back(refs)
    refs.clear()
    return {
        "peak_bytes": peak_bytes,
        "disk_over_live": round(ratio, 3),
        "intact": intact,
        "from_files": from_files,
        "left_bytes": settle([directory], 0),
    }


@serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})
class OneSlot:
    """One request at a time."""

    def __init__(self):
        self.order = []

    async def __call__(self, number):
        if number is None:
            return self.order
        self.order.append(number)
        await asyncio.sleep(SERVICE_S)
        return number


def serving():
    """Send a burst to a replica with one slot; return the time over the ideal, and the order."""
    routings = []
    if HAS_MANTARAY:
        from serve_router_common import remembered

        routings = remembered()
    handle = serve.run(OneSlot.bind(), name="smoke", route_prefix=None)
    handle.remote(-1).result(timeout_s=120)
    begun = time.monotonic()
    responses = [handle.remote(number) for number in range(BURST)]
    answers = [response.result(timeout_s=240) for response in responses]
    took_s = time.monotonic() - begun
    order = handle.remote(None).result(timeout_s=120)[1:]
    serve.shutdown()
    return {
        "time_over_ideal": round(took_s / (BURST * SERVICE_S), 3),
        "answered": answers == list(range(BURST)),
        "in_order": order == list(range(BURST)),
        "routers": len(routings),
    }


class Waste:
    """Can be waited for to be gone."""


class BigHeap:
    """Has many live containers, and a thread that sees when the process stands still."""

    def __init__(self):
        self.live = [{"a": i} if i % 2 else [i, "a"] for i in range(CONTAINERS)]
        # Whoever holds no reference is not asked to collect.
        self.held = ray.put(0)
        self.stalls_s = []
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self):
        last = time.perf_counter()
        while True:
            time.sleep(0.001)
            now = time.perf_counter()
            self.stalls_s.append(now - last)
            last = now

    def be_triggered(self):
        """Make garbage in cycles and have the cluster collect it, within one call."""
        # Or Python's own collection of young objects may find the garbage before Ray asks for one.
        gc.set_threshold(1_000_000)
        released, longest_s = [], []
        for _ in range(TRIGGERS):
            cycle = [Waste(), ray.put(1)]
            cycle.append(cycle)
            gone = weakref.ref(cycle[0])
            self.stalls_s.clear()
            del cycle
            released.append(
                wait_until(lambda gone=gone: (global_gc(), gone())[1] is None, COLLECTED_S)
            )
            longest_s.append(max(self.stalls_s, default=0.0))
        return {
            "released": all(released),
            # The median trigger: a machine that does much else may stop a process once.
            "longest_stall_ms": round(sorted(longest_s)[len(longest_s) // 2] * 1_000, 1),
            "collections": self.collections(),
        }

    def collections(self):
        if not HAS_MANTARAY:
            return 0
        from mantaray.gc.service import SERVICE

        counts = SERVICE.collector.counts if SERVICE.collector else None
        return counts.young + counts.full if counts else 0


def collecting():
    """Trigger garbage collections in an actor with a big heap."""
    actor = ray.remote(BigHeap).remote()
    seen = ray.get(actor.be_triggered.remote(), timeout=600)
    ray.kill(actor)
    return seen


def finalizing():
    """Let go of an object that another process borrows; a finalizer is called once, and only then."""
    if not HAS_MANTARAY:
        return {}
    from mantaray.refs import finalize

    calls, gate = [], Gate.remote()
    ref = ray.put(b"borrowed")
    finalize(ref, calls.append, "gone")
    borrowed = borrow.remote(gate, [ref])
    del ref
    early = wait_until(lambda: calls, timeout_s=1.0)
    gate.open.remote()
    ray.get(borrowed, timeout=240)
    came = wait_until(lambda: calls)
    time.sleep(0.3)
    return {"early": early, "came": came, "calls": len(calls)}


@ray.remote(num_cpus=0, max_concurrency=2)
class Gate:
    """Is waited for by one task and opened by the driver."""

    def __init__(self):
        self.opened = threading.Event()

    def open(self):
        self.opened.set()

    def wait(self):
        return self.opened.wait(240)


@ray.remote(num_cpus=0)
def borrow(gate, refs):
    return ray.get(gate.wait.remote()) and len(refs)


@ray.remote(num_cpus=0)
def where():
    return ray.get_runtime_context().get_node_id()


def working_everywhere(names):
    """Run a task on each of the further nodes by its resource; return on how many nodes they ran."""
    tasks = [where.options(resources={name: 0.1}).remote() for name in names]
    return len(set(ray.get(tasks, timeout=240)))


def ending():
    """Shut Ray down with a finalizer left; return what was called by then."""
    if not HAS_MANTARAY:
        ray.shutdown()
        return []
    from mantaray.refs import finalize

    calls = []
    left = ray.put(1)
    finalize(left, calls.append, "at shutdown")
    ray.shutdown()
    wait_until(lambda: calls)
    return calls


def main():
    directory, names = sys.argv[1], [name for name in sys.argv[2].split(",") if name]
    ray.init(log_to_driver=False)
    seen = {
        "mantaray": HAS_MANTARAY,
        "ray": ray.__version__,
        "nodes": working_everywhere(names),
        "spill": spilling(directory),
        "gc": collecting(),
        "finalize": finalizing(),
        "serve": serving(),
    }
    seen["at_shutdown"] = ending()
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
