"""Garbage collections that Ray asks for, in one cluster: drivers, tasks and actors of every kind."""

import gc
import glob
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import ray
from gc_common import (
    SERVICE,
    STORE_BYTES,
    Async,
    Base,
    asked,
    count_buffers,
    fill,
    fill_before_a_large_heap,
    global_gc,
    held,
    left_alone,
    threads_and_triggers,
    wait_until,
)

from mantaray import overlay

root = sys.argv[1]
ray.init(
    address="local",
    num_cpus=3,
    resources={"pinger": 1},
    object_store_memory=STORE_BYTES,
    include_dashboard=False,
    _temp_dir=os.path.join(root, "t"),
    _system_config={
        # Ray asks whenever its raylet looks, by itself and when told to.
        "local_gc_min_interval_s": 0,
        "global_gc_min_interval_s": 0,
        "metrics_report_interval_ms": 1_000,
    },
)
told = {}


# Before anything is asked for.

told["threads of a worker"] = ray.get(ray.remote(threads_and_triggers).remote())
told["threads of the driver"] = threads_and_triggers()
told["buffers"] = count_buffers()

# --- the driver

for kind in ("ref", "array"):
    told[f"driver {kind}"] = fill(kind)
told["thread while connected"] = [t.name for t in threading.enumerate()].count("mantaray-gc")

# --- tasks

task = ray.remote(max_retries=0)
told["task"] = [ray.get(task(fill).remote(kind)) for kind in ("ref", "array")]
told["task old"] = [
    ray.get(ray.remote(max_calls=1, max_retries=0)(fill_before_a_large_heap).remote(kind))
    for kind in ("ref", "array")
]


# --- actors

Sync = ray.remote(Base)

# Busy all the time, with a heap that takes long: only what is new is looked at.
busy = Sync.remote(600_000)
told["busy"] = ray.get(busy.be_busy.remote(300, 4))
# A search finds what the young collections have frozen.
told["busy then idle"] = left_alone(busy, lambda seen: seen["held"] <= 300, 2)

# What `mantaray gc stat` shows of it.
shown = subprocess.run(
    [os.path.join(os.path.dirname(sys.executable), "mantaray"), "gc", "stat", "--json"],
    capture_output=True,
    text=True,
    check=True,
)
told["stat"] = [one["title"] for one in json.loads(shown.stdout) if one["young"] >= 4]
ray.kill(busy)

# It holds no object of the store, and what it keeps is worth as much: the next actor needs the resources.
empty = Sync.remote(600_000)
told["holds nothing"] = ray.get(empty.keep_actors_in_cycles.remote(3))
ray.kill(empty)

threaded = Sync.options(max_concurrency=3).remote()
ray.get([threaded.waste.remote(3) for _ in range(3)])
told["threaded"] = asked(threaded, lambda seen: seen["held"] == 0)
ray.kill(threaded)

coroutines = ray.remote(Async).remote()
ray.get([coroutines.waste.remote(3) for _ in range(3)])
told["async"] = asked(coroutines, lambda seen: seen["held"] == 0)
ray.get(coroutines.idle.remote(0.5))
nap = coroutines.nap.remote(30)
time.sleep(1)
told["async idle during a call"] = ray.get(coroutines.idle.remote(0.5))
ray.kill(coroutines)

# --- one actor for what may go wrong

odd = Sync.remote()
ray.get(odd.keep.remote(1))
ray.get(odd.run.remote("gc.disable()"))
ray.get(odd.waste.remote(2))
told["disabled"] = asked(odd, lambda seen: seen["held"] == 1)
ray.get(odd.run.remote("gc.enable()"))
ray.get(odd.waste.remote(2))
told["enabled again"] = asked(odd, lambda seen: seen["held"] == 1)

FORK = """
child = os.fork()
if child == 0:
    status = 1
    try:
        knot(1)
        freed = gc.collect()
        left = [t.name for t in __import__("threading").enumerate()]
        status = 0 if freed >= 1 and "mantaray-gc" not in left else 2
    finally:
        os._exit(status)
out = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
told["fork"] = [ray.get(odd.run.remote(FORK)) for _ in range(5) if global_gc() is None]
ray.get(odd.waste.remote(2))
told["after the fork"] = asked(odd, lambda seen: seen["held"] == 1)

RAISE = """
usual = SERVICE.collector._frozen.heap
class Heap:
    def __getattr__(self, name):
        return getattr(usual, name)
    def collect(self, generation=2):
        raise RuntimeError("planted damage")
SERVICE.collector._frozen.heap = Heap()
self.usual = usual
"""
ray.get(odd.run.remote(RAISE))
told["raising"] = asked(odd, lambda seen: seen["failures"] > 0)
ray.get(odd.run.remote("SERVICE.collector._frozen.heap = self.usual"))
logs = os.path.join(ray._private.worker._global_node.get_session_dir_path(), "logs", "worker*")
told["raising logged"] = wait_until(
    lambda: any(
        "planted damage" in Path(path).read_text(errors="replace") for path in glob.glob(logs)
    )
)
ray.get(odd.waste.remote(2))
told["after raising"] = asked(odd, lambda seen: seen["held"] == 1)

told["frozen by the user"] = ray.get(
    odd.run.remote("gc.freeze(); time.sleep(0.1); out = gc.get_freeze_count()")
)
ray.get(odd.waste.remote(2))
told["after the user froze"] = asked(odd, lambda seen: seen["held"] == 1)
time.sleep(2)
told["still frozen"] = ray.get(odd.run.remote("out = gc.get_freeze_count()"))
told["figures lost"] = ray.get(odd.run.remote("out = SERVICE._has_failed")) or SERVICE._has_failed

# --- metrics

node = ray.nodes()[0]
address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def series():
    """Return the series of garbage collection that the node exports."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith("ray_mantaray_gc_")]


# The agent looks every few seconds, and the exporter takes the series in one after the other.
zero = ("freed{", "triggers{")
wait_until(
    lambda: (
        len(series()) >= 10
        and not any(name in line and line.endswith(" 0.0") for name in zero for line in series())
    )
)
told["series"] = series()
told["processes that told"] = len(list(Path(root).glob("t/session_2*/mantaray-gc/*.json")))

# --- taken back and attached again

floor = held()
overlay.uninstall()
told["thread uninstalled"] = [t.name for t in threading.enumerate()].count("mantaray-gc")
told["frozen uninstalled"] = gc.get_freeze_count()
Base.waste(None, 3)
told["uninstalled"] = wait_until(lambda: (global_gc(), held())[1] <= floor)
overlay.install()
before = SERVICE.collector.counts.triggers
Base.waste(None, 3)
told["installed again"] = wait_until(lambda: (global_gc(), held())[1] <= floor)
told["triggers installed again"] = SERVICE.collector.counts.triggers - before

# --- the end

global_gc()
time.sleep(1)
ray.shutdown()
told["threads at the end"] = [t.name for t in threading.enumerate()].count("mantaray-gc")
told["frozen at the end"] = gc.get_freeze_count()
print(json.dumps(told))
