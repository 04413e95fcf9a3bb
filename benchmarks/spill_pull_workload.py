"""One run of `spill_pull.py`: a node pulls spilled objects of another one; prints what was seen as JSON.

python benchmarks/spill_pull_workload.py OBJECTS OBJECT_BYTES
"""

from __future__ import annotations

import glob
import json
import os
import statistics
import sys
import tempfile
import time

import numpy as np
import ray
from ray.cluster_utils import Cluster

STORE_BYTES = 300_000_000
SPILL_TIMEOUT_S = 120


class Holder:
    """Owns the objects, on the node that spills them."""

    def __init__(self) -> None:
        self.refs: list[ray.ObjectRef] = []

    def fill(self, objects: int, size_bytes: int) -> list[list[ray.ObjectRef]]:
        chosen = np.random.default_rng(7)
        self.refs = [
            ray.put(chosen.integers(0, 256, size_bytes, dtype=np.uint8)) for _ in range(objects)
        ]
        filler = [ray.put(np.zeros(10_000_000, np.uint8)) for _ in range(STORE_BYTES // 10_000_000)]
        del filler
        return [[ref] for ref in self.refs]


class Puller:
    """Pulls one object after the other to the other node."""

    def pull(self, boxed: list[ray.ObjectRef]) -> float:
        began = time.perf_counter()
        value = ray.get(boxed[0])
        took_s = time.perf_counter() - began
        assert value[-1] == value[-1]
        return took_s


def spilled_bytes(root: str) -> int:
    """Return how large the spilled data is, by its blocks."""
    paths = glob.glob(os.path.join(root, "**"), recursive=True)
    return sum(os.stat(path).st_blocks * 512 for path in paths if os.path.isfile(path))


def main() -> None:
    objects, size_bytes = (int(argument) for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="mpull-") as root:
        spilling = {"type": "filesystem", "params": {"directory_path": root}}
        config = {"object_spilling_config": json.dumps(spilling), "min_spilling_size": 10_000_000}
        cluster = Cluster()
        cluster.add_node(
            num_cpus=1,
            resources={"first": 1},
            object_store_memory=STORE_BYTES,
            _system_config=config,
            include_dashboard=False,
        )
        cluster.add_node(num_cpus=1, resources={"second": 1}, object_store_memory=2 * STORE_BYTES)
        ray.init(address=cluster.address, log_to_driver=False)
        holder = ray.remote(num_cpus=0, resources={"first": 0.001})(Holder).remote()
        boxes = ray.get(holder.fill.remote(objects, size_bytes))
        end_s = time.monotonic() + SPILL_TIMEOUT_S
        while spilled_bytes(root) < objects * size_bytes // 2 and time.monotonic() < end_s:
            time.sleep(0.2)
        time.sleep(2)
        puller = ray.remote(num_cpus=0, resources={"second": 0.001})(Puller).remote()
        took_s = [ray.get(puller.pull.remote(boxed)) for boxed in boxes]
        ray.shutdown()
        cluster.shutdown()
    told = {
        "typical_ms": statistics.median(took_s) * 1_000,
        "longest_ms": max(took_s) * 1_000,
        "mb_s": objects * size_bytes / 1e6 / sum(took_s),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
