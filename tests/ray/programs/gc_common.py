"""What the garbage collection program runs in drivers, tasks and actors.

A module of its own: what stands in a program itself travels to workers by value, with all it refers to.
"""

import asyncio
import gc
import os
import threading
import time

import numpy as np
import ray
from mantaray.gc.service import SERVICE
from ray._private.internal_api import global_gc

OBJECT_BYTES = 2_000_000
STORE_BYTES = 80_000_000
HIDDEN = 5
# What is waited for comes soon, or, on a machine with much else to do, late.
PATIENCE_S = 120.0


def counts():
    return SERVICE.collector.counts.as_dict()


def held():
    worker = ray._private.worker.global_worker
    return worker.core_worker.get_memory_store_size() + len(SERVICE.buffers)


def threads_and_triggers():
    return [thread.name for thread in threading.enumerate()], counts()["triggers"]


def wait_until(condition, timeout_s=PATIENCE_S):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(condition())


def heap(count):
    """Live containers, so that a full collection takes its time."""
    return [{"a": [i]} for i in range(count)]


def knot(value):
    """Put a value into cyclic garbage, or return the cycle for somebody to drop."""
    cycle = [value]
    cycle.append(cycle)
    return cycle


def put():
    return ray.put(np.zeros(OBJECT_BYTES, dtype=np.uint8))


def fill(kind, times=2):
    """Put several times what the store holds, all of it cyclic garbage; return what is left in the end.

    The puts go on because Ray asks for collections, spills, or falls back to disk.
    """
    for _ in range(times * STORE_BYTES // OBJECT_BYTES):
        ref = put()
        knot(ref if kind == "ref" else ray.get(ref))
        del ref
    # Nothing collects by itself any more; only Ray asks, for the store stays full or is told to.
    released = wait_until(lambda: (global_gc(), held())[1] == 0)
    return {"released": released, "held": held()}


def fill_before_a_large_heap(kind):
    """Hide the garbage in an old heap that the first trigger puts out of sight."""
    first = knot(put())
    hidden = [knot(put() if kind == "ref" else ray.get(put())) for _ in range(10)]
    live = heap(400_000)
    for _ in range(3):
        gc.collect()  # Everything is old now.
    wait_until(lambda: (global_gc(), counts()["young"] + counts()["full"])[1] > 0)
    before = held()
    hidden.clear()
    del first
    released = wait_until(lambda: (global_gc(), held())[1] == 0)
    return {**counts(), "before": before, "all_released": released, "live": len(live)}


@ray.remote(num_cpus=0, resources={"pinger": 1})
class Pinger:
    """There can be one at a time."""

    def ping(self):
        return 1


class Base:
    def __init__(self, live=0):
        self.live = heap(live)
        self.kept = []

    def keep(self, count):
        self.kept += [ray.put(i) for i in range(count)]

    def waste(self, count):
        for _ in range(count):
            knot(put())

    def be_busy(self, kept, rounds):
        """Hold and waste something in one call, collected once a round; return the counts.

        In the end there is garbage that has been out of sight since the first collection.
        """
        self.keep(kept)
        hidden = [knot(put()) for _ in range(HIDDEN)]
        for _ in range(rounds):
            self.waste(3)
            before = counts()["young"]
            # Once: triggers that release nothing are pressure that persists, and bring a full one about.
            global_gc()
            wait_until(lambda before=before: counts()["young"] > before)
        hidden.clear()
        return self.counts()

    def keep_actors_in_cycles(self, times):
        """Leave handles of actors in old cycles; return how many actors came to life, one by one."""
        seen = 0
        for _ in range(times):
            handle = Pinger.remote()
            ray.get(handle.ping.remote(), timeout=PATIENCE_S)
            cycle = knot(handle)
            del handle
            for _ in range(3):
                gc.collect()
            del cycle
            seen += 1
        return {**counts(), "held": held(), "actors": seen}

    def counts(self):
        return {**counts(), "held": held(), "freezes": SERVICE.collector.freezes}

    def run(self, code):
        scope = {**globals(), "self": self, "os": os}
        exec(code, scope)
        return scope.get("out")


class Async:
    async def waste(self, count):
        for _ in range(count):
            knot(put())

    async def counts(self):
        return {**counts(), "held": held()}

    async def nap(self, seconds):
        await asyncio.sleep(seconds)

    async def idle(self, seconds):
        await asyncio.sleep(0)
        return SERVICE.activity.is_idle(seconds, is_worker=True)


def asked(actor, condition, timeout_s=PATIENCE_S, every_s=0.2):
    """Ask the cluster for collections until what the actor counts is as wanted."""

    def look():
        global_gc()
        seen.update(ray.get(actor.counts.remote()))
        time.sleep(every_s)
        return condition(seen)

    seen = {}
    return wait_until(look, timeout_s) and seen


def left_alone(actor, condition, for_s):
    """Leave an actor alone, for so many seconds at a time, until what it counts is as wanted."""

    def look():
        time.sleep(for_s)
        seen.update(ray.get(actor.counts.remote()))
        return condition(seen)

    seen = {}
    return wait_until(look) and seen


def count_buffers():
    """Tell how many buffers count while an array, then a view of it, then nothing lies in one."""
    array = ray.get(put())
    seen = [len(SERVICE.buffers), array.flags.writeable]
    view = array[10:]
    del array
    seen.append(len(SERVICE.buffers))
    del view
    seen.append(len(SERVICE.buffers))
    return seen
