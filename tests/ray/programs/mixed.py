"""Work on a cluster of two nodes of which only one has Mantaray; prints what it saw as one line of JSON.

Argument: the directory into which both nodes spill. The driver may have Mantaray or not.
"""

import gc
import glob
import importlib.util
import json
import sys
import time
import weakref

import ray
from ray._private.internal_api import global_gc
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode
from spill_common import disk_bytes, is_intact, payload, wait_until

HAS_MANTARAY = importlib.util.find_spec("mantaray") is not None
OBJECTS, OBJECT_BYTES, KEPT_ONE_IN = 150, 1_000_000, 10


class Waste:
    """Can be waited for to be gone."""


class Peer:
    """Owns, borrows, spills and collects on one of the nodes."""

    def __init__(self):
        self.live = [{"a": i} for i in range(200_000)]
        self.refs = {}
        self.borrowed = []
        self.calls = []

    def has_mantaray(self):
        return importlib.util.find_spec("mantaray") is not None

    def spill(self):
        """Put more than the store holds, let go of most; return the references of the rest."""
        self.refs = {number: ray.put(payload(number, OBJECT_BYTES)) for number in range(OBJECTS)}
        for number in list(self.refs):
            if number % KEPT_ONE_IN:
                del self.refs[number]
        return self.refs

    def read(self, refs):
        """Return whether another node's objects arrive as they were put."""
        return all(is_intact(n, ray.get(ref), OBJECT_BYTES) for n, ref in refs.items())

    def forget(self):
        self.refs.clear()
        self.borrowed.clear()
        gc.collect()

    def collect(self):
        """Return whether the cluster's triggers release garbage in cycles."""
        held = ray.put(0)
        cycle = [Waste(), held]
        cycle.append(cycle)
        gone = weakref.ref(cycle[0])
        del cycle
        return wait_until(lambda: (global_gc(), gone())[1] is None)

    def borrow(self, refs):
        self.borrowed = refs
        return len(refs)

    def own(self, other):
        """Put an object, have the other node borrow it, let go of it here."""
        from mantaray.refs import finalize

        ref = ray.put(b"borrowed")
        finalize(ref, self.calls.append, "gone")
        ray.get(other.borrow.remote([ref]))
        del ref
        return wait_until(lambda: self.calls, timeout_s=1.0)

    def called(self):
        wait_until(lambda: self.calls)
        time.sleep(0.3)
        return len(self.calls)


def finalizers(owner, other):
    """Own on one node what the other borrows; return (whether the call came early, calls)."""
    early = ray.get(owner.own.remote(other))
    ray.get(other.forget.remote())
    return early, ray.get(owner.called.remote())


def drivers_finalizer(peer):
    """Own in the driver what a node borrows; return (whether the call came early, calls)."""
    driver = Peer()
    early = driver.own(peer)
    ray.get(peer.forget.remote())
    return early, driver.called()


def spilling(directory, node_id, owner, reader, is_ours):
    """Spill on one node and read on the other; return what arrived and what stayed on the disk."""
    places = lambda: glob.glob(f"{directory}/*{node_id}*")  # noqa: E731
    refs = ray.get(owner.spill.remote())
    live_bytes = OBJECT_BYTES * len(refs)
    bounded = is_ours and wait_until(lambda: disk_bytes(places()) <= live_bytes * 1.05)
    seen = {
        "spilled_bytes": disk_bytes(places()),
        "intact": ray.get(reader.read.remote(refs), timeout=240),
        "bounded": bounded,
    }
    del refs
    ray.get([owner.forget.remote(), reader.forget.remote()])
    seen["emptied"] = is_ours and wait_until(lambda: disk_bytes(places()) == 0)
    return seen


def main():
    ray.init(log_to_driver=False)
    found = sorted(ray.nodes(), key=lambda node: "node:__internal_head__" not in node["Resources"])
    ids = {name: node["NodeID"] for name, node in zip(("head", "worker"), found, strict=True)}
    peers = {
        name: ray.remote(num_cpus=0)(Peer)
        .options(scheduling_strategy=OnNode(node_id, soft=False))
        .remote()
        for name, node_id in ids.items()
    }
    ours = {name: ray.get(peer.has_mantaray.remote()) for name, peer in peers.items()}
    others = {"head": "worker", "worker": "head"}
    seen = {"driver": HAS_MANTARAY, "ours": ours}
    for name, peer in peers.items():
        other = peers[others[name]]
        seen[name] = {
            "spill": spilling(sys.argv[1], ids[name], peer, other, ours[name]),
            "collected": ray.get(peer.collect.remote(), timeout=240),
        }
        if ours[name]:
            seen[name]["finalized"] = finalizers(peer, other)
        if HAS_MANTARAY:
            seen[name]["finalized_in_driver"] = drivers_finalizer(peer)
    print(json.dumps(seen), flush=True)


main()
