"""Finalizers of objects whose node dies; arguments: the process ids of two raylets, of which one dies.

The nodes have resources named "first" and "second". A driver attaches to any raylet of its address, and
ends with it; so the other one dies.
"""

import gc
import json
import os
import signal
import sys
import time

import numpy as np
import ray
from mantaray.refs import finalize

ray.init(log_to_driver=False)
calls = []
mine = ray.get_runtime_context().get_node_id()
my_resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == mine)
dies, lives = ("first", "second") if "second" in my_resources else ("second", "first")
raylets = dict(zip(("first", "second"), map(int, sys.argv[1:]), strict=True))


@ray.remote(resources={dies: 0.01}, max_retries=0)
def make():
    return np.zeros(1_000_000, np.uint8)


@ray.remote(num_cpus=0)
class Holder:
    def keep(self, refs):
        self.refs = refs

    def drop(self):
        self.refs = None


def wait_until(condition, timeout_s=120.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return bool(condition())


holder = Holder.options(resources={lives: 0.01}).remote()
held, borrowed = make.remote(), make.remote()
# Not fetched: the only copies are on the node that dies.
ray.wait([held, borrowed], num_returns=2, fetch_local=False)
finalize(held, calls.append, "held")
finalize(borrowed, calls.append, "borrowed")
ray.get(holder.keep.remote([borrowed]))
del borrowed
os.kill(raylets[dies], signal.SIGKILL)
died = wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
time.sleep(2)
lost = False
try:
    ray.get(held, timeout=60)
except ray.exceptions.GetTimeoutError:
    pass
except ray.exceptions.RayError:
    lost = True
quiet = not calls
del held
# The error's frames and the error hold each other, and the reference.
gc.collect()
first = wait_until(lambda: calls == ["held"])
ray.get(holder.drop.remote())
second = wait_until(lambda: calls == ["held", "borrowed"])
ray.shutdown()
print(json.dumps({"died": died, "lost": lost, "quiet": quiet, "held": first, "borrowed": second}))
