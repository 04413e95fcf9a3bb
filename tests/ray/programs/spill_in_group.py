"""5 GB through a small store in a memory control group: spilled, read back, and pulled by another node."""

import json
import os
import sys

import numpy as np
import ray
from ray.cluster_utils import Cluster
from spill_common import disk_bytes, report

root, group = sys.argv[1:]
SIZE = 1_000_000
COUNT = 5_000
PULLED = 1_000
with open(os.path.join(group, "cgroup.procs"), "w") as file:
    file.write(str(os.getpid()))

paths = [os.path.join(root, "spill")]
os.makedirs(paths[0])
config = {"type": "filesystem", "params": {"directory_path": paths}}
cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 1,
        "object_store_memory": 150_000_000,
        "include_dashboard": False,
        "_system_config": {"object_spilling_config": json.dumps(config)},
        "temp_dir": os.path.join(root, "t"),
    },
)
cluster.add_node(num_cpus=1, resources={"other": 1}, object_store_memory=150_000_000)
ray.init(address=cluster.address, log_to_driver=False)


def rows(number):
    array = np.zeros(SIZE // 8, dtype=np.int64)
    array[:] = number
    return array


@ray.remote(num_cpus=1)
def number_of(array):
    return int(array[0]) if (array == array[0]).all() else -1


@ray.remote(resources={"other": 1})
def numbers_of(refs):
    return [int(ray.get(ref)[-1]) for ref in refs]


refs = [ray.put(rows(number)) for number in range(COUNT)]
spilled_bytes = disk_bytes(paths)
step = PULLED
got = [int(ray.get(ref)[-1]) for ref in refs[: 3 * step]]
as_arguments = []
for first in range(3 * step, 4 * step, 100):
    as_arguments += ray.get([number_of.remote(ref) for ref in refs[first : first + 100]])
pulled = ray.get(numbers_of.remote(refs[4 * step :]))
report(
    spilled_bytes=spilled_bytes,
    wrong=[n for n, seen in enumerate(got + as_arguments + pulled) if n != seen],
    count=len(got + as_arguments + pulled),
)
ray.shutdown()
cluster.shutdown()
